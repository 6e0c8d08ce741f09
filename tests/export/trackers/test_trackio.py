"""What trackio is told, by a module in its place that writes down the calls; and what it keeps."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from optbench.export.trackers.settings import TrackioSettings
from optbench.export.trackers.shown_run import shown_run
from tests.export.trackers.conftest import CELL, SessionOptions, records_of

STAND_IN = Path(__file__).parent / "stand_in"


def calls(sitting: SessionOptions) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sitting.lines("trackio", "calls.jsonl")]


def test_a_run_is_initialized_logged_and_finished(
    sitting: SessionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(STAND_IN)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/else")
    first, second = records_of(0.1, 0.2)
    with sitting.open(TrackioSettings(close_timeout_s=60), records=[first]) as sinks:
        sinks.take(second)
    assert sitting.told == []
    folder = str(sitting.folder("trackio"))
    expected: list[dict[str, Any]] = [
        {"call": "import", "environment": {"TRACKIO_DIR": folder, "HF_HUB_OFFLINE": "1"}}
    ]
    for record in (first, second):
        run = shown_run(record, [CELL])
        expected.append(
            {
                "call": "init",
                "project": "tiny study",
                "name": f"{run.name} {run.run_id}",
                "group": "adamw",
                "space_id": None,
                "config": {**run.config, "tags": run.tags},
                "resume": "never",
                "embed": False,
                "auto_log": [False, False],
            }
        )
        expected += [{"call": "log", "metrics": m, "step": step} for step, m in run.points]
        expected.append({"call": "finish"})
    assert calls(sitting) == expected


def test_project_and_space_are_those_of_the_study_file(
    sitting: SessionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(STAND_IN)
    chosen = TrackioSettings(project="mine", space_id="me/mine", close_timeout_s=60)
    with sitting.open(chosen, records=records_of(0.1)):
        pass
    found, init, *_ = calls(sitting)
    assert found["environment"] == {"TRACKIO_DIR": str(sitting.folder("trackio"))}
    assert (init["project"], init["space_id"]) == ("mine", "me/mine")


def test_the_library_itself_keeps_every_point_and_the_configuration(
    sitting: SessionOptions,
) -> None:
    records = records_of(0.1, 0.2)
    with sitting.open(TrackioSettings(close_timeout_s=60), records=records):
        pass
    assert sitting.told == []
    (database,) = sitting.folder("trackio").glob("*.db")
    with contextlib.closing(sqlite3.connect(database)) as opened:
        metrics = opened.execute(
            "SELECT run_name, step, metrics FROM metrics ORDER BY id"
        ).fetchall()
        configs = dict(opened.execute("SELECT run_name, config FROM configs").fetchall())
    shown = [shown_run(record, [CELL]) for record in records]
    assert [(name, step, json.loads(values)) for name, step, values in metrics] == [
        (f"{run.name} {run.run_id}", step, values) for run in shown for step, values in run.points
    ]
    for run in shown:
        kept = json.loads(configs[f"{run.name} {run.run_id}"])
        assert {key: kept[key] for key in run.config} == run.config
        assert (kept["_Group"], kept["tags"]) == (run.group, list(run.tags))


def test_what_is_not_installed_is_said_with_the_remedy(
    sitting: SessionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['trackio'] = None\n")
    monkeypatch.syspath_prepend(tmp_path)  # hides it from the sink's process
    with sitting.open(TrackioSettings(close_timeout_s=60), records=records_of(0.1)) as sinks:
        sinks.take(records_of(0.2)[0])
    assert sitting.told == [
        "trackio: not installed (pip install trackio); the study goes on without it.",
        "trackio: 2 of 2 runs were not written. Last problem: not installed (pip install trackio). "
        "The study lacks nothing, and the same command tries them again.",
    ]
    assert [line.split(" ", 1)[1] for line in sitting.log.splitlines()] == sitting.told
