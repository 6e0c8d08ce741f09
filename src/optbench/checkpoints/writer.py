"""CheckpointWriter: takes a snapshot at once and writes it in the background, one at a time.

A checkpoint that cannot be written (a full disk, a folder that is read-only, an object store that
is away) ends no run: what went wrong is remembered, the half of it is removed, and the run goes on
with the checkpoints that it has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from optbench.checkpoints.checkpoint import CheckpointDirectory
from optbench.checkpoints.manifest import CheckpointManifest, rank_file
from optbench.files.tensor_file import StreamFacts, write_tensors

T = TypeVar("T")
KEEP = 2
_LOG = logging.getLogger(__name__)
_MOST_PROBLEMS = 10
CLOSE_S = 60.0  # how long the end of a run waits for a checkpoint that is still being written


class Gather(Protocol):
    """A collective: every rank gives a value, plain JSON, and gets those of all, in rank order."""

    def __call__(self, value: T, /) -> list[T]:
        """Wait for all ranks."""
        ...


def alone(value: T, /) -> list[T]:
    """The collective of a single process."""
    return [value]


@dataclass(frozen=True, slots=True)
class RankWritten:
    """The outcome of a rank's file; ``problem`` is empty where it is on the disk."""

    step: int
    file: StreamFacts | None
    facts: Mapping[str, Any]
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for the other ranks."""
        file = None if self.file is None else [self.file.size, self.file.sha256]
        return {"step": self.step, "file": file, "facts": self.facts, "problem": self.problem}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RankWritten:
        """Inverse of :meth:`to_dict`."""
        file = None if raw["file"] is None else StreamFacts(*raw["file"])
        return cls(raw["step"], file, raw["facts"], raw["problem"])


@dataclass(slots=True)
class CheckpointWriter:
    """Writes the checkpoints of a run and keeps the newest few.

    With several ranks each writes its own file, and the first writes the manifest when all report
    that theirs is there. They do so through ``gather``, which is called by the caller's thread
    alone, in :meth:`settle` and :meth:`is_free`; every rank calls these at the same steps, and so
    it does :meth:`save` or :meth:`save_nothing`.

    Args:
        directory: of the run.
        keep: complete checkpoints that stay.
        written: how many were completed.
        failed: how many were not.
        problems: why, the first few.
        superseded: steps beyond the next one that have been found unusable.
    """

    directory: CheckpointDirectory
    keep: int = KEEP
    rank: int = 0
    num_ranks: int = 1
    gather: Gather = alone
    written: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)
    superseded: set[int] = field(default_factory=set)
    _file: Future[RankWritten] | None = None
    _end: Future[None] | None = None
    _abandoned: bool = False

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is under way, as far as this rank knows."""
        return self._file is not None or not (self._end is None or self._end.done())

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Copy the tensors and begin to write them; nothing may be under way (:meth:`is_free`).

        Args:
            step: steps taken.
            tensors: this rank's, on any device.
            facts: this rank's other state, plain JSON.
        """
        try:
            snapshot = {name: _copy(tensor) for name, tensor in tensors.items()}
        except Exception as error:  # no memory for a second copy
            self.save_nothing(step, _reason(error))
        else:
            self._begin(step, lambda: self._write_file(step, snapshot, facts))

    def save_nothing(self, step: int, problem: str) -> None:
        """In place of :meth:`save`: let all ranks know that this one has nothing to write."""
        self._begin(step, lambda: RankWritten(step, None, {}, problem))

    def _begin(self, step: int, write: Callable[[], RankWritten]) -> None:
        if self.num_ranks == 1:
            self._end = _in_background(
                lambda: self._complete([write()]), lambda problem: self.note_failed(step, problem)
            )
        else:
            self._file = _in_background(write, lambda problem: RankWritten(step, None, {}, problem))

    def is_free(self, wait_s: float = 0.0) -> bool:
        """Whether nothing is under way on any rank, after ``wait_s`` seconds at most.

        A collective where there are several ranks.
        """
        until = time.monotonic() + wait_s
        self.settle(wait_s)
        _await(self._end, until)
        return not any(self.gather(self.is_busy))

    def settle(self, wait_s: float = 0.0) -> None:
        """Complete a checkpoint whose files are there, after ``wait_s`` seconds at most.

        A collective where there are several ranks and a checkpoint is under way.
        """
        if self._file is None:
            return
        _await(self._file, time.monotonic() + wait_s)
        if not all(self.gather(self._file.done())):
            return
        ranks = [RankWritten.from_dict(one) for one in self.gather(self._file.result().to_dict())]
        self._file = None
        self._end = _in_background(
            lambda: self._complete(ranks), lambda problem: self.note_failed(ranks[0].step, problem)
        )

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Wait for what this rank is writing, but no longer than ``wait_s`` seconds.

        It calls no collective, so it may follow an error.
        """
        until = time.monotonic() + wait_s
        if not all([_await(self._file, until), _await(self._end, until)]):
            self._abandoned = True
            self.failed += 1
            self.note(
                f"A checkpoint was still being written {wait_s:g} s after the run; it was "
                f"abandoned."
            )
        self._file = self._end = None

    def note_failed(self, step: int, problem: str) -> None:
        """Count a checkpoint that is not written."""
        self.failed += 1
        self.note(f"The checkpoint of step {step} was not written: {problem}")

    def note(self, problem: str) -> None:
        """Remember a problem, and log the first one."""
        if not self.problems:
            _LOG.warning("%s", problem)
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)

    def _write_file(
        self, step: int, snapshot: dict[str, Tensor], facts: Mapping[str, Any]
    ) -> RankWritten:
        name = rank_file(self.rank, self.num_ranks)
        try:
            written = self.directory.write(step, name, lambda file: write_tensors(file, snapshot))
        except Exception as error:  # those of a store at a URL are of any class
            return RankWritten(step, None, facts, _reason(error))
        return RankWritten(step, written, facts)

    def _complete(self, ranks: list[RankWritten]) -> None:
        """Write the manifest, if all files are there, and remove what it makes superfluous."""
        if self._abandoned:  # the run has ended without it
            return
        step, run_id = ranks[0].step, self.directory.run_id
        problem = next((one.problem for one in ranks if one.problem), "")
        files = tuple(one.file for one in ranks if one.file is not None)
        try:
            if not problem and self.rank == 0:
                facts = tuple(dict(one.facts) for one in ranks)
                self.directory.complete(CheckpointManifest(run_id, step, files, facts))
        except Exception as error:
            problem = _reason(error)
        if problem:
            self.note_failed(step, problem)
        else:
            self.written += 1
        if self.rank == 0:
            self._clean(step, failed=bool(problem))

    def _clean(self, step: int, *, failed: bool) -> None:
        """Remove a half of a checkpoint, or what is older than the newest few and of no use."""
        try:
            if failed:
                self.directory.remove(step)
                return
            self.superseded.discard(step)
            steps = [s for s in self.directory.steps() if s <= step or s in self.superseded]
            whole = [s for s in steps if s not in self.superseded and self.directory.is_complete(s)]
            for old in set(steps) - set(whole[: self.keep]):
                self.directory.remove(old)
            self.superseded.clear()
        except Exception as error:
            self.note(f"Old checkpoints were not removed: {_reason(error)}")


def _copy(tensor: Tensor) -> Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    return copy.copy_(tensor.detach())


def _in_background(job: Callable[[], T], otherwise: Callable[[str], T]) -> Future[T]:
    """A job in a thread, or ``otherwise`` with the reason why there is none.

    No thread of a pool: the end of a process waits for those, and a store may hang for ever.
    """
    future: Future[T] = Future()

    def run_job() -> None:
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=run_job, name="checkpoint", daemon=True).start()
    except Exception as error:
        future.set_result(otherwise(_reason(error)))
    return future


def _await(future: Future[Any] | None, until: float) -> bool:
    """Whether a future is done, or nothing is to be done, by then (``time.monotonic``)."""
    if future is None:
        return True
    wait([future], max(0.0, until - time.monotonic()))
    return future.done()


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
