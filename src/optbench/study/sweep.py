"""Sweep: runs tasks that ask for runs and get their records, many at once.

A task is a generator: it yields a list of configurations and is sent their records, in the same
order, when all of them have ended. What is in the store already is not trained again, so a sweep
that was interrupted goes on by running the same tasks once more. Only this process writes.

What a run costs here does not grow with the number of runs: a future that ends puts itself into a
queue, and a request counts what it still lacks.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias, TypeVar

from optbench.config import RunConfig, UserError
from optbench.executors.failures import RunFailure, describe, note_failure
from optbench.executors.processes import Executor
from optbench.store.record_file import Totals
from optbench.store.store import RunRecord, RunStore

T = TypeVar("T")
Steps: TypeAlias = Generator[list[RunConfig], list[RunRecord], T]
Task: TypeAlias = Steps[None]
Job: TypeAlias = Callable[[RunConfig], RunRecord]
MAX_ATTEMPTS = 2
POLL_S = 0.5


class RunError(UserError):
    """Runs failed on every attempt; everything else is finished and kept."""


class BudgetSpentError(UserError):
    """A study has used up what it may spend; everything finished is kept."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a study may spend in all its sessions together; None = no limit."""

    runs: int | None = None
    tokens: float | None = None
    core_hours: float | None = None

    def problem(self, spent: Totals) -> str | None:
        """Which limit the records of a study have reached, if any."""
        if self.runs is not None and spent.runs >= self.runs:
            return f"{spent.runs} runs, at most {self.runs}"
        if self.tokens is not None and spent.tokens >= self.tokens:
            return f"{spent.tokens:.3g} tokens, at most {self.tokens:.3g}"
        hours = spent.core_s / 3600
        if self.core_hours is not None and hours >= self.core_hours:
            return f"{hours:.2g} core hours, at most {self.core_hours:.2g}"
        return None


class SweepObserver(Protocol):
    """Called with what happens, to show progress."""

    def queued(self, configs: Sequence[RunConfig]) -> None:
        """Configurations that were not asked for before; some may be in the store."""
        ...

    def finished(self, record: RunRecord, *, from_store: bool) -> None:
        """A run that was asked for has its record."""
        ...

    def failed(self, config: RunConfig, error: str, *, final: bool) -> None:
        """A run failed with this traceback; unless it is abandoned, it is tried again."""
        ...

    def tick(self) -> None:
        """Called about twice a second while runs are going on."""
        ...


@dataclass(slots=True, eq=False)
class _Request:
    """What a task waits for.

    Args:
        run_ids: in the order of the request, one for each configuration; None before the task has
            asked for anything.
        missing: distinct runs that have not ended.
        doomed: one of them was abandoned, so the task cannot go on.
    """

    task: Task
    run_ids: list[str] | None = None
    missing: int = 0
    doomed: bool = False


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A run that is with the executor."""

    run_id: str
    config: RunConfig
    number: int


def _nothing(_: RunRecord) -> None:
    """Where nobody wants to know what was stored."""


@dataclass(slots=True)
class Sweep:
    """Runs tasks on an executor, with a store as its memory.

    Args:
        on_stored: called with every finished run of this session once its record is on the disk.
    """

    store: RunStore
    executor: Executor
    job: Job
    observer: SweepObserver
    budget: Budget = Budget()
    on_stored: Callable[[RunRecord], None] = _nothing
    _running: dict[Future[RunRecord], _Attempt] = field(default_factory=dict)
    _in_flight: set[str] = field(default_factory=set)
    _ended: SimpleQueue[Future[RunRecord]] = field(default_factory=SimpleQueue)
    _waiting: dict[str, list[_Request]] = field(default_factory=dict)
    _ready: deque[_Request] = field(default_factory=deque)
    _announced: set[str] = field(default_factory=set)
    _failures: dict[str, RunFailure] = field(default_factory=dict)

    def run(self, tasks: Sequence[Task]) -> None:
        """Run every task to its end; their runs share the executor's workers.

        A run that fails on every attempt, or that the executor abandons, ends the tasks that wait
        for it and no other. Whatever ends the sweep early, a run that had ended by then is stored
        first.

        Raises:
            RunError: such runs, when everything else is done; their logs are in the store.
            BudgetSpentError: the budget is used up and a task still wants runs. The runs in flight
                are awaited and stored first; those that have not started are dropped.
        """
        self._waiting.clear()
        self._failures.clear()
        self._ready = deque(_Request(task) for task in tasks)
        try:
            while self._ready or self._waiting:
                if self._ready:
                    self._advance(self._ready.popleft())
                else:
                    self._collect()
        except BaseException:
            self._store_ended()
            raise
        if self._failures:
            raise RunError(
                f"{self._described_failures()}\nWhat waited for that stopped; everything else went "
                f"on to its end and is kept in {self.store.directory}. The same command tries "
                f"again."
            )

    def _described_failures(self) -> str:
        return describe(list(self._failures.values()))

    # Tasks ------------------------------------------------------------------------------------

    def _advance(self, answered: _Request) -> None:
        """Let a task go on with what it asked for, and take its next request."""
        task = answered.task
        if answered.doomed:
            task.close()
            return
        try:
            if answered.run_ids is None:
                configs = next(task)
            else:
                configs = task.send([self.store.records[run_id] for run_id in answered.run_ids])
        except StopIteration:
            return
        self._take(task, configs)

    def _take(self, task: Task, configs: Sequence[RunConfig]) -> None:
        """Announce what was not asked for before, and start what is neither stored nor running."""
        run_ids = [config.run_id for config in configs]
        request, distinct = _Request(task, run_ids), dict(zip(run_ids, configs, strict=True))
        self._announce(distinct)
        to_start: list[str] = []
        for run_id in distinct:
            if self.store.has_finished(run_id):
                continue
            if run_id in self._failures:
                request.doomed = True
                continue
            if run_id not in self._in_flight:
                to_start.append(run_id)
            request.missing += 1
            self._waiting.setdefault(run_id, []).append(request)
        if request.missing == 0:
            self._ready.appendleft(request)  # a task goes through what is stored in one go
        for run_id in to_start:
            self._submit(_Attempt(run_id, distinct[run_id], 1))
            self._settle_ended()

    def _announce(self, distinct: dict[str, RunConfig]) -> None:
        new = [run_id for run_id in distinct if run_id not in self._announced]
        self._announced.update(new)
        self.observer.queued([distinct[run_id] for run_id in new])
        for run_id in new:
            if (record := self.store.finished(run_id)) is not None:
                self.observer.finished(record, from_store=True)

    # Runs -------------------------------------------------------------------------------------

    def _submit(self, attempt: _Attempt) -> None:
        self._check_budget()
        future = self.executor.submit(self.job, attempt.config)
        self._running[future] = attempt
        self._in_flight.add(attempt.run_id)
        future.add_done_callback(self._ended.put)

    def _collect(self) -> None:
        """Store what has ended; wait a moment if nothing has."""
        assert self._running, "a task waits for a run that nobody executes"
        with contextlib.suppress(Empty):
            self._settle(self._ended.get(timeout=POLL_S))
        self._settle_ended()
        self.observer.tick()
        if self._running:
            self._check_budget()

    def _settle_ended(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._settle(self._ended.get_nowait())

    def _settle(self, future: Future[RunRecord]) -> None:
        """Store the record of a run that has ended, or try it again, or give it up."""
        attempt = self._running.get(future)
        if attempt is None:
            return  # dropped, or stored when the sweep was interrupted
        if (error := future.exception()) is not None:
            self._forget(future)
            reason = "".join(traceback.format_exception(error))
            self._fail(attempt, "could not be executed", reason)
            return
        record = future.result()
        self._keep(attempt, record)
        self._forget(future)
        if record.status != "failed":
            self.observer.finished(record, from_store=False)
            self._answer(attempt.run_id)
        elif attempt.number < MAX_ATTEMPTS:
            self.observer.failed(attempt.config, record.error, final=False)
            self._submit(_Attempt(attempt.run_id, attempt.config, attempt.number + 1))
        else:
            self._fail(attempt, f"failed {MAX_ATTEMPTS} times", record.error)

    def _keep(self, attempt: _Attempt, record: RunRecord) -> None:
        assert record.run_id == attempt.run_id, "a job answered for another run"
        self.store.append(record)
        if record.status != "failed":
            self.on_stored(record)

    def _forget(self, future: Future[RunRecord]) -> None:
        self._in_flight.discard(self._running.pop(future).run_id)

    def _answer(self, run_id: str, *, doomed: bool = False) -> None:
        """Count a run that has ended in the requests that wait for it."""
        for request in self._waiting.pop(run_id, ()):
            request.missing -= 1
            request.doomed = request.doomed or doomed
            if request.missing == 0:
                self._ready.append(request)

    def _fail(self, attempt: _Attempt, what: str, error: str) -> None:
        self._failures[attempt.run_id] = note_failure(self.store, attempt.config, what, error)
        self.observer.failed(attempt.config, error, final=True)
        self._answer(attempt.run_id, doomed=True)

    # Ends -------------------------------------------------------------------------------------

    def _check_budget(self) -> None:
        if self.budget.problem(self.store.totals) is None:
            return
        self._stop()
        reason = self.budget.problem(self.store.totals)  # with those that ended since
        message = (
            f"The study's budget is spent: {reason}. Everything finished is kept in "
            f"{self.store.directory}; a larger budget, or none, goes on from there."
        )
        if self._failures:
            message += f" Besides:\n{self._described_failures()}"
        raise BudgetSpentError(message)

    def _stop(self) -> None:
        """Drop what has not started, await what has, and keep its records."""
        wait([future for future in self._running if not future.cancel()])
        self._store_ended()
        self._running.clear()
        self._in_flight.clear()

    def _store_ended(self) -> None:
        """Keep the records of runs that have ended and that nobody looked at yet."""
        self.store.catch_up()
        for future in [future for future in self._running if future.done()]:
            if not future.cancelled() and future.exception() is None:
                record = future.result()
                if not self.store.has_finished(record.run_id):
                    self._keep(self._running[future], record)
            self._forget(future)
