"""Isolation: whatever a sink does, at whatever stage, a study ends with the same records."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optbench.config import RunConfig
from optbench.executors.processes import InlineExecutor
from optbench.export.trackers.feed import Limits
from optbench.export.trackers.settings import TensorBoardSettings
from optbench.export.trackers.study_sinks import StudySinks
from optbench.store.store import RunRecord, RunStore
from optbench.study.sweep import Sweep, Task
from tests.builders import config_with_lr, record_of
from tests.export.trackers.conftest import ROOT, TIMEOUT_S, SessionOptions, records_of
from tests.export.trackers.faulty import FaultySettings
from tests.study.test_sweep import Observer
from tests.waiting import is_running, until

LRS = (0.1, 0.2, 0.3, 0.4, 0.5)
PATIENT = 60.0  # seconds to close, for sinks that need no more than a moment


def train(sitting: SessionOptions, sinks: StudySinks | None) -> bytes:
    """A study of five runs, each asked for after the one before; returns its records."""

    def task() -> Task:
        for lr in LRS:
            yield [config_with_lr(lr)]

    def job(config: RunConfig) -> RunRecord:
        return record_of(config)

    with RunStore.open(sitting.directory) as store:
        sweep = Sweep(store, InlineExecutor(), job, Observer())
        if sinks is not None:
            sweep.on_stored = sinks.take
        sweep.run([task()])
    return (sitting.directory / "runs.jsonl").read_bytes()


RECORDS = "".join(f"{record.to_json()}\n" for record in records_of(*LRS)).encode()
IDS = [record.run_id for record in records_of(*LRS)]


def test_a_sink_gets_every_run_in_the_order_in_which_they_were_stored(
    sitting: SessionOptions,
) -> None:
    with sitting.open(FaultySettings(close_timeout_s=PATIENT)) as sinks:
        assert train(sitting, sinks) == RECORDS
    assert sitting.lines("faulty", "got.txt") == IDS
    assert sitting.lines("faulty", "written.txt") == IDS
    assert sitting.lines("faulty", "study.txt") == ["tiny study"]
    assert (sitting.folder("faulty") / "closed.txt").exists()
    assert sitting.told == []
    assert not any(is_running(pid) for pid in sinks.pids)


REASONS = {
    "raise": "OSError: [Errno 28] No space left on the device",
    "exit": "SystemExit: 3",
    "die": "its process ended",
}


@pytest.mark.parametrize("how", REASONS)
@pytest.mark.parametrize("stage", ["import", "open"])
def test_a_sink_that_does_not_open_is_gone_without(
    sitting: SessionOptions, stage: str, how: str
) -> None:
    with sitting.open(FaultySettings(stage=stage, how=how, close_timeout_s=PATIENT)) as sinks:
        assert train(sitting, sinks) == RECORDS
    assert sitting.told == [
        f"Faulty: {REASONS[how]}; the study goes on without it.",
        f"Faulty: 5 of 5 runs were not written. Last problem: {REASONS[how]}. The study lacks "
        f"nothing, and the same command tries them again.",
    ]
    assert sitting.lines("faulty", "written.txt") == []
    for line in sitting.told:
        assert re.search(rf"^\S+T\S+ {re.escape(line)}$", sitting.log, re.MULTILINE)
    assert "a library complains\n" in sitting.log
    assert "a library talks" not in sitting.log
    assert ("Traceback" in sitting.log) == (how != "die")


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_a_run_that_cannot_be_written_costs_only_itself(sitting: SessionOptions, how: str) -> None:
    with sitting.open(FaultySettings(stage="write", how=how, close_timeout_s=PATIENT)) as sinks:
        assert train(sitting, sinks) == RECORDS
    trouble = f"run {IDS[2]} could not be written: {REASONS[how]}"
    assert sitting.told == [
        f"Faulty: {trouble}; the study goes on.",
        f"Faulty: 1 of 5 runs were not written. Last problem: {trouble}. The study lacks nothing, "
        f"and the same command tries them again.",
    ]
    assert sitting.lines("faulty", "written.txt") == [*IDS[:2], *IDS[3:]]


def test_a_sink_that_dies_while_it_writes_keeps_what_it_has(sitting: SessionOptions) -> None:
    with sitting.open(FaultySettings(stage="write", how="die", close_timeout_s=PATIENT)) as sinks:
        assert train(sitting, sinks) == RECORDS
    assert sitting.told == [
        "Faulty: its process ended; the study goes on without it.",
        "Faulty: 3 of 5 runs were not written. Last problem: its process ended. The study lacks "
        "nothing, and the same command tries them again.",
    ]
    assert sitting.lines("faulty", "written.txt") == IDS[:2]


@pytest.mark.parametrize("how", REASONS)
def test_a_sink_that_does_not_close_has_every_run(sitting: SessionOptions, how: str) -> None:
    with sitting.open(FaultySettings(stage="close", how=how, close_timeout_s=PATIENT)) as sinks:
        assert train(sitting, sinks) == RECORDS
    (line,) = sitting.told
    assert REASONS[how] in line
    assert sitting.lines("faulty", "written.txt") == IDS


@pytest.mark.parametrize("how", ["hang", "stop"])
@pytest.mark.parametrize(
    ("stage", "written"), [("import", 0), ("open", 0), ("write", 2), ("close", 5)]
)
def test_a_sink_that_hangs_is_ended_when_the_study_is_over(
    sitting: SessionOptions, stage: str, how: str, written: int
) -> None:
    sinks = sitting.open(FaultySettings(stage=stage, how=how, close_timeout_s=0.3))
    assert train(sitting, sinks) == RECORDS
    if stage == "close":
        until(lambda: len(sitting.lines("faulty", "written.txt")) == 5, "all are written")
    else:
        until(lambda: any(sitting.directory.rglob("misbehaving.txt")), "it hangs")
    assert sitting.told == [], "nobody waited for it until now"
    start = time.monotonic()
    sinks.close()
    assert time.monotonic() - start < TIMEOUT_S
    trouble = "it was ended 0.3 s after the last run, and had not finished"
    told = [f"Faulty: {trouble}; the study goes on."]
    if written < 5:
        told.append(
            f"Faulty: {5 - written} of 5 runs were not written. Last problem: {trouble}. The study "
            f"lacks nothing, and the same command tries them again."
        )
    assert sitting.told == told
    assert sitting.lines("faulty", "written.txt") == IDS[:written]
    assert not any(is_running(pid) for pid in sinks.pids)


def test_a_sink_that_hangs_is_given_up_in_time_during_a_study(sitting: SessionOptions) -> None:
    sinks = sitting.open(
        FaultySettings(stage="open", how="hang", close_timeout_s=PATIENT),
        limits=Limits(answer_s=1.0),
    )
    until(lambda: bool(sitting.told), "it is abandoned")
    assert sitting.told == ["Faulty: it has not answered for 1 s; the study goes on without it."]
    until(lambda: not any(is_running(pid) for pid in sinks.pids), "its process is ended")
    assert train(sitting, sinks) == RECORDS
    sinks.close()
    assert sitting.told[1:] == [
        "Faulty: 5 of 5 runs were not written. Last problem: it has not answered for 1 s. The "
        "study lacks nothing, and the same command tries them again."
    ]


def test_a_sink_that_hangs_does_not_delay_a_run(sitting: SessionOptions, tmp_path: Path) -> None:
    def seconds(sinks: StudySinks | None, name: str) -> float:
        start = time.monotonic()
        train(dataclasses.replace(sitting, directory=tmp_path / name), sinks)
        return time.monotonic() - start

    without = seconds(None, "without")
    sinks = sitting.open(FaultySettings(stage="open", how="hang", close_timeout_s=0.0))
    assert seconds(sinks, "with") < without + 5.0  # it would hang for hours


def test_runs_pass_by_a_full_queue_and_are_written_next_time(sitting: SessionOptions) -> None:
    sinks = sitting.open(
        FaultySettings(stage="open", how="hang", close_timeout_s=0.0),
        limits=Limits(max_waiting=2),
    )
    assert train(sitting, sinks) == RECORDS
    sinks.close()
    assert sitting.told[0] == (
        "Faulty: it is slower than the study: 2 runs wait for it and others pass it by; the study "
        "goes on."
    )
    assert sitting.told[1].startswith("Faulty: 5 of 5 runs were not written.")
    again = FaultySettings(close_timeout_s=PATIENT)
    with sitting.open(again, records=records_of(*LRS)):
        pass
    assert len(sitting.told) == 2
    assert sitting.lines("faulty", "got.txt") == IDS


def test_a_sink_gets_only_what_it_does_not_have(sitting: SessionOptions) -> None:
    settings = FaultySettings(close_timeout_s=PATIENT)
    records = records_of(*LRS)
    with sitting.open(settings, records=records[:2]) as sinks:
        sinks.take(records[2])
    with sitting.open(settings, records=records[:4]) as sinks:
        sinks.take(records[4])
        sinks.take(records[0])  # asked for by two, stored once: nothing twice
    assert sitting.lines("faulty", "got.txt") == IDS
    assert sitting.told == []


def test_a_line_torn_by_a_crash_harms_no_other(sitting: SessionOptions) -> None:
    folder = sitting.folder("faulty")
    folder.mkdir(parents=True)
    (folder / "written.txt").write_text(f"{IDS[0]}\n{IDS[1][:7]}")
    for _ in range(2):
        with sitting.open(FaultySettings(close_timeout_s=PATIENT), records=records_of(*LRS)):
            pass
    assert sitting.lines("faulty", "got.txt") == IDS[1:]


def test_a_folder_that_cannot_be_made_is_told(sitting: SessionOptions) -> None:
    (sitting.directory / "sinks").write_text("in the way")
    with sitting.open(FaultySettings()) as sinks:
        assert train(sitting, sinks) == RECORDS
    assert len(sitting.told) == 2
    assert sitting.told[0].startswith("Faulty: it could not be started: [Errno ")
    assert sitting.told[1].startswith("Faulty: 5 of 5 runs were not written.")


def test_one_sink_does_not_notice_the_trouble_of_another(sitting: SessionOptions) -> None:
    bad = FaultySettings(stage="write", how="die", close_timeout_s=PATIENT)
    with sitting.open(bad, TensorBoardSettings(close_timeout_s=PATIENT)) as sinks:
        assert train(sitting, sinks) == RECORDS
    assert sitting.lines("tensorboard", "written.txt") == IDS
    assert all(line.startswith("Faulty: ") for line in sitting.told)


def test_an_interruption_waits_no_longer_than_a_moment(sitting: SessionOptions) -> None:
    start = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        sitting.open(FaultySettings(stage="open", how="hang", close_timeout_s=3600)) as sinks,
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - start < TIMEOUT_S
    assert not any(is_running(pid) for pid in sinks.pids)


DRIVER = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}]
from optbench.export.trackers.study_sinks import StudySinks
from tests.export.trackers.conftest import records_of
from tests.export.trackers.faulty import FaultySettings

if __name__ == "__main__":
    sinks = StudySinks(
        [FaultySettings(stage={stage!r}, how="hang")],
        study="", cells=[], directory=Path({folder!r}), notify=print,
        records=(known := {{record.run_id: record for record in records_of(1, 2, 3)}}),
        finished=list(known),
    )
    print(*sinks.pids, flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("stage", ["write", ""])
def test_a_sink_ends_with_a_driver_that_was_killed(sitting: SessionOptions, stage: str) -> None:
    script = sitting.directory / "driver.py"
    folder = str(sitting.directory)
    script.write_text(DRIVER.format(root=str(ROOT), stage=stage, folder=folder))
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as driver:
        try:
            assert driver.stdout is not None
            (pid,) = [int(word) for word in driver.stdout.readline().split()]
            written = 2 if stage else 3
            until(lambda: len(sitting.lines("faulty", "written.txt")) == written, "it is at work")
            assert is_running(pid)
        finally:
            os.kill(driver.pid, signal.SIGKILL)
    until(lambda: not is_running(pid), "the sink has ended")
