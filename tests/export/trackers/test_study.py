"""A study from its file to its store, with sinks that hang and sinks that do not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from optbench.cli import run as session
from optbench.executors.choice import ExecutorChoice
from optbench.store.store import RunStore
from optbench.study.file import read_study
from tests.export.trackers.conftest import ROOT

STUDY = """
name = "small"
corpus = "nano"
baseline = "adamw"
[cell]
size = "d32"
ratio = 0.01
[run]
batch_size = 16
eval_tokens = 1024
test_tokens = 1024
num_evals = 1
[protocol]
noise_seeds = 1
confirm_seeds = 1
max_runs = 2
grow_grids = false
[optimizers.adamw]
space = { lr = [0.016, 0.032] }
"""
SINKS = """
[sinks.tensorboard]
close_timeout_s = 60

[sinks.trackio]
close_timeout_s = 0.0
"""
TIMES = {"step_s", "optimizer_step_s", "wall_s", "started_at"}


def sit(text: str, out: Path) -> str:
    """One session; returns what the terminal says."""
    terminal = io.StringIO()
    console = Console(file=terminal, width=300)
    session.run_study(
        read_study(text), out, ExecutorChoice(workers=1), console, session.SessionOptions()
    )
    return terminal.getvalue()


def results_of(out: Path) -> list[dict[str, Any]]:
    """The records in the order of the file, without their times."""
    lines = (out / "runs.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def in_tensorboard(out: Path) -> set[str]:
    return {file.parent.name for file in (out / "sinks" / "tensorboard").rglob("*tfevents*")}


@pytest.mark.slow
def test_a_study_is_the_same_with_sinks_and_they_may_be_added_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests" / "export" / "trackers" / "stand_in")
    monkeypatch.setenv("STAND_IN", "init")  # trackio hangs when it gets the first run
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    assert "trackio" not in sit(STUDY, plain)
    assert not (plain / "sinks").exists()
    said = sit(STUDY + SINKS, watched)
    assert results_of(watched) == results_of(plain)
    runs = len(results_of(plain))
    lost = f"trackio: {runs} of {runs} runs were not written. Last problem: it was ended 0 s after"
    assert lost in said
    assert "TensorBoard" not in said
    assert "Report:" in said
    ids = {record["run_id"] for record in results_of(watched)}
    assert in_tensorboard(watched) == ids

    before = (plain / "runs.jsonl").read_bytes()
    said = sit(STUDY + SINKS, plain)
    assert lost in said
    assert (plain / "runs.jsonl").read_bytes() == before
    assert in_tensorboard(plain) == ids
    assert (plain / "study.toml").read_text() == STUDY
    kinds = [entry["kind"] for entry in RunStore.read(plain).journal]
    assert kinds.count("study") == 1
