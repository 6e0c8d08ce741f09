"""Sweep: carries out tasks that ask for runs and are told their records, many at once.

A task is a generator: it yields a list of configurations and is sent their records, in the same
order, when all of them have ended. What is in the store already is not trained again, so a sweep
that was interrupted goes on by running the same tasks once more. Only this process writes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import NoReturn, Protocol, TypeAlias, TypeVar

from optbench.config import RunConfig, UserError
from optbench.executors import Executor
from optbench.store import RunRecord, RunStore

T = TypeVar("T")
Steps: TypeAlias = Generator[list[RunConfig], list[RunRecord], T]
Task: TypeAlias = Steps[None]
Job: TypeAlias = Callable[[RunConfig], RunRecord]
MAX_ATTEMPTS = 2
POLL_S = 0.5


class RunError(UserError):
    """A run failed on every attempt; everything finished before it is kept."""


class BudgetSpentError(UserError):
    """A study has used up what it may spend; everything finished is kept."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a study may spend in all its sittings together; None = no limit."""

    runs: int | None = None
    tokens: float | None = None
    core_hours: float | None = None

    def problem(self, records: Collection[RunRecord]) -> str | None:
        """Which limit the records of a study have reached, if any."""
        if self.runs is not None and len(records) >= self.runs:
            return f"{len(records)} runs, at most {self.runs}"
        if self.tokens is not None:
            tokens = sum(record.num_tokens for record in records)
            if tokens >= self.tokens:
                return f"{tokens:.3g} tokens, at most {self.tokens:.3g}"
        if self.core_hours is not None:
            hours = sum(record.wall_s for record in records) / 3600
            if hours >= self.core_hours:
                return f"{hours:.2g} core hours, at most {self.core_hours:.2g}"
        return None


class SweepObserver(Protocol):
    """Is told what happens, to show progress."""

    def queued(self, configs: Sequence[RunConfig]) -> None:
        """Configurations that were not asked for before; some may be in the store."""
        ...

    def finished(self, record: RunRecord, *, from_store: bool) -> None:
        """A run that was asked for has its record."""
        ...

    def tick(self) -> None:
        """Called about twice a second while runs are going on."""
        ...


def tell_nobody(record: RunRecord) -> None:
    """What a sweep does with a stored run where nobody wants to know."""
    del record


@dataclass(slots=True)
class Sweep:
    """Runs tasks on an executor, with a store as its memory.

    Args:
        on_stored: is told each finished run that this sweep has stored; it returns at once.
    """

    store: RunStore
    executor: Executor
    job: Job
    observer: SweepObserver
    budget: Budget = Budget()
    on_stored: Callable[[RunRecord], None] = tell_nobody
    _running: dict[Future[RunRecord], RunConfig] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _announced: set[str] = field(default_factory=set)

    def carry_out(self, tasks: Sequence[Task]) -> None:
        """Run every task to its end; their runs share the executor's workers.

        Whatever ends it early, a run that had ended by then is stored first.

        Raises:
            RunError: a run failed twice, or the executor gave it up. The runs in flight are awaited
                and stored first; those that have not started are dropped.
            BudgetSpentError: the budget is used up and a task still wants runs; likewise.
        """
        try:
            self._carry_out(tasks)
        except BaseException:
            for future in [future for future in self._running if future.done()]:
                if not future.cancelled() and future.exception() is None:
                    self.store.append(future.result())
            raise

    def _carry_out(self, tasks: Sequence[Task]) -> None:
        waiting: dict[int, list[RunConfig]] = {}
        for number, task in enumerate(tasks):
            self._advance(number, task, None, waiting)
        while waiting:
            assert self._running, "a task waits for a run that nobody carries out"
            self._collect()
            for number, configs in list(waiting.items()):
                if (records := self._records(configs)) is not None:
                    self._advance(number, tasks[number], records, waiting)

    def _advance(
        self,
        number: int,
        task: Task,
        records: list[RunRecord] | None,
        waiting: dict[int, list[RunConfig]],
    ) -> None:
        """Let a task go on until it has ended or wants a run that has not."""
        waiting.pop(number, None)
        try:
            configs = next(task) if records is None else task.send(records)
            self._queue(configs)
            while (records := self._records(configs)) is not None:
                configs = task.send(records)
                self._queue(configs)
        except StopIteration:
            return
        waiting[number] = configs

    def _records(self, configs: Sequence[RunConfig]) -> list[RunRecord] | None:
        """The records of all configurations, or None while one is missing."""
        records = [self.store.finished(config.run_id) for config in configs]
        complete = [record for record in records if record is not None]
        return complete if len(complete) == len(records) else None

    def _queue(self, configs: Sequence[RunConfig]) -> None:
        """Announce what was not asked for before, and start what is neither stored nor running."""
        distinct = {config.run_id: config for config in configs}
        new = {run_id: c for run_id, c in distinct.items() if run_id not in self._announced}
        self._announced.update(new)
        self.observer.queued(list(new.values()))
        in_flight = {config.run_id for config in self._running.values()}
        for run_id, config in distinct.items():
            record = self.store.finished(run_id)
            if record is None and run_id not in in_flight:
                self._submit(config)
            elif record is not None and run_id in new:
                self.observer.finished(record, from_store=True)

    def _submit(self, config: RunConfig) -> None:
        self._check_budget()
        self._attempts[config.run_id] = self._attempts.get(config.run_id, 0) + 1
        self._running[self.executor.submit(self.job, config)] = config

    def _collect(self) -> None:
        """Store what has ended; wait a moment if nothing has."""
        done, _ = wait(self._running, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in [future for future in self._running if future in done]:
            config = self._running.pop(future)
            if (error := future.exception()) is not None:
                reason = "".join(traceback.format_exception(error))
                self._give_up(config, "could not be carried out", reason)
            record = future.result()
            self.store.append(record)
            if record.status != "failed":
                self.on_stored(record)
                self.observer.finished(record, from_store=False)
            elif self._attempts[config.run_id] < MAX_ATTEMPTS:
                self._submit(config)
            else:
                self._give_up(config, f"failed {MAX_ATTEMPTS} times", record.error)
        self.observer.tick()
        if self._running:
            self._check_budget()

    def _give_up(self, config: RunConfig, what: str, reason: str) -> NoReturn:
        """Let what is in flight end, keep its records and raise."""
        self._stop()
        raise RunError(
            f"Run {config.run_id} ({config.optimizer.name}, "
            f"{dict(config.optimizer.hyperparameters)}) {what}. Everything finished is kept in "
            f"{self.store.directory}; the same command tries again.\n{reason}"
        )

    def _check_budget(self) -> None:
        if self.budget.problem(self.store.records.values()) is not None:
            self._stop()
            reason = self.budget.problem(self.store.records.values())  # those that ended since
            raise BudgetSpentError(
                f"The study's budget is spent: {reason}. Everything finished is kept in "
                f"{self.store.directory}; a larger budget, or none, goes on from there."
            )

    def _stop(self) -> None:
        """Drop what has not started, await what has, and keep its records."""
        in_flight = [future for future in self._running if not future.cancel()]
        wait(in_flight)
        for future in in_flight:
            if future.exception() is None:
                self.store.append(future.result())
        self._running.clear()
