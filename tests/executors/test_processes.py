"""What is peculiar to the inline and the process executor; what all have in common is tested in
``test_conformance.py``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import PicklingError

import pytest

from optbench.executors.processes import InlineExecutor, ProcessExecutor
from tests.executors import executor_jobs as jobs
from tests.waiting import TIMEOUT_S, is_running, until

UNPICKLABLE = (PicklingError, AttributeError)  # which of them depends on the version of Python


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


def test_workers_that_cannot_be_started_are_an_error_of_the_job() -> None:
    with ProcessExecutor(1, initialize=lambda: None) as executor:
        error = executor.submit(jobs.square, 2).exception(TIMEOUT_S)
    assert isinstance(error, UNPICKLABLE)
    assert "Can't pickle" in str(error)


def test_closing_while_workers_are_still_starting_leaves_none_behind() -> None:
    for delay in (0.0, 0.01, 0.03, 0.06):
        executor = ProcessExecutor(2, initialize=jobs.nothing)
        futures = [executor.submit(time.sleep, 60) for _ in range(4)]
        time.sleep(delay)
        executor.close(cancel=True)
        assert all(f.done() for f in futures)
    assert not [t for t in threading.enumerate() if "_drive_worker" in t.name]


DRIVER = """
import os, sys, time
from optbench.executors.processes import ProcessExecutor

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
