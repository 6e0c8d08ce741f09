"""StoreLock: one writer for a store, with its name and its heartbeat in the file ``lock``.

The operating system holds the lock and releases it when its owner dies. Some file systems that
several machines share do not inform one machine of another's locks; there the heartbeat decides: a
counter that the owner advances. Nobody's clock is trusted, whoever wants the store watches whether
the counter moves.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optbench.files.json_lines import StoreError, not_written

BEAT_S = 5.0
WATCH_S = 3 * BEAT_S  # a beat may be late: a busy machine, a cache of the file system
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class StoreLock:
    """Held from its making to :meth:`release`.

    Args:
        path: of the lock file.
        notify: called when another machine's lock is watched, and when it is taken over.

    Raises:
        StoreError: another process holds it, or the folder cannot be written to.
    """

    def __init__(self, path: Path, notify: Callable[[str], None] = lambda _: None) -> None:
        self._path = path
        self._id = uuid.uuid4().hex
        self._owner = {
            "pid": os.getpid(),
            "user": _user(),
            "host": socket.gethostname(),
            "boot": _boot(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "id": self._id,
        }
        self._beats = 0
        self._stop = threading.Event()
        self._descriptor = _open(path)
        try:
            self._take(notify)
        except OSError as error:
            os.close(self._descriptor)
            raise not_written(path, error) from error
        except BaseException:
            os.close(self._descriptor)
            raise
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _take(self, notify: Callable[[str], None]) -> None:
        self._refuse_the_living(self._flock(), notify)
        os.ftruncate(self._descriptor, 0)
        self._write()

    def _flock(self) -> bool:
        """Take the system's lock; False if this file system has none."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal() from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def _refuse_the_living(self, has_locks: bool, notify: Callable[[str], None]) -> None:
        """Watch an owner whose death this machine's system would not have reported."""
        before = self._content()
        owner = _parsed(before)
        here = {name: self._owner[name] for name in ("host", "boot")}
        if not owner or (has_locks and here.items() <= owner.items()):
            return
        notify(
            f"{self._path.parent} was opened for writing by {_name(owner)} and not closed. "
            f"Watching {WATCH_S:.0f} s for a sign of life."
        )
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline:
            time.sleep(min(BEAT_S / 5, WATCH_S))
            if not (now := self._content()):
                return  # closed just now
            if now != before:
                raise self._refusal()
        notify("There was none. This optbench takes it over.")

    def _refusal(self) -> StoreError:
        owner = _parsed(content := self._content())
        name = _name(owner) if owner else content.decode(errors="replace").strip() or "unknown"
        with contextlib.suppress(OSError):  # the owner may just have released it
            # For the reader alone, nothing follows from it: these clocks may differ.
            silent_s = max(0.0, time.time() - self._path.stat().st_mtime)
            name += f", last sign of life {silent_s:.0f} s ago"
        return StoreError(
            f"Another optbench is writing to {self._path.parent} ({name}). Wait for it, stop it, "
            f"or choose another folder with --out."
        )

    def check(self) -> None:
        """Refuse to go on if the lock has another owner now: this process was taken for dead.

        Raises:
            StoreError: so it is.
        """
        if not self._is_ours():
            raise StoreError(
                f"Another optbench has taken {self._path.parent} over from this one "
                f"({self._path.name} says {_name(_parsed(self._content()) or {})}): this machine "
                f"was silent for too long, or both started at once. What was written before is "
                f"kept; this one stops here."
            )

    def _is_ours(self) -> bool:
        """Whether the file names us; one that somebody deleted belongs to nobody else."""
        content = self._content()
        return not content or self._id.encode() in content

    def _content(self) -> bytes:
        """Of the file that has the name now, for another machine may have replaced it."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            # A full or absent disk is found out by whoever writes a record.
            with contextlib.suppress(OSError):
                if self._is_ours():
                    self._beats += 1
                    self._write()

    def _write(self) -> None:
        """In one piece, and never shorter than before, so that no reader finds two mixed."""
        os.pwrite(self._descriptor, json.dumps({**self._owner, "beats": self._beats}).encode(), 0)

    def release(self) -> None:
        """Let another process have the store; once is enough."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_ours():
                os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise not_writable(path.parent, error.strerror or str(error)) from None


def not_writable(folder: Path, reason: str) -> StoreError:
    """The error of a folder in which no store can be made or continued."""
    return StoreError(
        f"{folder} cannot be written to ({reason}). Choose another folder with --out, or make this "
        f"one writable."
    )


def _parsed(content: bytes) -> dict[str, Any]:
    """The owner that a lock file names, if it names one that can be read."""
    try:
        owner = json.loads(content)
        return owner if {"pid", "user", "host", "since"} <= owner.keys() else {}
    except (ValueError, AttributeError):
        return {}


def _name(owner: dict[str, Any]) -> str:
    if not owner:
        return "unknown"
    return f"pid {owner['pid']} of {owner['user']} on host {owner['host']}, since {owner['since']}"


def _boot() -> str:
    """What distinguishes machines of one name; empty where the system has no such id."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may know its user by number only
        return f"user {os.getuid()}"
