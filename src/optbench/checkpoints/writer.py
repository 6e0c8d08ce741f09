"""CheckpointWriter: takes a snapshot at once and writes it in the background, one at a time.

A checkpoint that cannot be written (a full disk, a folder that is read-only, an object store that
is away) ends no run: what went wrong is remembered, the half of it is removed, and the run goes on
with the checkpoints that it has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from optbench.checkpoints.checkpoint import Place
from optbench.checkpoints.manifest import Manifest, rank_file
from optbench.tensor_file import StreamFacts, write_tensors

T = TypeVar("T")
KEEP = 2
_LOG = logging.getLogger(__name__)
_MOST_PROBLEMS = 10


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
    """What came of a rank's file; ``problem`` is empty where it is on the disk."""

    step: int
    file: StreamFacts | None
    facts: Mapping[str, Any]
    problem: str = ""

    def to_plain(self) -> dict[str, Any]:
        """As JSON, in which ranks tell each other."""
        file = None if self.file is None else [self.file.size, self.file.sha256]
        return {"step": self.step, "file": file, "facts": self.facts, "problem": self.problem}

    @classmethod
    def from_plain(cls, raw: Mapping[str, Any]) -> RankWritten:
        """Inverse of :meth:`to_plain`."""
        file = None if raw["file"] is None else StreamFacts(*raw["file"])
        return cls(raw["step"], file, raw["facts"], raw["problem"])


@dataclass(slots=True)
class CheckpointWriter:
    """Writes the checkpoints of a run and keeps the newest few.

    With several ranks each writes its own file, and the first writes the manifest when all say that
    theirs is there. They say so through ``gather``, which is called by the caller's thread alone,
    in :meth:`settle`, :meth:`save` and :meth:`give_up`; every rank calls these at the same steps.

    Args:
        place: of the run.
        keep: complete checkpoints that stay.
        written: how many were completed.
        failed: how many were not.
        problems: why, the first few.
        superseded: steps beyond the next one that have been found unusable.
    """

    place: Place
    keep: int = KEEP
    rank: int = 0
    num_ranks: int = 1
    gather: Gather = alone
    written: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)
    superseded: set[int] = field(default_factory=set)
    _pool: ThreadPoolExecutor | None = None
    _file: Future[RankWritten] | None = None
    _end: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether this rank is still writing."""
        return any(f is not None and not f.done() for f in (self._file, self._end))

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Copy the tensors and begin to write them; a write still under way is awaited first.

        Args:
            step: steps taken.
            tensors: this rank's, on any device.
            facts: this rank's other state, plain JSON.
        """
        self.settle(wait=True)
        try:
            snapshot = {name: _copy(tensor) for name, tensor in tensors.items()}
        except (RuntimeError, MemoryError) as error:  # no memory for a second copy
            self._begin(_done(RankWritten(step, None, facts, _reason(error))))
        else:
            self._begin(self._submit(lambda: self._write_file(step, snapshot, facts)))

    def give_up(self, step: int, problem: str) -> None:
        """In place of :meth:`save`: let all ranks know that this one has nothing to write."""
        self.settle(wait=True)
        self._begin(_done(RankWritten(step, None, {}, problem)))

    def _begin(self, file: Future[RankWritten]) -> None:
        if self.num_ranks == 1:
            self._end = self._submit(lambda: self._complete([file.result()]))
        else:
            self._file = file

    def settle(self, *, wait: bool = False) -> None:
        """Complete a checkpoint whose files are there; with ``wait``, when they are there.

        A collective where there are several ranks and a checkpoint is under way.
        """
        if self._file is not None:
            ready = wait or self._file.done()
            found = self.gather(self._file.result().to_plain() if ready else None)
            complete = [RankWritten.from_plain(one) for one in found if one is not None]
            if len(complete) == len(found):
                self._file = None
                self._end = self._submit(lambda: self._complete(complete))
        if wait and self._end is not None:
            self._end.result()
            self._end = None

    def close(self) -> None:
        """Wait for what this rank is writing; calls no collective, so it may follow an error."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        self._pool = self._file = self._end = None

    def note(self, problem: str) -> None:
        """Remember a problem, and say the first one."""
        if not self.problems:
            _LOG.warning("%s", problem)
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)

    def _submit(self, job: Callable[[], T]) -> Future[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        return self._pool.submit(job)

    def _write_file(
        self, step: int, snapshot: dict[str, Tensor], facts: Mapping[str, Any]
    ) -> RankWritten:
        name = rank_file(self.rank, self.num_ranks)
        try:
            written = self.place.write(step, name, lambda file: write_tensors(file, snapshot))
        except Exception as error:  # those of a store at a URL are of any class
            return RankWritten(step, None, facts, _reason(error))
        return RankWritten(step, written, facts)

    def _complete(self, ranks: list[RankWritten]) -> None:
        """Write the manifest, if all files are there, and remove what it makes superfluous."""
        step, run_id = ranks[0].step, self.place.run_id
        problem = next((one.problem for one in ranks if one.problem), "")
        files = tuple(one.file for one in ranks if one.file is not None)
        try:
            if not problem and self.rank == 0:
                facts = tuple(dict(one.facts) for one in ranks)
                self.place.complete(Manifest(run_id, step, files, facts))
        except Exception as error:
            problem = _reason(error)
        if problem:
            self.failed += 1
            self.note(f"The checkpoint of step {step} was not written: {problem}")
        else:
            self.written += 1
        if self.rank == 0:
            self._clean(step, failed=bool(problem))

    def _clean(self, step: int, *, failed: bool) -> None:
        """Remove a half of a checkpoint, or what is older than the newest few and of no use."""
        try:
            if failed:
                self.place.remove(step)
                return
            self.superseded.discard(step)
            steps = [s for s in self.place.steps() if s <= step or s in self.superseded]
            whole = [s for s in steps if s not in self.superseded and self.place.is_complete(s)]
            for old in set(steps) - set(whole[: self.keep]):
                self.place.remove(old)
            self.superseded.clear()
        except Exception as error:
            self.note(f"Old checkpoints were not removed: {_reason(error)}")


def _copy(tensor: Tensor) -> Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    return copy.copy_(tensor.detach())


def _done(value: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(value)
    return future


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
