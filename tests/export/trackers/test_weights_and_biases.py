from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optbench.export.trackers.settings import WandbSettings
from optbench.export.trackers.shown_run import shown_run
from tests.export.trackers.conftest import CELL, SessionOptions, records_of
from tests.waiting import is_running, until


def entries(file: Path) -> Iterator[Any]:
    """The records of a W&B transaction log: LevelDB's log format behind seven bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position = file.read_bytes(), 7
    assert data[:4] == b":W&B"
    assert len(data) < 32768, "longer logs are split into blocks"
    while position < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, position)
        assert kind == 1, "a whole record"
        record = Record()
        record.ParseFromString(data[position + 7 : position + 7 + length])
        position += 7 + length
        yield record


def unpacked(items: Any) -> dict[str, Any]:
    return {".".join(one.nested_key) or one.key: json.loads(one.value_json) for one in items}


def test_an_offline_run_is_read_back_with_its_exact_values(sitting: SessionOptions) -> None:
    first, second = records_of(0.1, 0.2)
    chosen = WandbSettings(project="mine", entity="us", close_timeout_s=60)
    with sitting.open(chosen, records=[first]) as sinks:
        sinks.take(second)
    assert sitting.told == []
    for record in (first, second):
        run = shown_run(record, [CELL])
        (folder,) = sitting.folder("wandb").glob(f"offline-run-*-{record.run_id}")
        log = list(entries(folder / f"run-{record.run_id}.wandb"))
        (started,) = [one.run for one in log if one.WhichOneof("record_type") == "run"]
        assert (started.run_id, started.project, started.entity) == (record.run_id, "mine", "us")
        assert (started.display_name, started.run_group) == (run.name, "adamw")
        assert list(started.tags) == run.tags
        config = unpacked(started.config.update)
        assert {key: config[key] for key in run.config} == run.config
        history = [unpacked(one.history.item) for one in log if one.HasField("history")]
        assert len(history) == len(run.points)
        for (step, values), logged in zip(run.points, history, strict=True):
            assert logged["_step"] == step
            assert {key: logged[key] for key in values} == values
        summaries = [unpacked(one.summary.update) for one in log if one.HasField("summary")]
        assert [one["status"] for one in summaries if "status" in one] == ["completed"]
        assert not any(one.HasField("output_raw") or one.HasField("stats") for one in log)
    assert not (sitting.directory.parent / "home").exists(), "nothing is written elsewhere"


def test_the_project_is_the_study_unless_it_is_given(sitting: SessionOptions) -> None:
    (record,) = records_of(0.1)
    with sitting.open(WandbSettings(close_timeout_s=60), records=[record]):
        pass
    (file,) = sitting.folder("wandb").glob(f"offline-run-*/run-{record.run_id}.wandb")
    (started,) = [one.run for one in entries(file) if one.WhichOneof("record_type") == "run"]
    assert started.project == "tiny study"


def test_what_an_ended_process_left_of_a_run_is_replaced(sitting: SessionOptions) -> None:
    (record,) = records_of(0.1)
    leftover = sitting.folder("wandb") / f"offline-run-20250101_000000-{record.run_id}"
    leftover.mkdir(parents=True)
    with sitting.open(WandbSettings(close_timeout_s=60), records=[record]):
        pass
    (folder,) = sitting.folder("wandb").glob(f"offline-run-*-{record.run_id}")
    assert folder != leftover


def test_online_without_a_key_is_an_error_and_no_question(
    sitting: SessionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    records = records_of(0.1, 0.2)
    with sitting.open(WandbSettings(mode="online", close_timeout_s=60), records=records):
        pass
    trouble = "UsageError: No API key configured. Use `wandb login` to log in."
    assert sitting.told == [
        f"Weights & Biases: {trouble}; the study goes on without it.",
        f"Weights & Biases: 2 of 2 runs were not written. Last problem: {trouble}. The study lacks "
        f"nothing, and the same command tries them again.",
    ]


def test_its_service_ends_with_a_sink_that_was_killed(sitting: SessionOptions) -> None:
    sinks = sitting.open(WandbSettings(), records=records_of(0.1))
    (pid,) = sinks.pids
    until(lambda: bool(sitting.lines("wandb", "written.txt")), "a run is written")
    (service,) = services_of(pid)
    sinks.close(0.0)
    until(lambda: not is_running(pid), "the sink has ended")
    until(lambda: not is_running(service), "its service has ended")


def services_of(pid: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"wandb-core") and str(pid).encode() in words:
                found.append(int(entry.name))
    return found
