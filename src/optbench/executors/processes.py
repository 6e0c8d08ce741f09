"""Executors: where runs are executed, behind the interface of `concurrent.futures`.

A job is a module-level function with picklable arguments. `InlineExecutor` runs it at once in this
process (tests, debugging); `ProcessExecutor` keeps worker processes alive from job to job, so that
torch is imported once per worker, and replaces a worker that was killed.

The standard library's process pool is not used: there one killed worker ends the jobs of all the
others and fails everything that is queued behind them.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from optbench.executors.choice import ExecutorChoice

R = TypeVar("R")
KILL_EVERY_S = 0.05
RETIRE_S = 5.0


class Executor(Protocol):
    """Submit jobs, get futures."""

    @property
    def num_workers(self) -> int:
        """Jobs at a time."""
        ...

    def submit(self, job: Callable[..., R], /, *arguments: Any) -> Future[R]:
        """Start ``job(*arguments)``; its exception is the future's."""
        ...

    def close(self, *, cancel: bool = False) -> None:
        """Wait for the submitted jobs, or end them now with ``cancel``."""
        ...


class InlineExecutor:
    """Runs each job when it is submitted, in this process."""

    num_workers = 1

    def submit(self, job: Callable[..., R], /, *arguments: Any) -> Future[R]:
        """Run the job now; the future is done when this returns."""
        future: Future[R] = Future()
        try:
            future.set_result(job(*arguments))
        except Exception as error:  # it belongs to the future
            future.set_exception(error)
        return future

    def close(self, *, cancel: bool = False) -> None:
        """Nothing is left to do."""


def inline_executor(
    choice: ExecutorChoice, devices: int, initialize: Callable[[], None]
) -> InlineExecutor:
    """The executor of a choice; this process is its worker."""
    initialize()
    return InlineExecutor()


class ProcessExecutor:
    """Worker processes that live from job to job, one job at a time each.

    A job whose worker was killed is executed again by a new worker, ``max_retries`` times at
    most; then its future raises ``BrokenProcessPool``. Other jobs do not notice. What a job's
    function raises is not retried. The workers end with the process that made them, also if that
    was killed. A job that has not started yet can be cancelled through its future.

    Args:
        num_workers: processes; each is started by the first job that it gets.
        initialize: called once in every new worker.

    Raises:
        ValueError: less than one worker.
    """

    def __init__(
        self, num_workers: int, *, initialize: Callable[[], None], max_retries: int = 2
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"An executor needs at least one worker, but got {num_workers}.")
        self.num_workers = num_workers
        self._initialize = initialize
        self._max_retries = max_retries
        self._lock = threading.Lock()
        self._closed = False
        self._cancelled = False
        self._queue: SimpleQueue[_Submission | None] = SimpleQueue()
        self._workers: set[_Worker] = set()
        # Starting the tracker unblocks Ctrl-C in the thread that does it: never a driver thread.
        resource_tracker.ensure_running()
        self._drivers = [
            threading.Thread(target=self._drive_worker, daemon=True) for _ in range(num_workers)
        ]
        for driver in self._drivers:
            driver.start()
        # An error that ends this process must not wait for jobs, and no driver may start workers.
        atexit.register(self._abandon)

    def _abandon(self) -> None:
        self.close(cancel=True)

    def submit(self, job: Callable[..., R], /, *arguments: Any) -> Future[R]:
        """Queue a job; jobs start in the order in which they were submitted.

        Raises:
            RuntimeError: the executor was closed.
        """
        future: Future[R] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("A closed executor takes no jobs. Make a new one.")
            self._queue.put(_Submission(job, arguments, future))
        return future

    def close(self, *, cancel: bool = False) -> None:
        """Wait for the submitted jobs; with ``cancel``, drop what is queued and kill what runs."""
        with self._lock:
            self._closed = True
            self._cancelled = self._cancelled or cancel
            if cancel:
                self._drop_queued()
            for _ in self._drivers:
                self._queue.put(None)
        for driver in self._drivers:
            while driver.is_alive():
                # Again and again: a driver may just be starting a worker for a job it took before.
                if cancel:
                    self._kill_workers()
                driver.join(KILL_EVERY_S)
        atexit.unregister(self._abandon)

    def _drop_queued(self) -> None:
        while True:
            try:
                submission = self._queue.get_nowait()
            except Empty:
                return
            if submission is not None and submission.future.cancel():
                submission.future.set_running_or_notify_cancel()

    def _kill_workers(self) -> None:
        with self._lock:
            for worker in self._workers:
                worker.process.kill()

    def _drive_worker(self) -> None:
        """Body of a thread: one job after another on a worker of its own."""
        # Workers inherit the mask, so that Ctrl-C cannot hit one before it has learnt to ignore it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        worker: _Worker | None = None
        while (submission := self._queue.get()) is not None:
            if submission.future.set_running_or_notify_cancel():
                worker = self._run_job(submission, worker)
        if worker is not None:
            self._retire(worker)

    def _run_job(self, submission: _Submission, worker: _Worker | None) -> _Worker | None:
        """Do one job, on as many workers as it takes; returns the worker that is left."""
        answer: Answer | None = None
        deaths = 0
        while answer is None:
            try:
                worker = worker or self._new_worker()
            except Exception as error:  # the machine may refuse another process
                answer = Answer(error=error)
                continue
            answer = worker.call(submission)
            if answer is None:
                exit_code = self._retire(worker)
                worker, deaths = None, deaths + 1
                if self._cancelled or deaths > self._max_retries:
                    answer = Answer(error=self._broken(deaths, exit_code))
        answer.settle(submission.future)
        return worker

    def _broken(self, deaths: int, exit_code: int | None) -> BrokenProcessPool:
        if self._cancelled:
            return BrokenProcessPool("The executor was closed while this job was running.")
        return BrokenProcessPool(
            f"The worker process ended on each of {deaths} attempts at this job (last exit code "
            f"{exit_code}). If it was killed for want of memory, use fewer workers or a smaller "
            f"model."
        )

    def _new_worker(self) -> _Worker:
        with self._lock:
            worker = _Worker(self._initialize)
            self._workers.add(worker)
        return worker

    def _retire(self, worker: _Worker) -> int | None:
        """End a worker that is idle or dead; returns its exit code."""
        exit_code = worker.end()
        with self._lock:
            self._workers.discard(worker)
        return exit_code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)


def process_executor(
    choice: ExecutorChoice, devices: int, initialize: Callable[[], None]
) -> ProcessExecutor:
    """The executor of a choice; each device of a run has a core."""
    workers = choice.workers or max(1, choice.cores // devices)
    return ProcessExecutor(workers, initialize=initialize)


@dataclass(frozen=True, slots=True)
class _Submission:
    job: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a job: its result, or what it raised."""

    result: Any = None
    error: BaseException | None = None

    def settle(self, future: Future[Any]) -> None:
        """Give it to whoever waits for the job."""
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.result)


def answer_of(receive: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]) -> Answer:
    """Receive a job in a worker and do it; whatever goes wrong belongs to the job's future."""
    try:
        job, arguments = receive()
    except EOFError:
        raise
    except Exception as error:  # such as a function that cannot be imported here
        return Answer(error=error)
    try:
        return Answer(job(*arguments))
    except BaseException as error:  # it belongs to the future
        # The traceback itself stays here; its text travels with the exception.
        error.add_note(f"In the worker:\n{traceback.format_exc()}")
        return Answer(error=error)


def unsendable(error: Exception) -> Answer:
    """The answer in place of one that cannot be pickled."""
    return Answer(error=TypeError(f"The job's answer cannot be sent back: {error}"))


class _Worker:
    """A process and the pipe to it, whose other end nobody but the process holds."""

    def __init__(self, initialize: Callable[[], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, initialize), daemon=True)
        try:
            self.process.start()
        finally:
            theirs.close()

    def call(self, submission: _Submission) -> Answer | None:
        """Wait for a job's answer; None if the process ended without giving one."""
        try:
            self._pipe.send((submission.job, submission.arguments))
            return self._pipe.recv()
        except (EOFError, OSError):
            return None
        except Exception as error:  # such as arguments that cannot be pickled
            return Answer(error=error)

    def end(self) -> int | None:
        """Close the pipe, which an idle process takes as the end; returns the exit code."""
        self._pipe.close()
        self.process.join(RETIRE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _work(pipe: Connection, initialize: Callable[[], None]) -> None:
    """The life of a worker: leave Ctrl-C to the driver, die with the driver, answer jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    initialize()
    while (answer := _next_answer(pipe)) is not None:
        try:
            pipe.send(answer)
        except Exception as error:  # a result that cannot be pickled
            pipe.send(unsendable(error))


def _next_answer(pipe: Connection) -> Answer | None:
    """Receive a job and do it; None when the driver has closed the pipe."""
    try:
        return answer_of(pipe.recv)
    except EOFError:
        return None


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
