"""RunRecord and RunStore: what a run left behind, in append-only files that survive a crash.

A store is a directory::

    runs.jsonl      one RunRecord per line, written once, when the run has ended
    journal.jsonl   what the study announced and decided, in order: plan, sessions, tunings
    study.toml      the study file as it was read
    evaluations.jsonl  scores of runs on downstream tasks, where any were evaluated
    weights         final weights of runs, where any were kept
    ended           records not stored yet by the driver (:mod:`optbench.executors.result_spool`)
    failed          of runs that failed on every attempt, a text file each with the whole error
    checkpoints     of runs that are going on (see :mod:`optbench.checkpoints`)
    sinks, sinks.log  copies to look at, and their problems (see :mod:`optbench.export.trackers`)
    lock            who is writing, and that it lives (see :mod:`optbench.store.lock`)

A line is appended in one write and flushed to the disk before the run counts as finished. A last
line torn by a crash is moved to ``<file>.torn`` and the store goes on; a damaged line elsewhere is
refused with its number, because it is not the mark of a crash. A hundred thousand records are
opened in a few seconds and little memory: see :mod:`optbench.store.record_file`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from optbench.config import ConfigError, RunConfig, run_id_of
from optbench.errors import excerpt
from optbench.files.durable import write_durably
from optbench.files.json_lines import (
    StoreError,
    append_entry,
    append_line,
    not_written,
    read_entries,
    set_torn_line_aside,
)
from optbench.store.journal_entries import JournalEntry, entry_to_dict
from optbench.store.lock import StoreLock, not_writable
from optbench.store.record_file import RecordFile, Totals
from optbench.typed_data import fits

__all__ = ["RunRecord", "RunStore", "Status", "StoreError", "append_entry"]

SCHEMA_VERSION = 1
RUNS = "runs.jsonl"
Status: TypeAlias = Literal["completed", "diverged", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
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
        execution: how the run was executed, which changes no result but by rounding (see
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
        """The configuration, typed.

        Raises:
            StoreError: it is none.
        """
        try:
            return RunConfig.from_dict(self.config)
        except ConfigError as error:
            told = f"The configuration of run {self.run_id} cannot be read: {error}"
            raise StoreError(told) from None

    @property
    def tokens_per_s(self) -> float:
        """Training throughput, evaluation left out."""
        tokens_per_step = self.num_tokens / max(1, self.num_steps)
        return tokens_per_step / self.step_s if self.step_s > 0 else 0.0

    def to_json(self) -> str:
        """One line of ``runs.jsonl``."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps(fields, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RunRecord:
        """Inverse of :meth:`to_json` after ``json.loads``.

        Raises:
            StoreError: the record was written by a newer version, lacks a field, or has a value of
                another type.
        """
        _check_record(raw)
        values = {name: raw[name] for name in _FIELDS & raw.keys()}
        if not fits(cls)(values):
            from optbench.tables import table_problems  # pydantic, only where something is wrong

            raise StoreError(f"{' '.join(table_problems(cls, values)[:3])} {_REMEDY}")
        for curve in ("train_curve", "val_curve"):
            values[curve] = [(step, float(loss)) for step, loss in values[curve]]
        return cls(**values)


_FIELDS = frozenset(f.name for f in dataclasses.fields(RunRecord))
_REQUIRED = _FIELDS - {"error", "execution"}
_REMEDY = (
    "This record was edited or the disk is failing: restore the line from a copy, or delete it to "
    "train that run again."
)
# What is counted of a record before it is parsed.
_COUNTED = {
    "schema": fits(int),
    "run_id": fits(str),
    "status": fits(Status),
    "num_tokens": fits(int),
    "wall_s": fits(float),
    "execution": fits(dict[str, Any] | None),
}


def _check_record(raw: Mapping[str, Any]) -> None:
    """Refuse what this version cannot read (see :meth:`RunRecord.from_dict`)."""
    schema = raw.get("schema", 0)
    if type(schema) is int and schema > SCHEMA_VERSION:
        raise StoreError(
            f"This record has schema {schema}, but this version of optbench reads up to "
            f"{SCHEMA_VERSION}. Install a newer optbench to read it."
        )
    if not raw.keys() >= _REQUIRED:
        raise StoreError(f"This record lacks the fields {sorted(_REQUIRED - raw.keys())}.")
    for name, check in _COUNTED.items():
        if not check(raw.get(name)):
            raise StoreError(f"{name} cannot be {excerpt(raw.get(name))}. {_REMEDY}")
    devices = (raw.get("execution") or {}).get("devices", 1)
    if type(devices) is not int:
        raise StoreError(f"execution.devices cannot be {excerpt(devices)}. {_REMEDY}")


def check_folder(directory: Path) -> None:
    """Refuse a folder that cannot be made or written to, before anything is spent on its contents.

    Raises:
        StoreError: it is a file, lies within one, or may not be written.
    """
    whole = directory.resolve()
    nearest = next(path for path in (whole, *whole.parents) if os.path.exists(path))
    if not nearest.is_dir():
        where = directory if nearest == whole else nearest
        raise StoreError(f"{where} is a file, but a store is a folder. Choose another --out.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if read_only else errno.EACCES)
        raise not_writable(directory, reason if nearest == whole else f"{reason}: {nearest}")


def spooled_record(store: Path, run_id: str) -> Path:
    """Where a worker keeps the record of a run until it is stored."""
    return store / "ended" / f"{run_id}.json"


def _record_file(path: Path) -> RecordFile[RunRecord]:
    return RecordFile(path, _stored_record, _check_record)


def _stored_record(raw: Mapping[str, Any]) -> RunRecord:
    """The record of a line, whose configuration must be that of its run.

    Raises:
        StoreError: as `RunRecord.from_dict`, or the configuration has another id.
    """
    record = RunRecord.from_dict(raw)
    # As it was written; only what says more than it must is built for its id.
    with contextlib.suppress(ValueError):
        if run_id_of(record.config) == record.run_id:
            return record
    if (found := record.run_config.run_id) != record.run_id:
        raise StoreError(
            f"The record is of run {record.run_id}, but its configuration is that of run {found}. "
            f"{_REMEDY}"
        )
    return record


@dataclass(slots=True)
class RunStore:
    """The records of a directory; open it with :meth:`open` to write, :meth:`read` to only look.

    Args:
        records: by run id, as they were first stored; each is parsed when it is asked for.
        journal: the entries, in order.
    """

    directory: Path
    records: Mapping[str, RunRecord] = field(default_factory=dict[str, RunRecord])
    journal: list[dict[str, Any]] = field(default_factory=list)
    _lock: StoreLock | None = None

    @classmethod
    def read(cls, directory: Path) -> RunStore:
        """Read a store without writing to it; a torn last line is left out.

        Raises:
            StoreError: there is no store, or it is damaged.
        """
        runs = directory / RUNS
        if not runs.exists():
            raise StoreError(
                f"There are no runs in {directory} (no runs.jsonl). Give the folder of a study "
                f"with --store, or start one with 'optbench run nano'."
            )
        return cls(directory, _record_file(runs), read_entries(directory / "journal.jsonl"))

    @classmethod
    def open(cls, directory: Path, notify: Callable[[str], None] = lambda _: None) -> RunStore:
        """Create or continue a store as its only writer.

        Args:
            notify: called with what a user should know while another machine's lock is watched.

        Raises:
            StoreError: another process is writing to it, it cannot be written, or it is damaged.
        """
        check_folder(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{directory} cannot be made ({error.strerror}). Choose another --out."
            ) from None
        lock = StoreLock(directory / "lock", notify)
        runs, journal = directory / RUNS, directory / "journal.jsonl"
        try:
            for path in (runs, journal):
                set_torn_line_aside(path)
            runs.touch()
            return cls(directory, _record_file(runs), read_entries(journal), lock)
        except OSError as error:
            lock.release()
            raise not_written(directory, error) from error
        except BaseException:
            lock.release()
            raise

    def append(self, record: RunRecord) -> None:
        """Write a record; it counts as finished once this returns.

        Raises:
            StoreError: the disk refuses it, or another process has taken the store over.
        """
        self._write(RUNS, record.to_json().encode())
        self.catch_up()
        spooled_record(self.directory, record.run_id).unlink(missing_ok=True)

    def catch_up(self) -> None:
        """Count the lines that are there: an interruption may have come behind the writing of one.

        Raises:
            StoreError: a line is damaged.
        """
        self._file.catch_up()

    def note(self, entry: JournalEntry) -> None:
        """Append to the journal, unless it has this very entry already.

        Raises:
            StoreError: as :meth:`append`.
        """
        line = json.dumps(entry_to_dict(entry), separators=(",", ":"), allow_nan=False)
        # As it will be read back: JSON makes lists of tuples.
        written = json.loads(line)
        if written in self.journal:
            return
        self._write("journal.jsonl", line.encode())
        self.journal.append(written)

    def keep_text(self, name: str, text: str) -> Path:
        """Write a text file beside the records, whole or not at all.

        Raises:
            StoreError: as :meth:`append`.
        """
        path = self.directory / name
        try:
            path.parent.mkdir(exist_ok=True)
            write_durably(path, text.encode())
        except OSError as error:
            raise not_written(path, error) from error
        return path

    def _write(self, name: str, line: bytes) -> int:
        assert self._lock is not None, "a store is written by the one who opened it"
        self._lock.check()
        return append_line(self.directory / name, line)

    @property
    def _file(self) -> RecordFile[RunRecord]:
        assert isinstance(self.records, RecordFile), "a store is filled by `open` or `read`"
        return self.records

    @property
    def totals(self) -> Totals:
        """Sums over all records, which cost nothing to ask for."""
        return self._file.totals

    def has_finished(self, run_id: str) -> bool:
        """Whether a run needs no training any more."""
        return self._file.has_finished(run_id)

    @property
    def num_finished(self) -> int:
        """How many runs need no training any more."""
        return sum(map(self.has_finished, self.records))

    def finished(self, run_id: str) -> RunRecord | None:
        """The record of a run that needs no training any more."""
        return self.records[run_id] if self.has_finished(run_id) else None

    def close(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # there is none, or something is left in it
                (self.directory / "ended").rmdir()
            self._lock.release()
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
