"""Machines that go at bad moments, on a Ray that is made up: whose fault it is, what is said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool

import pytest

from optbench.executors.ray_cluster import ClusterError, WorkerInfo
from optbench.executors.ray_executor import RayExecutor
from optbench.executors.worker_failures import (
    MAX_LOST_MACHINES,
    WorkerFailure,
    are_too_many,
    retries_exhausted,
)
from tests.executors import executor_jobs as jobs
from tests.executors.made_up_ray import HERE, CutOffError, GoneError, MadeUpCluster
from tests.waiting import TIMEOUT_S, until

MANY = MAX_LOST_MACHINES + 10
OLD: dict[str, str | None] = {**HERE, "optbench": "0"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MadeUpCluster:
    made = MadeUpCluster()
    monkeypatch.setattr("optbench.executors.ray_executor.Cluster", lambda *_: made)
    monkeypatch.setattr("optbench.executors.ray_executor.versions", lambda: HERE)
    monkeypatch.setattr("optbench.executors.ray_executor.TICK_S", 0.01)
    monkeypatch.setattr("optbench.executors.worker_failures.GRACE_S", 1.0)
    monkeypatch.setattr("optbench.executors.worker_failures.CUT_OFF_GRACE_S", 2.5)
    return made


@pytest.fixture
def make(cluster: MadeUpCluster) -> Iterator[Callable[..., RayExecutor]]:
    made: list[RayExecutor] = []

    def executor(num_workers: int | None = None) -> RayExecutor:
        made.append(RayExecutor(num_workers, initialize=jobs.nothing))
        return made[-1]

    yield executor
    for each in made:
        each.close(cancel=True)


@pytest.mark.parametrize(
    ("held", "joins_later", "error", "known_after_s"),
    [
        pytest.param("describe", False, GoneError, 0.0, id="unknown where"),
        pytest.param("initialize", False, GoneError, 0.0, id="known where"),
        pytest.param("describe", True, GoneError, 0.0, id="joined later"),
        pytest.param("initialize", False, GoneError, 0.2, id="told late"),
        pytest.param("describe", False, CutOffError, 1.3, id="cut off"),
    ],
)
def test_a_machine_that_is_lost_while_workers_start_is_no_fault_of_the_next_job(
    cluster: MadeUpCluster,
    make: Callable[..., RayExecutor],
    held: str,
    joins_later: bool,
    error: type[GoneError],
    known_after_s: float,
) -> None:
    cluster.held = {held}
    if joins_later:
        executor = make(MANY)
        futures = [executor.submit(jobs.square, x) for x in range(2 * MANY)]
        until(lambda: len(cluster.pending) == MANY, "the workers wait for a machine")
        first = cluster.add(MANY)
    else:
        first = cluster.add(MANY)
        executor = make()
        futures = [executor.submit(jobs.square, x) for x in range(2 * MANY)]
    until(lambda: len(cluster.pending) == MANY, "the workers start")
    if not known_after_s:
        cluster.held = set()
        cluster.lose(first)
    cluster.end_calls(error)
    if known_after_s:  # until Ray knows, it puts new workers there
        time.sleep(known_after_s)
        cluster.held = set()
        cluster.lose(first)
        cluster.end_calls(error)
    cluster.add(2)
    assert [future.result(TIMEOUT_S) for future in futures] == [x * x for x in range(2 * MANY)]


def test_a_machine_that_is_lost_with_many_idle_workers_is_lost_once(
    cluster: MadeUpCluster, make: Callable[..., RayExecutor]
) -> None:
    first, executor = cluster.add(MANY), make()
    cluster.held = {"describe"}
    futures = [executor.submit(jobs.square, x) for x in range(MANY)]
    until(lambda: len(cluster.pending) == MANY, "the workers start")
    cluster.held, pending = set(), cluster.pending
    for call in pending:
        call.done.set_result(call.answer())
    assert [future.result(TIMEOUT_S) for future in futures] == [x * x for x in range(MANY)]
    until(lambda: len(executor._idle) == MANY, "all are idle")
    cluster.lose(first)
    later = executor.submit(jobs.square, 3)
    cluster.add(1)
    assert later.result(TIMEOUT_S) == 9


def test_workers_that_cannot_be_started_on_machines_that_live_end_the_wait(
    cluster: MadeUpCluster, make: Callable[..., RayExecutor]
) -> None:
    cluster.add(MANY)
    executor = make()
    cluster.held = {"describe"}
    future = executor.submit(jobs.square, 3)
    while not future.done():
        until(lambda: bool(cluster.pending) or future.done(), "a worker starts")
        cluster.end_calls()
    error = future.exception()
    assert isinstance(error, BrokenProcessPool)
    assert str(error) == (
        f"No worker lasted through {MAX_LOST_MACHINES + 1} attempts at this job: their machines "
        "were lost, or no worker could be started there (last: gone)."
    )


def home(node_id: str) -> WorkerInfo:
    return WorkerInfo(node_id=node_id, host="h", log="", code={}, problem="")


def test_what_counts_against_a_job() -> None:
    machines = {"there": True, "gone": False}
    crash, lost = WorkerFailure(home("there"), "crash"), WorkerFailure(home("gone"), "lost")
    assert not are_too_many([crash] * 2, machines, 2)
    assert are_too_many([crash] * 3, machines, 2)
    assert "on each of 3 attempts at this job (last: crash)" in str(
        retries_exhausted([crash] * 3, machines, 2)
    )
    assert not are_too_many([lost] * 100, machines, 0)
    many = {f"m{i}": False for i in range(MAX_LOST_MACHINES + 1)}
    each = [WorkerFailure(home(node_id), "lost") for node_id in many]
    assert not are_too_many(each[1:], many, 0)
    assert are_too_many(each, many, 0)
    # Losses of a worker that had no job: of machines that are gone they are nobody's fault.
    starting = [WorkerFailure(home(node_id), "lost", starting=True) for node_id in many]
    assert not are_too_many(starting, many, 0)
    assert are_too_many([WorkerFailure(home("there"), "crash", starting=True)], machines, 0)
    unknown = [WorkerFailure(None, "lost", starting=True, lost_before=frozenset(many))] * len(many)
    assert are_too_many(unknown, many, 0)
    assert not are_too_many(unknown, {**many, "another": False}, 0)


def test_machines_that_were_left_out_and_have_gone_are_no_reason_to_give_up(
    cluster: MadeUpCluster, make: Callable[..., RayExecutor], caplog: pytest.LogCaptureFixture
) -> None:
    cluster.held = {"initialize"}  # no worker is ever ready
    old, good, executor = cluster.add(1, OLD), cluster.add(1), make()
    futures = [executor.submit(jobs.square, x) for x in range(3)]
    until(lambda: len(cluster.pending) == 1, "a worker starts on the other machine")
    cluster.lose(old)
    cluster.lose(good)
    until(lambda: len(caplog.messages) == 2, "the user is told")
    cluster.held = set()
    cluster.end_calls()
    assert not any(future.done() for future in futures)
    cluster.add(1)
    assert [future.result(TIMEOUT_S) for future in futures] == [0, 1, 4]
    assert caplog.messages == [
        f"{old} is left out of the runs: it has optbench 0 (the driver has 1). Install the same on "
        "every machine.",
        "The cluster has no machine with 1 CPU left. Waiting for one.",
    ]


def test_jobs_wait_for_a_machine_like_those_that_were_used_beside_those_left_out(
    cluster: MadeUpCluster, make: Callable[..., RayExecutor], caplog: pytest.LogCaptureFixture
) -> None:
    cluster.held = {"run"}
    cluster.add(1, OLD)
    good, executor = cluster.add(1), make()
    futures = [executor.submit(jobs.square, x) for x in range(3)]
    until(lambda: len(cluster.pending) == 1, "a job runs on the other machine")
    cluster.lose(good)
    cluster.end_calls()
    until(lambda: len(caplog.messages) == 2, "the user is told")
    assert not any(future.done() for future in futures)
    cluster.held = set()
    cluster.add(1)
    assert [future.result(TIMEOUT_S) for future in futures] == [0, 1, 4]
    assert caplog.messages[1] == (
        "The cluster has no machine with 1 CPU left besides those that are left out. Waiting for "
        "one."
    )


def test_when_all_machines_there_ever_were_are_left_out_the_jobs_fail(
    cluster: MadeUpCluster, make: Callable[..., RayExecutor]
) -> None:
    name, executor = cluster.add(2, OLD), make()
    futures = [executor.submit(jobs.square, x) for x in range(3)]
    for future in futures:
        with pytest.raises(ClusterError, match=rf"can execute the runs:\n- {name}: it has"):
            future.result(TIMEOUT_S)


def test_a_cluster_that_does_not_answer_is_left_in_time(
    cluster: MadeUpCluster,
    make: Callable[..., RayExecutor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("optbench.executors.ray_executor.CLOSE_S", 0.2)
    cluster.add(1)
    executor = make()
    asked, answer, machines = threading.Event(), threading.Event(), cluster.machines

    def slow() -> dict[str, bool]:
        asked.set()
        assert answer.wait(TIMEOUT_S)
        return machines()

    monkeypatch.setattr(cluster, "machines", slow)
    future = executor.submit(jobs.square, 3)
    assert asked.wait(TIMEOUT_S)
    before = time.monotonic()
    executor.close(cancel=True)
    assert time.monotonic() - before < 10
    assert cluster.is_left
    assert caplog.messages == ["Ray did not end the workers within 0.2 s. Leaving the cluster."]
    answer.set()
    assert isinstance(future.exception(TIMEOUT_S), ClusterError | BrokenProcessPool)
    executor._dispatcher.join(TIMEOUT_S)
    assert not executor._dispatcher.is_alive()
    assert cluster.started == 0
