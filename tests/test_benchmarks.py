"""The benchmark scripts run, at a size that takes a second."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "step_time.py"


def test_step_times_are_written_with_their_environment(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    size = ["--layers", "1", "--width", "64", "--vocab", "64", "--rounds", "2"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *size, "--method", "lion", "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(out.read_text())
    assert facts["environment"]["torch"]
    rows = {row["implementation"]: row for row in facts["rows"]}
    assert rows["optbench"]["ratio_to_ours"] == 1.0
    assert rows["lion-pytorch"]["median_ms"] > 0
    params = facts["parameters"]
    assert [row["state_bytes"] for row in rows.values()] == [4 * params] * len(rows)
    assert facts["floor_ms"]["lion"] == pytest.approx(
        20 * params / facts["bandwidth_bytes_per_s"] * 1e3
    )
    fastest = min(row["ratio_to_ours"] for name, row in rows.items() if name != "optbench")
    assert facts["geometric_mean_of_ours_over_fastest_peer"] == pytest.approx(1 / fastest)
