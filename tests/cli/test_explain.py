"""`optbench explain` as a user calls it, on the records of the nano study."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optbench.cli import main

# The records of a real study, kept as they were on 2026-11-21 so that numbers can be asserted.
NANO = Path(__file__).parent / "frozen_nano"


def explain(*arguments: str, store: Path = NANO) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments, "--store", str(store)])


def text_of(*arguments: str) -> str:
    result = explain(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_real_process_prints_the_path_of_the_baseline() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "optbench.cli", "explain", "d32 1x", "adamw", "--store", str(NANO)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for fragment in (
        "adamw in d32 1x (32.8k non-embedding parameters, 655k tokens), study nano, phase I",
        "Answer: lr=0.016, beta1=0.6, beta2=0.98, weight_decay=0.1; found in 11 runs, certified; "
        "test loss 4.100 ± 0.016 on 6 held-out seeds.",
        "τ = 0.0112 nats",
        "on 4 seeds (0, 1, 2, 3)",
        "spreads by σ = 0.0245",
        "beta1 0.9 → 0.8: loss 4.1874 → 4.1443, better by 0.0431 = 3.8 τ",
        "beta1 0.8 → 0.6: loss 4.1443 → 4.1305, better by 0.0138 = 1.2 τ",
        "0.2    4.1532     −0.0343   −3.1  better    6ae8e5120c",
        "Certified: 8 single changes of the winner were tried",
        "beta2  0.95   4.1400     +0.0094   +0.8  tie     0384668743",
        "Another loss is lower than the winner's, but by no more than τ: a tie",
        "lr: stable, 0.016 is tied with the best in all 4 cells.",
        "beta1, beta2: cannot be fitted, 1 cell; the power law needs 3.",
        "Mean test loss: 4.100 ± 0.016 nats per token (95 % interval).",
    ):
        assert fragment in done.stdout, fragment
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("optimizer", "moves"),
    [
        ("nadamw", ["beta1 0.9 → 0.8: loss 4.1381 → 4.1260, better by 0.0121 = 1.1 τ"]),
        (
            "lion",
            [
                "beta1 0.9 → 0.8: loss 4.3335 → 4.2435, better by 0.0900 = 8.0 τ",
                "beta2 0.95 → 0.9: loss 4.2435 → 4.2058, better by 0.0377 = 3.4 τ",
            ],
        ),
        (
            "muon",
            [
                "momentum 0.9 → 0.8: loss 4.0611 → 4.0202, better by 0.0409 = 3.6 τ",
                "aux_lr_ratio 0.3 → 0.6: loss 4.0202 → 3.9781, better by 0.0421 = 3.8 τ",
            ],
        ),
    ],
)
def test_every_move_of_the_others_is_printed(optimizer: str, moves: list[str]) -> None:
    output = text_of("d32 1x", optimizer)
    plural = "" if len(moves) == 1 else "s"
    assert f"Path: {len(moves)} update{plural}, loss" in output
    assert [line for line in output.splitlines() if " → " in line][1:] == [f"  {m}" for m in moves]


def test_the_cell_may_be_written_without_a_space() -> None:
    first, *others = (text_of(cell, "adamw") for cell in ("d32 2x", "d32-2x", "d32@2"))
    assert others == [first, first]
    assert "Path: no update" in first
    assert "Began at the winner in d32 1x: lr=0.016, loss 3.9247." in first


def test_json_has_what_the_text_has() -> None:
    found = json.loads(text_of("d32-1x", "muon", "--format", "json"))
    assert found["search"]["certified"] is True
    assert found["search"]["incumbent"]["aux_lr_ratio"] == 0.6
    assert [leg["line"]["axis"] for leg in found["search"]["legs"]] == ["momentum", "aux_lr_ratio"]
    assert found["threshold"]["seeds"] == [0, 1, 2, 3]
    assert len(found["confirmation"]["confirmed"]["seeds"]) == 6
    assert {law["axis"]: law["complement"] for law in found["laws"]} == {
        "lr": False,
        "momentum": True,
        "aux_lr_ratio": False,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("d23 1x", "adamw"),
            "Error: Unknown cell 'd23 1x'. Did you mean 'd32 1x'? Available: d32 0.5x, d32 1x, d32 "
            "1.5x, d32 2x.",
        ),
        (("d32 1x", "moun"), "Unknown optimizer in this study 'moun'. Did you mean 'muon'?"),
        (("d32 1x", "soap"), "Available: adamw, nadamw, lion, muon."),
        (("d32 2x", "muon"), "no run of muon in d32 2x"),
        (("d32 2x", "muon"), "It was tuned in d32 1x."),
    ],
)
def test_errors_name_the_nearest_choice(arguments: tuple[str, ...], message: str) -> None:
    result = explain(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    result = explain("d32 1x", "adamw", store=tmp_path)
    assert result.exit_code == 2
    assert "There are no runs in" in result.output


def test_a_study_that_was_cut_off_says_what_is_there(tmp_path: Path) -> None:
    shutil.copy(NANO / "runs.jsonl", tmp_path)
    lines = (NANO / "journal.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    begun = [line for line in lines if json.loads(line)["kind"] in ("study", "noise")]
    (tmp_path / "journal.jsonl").write_text("".join(begun), encoding="utf-8")
    result = explain("d32 1x", "lion", store=tmp_path)
    assert result.exit_code == 0
    assert "No answer yet: its search here has not ended. 20 of its runs in this cell" in (
        result.output
    )
    assert "τ = 0.0112 nats" in result.output
    assert "Certificate" not in result.output


def test_a_cell_of_the_ladder_in_which_nothing_was_searched_is_not_certified() -> None:
    ladder = str(Path(__file__).parents[2] / "results" / "nano_ladder")
    told = CliRunner().invoke(main, ["explain", "d48 2x", "adamw", "--store", ladder]).output
    assert "no change was tried here, so it is not certified" in " ".join(told.split())
    assert "1x: lr=0.016, beta1=0.6, beta2=0.99, weight_decay=0.1, loss 3.4752." in told
    arguments = ["explain", "d48-2x", "adamw", "--store", ladder, "--format", "json"]
    found = json.loads(CliRunner().invoke(main, arguments).output)["search"]
    assert (found["certified"], found["certificate_kind"]) == (False, "nothing tried")
    assert found["near_best"][0]["configuration"] == found["incumbent"] == found["start"]
