from __future__ import annotations

import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as real_wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.config import RunConfig
from optbench.executors.processes import Executor, InlineExecutor, ProcessExecutor
from optbench.store.store import RunRecord, RunStore
from optbench.study import sweep as sweep_module
from optbench.study.sweep import Budget, BudgetSpentError, RunError, Steps, Sweep, Task
from tests.builders import config_with_lr, record_of
from tests.executors import executor_jobs


def lr_of(config: RunConfig) -> float:
    return float(config.optimizer.hyperparameters["lr"])


def lrs(configs: Sequence[RunConfig]) -> list[float]:
    return [lr_of(config) for config in configs]


def loss_at(lr: float) -> float:
    return (lr - 4) ** 2 + 1


@dataclass
class FakeJob:
    """Returns records without training; notes what it was asked to train."""

    failures: Counter[float] = field(default_factory=Counter)  # lr → how often it still fails
    diverging: Collection[float] = ()
    trained: list[float] = field(default_factory=list)

    def __call__(self, config: RunConfig) -> RunRecord:
        lr = lr_of(config)
        self.trained.append(lr)
        if self.failures[lr] > 0:
            self.failures[lr] -= 1
            return record_of(config, loss=None, status="failed", error=f"Traceback of {lr:g}")
        if lr in self.diverging:
            return record_of(config, loss=None, status="diverged")
        return record_of(config, loss=loss_at(lr))


class HeldExecutor:
    """Keeps jobs back until the sweep waits, then ends one of those in flight, in any order.

    Args:
        seed: of the order.
        num_workers: jobs in flight; the others are queued and may be cancelled.
    """

    def __init__(self, seed: int | None = None, *, num_workers: int = 100) -> None:
        self.num_workers = num_workers
        self.num_waits = 0
        self._rng = random.Random(seed) if seed is not None else None
        self._held: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, job: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._held.append((future, lambda: job(*arguments)))
        self._start()
        return future

    def close(self, *, cancel: bool = False) -> None:
        pass

    def wait(self, futures: Any) -> Any:
        """In the place of the sweep's own: all that is in flight ends."""
        while self._held:
            self._end_one()
        return real_wait(futures, timeout=0)

    def end_one(self) -> None:
        """Nothing ends unless somebody waits; then one job does."""
        self.num_waits += 1
        self._end_one()

    def _start(self) -> None:
        self._held = [held for held in self._held if not held[0].cancelled()]
        for future, _ in self._held[: self.num_workers]:
            if not future.running():
                future.set_running_or_notify_cancel()

    def _end_one(self) -> None:
        self._start()
        if not self._held:
            return
        in_flight = range(min(self.num_workers, len(self._held)))
        future, job = self._held.pop(self._rng.choice(in_flight) if self._rng else 0)
        try:
            future.set_result(job())
        except ArithmeticError as error:
            future.set_exception(error)
        self._start()


class HeldQueue:
    """In the place of the queue of ended futures; looking whether it is empty ends nothing."""

    def __init__(self, executor: HeldExecutor) -> None:
        self._executor = executor
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self.put = self._queue.put
        self.get_nowait = self._queue.get_nowait

    def get(self, timeout: float) -> Any:
        if self._queue.empty():
            self._executor.end_one()
        return self._queue.get(timeout=0)


@dataclass
class Observer:
    """Writes down what it is told."""

    queued_lrs: list[float] = field(default_factory=list)
    ended: list[tuple[float, bool]] = field(default_factory=list)
    failures: list[tuple[float, str, bool]] = field(default_factory=list)
    ticks: int = 0

    def queued(self, configs: Sequence[RunConfig]) -> None:
        self.queued_lrs += lrs(configs)

    def finished(self, record: RunRecord, *, from_store: bool) -> None:
        self.ended.append((lr_of(record.run_config), from_store))

    def failed(self, config: RunConfig, error: str, *, final: bool) -> None:
        self.failures.append((lr_of(config), error, final))

    def tick(self) -> None:
        self.ticks += 1


@dataclass
class Bench:
    """A sweep on a store in a folder, and what is to be looked at afterwards."""

    store: RunStore
    job: FakeJob
    executor: Executor
    observer: Observer
    sweep: Sweep

    def run(self, *tasks: Task) -> None:
        self.sweep.run(tasks)


def bench_in(
    store: RunStore, job: FakeJob | None = None, executor: Executor | None = None
) -> Bench:
    job = job or FakeJob()
    executor = executor or InlineExecutor()
    observer = Observer()
    sweep = Sweep(store, executor, job, observer)
    if isinstance(executor, HeldExecutor):
        sweep._ended = HeldQueue(executor)  # type: ignore[assignment]
    return Bench(store, job, executor, observer, sweep)


@pytest.fixture
def store(tmp_path: Path) -> Generator[RunStore]:
    with RunStore.open(tmp_path / "store") as store:
        yield store


def hold(patch: pytest.MonkeyPatch, executor: HeldExecutor) -> HeldExecutor:
    patch.setattr(sweep_module, "wait", executor.wait)
    return executor


def ask(*batches: Sequence[float], seen: list[list[float | None]] | None = None) -> Task:
    """A task that asks for these learning rates, one batch after the other."""
    for batch in batches:
        records = yield [config_with_lr(lr) for lr in batch]
        assert lrs([r.run_config for r in records]) == list(batch)
        if seen is not None:
            seen.append([r.val_loss for r in records])


def climb(start: float, path: list[float]) -> Task:
    """A task whose requests depend on what it was told: walks towards the best lr."""
    position = start
    while True:
        path.append(position)
        records = yield [config_with_lr(lr) for lr in (position - 1, position, position + 1)]
        losses = [r.val_loss for r in records]
        best = min(losses, key=lambda loss: 1e9 if loss is None else loss)
        step = losses.index(best) - 1
        if step == 0:
            return
        position += step


def test_records_come_back_in_the_order_of_the_request(store: RunStore) -> None:
    bench, seen = bench_in(store), list[list[float | None]]()
    bench.run(ask([3, 1, 2], [5], seen=seen))
    assert seen == [[2.0, 10.0, 5.0], [2.0]]
    assert bench.job.trained == [3, 1, 2, 5]
    assert lrs([r.run_config for r in store.records.values()]) == [3, 1, 2, 5]


def test_tasks_share_the_workers(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_in(store, executor=hold(monkeypatch, HeldExecutor()))
    bench.run(ask([1], [2], [3]), ask([11], [12], [13]))
    # Had the tasks gone one after the other, 1, 2, 3 would come first.
    assert bench.job.trained == [1, 11, 2, 12, 3, 13]


def test_a_task_does_not_wait_for_the_runs_of_another(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_in(store, executor=hold(monkeypatch, HeldExecutor()))
    bench.run(ask([1], [2], [3]), ask([11, 12, 13, 14]))
    assert bench.job.trained == [1, 11, 12, 13, 14, 2, 3]
    short_first = bench_in(store, executor=hold(monkeypatch, HeldExecutor()))
    short_first.run(ask([21, 22, 23]), ask([31]), ask([41], [42]))
    assert short_first.job.trained == [21, 22, 23, 31, 41, 42]


def test_what_is_in_the_store_is_not_trained_again(store: RunStore) -> None:
    bench_in(store).run(ask([1, 2], [3]))
    again, seen = bench_in(store), list[list[float | None]]()
    again.run(ask([1, 2], [3, 4], seen=seen))
    assert again.job.trained == [4]
    assert seen == [[10.0, 5.0], [2.0, 1.0]]
    assert again.observer.queued_lrs == [1, 2, 3, 4]
    assert again.observer.ended == [(1, True), (2, True), (3, True), (4, False)]


def test_a_task_that_finds_all_in_the_store_never_waits(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [[float(lr)] for lr in range(50)]
    bench_in(store).run(ask(*steps))
    executor = hold(monkeypatch, HeldExecutor())
    again = bench_in(store, executor=executor)
    # The new run of the first task is in flight while the second one replays its fifty steps.
    again.run(ask([100.0]), ask(*steps, [101.0]))
    assert again.job.trained == [100, 101]
    assert executor.num_waits == 2


@pytest.mark.parametrize("batches", [(), ([],), ([], []), ([], [1], []), ([1], [])])
def test_an_empty_request_is_answered_at_once(
    store: RunStore, batches: tuple[list[float], ...]
) -> None:
    bench, seen = bench_in(store), list[list[float | None]]()
    bench.run(ask(*batches, seen=seen))
    assert seen == [[loss_at(lr) for lr in batch] for batch in batches]


def test_no_tasks_are_no_work(store: RunStore) -> None:
    bench = bench_in(store)
    bench.run()
    assert bench.observer == Observer()


def test_a_run_that_two_tasks_want_is_trained_once(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_in(store, executor=hold(monkeypatch, HeldExecutor()))
    seen = [list[list[float | None]]() for _ in range(3)]
    bench.run(ask([1, 2], seen=seen[0]), ask([2, 3], seen=seen[1]), ask([9], [1], seen=seen[2]))
    assert sorted(bench.job.trained) == [1, 2, 3, 9]
    assert seen == [[[10.0, 5.0]], [[5.0, 2.0]], [[26.0], [10.0]]]
    assert Counter(bench.observer.queued_lrs) == Counter([1, 2, 3, 9])
    assert Counter(bench.observer.ended) == Counter([(lr, False) for lr in (1, 2, 3, 9)])


@pytest.mark.parametrize("held", [False, True])
def test_a_run_that_a_request_names_twice_is_trained_once(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    # Two candidates may be the same run: a warm-up of 5 % and one of 6 % of 20 steps.
    executor = hold(monkeypatch, HeldExecutor()) if held else None
    bench, seen = bench_in(store, executor=executor), list[list[float | None]]()
    bench.run(ask([2, 1, 2], seen=seen))
    assert bench.job.trained == [2, 1]
    assert seen == [[5.0, 10.0, 5.0]]
    assert bench.observer.queued_lrs == [2, 1]
    assert bench.observer.ended == [(2, False), (1, False)]
    assert len((store.directory / "runs.jsonl").read_text().splitlines()) == 2


def test_a_diverged_run_is_a_result(store: RunStore) -> None:
    bench, seen = bench_in(store, FakeJob(diverging=[1])), list[list[float | None]]()
    bench.run(ask([1, 2], [1], seen=seen))
    assert bench.job.trained == [1, 2]
    assert seen == [[None, 5.0], [None]]


def test_a_run_that_failed_once_is_tried_again(store: RunStore) -> None:
    bench, seen = bench_in(store, FakeJob(Counter({1: 1}))), list[list[float | None]]()
    bench.run(ask([1, 2], seen=seen))
    assert sorted(bench.job.trained) == [1, 1, 2]
    assert seen == [[10.0, 5.0]]
    assert Counter(bench.observer.ended) == Counter([(1, False), (2, False)])
    reread = RunStore.read(store.directory).records
    assert [r.status for r in reread.values()] == ["completed", "completed"]
    assert len((store.directory / "runs.jsonl").read_text().splitlines()) == 3


def test_a_failure_of_an_earlier_session_is_tried_again(store: RunStore) -> None:
    failed = record_of(config_with_lr(1), loss=None, status="failed", error="power cut")
    store.append(failed)
    bench = bench_in(store, FakeJob(Counter({1: 1})))
    bench.run(ask([1]))
    assert bench.job.trained == [1, 1]


def give_up_message(store: RunStore, *described: str) -> str:
    lines = "\n".join(described)
    return (
        f"{lines}\nWhat waited for that stopped; everything else went on to its end and is kept in "
        f"{store.directory}. The same command tries again."
    )


def test_a_run_that_failed_twice_stops_its_task_and_no_other(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = hold(monkeypatch, HeldExecutor(num_workers=3))
    bench = bench_in(store, FakeJob(Counter({1: 2})), executor)
    config, seen = config_with_lr(1), list[list[float | None]]()
    log = store.directory / "failed" / f"{config.run_id}.log"
    described = f"Run {config.run_id} (adamw, {{'lr': 1}}) failed 2 times. Its log: {log}"
    message = give_up_message(store, described, "    Traceback of 1")
    tasks = lambda: (ask([1, 2, 3], [20]), ask([4, 5], [6], [7, 8], seen=seen))  # noqa: E731
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        bench.run(*tasks())
    assert seen == [[1.0, 2.0], [5.0], [10.0, 17.0]]
    reread = RunStore.read(store.directory).records.values()
    stored = {lr_of(r.run_config): r.status for r in reread}
    # 2 and 3 were asked for as well, so they are there when the same command tries again.
    assert stored == {lr: "failed" if lr == 1 else "completed" for lr in range(1, 9)}
    assert bench.observer.failures == [(1, "Traceback of 1", False), (1, "Traceback of 1", True)]
    assert log.read_text() == (
        f"Run {config.run_id} (adamw, {{'lr': 1}}) failed 2 times.\n\n{config.canonical_json()}\n\n"
        f"Traceback of 1\n"
    )

    again = bench_in(store)
    monkeypatch.undo()
    again.run(*tasks())
    assert again.job.trained == [1, 20]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_was_given_up_is_not_tried_for_another_task(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    bench = bench_in(store, FakeJob(Counter({1: 9})), hold(monkeypatch, HeldExecutor()))
    late = ask([5], [6], [7], [1, 8], [9]) if when == "after" else ask([1, 8], [9])
    with pytest.raises(RunError, match="failed 2 times") as caught:
        bench.run(ask([1]), late, ask([11], [12], [13], [14], [15]))
    assert str(caught.value).count("failed 2 times") == 1
    assert Counter(bench.job.trained)[1] == 2
    # What was asked for beside it is trained whenever it was asked for; what came next is not.
    assert 8 in bench.job.trained
    assert 9 not in bench.job.trained
    assert bench.job.trained[-1] == 15


def test_every_run_that_was_given_up_is_named_up_to_ten(store: RunStore) -> None:
    bench = bench_in(store, FakeJob(Counter(dict.fromkeys(range(1, 13), 2))))
    with pytest.raises(RunError) as caught:
        bench.run(*(ask([lr]) for lr in range(1, 13)), ask([20], [21]))
    text = str(caught.value)
    assert text.count("failed 2 times. Its log: ") == 10
    assert f"And 2 more, whose logs are in {store.directory / 'failed'}." in text
    logs = {path.stem for path in (store.directory / "failed").iterdir()}
    assert logs == {config_with_lr(lr).run_id for lr in range(1, 13)}
    assert bench.job.trained[-2:] == [20, 21]


def test_only_the_end_of_a_long_error_is_told_and_all_of_it_is_kept(store: RunStore) -> None:
    class LongJob(FakeJob):
        def __call__(self, config: RunConfig) -> RunRecord:
            error = "".join(f"line {number}\n\n" for number in range(50))
            return record_of(config, loss=None, status="failed", error=error)

    with pytest.raises(RunError) as caught:
        bench_in(store, LongJob()).run(ask([1]))
    assert "\n    line 47\n    line 48\n    line 49\n" in str(caught.value)
    assert "line 46" not in str(caught.value)
    (log,) = (store.directory / "failed").iterdir()
    assert "line 0\n" in log.read_text()


def test_runs_of_a_task_that_stopped_are_in_the_store_before_the_error(store: RunStore) -> None:
    closed: list[bool] = []

    def task() -> Task:
        try:
            yield [config_with_lr(1), config_with_lr(2)]
        finally:
            closed.append(len(store.records) == 2)

    with pytest.raises(RunError):
        bench_in(store, FakeJob(Counter({1: 2}))).run(task())
    assert closed == [True]


def test_what_the_executor_gives_up_stops_its_task_and_no_other(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BreakingJob(FakeJob):
        def __call__(self, config: RunConfig) -> RunRecord:
            if lr_of(config) in (2, 4):
                raise ZeroDivisionError("the worker was killed")
            return super().__call__(config)

    bench = bench_in(store, BreakingJob(), hold(monkeypatch, HeldExecutor()))
    with pytest.raises(RunError) as caught:
        bench.run(ask([1, 2, 3]), ask([4, 5], [6]), ask([7], [8]))
    for lr in (2, 4):
        run_id = config_with_lr(lr).run_id
        log = store.directory / "failed" / f"{run_id}.log"
        start = f"Run {run_id} (adamw, {{'lr': {lr}}}) could not be executed. Its log: {log}\n"
        assert start in str(caught.value)
        assert log.read_text().endswith("ZeroDivisionError: the worker was killed\n")
    assert {lr_of(r.run_config) for r in store.records.values()} == {1, 3, 5, 7, 8}


def test_an_exception_of_an_inline_job_is_no_crash(store: RunStore) -> None:
    class BreakingJob(FakeJob):
        def __call__(self, config: RunConfig) -> RunRecord:
            raise RuntimeError("no such folder")

    with pytest.raises(RunError, match=r"could not be executed\.(?s:.*)no such folder"):
        bench_in(store, BreakingJob()).run(ask([1, 2]))


def test_a_budget_stops_the_sweep_after_what_is_in_flight(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_in(store, executor=hold(monkeypatch, HeldExecutor(num_workers=2)))
    bench.sweep.budget = Budget(runs=3)
    message = (
        f"The study's budget is spent: 5 runs, at most 3. Everything finished is kept in "
        f"{store.directory}; a larger budget, or none, goes on from there."
    )
    with pytest.raises(BudgetSpentError, match=f"^{re.escape(message)}$"):
        bench.run(ask([1, 2, 3, 4, 5, 6, 7, 8]))
    assert bench.job.trained == [1, 2, 3, 4, 5]  # 4 and 5 were in flight when 3 had ended
    bench.sweep.budget = Budget()
    bench.run(ask([1, 2, 3, 4, 5, 6, 7, 8]))
    assert bench.job.trained == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(runs=2), "2 runs, at most 2"),
        (Budget(tokens=1000), "1.28e+03 tokens, at most 1e+03"),
        (Budget(core_hours=0.002), "0.0022 core hours, at most 0.002"),
    ],
)
def test_a_budget_is_looked_at_before_each_run(
    store: RunStore, budget: Budget, reason: str
) -> None:
    bench = bench_in(store)
    bench.sweep.budget = budget
    with pytest.raises(BudgetSpentError, match=re.escape(f"is spent: {reason}. Everything")):
        bench.run(ask([1, 2, 3, 4, 5]))
    assert bench.job.trained == [1, 2]


def test_a_budget_that_ends_a_sweep_does_not_hide_runs_that_were_given_up(store: RunStore) -> None:
    bench = bench_in(store, FakeJob(Counter({1: 2})))
    bench.sweep.budget = Budget(runs=3)
    run_id = config_with_lr(1).run_id
    with pytest.raises(BudgetSpentError) as caught:
        bench.run(ask([1]), ask([2, 3, 4]))
    end = f" Besides:\nRun {run_id} (adamw, {{'lr': 1}}) failed 2 times. Its log: "
    assert end in str(caught.value)


def test_finished_runs_are_told_of_once_they_are_on_the_disk(store: RunStore) -> None:
    told: list[tuple[float, str]] = []

    def note(record: RunRecord) -> None:
        assert store.finished(record.run_id) == record
        told.append((lr_of(record.run_config), record.status))

    def sweep(job: FakeJob) -> Sweep:
        return Sweep(store, InlineExecutor(), job, Observer(), on_stored=note)

    sweep(FakeJob(Counter({1: 1}), diverging=[2])).run([ask([1, 2], [3])])
    # 1 failed before: a run that is to be tried again still needs its checkpoint
    assert told == [(1, "completed"), (2, "diverged"), (3, "completed")]
    told.clear()
    sweep(FakeJob()).run([ask([1, 2], [3, 4])])
    assert told == [(4, "completed")]


def test_runs_that_end_while_a_sweep_is_stopped_are_told_of_as_well(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    bench = bench_in(store, executor=hold(monkeypatch, HeldExecutor(num_workers=3)))
    bench.sweep.on_stored = lambda record: told.append(lr_of(record.run_config))
    bench.sweep.budget = Budget(runs=1)
    with pytest.raises(BudgetSpentError):
        bench.run(ask([1, 2, 3, 4, 5]))
    assert sorted(told) == sorted(bench.job.trained) == [1, 2, 3, 4]


@settings(max_examples=40)
@given(seed=st.integers(), num_workers=st.integers(1, 6))
def test_what_the_tasks_see_does_not_depend_on_the_order_of_completion(
    tmp_path_factory: pytest.TempPathFactory, seed: int, num_workers: int
) -> None:
    def outcome(executor: Executor) -> tuple[list[list[float]], dict[str, RunRecord]]:
        paths: list[list[float]] = [[], [], []]
        with RunStore.open(tmp_path_factory.mktemp("store")) as store:
            job = FakeJob(Counter({2: 1, 7: 1}), diverging=[5])
            bench = bench_in(store, job, executor)
            bench.run(*(climb(x, path) for x, path in zip((0, 2, 9), paths, strict=True)))
            assert max(Counter(bench.job.trained).values()) <= 2
            return paths, dict(store.records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # most of the time, and no crash is expected
        in_order = outcome(InlineExecutor())
        scrambled = outcome(hold(patch, HeldExecutor(seed, num_workers=num_workers)))
    assert scrambled == in_order
    assert in_order[0] == [[0, 1, 2, 3, 4], [2, 3, 4], [9, 8, 7, 6]]


def test_who_wants_to_know_is_told_each_finished_run_that_was_stored_now(store: RunStore) -> None:
    bench_in(store).run(ask([1]))
    told: list[tuple[float, bool]] = []

    def note(record: RunRecord) -> None:
        told.append((lr_of(record.run_config), store.finished(record.run_id) == record))

    bench = bench_in(store, FakeJob(Counter({2: 1}), diverging=[3]))
    bench.sweep.on_stored = note
    bench.run(ask([1, 2, 3, 2]))
    assert sorted(told) == [(2, True), (3, True)]


def test_a_sweep_can_be_used_for_one_phase_after_the_other(store: RunStore) -> None:
    bench, seen = bench_in(store), list[list[float | None]]()
    bench.run(ask([1, 2]))
    bench.run(ask([2, 3], seen=seen))
    assert bench.job.trained == [1, 2, 3]
    assert seen == [[5.0, 2.0]]
    assert bench.observer.queued_lrs == [1, 2, 3]


def test_an_interrupted_sweep_can_go_on(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_in(store, executor=hold(monkeypatch, HeldExecutor()))

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.observer, "tick", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run(ask([1, 2], [3]))
    monkeypatch.setattr(bench.observer, "tick", lambda: None)
    assert len(store.records) == 1
    bench.run(ask([1, 2], [3]))
    assert bench.job.trained == [1, 2, 3]


def test_an_error_of_a_task_is_not_hidden(store: RunStore) -> None:
    def failing() -> Steps[None]:
        yield [config_with_lr(1)]
        raise LookupError("the noise cannot be measured")

    bench = bench_in(store)
    with pytest.raises(LookupError, match="the noise cannot be measured"):
        bench.run(failing())
    assert len(store.records) == 1


def test_a_job_that_answers_for_another_run_is_found_out(store: RunStore) -> None:
    class LyingJob(FakeJob):
        def __call__(self, config: RunConfig) -> RunRecord:
            return record_of(config_with_lr(99))

    with pytest.raises(AssertionError, match="a job answered for another run"):
        bench_in(store, LyingJob()).run(ask([1]))


def test_the_observer_hears_a_tick_at_every_look(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_in(store, executor=hold(monkeypatch, HeldExecutor()))
    bench.run(ask([1], [2], [3]))
    assert bench.observer.ticks == 3


def test_inline_runs_are_stored_one_by_one(store: RunStore) -> None:
    stored: list[int] = []

    class CountingJob(FakeJob):
        def __call__(self, config: RunConfig) -> RunRecord:
            stored.append(len(store.records))
            return super().__call__(config)

    bench_in(store, CountingJob()).run(ask([1, 2, 3, 4]))
    assert stored == [0, 1, 2, 3]


def test_an_interruption_stores_what_has_ended_and_stores_it_once(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = hold(monkeypatch, HeldExecutor())
    bench = bench_in(store, executor=executor)

    def two_end_and_then_interrupt() -> None:
        executor.end_one()
        executor.end_one()
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.observer, "tick", two_end_and_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run(ask([1, 2, 3, 4, 5]))
    assert lrs([r.run_config for r in store.records.values()]) == [1, 2, 3]
    monkeypatch.setattr(bench.observer, "tick", lambda: None)
    bench.run(ask([1, 2, 3, 4, 5]))
    assert bench.job.trained == [1, 2, 3, 4, 5]
    assert len((store.directory / "runs.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize("place", ["os.fsync", "optbench.store.record_file.parse_object"])
def test_an_interruption_behind_a_written_line_writes_it_once(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupt(*_: object) -> None:
        patch.undo()
        raise KeyboardInterrupt

    bench = bench_in(store)
    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.run(ask([1, 2]))
    bench.run(ask([1, 2]))
    assert len((store.directory / "runs.jsonl").read_text().splitlines()) == 2
    assert bench.job.trained == [1, 2]


def test_an_interruption_between_a_record_and_its_answer_stores_it_once(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_in(store, executor=hold(monkeypatch, HeldExecutor()))

    def interrupt(_: RunRecord) -> None:
        raise KeyboardInterrupt

    bench.sweep.on_stored = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.run(ask([1, 2]))
    assert len((store.directory / "runs.jsonl").read_text().splitlines()) == 1


def test_what_a_run_costs_does_not_grow_with_the_number_of_runs(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    looks = Counter[str]()
    for name in ("has_finished", "finished"):
        plain = getattr(RunStore, name)

        def counted(self: RunStore, run_id: str, plain: Any = plain, name: str = name) -> Any:
            looks[name] += 1
            return plain(self, run_id)

        monkeypatch.setattr(RunStore, name, counted)
    count = 600
    executor = hold(monkeypatch, HeldExecutor(num_workers=4))
    bench_in(store, executor=executor).run(ask(list(range(1, count + 1))))
    assert looks["has_finished"] + looks["finished"] < 5 * count


def test_a_sweep_over_processes_survives_a_killed_worker(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[2])])
    monkeypatch.setenv("OPTBENCH_TEST_FOLDER", str(tmp_path))
    observer = Observer()
    with ProcessExecutor(2, initialize=executor_jobs.nothing) as executor:
        sweep = Sweep(store, executor, executor_jobs.train_or_die, observer)
        sweep.run([ask([1.0, 2.0, 3.0], [4.0]), ask([3.0, 5.0])])
        assert Counter(observer.ended) == Counter([(float(lr), False) for lr in range(1, 6)])
        assert (tmp_path / "deaths of 2").read_text() == "x"
        with pytest.raises(RunError) as caught:
            sweep.run([ask([13.0, 6.0])])
    assert f"Run {config_with_lr(13.0).run_id}" in str(caught.value)
    assert "ended on each of 3 attempts at this job (last exit code -9)" in str(caught.value)
    assert store.has_finished(config_with_lr(6.0).run_id)
