"""A session whose measurements beside the runs fail: none of them stops the study."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from optbench.cli import run as session
from optbench.config import RunConfig
from optbench.executors.choice import ExecutorChoice
from optbench.executors.processes import InlineExecutor
from optbench.store.store import RunRecord
from optbench.study.file import read_study
from optbench.study.planning import plan
from optbench.training.bench import StepCost
from tests.builders import record_of
from tests.faults.disturbed import TEXT


def lucky_run(config: RunConfig, **_: Any) -> RunRecord:
    """A run whose loss depends on its learning rate and its seed."""
    loss = 5.0 + float(config.optimizer.hyperparameters["lr"]) + 0.001 * config.seed
    return record_of(config, loss=loss)


def out_of_memory(*_: object) -> Any:
    raise RuntimeError("Traceback\nout of memory.")


def quick_steps(config: RunConfig) -> StepCost:
    return StepCost(step_s=0.01, eval_s_per_token=1e-6)


def quick_comparison(configs: list[RunConfig]) -> list[list[float]]:
    return [[1e-5, 1.1e-5] for _ in configs]


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No training and no measurement."""
    monkeypatch.setattr(session, "run", lucky_run)
    monkeypatch.setattr(session, "measure_interleaved", quick_comparison)
    monkeypatch.setattr(plan, "measure_step", quick_steps)
    return monkeypatch


def sit(out: Path) -> str:
    terminal = io.StringIO()
    console = Console(file=terminal, width=300)
    here = ExecutorChoice(kind="inline")
    session.run_study(read_study(TEXT), out, here, console, session.SessionOptions())
    return terminal.getvalue()


def noted(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = (out / "journal.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def test_winners_that_cannot_be_timed_cost_no_report_and_are_timed_next_time(
    patched: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with patched.context() as patch:
        patch.setattr(session, "measure_interleaved", out_of_memory)
        said = sit(tmp_path)
    assert (
        "The winners' steps could not be timed side by side (out of memory), so seconds are those "
        "of the runs, each at a time of its own. The same command tries again." in said
    )
    assert (tmp_path / "report.html").exists()
    assert noted(tmp_path, "timing") == []
    assert "could not be timed" not in sit(tmp_path)
    assert len(noted(tmp_path, "timing")) == 1


def test_steps_that_cannot_be_timed_cost_the_plan_its_time_alone(
    patched: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    patched.setattr(plan, "measure_step", out_of_memory)
    said = sit(tmp_path)
    assert (
        "The steps could not be timed (out of memory), so how long the study takes is not known "
        "beforehand." in said
    )
    assert "M tokens.\n" in said  # and no time
    assert noted(tmp_path, "plan") == []
    assert (tmp_path / "report.html").exists()


def test_a_sitting_says_and_notes_how_many_workers_it_has_itself(
    patched: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sit(tmp_path)
    journal = tmp_path / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"workers":1', '"workers":4'))
    assert "on 1 workers" in sit(tmp_path)
    assert [entry["workers"] for entry in noted(tmp_path, "session")] == [4, 1]


def test_a_plan_is_made_for_as_many_workers_as_the_devices_of_a_run_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    @contextmanager
    def opened(self: ExecutorChoice, devices: int = 1) -> Iterator[InlineExecutor]:
        asked.append(devices)
        yield InlineExecutor()

    monkeypatch.setattr(ExecutorChoice, "opened", opened)
    monkeypatch.setattr(plan, "measure_step", quick_steps)
    session.plan_study(read_study(TEXT), ExecutorChoice())
    text = f"{TEXT}\n[execution]\ndevices_per_run = 2\n"
    session.plan_study(read_study(text), ExecutorChoice())
    assert asked == [1, 2]
