"""One writer at a time: on this machine, and where only the heartbeat tells of the other one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from optbench.store import lock as store_lock
from optbench.store.journal_entries import SessionEntry
from optbench.store.lock import StoreLock
from optbench.store.store import RunStore, StoreError
from tests.builders import config_with_lr, record_of
from tests.waiting import until

FAR = {
    "pid": 7,
    "user": "anna",
    "host": "far",
    "since": "2026-01-02 03:04:05",
    "id": "f",
    "beats": 3,
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "BEAT_S", 0.02)
    monkeypatch.setattr(store_lock, "WATCH_S", 0.3)


@pytest.fixture
def far_owner(tmp_path: Path) -> Path:
    """A lock file that another machine wrote, with no lock of this system on it."""
    path = tmp_path / "lock"
    path.write_text(json.dumps(FAR))
    return path


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def beating(far_owner: Path) -> Generator[Path]:
    """The other machine's driver goes on living."""
    stop = threading.Event()

    def beat() -> None:
        beats = 3
        while not stop.wait(0.01):
            beats += 1
            far_owner.write_text(json.dumps({**FAR, "beats": beats}))

    thread = threading.Thread(target=beat)
    thread.start()
    yield far_owner
    stop.set()
    thread.join()


def test_the_owner_is_named_and_beats(tmp_path: Path, quick: None) -> None:
    lock = StoreLock(tmp_path / "lock")

    def content() -> dict[str, Any]:
        return json.loads((tmp_path / "lock").read_text())

    first = content()
    assert (first["pid"], first["host"]) == (os.getpid(), os.uname().nodename)
    until(lambda: content()["beats"] >= first["beats"] + 3, "it has beaten three times", 30)
    lock.release()
    lock.release()
    assert (tmp_path / "lock").read_bytes() == b""


def test_nothing_beats_after_the_release(tmp_path: Path, quick: None) -> None:
    before = threading.active_count()
    lock = StoreLock(tmp_path / "lock")
    assert threading.active_count() == before + 1
    lock.release()
    assert threading.active_count() == before


def test_an_owner_on_another_machine_that_beats_is_not_disturbed(
    beating: Path, quick: None
) -> None:
    said: list[str] = []
    with pytest.raises(StoreError) as caught:
        StoreLock(beating, said.append)
    assert re.fullmatch(
        rf"Another optbench is writing to {re.escape(str(beating.parent))} \(pid 7 of anna on host "
        rf"far, since 2026-01-02 03:04:05, last sign of life \d+ s ago\)\. Wait for it, stop it, "
        rf"or choose another folder with --out\.",
        str(caught.value),
    )
    assert said == [
        f"{beating.parent} was opened for writing by pid 7 of anna on host far, since 2026-01-02 "
        f"03:04:05 and not closed. Watching 0 s for a sign of life."
    ]


def test_an_owner_on_another_machine_without_a_sign_of_life_is_succeeded(
    far_owner: Path, quick: None
) -> None:
    said: list[str] = []
    lock = StoreLock(far_owner, said.append)
    assert said[1:] == ["There was none. This optbench takes it over."]
    assert json.loads(far_owner.read_text())["pid"] == os.getpid()
    lock.release()


@pytest.mark.parametrize("jump_s", [-1e9, 1e9])
def test_a_clock_that_jumps_does_not_make_the_living_dead(
    beating: Path, quick: None, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    plain, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: plain() + jump_s * (next(calls) % 2))
    with pytest.raises(StoreError, match="pid 7 of anna on host far"):
        StoreLock(beating)


def test_an_owner_that_closes_while_it_is_watched_gives_way(
    far_owner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_lock, "BEAT_S", 0.02)
    said: list[str] = []

    def close_it(text: str) -> None:
        said.append(text)
        far_owner.write_text("")

    StoreLock(far_owner, close_it).release()  # long before the 15 s are over
    assert len(said) == 1


def test_an_owner_that_died_on_this_machine_is_not_watched(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    dead = StoreLock(path)
    content = path.read_text()
    dead.release()
    path.write_text(content)
    said: list[str] = []
    StoreLock(path, said.append).release()
    assert said == []


def test_an_owner_on_another_machine_of_the_same_name_is_watched(
    tmp_path: Path, quick: None
) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps({**FAR, "host": os.uname().nodename, "boot": "another"}))
    said: list[str] = []
    StoreLock(path, said.append).release()
    assert said[1:] == ["There was none. This optbench takes it over."]


@pytest.mark.parametrize("content", ["pid 3 on far since 2026-01-01 00:00:00", "{", "[]", "{}"])
def test_a_lock_file_that_names_nobody_is_taken(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    said: list[str] = []
    StoreLock(tmp_path / "lock", said.append).release()
    assert said == []


def test_where_the_system_has_no_locks_the_heartbeat_refuses_the_second(
    tmp_path: Path, quick: None, without_flock: None
) -> None:
    first = StoreLock(tmp_path / "lock")
    with pytest.raises(StoreError, match=rf"pid {os.getpid()} of"):
        StoreLock(tmp_path / "lock")
    first.release()
    StoreLock(tmp_path / "lock").release()


def test_whoever_was_taken_for_dead_stops_writing(tmp_path: Path, quick: None) -> None:
    with RunStore.open(tmp_path) as store:
        store.append(record_of())
        (tmp_path / "lock").write_text(json.dumps(FAR))  # while this machine slept
        message = (
            f"Another optbench has taken {tmp_path} over from this one (lock says pid 7 of anna on "
            f"host far, since 2026-01-02 03:04:05): this machine was silent for too long, or both "
            f"started at once. What was written before is kept; this one stops here."
        )
        for write in (
            lambda: store.append(record_of(config_with_lr(2.0))),
            lambda: store.note(SessionEntry("now", 2, {})),
        ):
            with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
                write()
        time.sleep(0.1)  # some beats, none of which may write
    assert json.loads((tmp_path / "lock").read_text()) == FAR
    assert len(RunStore.read(tmp_path).records) == 1


def test_a_lock_file_that_was_deleted_belongs_to_nobody_else(tmp_path: Path) -> None:
    with RunStore.open(tmp_path) as store:
        (tmp_path / "lock").unlink()
        store.append(record_of())
        with RunStore.open(tmp_path), pytest.raises(StoreError, match=r"taken .* over from"):
            store.append(record_of(config_with_lr(2.0)))


def test_a_full_disk_refuses_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(StoreError, match=r"lock could not be written \(No space left on device\)"):
        RunStore.open(tmp_path)
    monkeypatch.undo()
    RunStore.open(tmp_path).close()
