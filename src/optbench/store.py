"""RunRecord and RunStore: what a run left behind, in append-only files that survive a crash.

A store is a directory::

    runs.jsonl      one RunRecord per line, written once, when the run has ended
    journal.jsonl   what the study said and decided, in order: plan, sessions, tunings
    study.toml      the study file as it was read
    evaluations.jsonl  scores of runs on downstream tasks, where any were evaluated
    weights         final weights of runs, where any were kept
    lock            who is writing; held by the operating system, released when the writer dies

A line is appended in one write and flushed to the disk before the run counts as finished. A last
line torn by a crash is moved to ``<file>.torn`` and the store goes on; a damaged line elsewhere is
refused with its number, because it is not the mark of a crash.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from optbench.config import RunConfig, UserError

SCHEMA_VERSION = 1
Status: TypeAlias = Literal["completed", "diverged", "failed"]


class StoreError(UserError):
    """A store that cannot be used; the message names the file, the line and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The result of one run.

    ``diverged`` is a result (its losses are None and count as +∞); ``failed`` is not, and such a
    run is tried again. Losses are in nats per token, times in seconds.

    Args:
        val_loss: loss on the validation split at the end of the budget; tuning reads this one.
        test_loss: loss on the test split at the end; published numbers read this one.
        train_curve: (step, mean training loss since the previous point) pairs.
        val_curve: (step, validation loss) pairs; the last one is at the end.
        step_s: median seconds of one training step, forward to optimizer, evaluation left out.
        optimizer_step_s: median seconds of ``optimizer.step()`` alone.
        state_bytes: bytes of optimizer state after the last step.
        wall_s: from the start of the run to its end, evaluation included.
        environment: versions, device, threads, code commit and dirty flag.
        error: the traceback of a failed run, or the reason of a divergence.
        execution: how the run was carried out, which changes no result but by rounding (see
            :class:`~optbench.execution.Execution`); empty where it was not recorded yet.
    """

    run_id: str
    config: dict[str, Any]
    status: Status
    val_loss: float | None
    test_loss: float | None
    train_curve: list[tuple[int, float]]
    val_curve: list[tuple[int, float]]
    num_steps: int
    num_tokens: int
    step_s: float
    optimizer_step_s: float
    wall_s: float
    state_bytes: int
    started_at: str
    environment: dict[str, Any]
    error: str = ""
    execution: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    @property
    def run_config(self) -> RunConfig:
        """The configuration, typed."""
        return RunConfig.from_dict(self.config)

    @property
    def tokens_per_s(self) -> float:
        """Training throughput, evaluation left out."""
        tokens_per_step = self.num_tokens / max(1, self.num_steps)
        return tokens_per_step / self.step_s if self.step_s > 0 else 0.0

    def to_json(self) -> str:
        """One line of ``runs.jsonl``."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RunRecord:
        """Inverse of :meth:`to_json` after ``json.loads``.

        Raises:
            StoreError: the record was written by a newer version, or lacks a field.
        """
        schema = raw.get("schema", 0)
        if schema > SCHEMA_VERSION:
            raise StoreError(
                f"This record has schema {schema}, but this version of optbench reads up to "
                f"{SCHEMA_VERSION}. Install a newer optbench to read it."
            )
        names = {f.name for f in dataclasses.fields(cls)}
        if missing := sorted(names - raw.keys() - {"error", "execution"}):
            raise StoreError(f"This record lacks the fields {missing}.")
        values = {name: raw[name] for name in names & raw.keys()}
        for curve in ("train_curve", "val_curve"):
            values[curve] = [(int(step), float(loss)) for step, loss in values[curve]]
        return cls(**values)


@dataclass(slots=True)
class RunStore:
    """The records of a directory; open it with :meth:`open` to write, :meth:`read` to only look."""

    directory: Path
    records: dict[str, RunRecord] = field(default_factory=dict)
    journal: list[dict[str, Any]] = field(default_factory=list)
    _lock: int | None = None

    @classmethod
    def read(cls, directory: Path) -> RunStore:
        """Read a store without writing to it; a torn last line is left out.

        Raises:
            StoreError: there is no store, or it is damaged.
        """
        if not (directory / "runs.jsonl").exists():
            raise StoreError(
                f"There are no runs in {directory} (no runs.jsonl). Give the folder of a study "
                f"with --store, or start one with 'optbench run nano'."
            )
        store = cls(directory)
        store._load()
        return store

    @classmethod
    def open(cls, directory: Path) -> RunStore:
        """Create or continue a store as its only writer.

        Raises:
            StoreError: another process is writing to it, or it is damaged.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise StoreError(
                f"{directory} is a file, but a store is a folder. Choose another --out."
            ) from None
        store = cls(directory, _lock=_take_lock(directory / "lock"))
        try:
            for name in ("runs.jsonl", "journal.jsonl"):
                _set_torn_line_aside(directory / name)
            store._load()
            (directory / "runs.jsonl").touch()
        except BaseException:
            store.close()
            raise
        return store

    def _load(self) -> None:
        for number, raw in _lines(self.directory / "runs.jsonl"):
            try:
                record = RunRecord.from_dict(raw)
            except StoreError as error:
                raise StoreError(
                    f"{self.directory / 'runs.jsonl'}, line {number}: {error}"
                ) from None
            self._remember(record)
        self.journal.extend(raw for _, raw in _lines(self.directory / "journal.jsonl"))

    def _remember(self, record: RunRecord) -> None:
        """A finished run is never displaced by a later failure of the same configuration."""
        known = self.records.get(record.run_id)
        if known is None or known.status == "failed":
            self.records[record.run_id] = record

    def append(self, record: RunRecord) -> None:
        """Write a record; it counts as finished once this returns."""
        self._write("runs.jsonl", record.to_json())
        self._remember(record)

    def note(self, kind: str, /, **facts: Any) -> None:
        """Append to the journal, unless it has this very entry already."""
        line = json.dumps({"kind": kind, **facts}, separators=(",", ":"), allow_nan=False)
        # As it will be read back: JSON makes lists of tuples.
        entry = json.loads(line)
        if entry in self.journal:
            return
        self._write("journal.jsonl", line)
        self.journal.append(entry)

    def _write(self, name: str, line: str) -> None:
        assert self._lock is not None, "a store is written by the one who opened it"
        _append_line(self.directory / name, line)

    def finished(self, run_id: str) -> RunRecord | None:
        """The record of a run that needs no training any more."""
        record = self.records.get(run_id)
        return record if record is not None and record.status != "failed" else None

    def close(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbered entries of a file; what follows its last line break is torn and left out."""
    if not path.exists():
        return
    *complete, _torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(complete, start=1):
        try:
            entry = json.loads(line.decode())
            if not isinstance(entry, dict):
                raise ValueError("not an object")
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise StoreError(
                f"{path}, line {number} is not a JSON object ({reason}). A crash damages only the "
                f"last line, so this file was edited or the disk is failing: restore the line from "
                f"a copy, or delete it to train that run again."
            ) from None
        yield number, entry


def _set_torn_line_aside(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end == len(data):
        return
    with path.with_name(path.name + ".torn").open("ab") as torn:
        torn.write(data[end:] + b"\n")
        torn.flush()
        os.fsync(torn.fileno())
    with path.open("r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())


def append_entry(path: Path, entry: Mapping[str, Any]) -> None:
    """Append an entry to a file beside the records; a line torn by a crash is set aside first.

    Raises:
        StoreError: the disk refuses it.
    """
    _set_torn_line_aside(path)
    _append_line(path, json.dumps(entry, separators=(",", ":"), allow_nan=False))


def _append_line(path: Path, line: str) -> None:
    """All of the line or nothing: what a full disk cuts short is taken back."""
    data = (line + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, size)
            raise StoreError(
                f"{path} could not be written ({error.strerror}). What it held before is kept; "
                f"free some space and start again."
            ) from error
    finally:
        os.close(descriptor)


def _take_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreError(
            f"Another optbench is writing to {path.parent} ({owner}). Wait for it, stop it, or "
            f"choose another folder with --out."
        ) from None
    os.ftruncate(descriptor, 0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(
        descriptor, f"pid {os.getpid()} on {socket.gethostname()} since {started}".encode(), 0
    )
    return descriptor
