"""Whatever standard output is connected to, no verb ends in a traceback and no run is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LOST = "so text was lost there; everything that was computed is kept."
LADDER = str(Path(__file__).parents[2] / "results/nano_ladder")
# Like a verb: writes what other encodings lack, and then does the work that must not be lost.
PROGRAM = r"""
import sys
from optbench.cli.output import forgiving_output
with forgiving_output():
    for _ in range(20_000):
        sys.stdout.write("3 \u00d7 4 \u2212 \u03c3 \u2026 \u00e9 \U0001f642 \udce9\n")
    sys.stderr.write("done\n")
"""


def shell(command: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line's output as Latin-1, which every byte is."""
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" "$@" {command}', sys.executable, *arguments],
        capture_output=True,
        encoding="latin-1",
        timeout=300,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **variables},
    )


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, r"3 x 4 - sigma ... \xe9 \U0001f642 \udce9"),
        ({"PYTHONIOENCODING": "latin-1"}, "3 × 4 - sigma ... é \\U0001f642 \\udce9"),
        (
            {"PYTHONIOENCODING": "utf-8"},
            "3 × 4 − σ … é \U0001f642 ".encode().decode("latin-1") + "\\udce9",
        ),
    ],
)
def test_what_an_encoding_lacks_is_written_in_other_characters(
    variables: dict[str, str], line: str
) -> None:
    done = shell("", "-c", PROGRAM, **variables)
    assert (done.returncode, done.stderr) == (0, "done\n")
    assert set(done.stdout.splitlines()) == {line}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "code", "stderr"),
    [
        (
            ">/dev/full",
            1,
            f"done\nStandard output could not be written (No space left on device), {LOST}\n",
        ),
        (">&-", 0, f"done\nStandard output could not be written (it is closed), {LOST}\n"),
        ("| head -1", 0, "done\n"),
        (">/dev/null 2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full 2>/dev/full", 1, ""),
    ],
)
def test_output_that_is_refused_ends_nothing(
    command: str, code: int, stderr: str, unbuffered: str
) -> None:
    done = shell(command, "-c", PROGRAM, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (code, stderr)


def test_a_file_never_gets_the_number_of_a_closed_output(tmp_path: Path) -> None:
    program = PROGRAM.replace(
        "    for _", f"    open({str(tmp_path / 'records')!r}, 'w')\n    for _"
    )
    assert shell(">&-", "-c", program).returncode == 0
    assert (tmp_path / "records").read_text() == ""


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_verb_writes_to_a_terminal_that_knows_ascii_only(form: str) -> None:
    arguments = ("-m", "optbench.cli", "show", "--store", LADDER, "--format", form)
    done = shell("", *arguments, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "adamw" in done.stdout


@pytest.mark.parametrize(("command", "code"), [(">/dev/full", 1), ("| head -0", 0), (">&-", 0)])
def test_a_run_is_kept_whose_output_is_refused(tmp_path: Path, command: str, code: int) -> None:
    store = str(tmp_path / "store")
    arguments = ("-m", "optbench.cli", "train", "--ratio", "0.02", "--store", store)
    done = shell(command, *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    (line,) = (tmp_path / "store" / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["status"] == "completed"
