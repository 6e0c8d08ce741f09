"""What a sweep relies on, whichever executor it was given: one set of tests for all of them."""

from __future__ import annotations

import dataclasses
import operator
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from pickle import PicklingError
from typing import Any

import pytest
import torch

from optbench.executors.processes import Executor, InlineExecutor, ProcessExecutor
from optbench.executors.ray_executor import RayExecutor
from optbench.training.run import run, use_one_thread
from tests.builders import TINY_CONFIG
from tests.data.synthetic import prepared
from tests.executors import executor_jobs as jobs
from tests.executors.ray_here import ROOT, local_ray
from tests.waiting import TIMEOUT_S, has_started, is_running, until

UNPICKLABLE = (PicklingError, AttributeError)  # which of them depends on the version of Python
Make = Callable[..., Executor]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with local_ray(num_cpus=8):  # the executors of several tests live side by side
        yield


def maker(kind: str, request: pytest.FixtureRequest) -> Iterator[Make]:
    """A function that makes executors of a kind; they are closed in the end."""
    made: list[Executor] = []

    def make(num_workers: int, **settings: Any) -> Executor:
        settings.setdefault("initialize", jobs.nothing)
        if kind == "inline":
            made.append(InlineExecutor())
        elif kind == "process":
            made.append(ProcessExecutor(num_workers, **settings))
        else:
            request.getfixturevalue("ray_here")
            made.append(RayExecutor(num_workers, **settings))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        # Workers get this process's sys.path, on which pytest does not put the tests by itself.
        patch.setattr(sys, "path", [*sys.path, str(ROOT)])
        yield make
        for executor in made:
            executor.close(cancel=True)


KINDS_WITH_WORKERS = [pytest.param("process", id="process"), pytest.param("ray", id="ray")]


@pytest.fixture(scope="module", params=["inline", "process", "ray"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """One for several tests, none of which ends it or its workers."""
    for make in maker(request.param, request):
        yield make(2)


@pytest.fixture(scope="module", params=KINDS_WITH_WORKERS)
def one_worker(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """One for several tests, none of which ends it."""
    for make in maker(request.param, request):
        yield make(1)


@pytest.fixture(scope="module", params=KINDS_WITH_WORKERS)
def two_workers(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """One for several tests, none of which ends it."""
    for make in maker(request.param, request):
        yield make(2)


@pytest.fixture(params=KINDS_WITH_WORKERS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """For what ends an executor, or needs one of its own."""
    yield from maker(request.param, request)


class TestAnyExecutor:
    def test_a_future_has_the_result_of_its_job(self, executor: Executor) -> None:
        futures = [executor.submit(jobs.square, x) for x in range(50)]
        assert [f.result(TIMEOUT_S) for f in futures] == [x * x for x in range(50)]

    def test_results_do_not_depend_on_the_order_in_which_jobs_end(self, executor: Executor) -> None:
        delays = [0.06, 0.0, 0.03, 0.0]
        futures = [executor.submit(jobs.sleep_and_return, d, i) for i, d in enumerate(delays)]
        done, _ = wait(futures, timeout=TIMEOUT_S)
        assert [f.result() for f in futures] == [0, 1, 2, 3]
        assert done == set(futures)

    def test_an_exception_belongs_to_its_own_future(self, executor: Executor) -> None:
        bad = executor.submit(jobs.refuse, "no")
        good = executor.submit(jobs.square, 3)
        error = bad.exception(TIMEOUT_S)
        assert isinstance(error, ValueError)
        assert str(error) == "no"
        assert good.result(TIMEOUT_S) == 9

    def test_callbacks_are_called_and_may_submit(self, executor: Executor) -> None:
        more: list[Future[int]] = []
        first = executor.submit(jobs.square, 2)
        first.add_done_callback(lambda f: more.append(executor.submit(jobs.square, f.result())))
        until(lambda: bool(more), "the callback has run")
        assert more[0].result(TIMEOUT_S) == 16

    def test_no_arguments_and_no_result_are_fine(self, executor: Executor) -> None:
        assert executor.submit(jobs.nothing).result(TIMEOUT_S) is None

    def test_it_says_how_many_workers_it_has(self, executor: Executor) -> None:
        assert executor.num_workers == (1 if isinstance(executor, InlineExecutor) else 2)


@pytest.mark.parametrize("kind", ["inline", "process", "ray"])
def test_closing_waits_for_every_job_and_closing_twice_does_no_harm(
    kind: str, request: pytest.FixtureRequest
) -> None:
    for make in maker(kind, request):
        executor = make(2)
        futures = [executor.submit(jobs.sleep_and_return, 0.05, i) for i in range(5)]
        executor.close()
        assert all(f.done() for f in futures)
        assert [f.result() for f in futures] == [0, 1, 2, 3, 4]
        executor.close()
        executor.close(cancel=True)


def test_a_run_has_the_same_losses_bit_for_bit(make: Make, tmp_path: Path) -> None:
    corpus = prepared(tmp_path)
    config = dataclasses.replace(
        TINY_CONFIG,
        model=dataclasses.replace(TINY_CONFIG.model, vocab_size=corpus.manifest.vocab_size),
    ).with_fingerprint(corpus.manifest.fingerprint)
    threads = torch.get_num_threads()
    use_one_thread()
    here = run(config, corpus.directory)
    torch.set_num_threads(threads)
    there = make(1, initialize=use_one_thread).submit(run, config, corpus.directory).result(300)
    assert here.status == "completed", here.error
    for name in ("train_curve", "val_curve", "val_loss", "test_loss"):
        assert getattr(there, name) == getattr(here, name)


def test_jobs_run_in_other_processes_that_live_on(one_worker: Executor) -> None:
    pids = {one_worker.submit(os.getpid).result(TIMEOUT_S) for _ in range(5)}
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_a_worker_is_initialized_once(make: Make) -> None:
    executor = make(2, initialize=jobs.count_initialization)
    futures = [executor.submit(jobs.initializations) for _ in range(20)]
    seen = {f.result(TIMEOUT_S) for f in futures}
    assert {times for _, times in seen} == {1}
    assert 1 <= len(seen) <= 2


def test_as_many_jobs_run_at_once_as_there_are_workers(
    two_workers: Executor, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    futures = [two_workers.submit(jobs.meet, a, b), two_workers.submit(jobs.meet, b, a)]
    assert len({f.result(TIMEOUT_S) for f in futures}) == 2


def test_jobs_start_in_the_order_in_which_they_were_submitted(
    one_worker: Executor, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()
    sizes = [one_worker.submit(jobs.wait_for, log, log) for _ in range(3)]
    ended: list[int] = []
    for number, future in enumerate(sizes):
        future.add_done_callback(lambda _, number=number: ended.append(number))
    wait(sizes, timeout=TIMEOUT_S)
    until(lambda: len(ended) == 3, "the callbacks have run")
    assert ended == [0, 1, 2]


def test_an_exception_brings_the_trace_of_the_worker(one_worker: Executor) -> None:
    error = one_worker.submit(jobs.refuse, "no").exception(TIMEOUT_S)
    assert isinstance(error, ValueError)
    (note,) = error.__notes__
    assert note.startswith("In the worker:\nTraceback")
    assert "in refuse" in note


@pytest.mark.parametrize(
    ("job", "arguments", "error", "message"),
    [
        (jobs.square, (lambda: None,), UNPICKLABLE, "Can't pickle"),
        (jobs.unsendable, (), TypeError, "The job's answer cannot be sent back: Can't pickle"),
        (jobs.refuse_awkwardly, (), TypeError, "missing 1 required positional argument: 'two'"),
        (jobs.leave, (), SystemExit, "goodbye"),
    ],
)
def test_what_cannot_travel_is_an_error_and_the_worker_goes_on(
    one_worker: Executor,
    job: Callable[..., object],
    arguments: tuple[object, ...],
    error: type[BaseException] | tuple[type[BaseException], ...],
    message: str,
) -> None:
    pid = one_worker.submit(os.getpid).result(TIMEOUT_S)
    with pytest.raises(error, match=message):
        one_worker.submit(job, *arguments).result(TIMEOUT_S)
    assert one_worker.submit(os.getpid).result(TIMEOUT_S) == pid


def test_a_job_that_the_worker_cannot_import_is_an_error(
    one_worker: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one_worker.submit(jobs.square, 2).result(TIMEOUT_S) == 4
    late = jobs.square
    monkeypatch.setattr(jobs, "late", late, raising=False)
    monkeypatch.setattr(late, "__qualname__", "late")
    with pytest.raises(AttributeError, match="late"):
        one_worker.submit(late, 2).result(TIMEOUT_S)


def test_a_job_whose_worker_was_killed_is_carried_out_again(
    two_workers: Executor, tmp_path: Path
) -> None:
    assert two_workers.submit(jobs.die_once, tmp_path / "attempts").result(TIMEOUT_S) == 2


def test_the_other_jobs_do_not_notice_that_a_worker_was_killed(
    two_workers: Executor, tmp_path: Path
) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    bystander = two_workers.submit(jobs.wait_for, go, started)
    until(lambda: has_started(started), "the bystander has started")
    dying = two_workers.submit(jobs.die_once, tmp_path / "attempts")
    queued = [two_workers.submit(jobs.square, x) for x in range(10)]
    assert dying.result(TIMEOUT_S) == 2
    assert [f.result(TIMEOUT_S) for f in queued] == [x * x for x in range(10)]
    go.touch()
    bystander.result(TIMEOUT_S)
    assert started.read_text() == "x"  # one attempt, never started again


def test_a_job_that_kills_every_worker_is_given_up_alone(
    two_workers: Executor, tmp_path: Path
) -> None:
    attempts = tmp_path / "attempts"
    poison = two_workers.submit(jobs.die, attempts)
    others = [two_workers.submit(jobs.sleep_and_return, 0.02, x) for x in range(20)]
    error = poison.exception(TIMEOUT_S)
    assert isinstance(error, BrokenProcessPool)
    reason = "The worker process ended on each of 3 attempts at this job (last"
    assert str(error).startswith(reason)
    remedy = "If it was killed for want of memory, use fewer workers or a smaller model."
    assert remedy in str(error)
    assert attempts.read_text() == "xxx"
    assert [f.result(TIMEOUT_S) for f in others] == list(range(20))


def test_without_retries_the_first_death_is_the_last(make: Make, tmp_path: Path) -> None:
    executor = make(1, max_retries=0)
    error = executor.submit(jobs.die_once, tmp_path / "attempts").exception(TIMEOUT_S)
    assert isinstance(error, BrokenProcessPool)
    assert executor.submit(jobs.die_once, tmp_path / "attempts").result(TIMEOUT_S) == 2


def test_an_idle_worker_that_was_killed_is_replaced(one_worker: Executor) -> None:
    pid = one_worker.submit(os.getpid).result(TIMEOUT_S)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_running(pid), "the worker is dead")
    assert one_worker.submit(os.getpid).result(TIMEOUT_S) != pid


def test_workers_that_cannot_be_initialized_are_reported(make: Make) -> None:
    executor = make(1, initialize=jobs.fail_to_initialize, max_retries=1)
    error = executor.submit(jobs.square, 2).exception(TIMEOUT_S)
    assert isinstance(error, BrokenProcessPool)
    assert "on each of 2 attempts at this job (last" in str(error)


@pytest.mark.parametrize("make_executor", [ProcessExecutor, RayExecutor])
def test_an_executor_without_workers_is_refused(make_executor: Make) -> None:
    message = r"^An executor needs at least one worker, but got 0\.$"
    with pytest.raises(ValueError, match=message):
        make_executor(0, initialize=jobs.nothing)


def test_a_closed_executor_takes_no_jobs(make: Make) -> None:
    executor = make(1)
    executor.close()
    with pytest.raises(RuntimeError, match=r"^A closed executor takes no jobs\. Make a new one\.$"):
        executor.submit(jobs.square, 2)


def test_cancelling_ends_running_jobs_and_drops_queued_ones(make: Make, tmp_path: Path) -> None:
    executor = make(2)
    never, started = tmp_path / "never", [tmp_path / "a", tmp_path / "b"]
    running = [executor.submit(jobs.wait_for, never, path) for path in started]
    queued = [executor.submit(jobs.square, x) for x in range(3)]
    until(lambda: all(map(has_started, started)), "both jobs have started")
    before = time.monotonic()
    executor.close(cancel=True)
    assert time.monotonic() - before < 10
    for future in running:
        with pytest.raises(BrokenProcessPool, match="closed while this job was running"):
            future.result(0)
    for future in queued:
        with pytest.raises(CancelledError):
            future.result(0)
    # Nobody who waits for them waits forever.
    assert not wait([*running, *queued], timeout=0).not_done


def test_a_job_that_was_cancelled_is_not_carried_out_again(make: Make, tmp_path: Path) -> None:
    executor = make(1, max_retries=10**9)
    started = tmp_path / "started"
    future = executor.submit(jobs.wait_for, tmp_path / "never", started)
    until(lambda: has_started(started), "the job has started")
    executor.close(cancel=True)
    assert isinstance(future.exception(0), BrokenProcessPool)
    assert started.read_text() == "x"


def test_a_queued_job_can_be_cancelled_by_its_future(one_worker: Executor, tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    running = one_worker.submit(jobs.wait_for, go, started)
    until(lambda: has_started(started), "the job has started")
    queued = one_worker.submit(jobs.die, tmp_path / "attempts")
    assert not running.cancel()
    assert queued.cancel()
    go.touch()
    assert one_worker.submit(operator.add, 1, 2).result(TIMEOUT_S) == 3
    assert not (tmp_path / "attempts").exists()
    assert not wait([queued], timeout=0).not_done


def test_leaving_a_block_waits_and_leaving_it_by_an_error_does_not(
    make: Make, tmp_path: Path
) -> None:
    executor: Any = make(1)
    with executor:
        future = executor.submit(jobs.sleep_and_return, 0.05, 5)
    assert future.result(0) == 5
    executor = make(1)
    future = executor.submit(jobs.wait_for, tmp_path / "never", tmp_path / "started")
    executor.__enter__()
    executor.__exit__(KeyError, KeyError("oops"), None)
    assert future.done()
