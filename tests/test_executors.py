from __future__ import annotations

import operator
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from pickle import PicklingError

import pytest

from optbench.executors import Executor, InlineExecutor, ProcessExecutor

from . import executor_jobs as jobs

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 30
UNPICKLABLE = (PicklingError, AttributeError)  # which of them depends on the version of Python


@pytest.fixture(autouse=True)
def workers_can_import_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Workers get this process's sys.path, on which pytest does not put the tests by itself.
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


@pytest.fixture
def two_workers() -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(2, initialize=jobs.nothing)
    yield executor
    executor.close(cancel=True)


@pytest.fixture
def one_worker() -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(1, initialize=jobs.nothing)
    yield executor
    executor.close(cancel=True)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited too long until {what}"
        time.sleep(0.005)


def has_started(note: Path) -> bool:
    """Whether a job has noted an attempt: the file exists a moment before its text is in it."""
    return note.exists() and note.stat().st_size > 0


def is_running(pid: int) -> bool:
    """Whether a process exists and is no mere entry that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class TestAnyExecutor:
    """What a sweep relies on, whichever executor it was given."""

    @pytest.fixture(params=["inline", "process"])
    def executor(self, request: pytest.FixtureRequest) -> Iterator[Executor]:
        if request.param == "inline":
            executor: Executor = InlineExecutor()
        else:
            executor = ProcessExecutor(2, initialize=jobs.nothing)
        yield executor
        executor.close(cancel=True)

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

    def test_closing_waits_for_every_job(self, executor: Executor) -> None:
        futures = [executor.submit(jobs.sleep_and_return, 0.05, i) for i in range(5)]
        executor.close()
        assert all(f.done() for f in futures)
        assert [f.result() for f in futures] == [0, 1, 2, 3, 4]

    def test_closing_twice_does_no_harm(self, executor: Executor) -> None:
        executor.submit(jobs.nothing).result(TIMEOUT_S)
        executor.close()
        executor.close()
        executor.close(cancel=True)

    def test_it_says_how_many_workers_it_has(self, executor: Executor) -> None:
        assert executor.num_workers == (2 if isinstance(executor, ProcessExecutor) else 1)


def test_an_inline_job_runs_when_it_is_submitted() -> None:
    calls: list[int] = []
    future = InlineExecutor().submit(calls.append, 1)
    assert future.done()
    assert calls == [1]


def test_an_interrupt_is_no_result_of_an_inline_job() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InlineExecutor().submit(interrupted)


def test_jobs_run_in_other_processes_that_live_on(one_worker: ProcessExecutor) -> None:
    pids = {one_worker.submit(os.getpid).result(TIMEOUT_S) for _ in range(5)}
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_a_worker_is_initialized_once() -> None:
    with ProcessExecutor(2, initialize=jobs.count_initialization) as executor:
        futures = [executor.submit(jobs.initializations) for _ in range(20)]
        seen = {f.result(TIMEOUT_S) for f in futures}
    assert {times for _, times in seen} == {1}
    assert 1 <= len(seen) <= 2


def test_as_many_jobs_run_at_once_as_there_are_workers(
    two_workers: ProcessExecutor, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    futures = [two_workers.submit(jobs.meet, a, b), two_workers.submit(jobs.meet, b, a)]
    assert len({f.result(TIMEOUT_S) for f in futures}) == 2


def test_jobs_start_in_the_order_in_which_they_were_submitted(
    one_worker: ProcessExecutor, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()
    sizes = [one_worker.submit(jobs.wait_for, log, log) for _ in range(3)]
    ended: list[int] = []
    for number, future in enumerate(sizes):
        future.add_done_callback(lambda _, number=number: ended.append(number))
    wait(sizes, timeout=TIMEOUT_S)
    assert ended == [0, 1, 2]


def test_an_exception_brings_the_trace_of_the_worker(one_worker: ProcessExecutor) -> None:
    error = one_worker.submit(jobs.refuse, "no").exception(TIMEOUT_S)
    assert isinstance(error, ValueError)
    (note,) = error.__notes__
    assert note.startswith("In the worker:\nTraceback")
    assert "in refuse" in note


@pytest.mark.parametrize(
    ("job", "arguments", "kind", "message"),
    [
        (jobs.square, (lambda: None,), UNPICKLABLE, "Can't pickle"),
        (jobs.unsendable, (), TypeError, "The job's answer cannot be sent back: Can't pickle"),
        (jobs.refuse_awkwardly, (), TypeError, "missing 1 required positional argument: 'two'"),
        (jobs.leave, (), SystemExit, "goodbye"),
    ],
)
def test_what_cannot_travel_is_an_error_and_the_worker_goes_on(
    one_worker: ProcessExecutor,
    job: Callable[..., object],
    arguments: tuple[object, ...],
    kind: type[BaseException] | tuple[type[BaseException], ...],
    message: str,
) -> None:
    pid = one_worker.submit(os.getpid).result(TIMEOUT_S)
    with pytest.raises(kind, match=message):
        one_worker.submit(job, *arguments).result(TIMEOUT_S)
    assert one_worker.submit(os.getpid).result(TIMEOUT_S) == pid


def test_a_job_that_the_worker_cannot_import_is_an_error(
    one_worker: ProcessExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one_worker.submit(jobs.square, 2).result(TIMEOUT_S) == 4
    late = jobs.square
    monkeypatch.setattr(jobs, "late", late, raising=False)
    monkeypatch.setattr(late, "__qualname__", "late")
    with pytest.raises(AttributeError, match="late"):
        one_worker.submit(late, 2).result(TIMEOUT_S)


def test_a_job_whose_worker_was_killed_is_carried_out_again(
    two_workers: ProcessExecutor, tmp_path: Path
) -> None:
    assert two_workers.submit(jobs.die_once, tmp_path / "attempts").result(TIMEOUT_S) == 2


def test_the_other_jobs_do_not_notice_that_a_worker_was_killed(
    two_workers: ProcessExecutor, tmp_path: Path
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
    two_workers: ProcessExecutor, tmp_path: Path
) -> None:
    attempts = tmp_path / "attempts"
    poison = two_workers.submit(jobs.die, attempts)
    others = [two_workers.submit(jobs.sleep_and_return, 0.02, x) for x in range(20)]
    message = (
        "The worker process ended on each of 3 attempts at this job (last exit code -9). If it was "
        "killed for want of memory, use fewer workers or a smaller model."
    )
    with pytest.raises(BrokenProcessPool, match=f"^{re.escape(message)}$"):
        poison.result(TIMEOUT_S)
    assert attempts.read_text() == "xxx"
    assert [f.result(TIMEOUT_S) for f in others] == list(range(20))


def test_without_retries_the_first_death_is_the_last(tmp_path: Path) -> None:
    with ProcessExecutor(1, initialize=jobs.nothing, max_retries=0) as executor:
        error = executor.submit(jobs.die_once, tmp_path / "attempts").exception(TIMEOUT_S)
        assert isinstance(error, BrokenProcessPool)
        assert executor.submit(jobs.die_once, tmp_path / "attempts").result(TIMEOUT_S) == 2


def test_an_idle_worker_that_was_killed_is_replaced(one_worker: ProcessExecutor) -> None:
    pid = one_worker.submit(os.getpid).result(TIMEOUT_S)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_running(pid), "the worker is dead")
    assert one_worker.submit(os.getpid).result(TIMEOUT_S) != pid


def test_workers_that_cannot_be_initialized_are_reported() -> None:
    with ProcessExecutor(1, initialize=jobs.fail_to_initialize, max_retries=1) as executor:
        error = executor.submit(jobs.square, 2).exception(TIMEOUT_S)
    assert isinstance(error, BrokenProcessPool)
    assert "on each of 2 attempts at this job (last exit code 7)" in str(error)


def test_workers_that_cannot_be_started_are_an_error_of_the_job() -> None:
    with ProcessExecutor(1, initialize=lambda: None) as executor:
        error = executor.submit(jobs.square, 2).exception(TIMEOUT_S)
    assert isinstance(error, UNPICKLABLE)
    assert "Can't pickle" in str(error)


def test_an_executor_without_workers_is_refused() -> None:
    message = r"^An executor needs at least one worker, but got 0\.$"
    with pytest.raises(ValueError, match=message):
        ProcessExecutor(0, initialize=jobs.nothing)


def test_a_closed_executor_takes_no_jobs(one_worker: ProcessExecutor) -> None:
    one_worker.close()
    with pytest.raises(RuntimeError, match=r"^A closed executor takes no jobs\. Make a new one\.$"):
        one_worker.submit(jobs.square, 2)


def test_cancelling_ends_running_jobs_and_drops_queued_ones(
    two_workers: ProcessExecutor, tmp_path: Path
) -> None:
    never, started = tmp_path / "never", [tmp_path / "a", tmp_path / "b"]
    running = [two_workers.submit(jobs.wait_for, never, path) for path in started]
    queued = [two_workers.submit(jobs.square, x) for x in range(3)]
    until(lambda: all(map(has_started, started)), "both jobs have started")
    before = time.monotonic()
    two_workers.close(cancel=True)
    assert time.monotonic() - before < 5
    for future in running:
        with pytest.raises(BrokenProcessPool, match="closed while this job was running"):
            future.result(0)
    for future in queued:
        with pytest.raises(CancelledError):
            future.result(0)
    # Nobody who waits for them waits forever.
    assert not wait([*running, *queued], timeout=0).not_done


def test_a_job_that_was_cancelled_is_not_carried_out_again(tmp_path: Path) -> None:
    executor = ProcessExecutor(1, initialize=jobs.nothing, max_retries=10**9)
    started = tmp_path / "started"
    future = executor.submit(jobs.wait_for, tmp_path / "never", started)
    until(lambda: has_started(started), "the job has started")
    executor.close(cancel=True)
    assert isinstance(future.exception(0), BrokenProcessPool)
    assert started.read_text() == "x"


def test_closing_while_workers_are_still_starting_leaves_none_behind() -> None:
    for delay in (0.0, 0.01, 0.03, 0.06):
        executor = ProcessExecutor(2, initialize=jobs.nothing)
        futures = [executor.submit(time.sleep, 60) for _ in range(4)]
        time.sleep(delay)
        executor.close(cancel=True)
        assert all(f.done() for f in futures)
    assert not [t for t in threading.enumerate() if "_drive_worker" in t.name]


def test_a_queued_job_can_be_cancelled_by_its_future(
    one_worker: ProcessExecutor, tmp_path: Path
) -> None:
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


def test_leaving_a_block_waits_and_leaving_it_by_an_error_does_not(tmp_path: Path) -> None:
    with ProcessExecutor(1, initialize=jobs.nothing) as executor:
        future = executor.submit(jobs.sleep_and_return, 0.05, 5)
    assert future.result(0) == 5
    executor = ProcessExecutor(1, initialize=jobs.nothing)
    future = executor.submit(jobs.wait_for, tmp_path / "never", tmp_path / "started")
    executor.__enter__()
    executor.__exit__(KeyError, KeyError("oops"), None)
    assert future.done()


DRIVER = """
import os, sys, time
from optbench.executors import ProcessExecutor

def nothing():
    pass

if __name__ == "__main__":
    executor = ProcessExecutor(2, initialize=nothing)
    futures = [executor.submit({job}) for _ in range(2)]
    try:
        {body}
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.3)  # enough for a worker to complain
        executor.close(cancel=True)
        print("stopped", flush=True)
        sys.exit(130)
"""
SAY_PIDS = (
    "print(*[executor.submit(os.getpid).result() for _ in range(20)], flush=True); "
    "executor.submit(time.sleep, 60); executor.submit(time.sleep, 60)"
)


class Driver:
    """A process of its own group that drives workers."""

    def __init__(self, folder: Path, body: str, job: str = "time.sleep, 0") -> None:
        script = folder / "driver.py"
        script.write_text(textwrap.dedent(DRIVER).format(body=body, job=job))
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def children(self) -> set[int]:
        """Processes of the driver's group that are still running, itself left out."""
        group = self.process.pid
        pids = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        return {pid for pid in pids - {group} if is_running(pid) and group_of(pid) == group}

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err

    def close(self) -> None:
        if self.children() or self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(body: str, job: str = "time.sleep, 0") -> Driver:
        drivers.append(Driver(tmp_path, body, job))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.close()


def test_workers_end_when_their_driver_is_killed(start_driver: Callable[..., Driver]) -> None:
    driver = start_driver(SAY_PIDS)
    workers = {int(pid) for pid in driver.line().split()}
    assert workers
    assert all(is_running(pid) for pid in workers)
    driver.process.kill()
    until(lambda: not any(is_running(pid) for pid in workers), "the workers are gone")
    until(lambda: not driver.children(), "the whole group is gone")


def test_ctrl_c_in_mid_job_ends_everything_without_a_trace(
    start_driver: Callable[..., Driver],
) -> None:
    driver = start_driver(SAY_PIDS)
    driver.line()
    driver.interrupt()
    assert driver.end() == (130, "stopped\n", "")
    until(lambda: not driver.children(), "the whole group is gone")


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.06])
def test_ctrl_c_while_workers_are_starting_leaves_no_trace(
    start_driver: Callable[..., Driver], delay: float
) -> None:
    driver = start_driver('print("going", flush=True)', job="time.sleep, 60")
    driver.line()
    time.sleep(delay)
    driver.interrupt()
    assert driver.end() == (130, "stopped\n", "")
    until(lambda: not driver.children(), "the whole group is gone")


def test_an_error_in_the_driver_does_not_wait_for_the_jobs(
    start_driver: Callable[..., Driver],
) -> None:
    body = 'time.sleep(0.4); print("going", flush=True); raise SystemExit(3)'
    driver = start_driver(body, job="time.sleep, 60")
    driver.line()
    before = time.monotonic()
    assert driver.end() == (3, "", "")
    assert time.monotonic() - before < 10
    until(lambda: not driver.children(), "the whole group is gone")
