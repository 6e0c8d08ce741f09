"""`optbench paper` and `optbench compare-to-paper` as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optbench.cli import main

NANO = Path(__file__).parents[2] / "results" / "nano"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_paper_prints_json_and_draws_a_page(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["paper", "--format", "json", "--sigma", "0.003", "--figures", str(tmp_path / "new")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["sigma"] == 0.003
    assert len(found["speedups"]) == 150
    muon = next(
        s for s in found["speedups"]
        if (s["optimizer"], s["size"], s["ratio"]) == ("muon", "1.2b", 8.0)
    )  # fmt: skip
    assert muon["paper"]["value"] == pytest.approx(1.099, abs=1e-3)
    assert muon["interpolate"]["bound"] == ">"
    assert {"fits", "case_studies", "sensitive", "extrapolations", "claims", "statements"} <= (
        found.keys()
    )
    page = tmp_path / "new" / "paper.html"
    assert "</html>" in page.read_text(encoding="utf-8")
    assert str(page.name) in result.stderr


def test_paper_needs_no_torch() -> None:
    code = (
        "import sys; from optbench.cli import main\n"
        "main(['paper', '--sigma', '0.002'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Speed-ups over AdamW by the paper's estimator" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper", "--sigma", "0"], "Error: --sigma is the standard deviation of one published"),
        (["paper", "--sigma", "much"], "Error: Invalid value for '--sigma'"),
        (
            ["compare-to-paper", "--store", str(NANO)],
            "Error: No cell to compare: the study has d32 (32.8k); the paper has 130m (134M), 300m "
            "(302M), 520m (537M), 1.2b (1.21B) non-embedding parameters.",
        ),
        (["compare-to-paper", "--store", "nowhere"], "Error: There are no runs in nowhere"),
        (["compare-to-paper"], "Error: Missing option '--store'"),
    ],
)
def test_errors_name_the_condition_and_the_remedy(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.output
