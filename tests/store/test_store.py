from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.store.journal_entries import (
    CellEntry,
    NoiseEntry,
    PlanEntry,
    SensitivityEntry,
    SessionEntry,
    entry_to_dict,
)
from optbench.store.store import RunRecord, RunStore, StoreError, check_folder
from tests.builders import TINY_CONFIG, config_with_lr, record_of

HOLD_A_STORE = """
import sys, time
from pathlib import Path
from optbench.store.store import RunStore
with RunStore.open(Path(sys.argv[1])):
    print("open", flush=True)
    time.sleep(60)
"""


CELL = CellEntry("d32", 1.0, 655_360, 32_768)


def plan_entry(runs: int) -> PlanEntry:
    return PlanEntry(runs, runs_worst=runs, tokens=100, flops=1e9, seconds=1.0, workers=2)


def filled(directory: Path, count: int = 3) -> list[RunRecord]:
    """A store with some records and notes, closed again."""
    records = [record_of(config_with_lr(0.01 * (i + 1)), loss=3.0 + i) for i in range(count)]
    with RunStore.open(directory) as store:
        for record in records:
            store.append(record)
        store.note(plan_entry(count))
    return records


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the store in ``tmp_path`` open."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_A_STORE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    records = [
        record_of(),
        record_of(config_with_lr(1.0), loss=None, status="diverged", error="step 3: “nan”"),
        record_of(config_with_lr(2.0), loss=None, status="failed", error="Traceback\n  ü\u2028"),
    ]
    with RunStore.open(tmp_path / "new" / "study") as store:
        for record in records:
            store.append(record)
        store.note(SensitivityEntry("adamw", ("a", "b"), ()))
    for back in (RunStore.read(tmp_path / "new/study"), RunStore.open(tmp_path / "new/study")):
        assert list(back.records.values()) == records
        entry = {"kind": "sensitivity", "optimizer": "adamw", "cells": ["a", "b"], "axes": []}
        assert back.journal == [entry]
        back.close()


def test_a_record_keeps_its_configuration(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    (record,) = RunStore.read(tmp_path).records.values()
    assert record.run_config == config_with_lr(0.01)
    assert record.run_id == record.run_config.run_id
    assert record.tokens_per_s == 64 / 0.25
    assert dataclasses.replace(record, step_s=0.0).tokens_per_s == 0.0


def test_a_line_of_the_file_is_a_record(tmp_path: Path) -> None:
    records = filled(tmp_path)
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["run_id"] for line in lines] == [r.run_id for r in records]
    assert lines == [r.to_json() for r in records]


def test_a_store_goes_on_where_it_was_left(tmp_path: Path) -> None:
    records = filled(tmp_path, 2)
    more = record_of(config_with_lr(9.0))
    with RunStore.open(tmp_path) as store:
        store.append(more)
    assert list(RunStore.read(tmp_path).records.values()) == [*records, more]


def test_reading_a_missing_store_says_how_to_make_one(tmp_path: Path) -> None:
    message = (
        f"There are no runs in {tmp_path} (no runs.jsonl). Give the folder of a study with "
        f"--store, or start one with 'optbench run nano'."
    )
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        RunStore.read(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_was_only_opened_can_be_read(tmp_path: Path) -> None:
    RunStore.open(tmp_path).close()
    assert RunStore.read(tmp_path).records == {}


def test_a_file_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "results.txt"
    path.touch()
    message = f"{path} is a file, but a store is a folder. Choose another --out."
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        RunStore.open(path)


def test_a_folder_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    plain = os.open

    def read_only(path: os.PathLike[str] | str, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return plain(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    message = (
        f"{tmp_path} cannot be written to (Read-only file system). Choose another folder with "
        f"--out, or make this one writable."
    )
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        RunStore.open(tmp_path)
    assert len(RunStore.read(tmp_path).records) == 3


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    folder = "/proc/optbench"  # nobody makes a folder there
    message = f"{folder} cannot be made (No such file or directory). Choose another --out."
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        RunStore.open(Path(folder))


def test_a_torn_last_line_is_set_aside_with_all_its_bytes(tmp_path: Path) -> None:
    records = filled(tmp_path, 2)
    runs = tmp_path / "runs.jsonl"
    torn = b'{"run_id": "ab\x00\xff'
    whole = runs.read_bytes()
    runs.write_bytes(whole + torn)
    with RunStore.open(tmp_path) as store:
        assert list(store.records.values()) == records
        assert runs.read_bytes() == whole
        store.append(record_of(config_with_lr(9.0)))
    assert (tmp_path / "runs.jsonl.torn").read_bytes() == torn + b"\n"
    assert len(RunStore.read(tmp_path).records) == 3


def test_a_torn_line_longer_than_a_block_is_set_aside_whole(tmp_path: Path) -> None:
    filled(tmp_path)
    runs = tmp_path / "runs.jsonl"
    whole, torn = runs.read_bytes(), b"x" * 200_000
    runs.write_bytes(whole + torn)
    RunStore.open(tmp_path).close()
    assert runs.read_bytes() == whole
    runs.write_bytes(torn)
    RunStore.open(tmp_path).close()
    assert runs.read_bytes() == b""
    assert (tmp_path / "runs.jsonl.torn").read_bytes() == (torn + b"\n") * 2


def test_every_torn_line_is_kept(tmp_path: Path) -> None:
    filled(tmp_path)
    for torn in ("first", "second"):
        with (tmp_path / "journal.jsonl").open("a") as journal:
            journal.write(torn)
        RunStore.open(tmp_path).close()
    assert (tmp_path / "journal.jsonl.torn").read_text() == "first\nsecond\n"
    assert RunStore.read(tmp_path).journal == [entry_to_dict(plan_entry(3))]


def test_reading_leaves_a_torn_line_out_and_where_it_is(tmp_path: Path) -> None:
    records = filled(tmp_path)
    runs = tmp_path / "runs.jsonl"
    runs.write_bytes(runs.read_bytes() + b'{"torn')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert list(RunStore.read(tmp_path).records.values()) == records
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@settings(max_examples=40)
@given(data=st.data())
def test_a_store_cut_anywhere_keeps_its_complete_records(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("store")
    records = filled(directory)
    runs = directory / "runs.jsonl"
    whole = runs.read_bytes()
    length = data.draw(st.integers(0, len(whole)))
    runs.write_bytes(whole[:length])
    complete = records[: whole[:length].count(b"\n")]
    assert list(RunStore.read(directory).records.values()) == complete
    with RunStore.open(directory) as store:
        assert list(store.records.values()) == complete
        for record in records:
            if store.finished(record.run_id) is None:
                store.append(record)
    assert list(RunStore.read(directory).records.values()) == records
    assert runs.read_bytes() == whole


def test_a_store_cut_at_any_byte_of_its_last_record_keeps_the_others(tmp_path: Path) -> None:
    records = filled(tmp_path, 2)
    runs = tmp_path / "runs.jsonl"
    whole = runs.read_bytes()
    start = len(records[0].to_json()) + 1
    for length in range(start, len(whole)):
        runs.write_bytes(whole[:length])
        assert list(RunStore.read(tmp_path).records.values()) == records[:1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"run_id": "ab", ', "Expecting property name enclosed in double quotes"),
        (b"", "Expecting value"),
        (b"[1, 2]", "not an object"),
        (
            b'{"error": "\xff"}',
            "'utf-8' codec can't decode byte 0xff in position 11: invalid start byte",
        ),
    ],
)
def test_a_damaged_line_in_the_middle_is_refused_with_its_number(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    filled(tmp_path)
    runs = tmp_path / "runs.jsonl"
    lines = runs.read_bytes().splitlines()
    lines[1] = line
    damaged = b"\n".join(lines) + b"\n"
    runs.write_bytes(damaged)
    message = (
        f"{runs}, line 2 is not a JSON object ({reason}). A crash damages only the last line, so "
        f"this file was edited or the disk is failing: restore the line from a copy, or delete it "
        f"to train that run again."
    )
    for look in (RunStore.read, RunStore.open):
        with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
            look(tmp_path)
    assert runs.read_bytes() == damaged


def test_a_damaged_store_does_not_stay_locked(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text("{\n")
    with pytest.raises(StoreError, match="line 1 is not a JSON object"):
        RunStore.open(tmp_path)
    (tmp_path / "runs.jsonl").write_text("")
    RunStore.open(tmp_path).close()


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    runs = tmp_path / "runs.jsonl"
    newer = {**json.loads(runs.read_text()), "schema": 2}
    runs.write_text(runs.read_text() + json.dumps(newer) + "\n")
    message = (
        f"{runs}, line 2: This record has schema 2, but this version of optbench reads up to 1. "
        f"Install a newer optbench to read it."
    )
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        RunStore.read(tmp_path)


def test_a_record_without_a_field_is_refused(tmp_path: Path) -> None:
    raw = json.loads(record_of().to_json())
    del raw["val_loss"], raw["config"]
    (tmp_path / "runs.jsonl").write_text(json.dumps(raw) + "\n")
    message = (
        f"{tmp_path / 'runs.jsonl'}, line 1: This record lacks the fields ['config', 'val_loss']."
    )
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        RunStore.read(tmp_path)


def test_fields_of_a_later_minor_version_are_ignored() -> None:
    raw = {**json.loads(record_of().to_json()), "mood": "good"}
    del raw["error"]
    assert RunRecord.from_dict(raw) == record_of()


def test_a_loss_that_is_no_number_is_never_written() -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        record_of(loss=float("nan")).to_json()


def test_a_second_writer_is_refused_with_the_name_of_the_first(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(StoreError) as caught:
        RunStore.open(tmp_path)
    assert re.fullmatch(
        rf"Another optbench is writing to {re.escape(str(tmp_path))} \(pid {holder.pid} of \S+ on "
        rf"host \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d, last sign of life \d+ s ago\)\. "
        rf"Wait for it, stop it, or choose another folder with --out\.",
        str(caught.value),
    )
    assert RunStore.read(tmp_path).records == {}


def test_a_killed_writer_leaves_no_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunStore.open(tmp_path) as store:
        store.append(record_of())
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "lock").read_text() == ""


def test_a_closed_store_can_be_opened_again(tmp_path: Path) -> None:
    store = RunStore.open(tmp_path)
    with pytest.raises(StoreError, match=f"pid {os.getpid()} of"):
        RunStore.open(tmp_path)
    store.close()
    store.close()
    RunStore.open(tmp_path).close()


def test_a_store_that_is_only_read_is_not_written(tmp_path: Path) -> None:
    filled(tmp_path)
    store = RunStore.read(tmp_path)
    with pytest.raises(AssertionError, match="written by the one who opened it"):
        store.append(record_of())
    with pytest.raises(AssertionError, match="written by the one who opened it"):
        store.note(plan_entry(9))


def test_a_failed_run_gives_way_to_a_finished_one(tmp_path: Path) -> None:
    failed = record_of(loss=None, status="failed", error="out of memory")
    with RunStore.open(tmp_path) as store:
        store.append(failed)
        assert store.records == {failed.run_id: failed}
        assert store.finished(failed.run_id) is None
        assert store.num_finished == 0
        store.append(record_of(loss=2.5))
        assert store.finished(failed.run_id) == record_of(loss=2.5)
        assert store.num_finished == 1
    assert RunStore.read(tmp_path).finished(failed.run_id) == record_of(loss=2.5)


@pytest.mark.parametrize("status", ["completed", "diverged"])
def test_a_finished_run_does_not_give_way_to_a_failed_one(tmp_path: Path, status: str) -> None:
    finished = record_of(loss=None, status=status)  # type: ignore[arg-type]
    with RunStore.open(tmp_path) as store:
        store.append(finished)
        store.append(record_of(loss=None, status="failed", error="disk"))
        store.append(record_of(loss=1.0))
        assert store.finished(finished.run_id) == finished
    assert RunStore.read(tmp_path).records == {finished.run_id: finished}


def test_an_unknown_run_is_not_finished(tmp_path: Path) -> None:
    with RunStore.open(tmp_path) as store:
        assert store.finished(TINY_CONFIG.run_id) is None


def test_a_write_that_the_disk_cuts_short_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = filled(tmp_path)
    before = (tmp_path / "runs.jsonl").read_bytes()
    write = os.write
    message = (
        f"{tmp_path / 'runs.jsonl'} could not be written (No space left on device). What it held "
        f"before is kept; free some space and start again."
    )
    with RunStore.open(tmp_path) as store:
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:10]))
        with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
            store.append(record_of())
        monkeypatch.undo()
        assert (tmp_path / "runs.jsonl").read_bytes() == before
        assert list(store.records.values()) == records
        store.append(record_of())
    assert list(RunStore.read(tmp_path).records.values()) == [*records, record_of()]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_write_that_the_disk_refuses_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    filled(tmp_path)
    before = (tmp_path / "runs.jsonl").read_bytes()

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with RunStore.open(tmp_path) as store:
        monkeypatch.setattr(os, call, refuse)
        with pytest.raises(StoreError, match=r"could not be written \(Input/output error\)"):
            store.append(record_of())
        monkeypatch.undo()
        assert record_of().run_id not in store.records
    assert (tmp_path / "runs.jsonl").read_bytes() == before


def test_a_record_is_on_the_disk_before_it_counts_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_when_flushed: list[bool] = []
    with RunStore.open(tmp_path) as store:
        monkeypatch.setattr(
            os, "fsync", lambda _: known_when_flushed.append(record_of().run_id in store.records)
        )
        store.append(record_of())
        monkeypatch.undo()
        assert known_when_flushed == [False]
        assert record_of().run_id in store.records


def test_an_interruption_while_the_disk_is_waited_for_forgets_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with RunStore.open(tmp_path) as store:
        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.append(record_of())
        monkeypatch.undo()
        store.catch_up()
        store.catch_up()
        assert store.has_finished(record_of().run_id)  # so nobody writes it a second time
        assert store.totals.runs == 1


def test_a_note_is_not_repeated(tmp_path: Path) -> None:
    def take_notes() -> None:
        with RunStore.open(tmp_path) as store:
            noise = NoiseEntry(CELL, "adamw", ("a", "b"), ("c", "d"), 0.1, 0.1, 0.1)
            store.note(noise)
            store.note(SessionEntry("now", 2, {}))
            store.note(noise)
            store.note(dataclasses.replace(noise, sigma=0.2))

    take_notes()
    take_notes()
    entries = RunStore.read(tmp_path).journal
    assert [(e["kind"], e.get("sigma")) for e in entries] == [
        ("noise", 0.1),
        ("session", None),
        ("noise", 0.2),
    ]


def test_a_note_that_is_no_json_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    with RunStore.open(tmp_path) as store:
        store.note(plan_entry(1))
        with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
            store.note(dataclasses.replace(plan_entry(2), seconds=math.inf))
        assert store.journal == [entry_to_dict(plan_entry(1))]
    assert RunStore.read(tmp_path).journal == [entry_to_dict(plan_entry(1))]


def test_killing_the_writer_at_any_moment_loses_no_announced_record(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.builders import config_with_lr, record_of
from optbench.store.store import RunStore
with RunStore.open(Path(sys.argv[1])) as store:
    number = 0
    while True:
        number += 1
        store.append(record_of(config_with_lr(float(number)), loss=float(number)))
        print(number, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        announced = 1 + len(process.stdout.read().split("\n")[:-1])
    with RunStore.open(tmp_path) as store:
        losses = [record.val_loss for record in store.records.values()]
    assert losses[:announced] == [float(n + 1) for n in range(announced)]
    assert len(losses) <= announced + 1


def test_a_folder_that_may_not_be_written_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_folder(tmp_path / "not" / "yet")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=rf"^{tmp_path}/file is a file, but a store is a folder\."):
        check_folder(tmp_path / "file" / "within")
    monkeypatch.setattr("os.access", lambda *_: False)
    message = (
        rf"/new cannot be written to \(Permission denied: {tmp_path}\)\. Choose another folder"
    )
    with pytest.raises(StoreError, match=message):
        check_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()
