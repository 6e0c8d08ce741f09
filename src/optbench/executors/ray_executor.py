"""RayExecutor: jobs on Ray actors that live from job to job, on this machine or on a cluster's.

The driver keeps the queue and hands a worker its next job when it is idle, so that a queued job
costs Ray nothing. All state belongs to one thread; everything that happens (a job submitted, an
answer, a lost worker, the end) reaches it as a message. Nothing outlives the driver: its actors are
not detached, so Ray ends them when the driver goes, and a Ray that the driver started goes too.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from optbench.executors.choice import ExecutorChoice
from optbench.executors.processes import Answer
from optbench.executors.ray_cluster import Cluster, ClusterError, WorkerInfo
from optbench.executors.worker_failures import (
    WorkerFailure,
    are_too_many,
    grace_s,
    lost_machines,
    retries_exhausted,
)
from optbench.store.installed import difference, other_commit, versions

R = TypeVar("R")
TICK_S = 2.0  # how often the cluster is asked which machines it has
CLOSE_S = 10.0  # for ending the workers, where the cluster may answer no more

log = logging.getLogger(__name__)


class RayExecutor:
    """Workers are actors with their CPUs and GPUs declared, one job at a time each.

    A job whose worker ended is executed again by another one. The job is abandoned, and its
    future raises ``BrokenProcessPool``, once workers ended on it ``max_retries`` + 1 times while
    their machines lived on. A lost machine (crashed, preempted, cut off) is no fault of the job and
    does not count as that; only after 20 of them is a job abandoned, as it may be what fells them.
    One that is lost while workers start there counts for nothing, as they had no job.
    What a job's function raises is not retried.

    Machines that join the cluster are used as soon as they are there, unless ``num_workers`` limits
    the workers. A machine whose optbench or torch has another version than the driver's is left
    out, with a warning; if there never was another, every job raises that as a ``ClusterError``.
    When the machines that were used are all gone, jobs wait for the next. Another commit of the
    same version is used, with a warning.

    Args:
        num_workers: jobs at a time; None is what the cluster has room for. More than there is room
            for wait until machines join.
        initialize: called once in every new worker.
        address: of the cluster, ``auto`` for the one that runs on this machine; None starts a Ray
            here, which ends with the executor. Where Ray is connected already, that is used.
        devices: what a worker takes unless the next two are given: as many CPUs, and as many
            GPUs where the cluster has any.
        cpus_per_run: that each worker takes.
        gpus_per_run: that each worker takes; a fraction shares one.
        local_cpus: of a Ray that is started here; None is every core.
        max_retries: see above.

    Raises:
        ClusterError: Ray is not installed, no cluster answers, or none of its machines has room.
        ValueError: less than one worker, or workers that take nothing.
    """

    def __init__(
        self,
        num_workers: int | None = None,
        *,
        initialize: Callable[[], None],
        address: str | None = None,
        devices: int = 1,
        cpus_per_run: float | None = None,
        gpus_per_run: float | None = None,
        local_cpus: int | None = None,
        max_retries: int = 2,
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"An executor needs at least one worker, but got {num_workers}.")
        self._initialize = pickle.dumps(initialize)
        self._given, self._max_retries = num_workers, max_retries
        cpus = devices if cpus_per_run is None else cpus_per_run
        if num_workers is not None:
            local_cpus = max(local_cpus or 1, math.ceil(num_workers * cpus))
        self._cluster = Cluster(address, local_cpus)
        try:
            self._request = self._cluster.request(devices, cpus, gpus_per_run)
            self._room = self._cluster.room(self._request, ())
            self._cluster.refuse_too_little(self._request, self._room, num_workers)
        except BaseException:
            self._cluster.disconnect()
            raise
        self._code = versions()
        self._mailbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._closing = False  # from here on, touched by the dispatcher alone
        self._failure: Exception | None = None
        self._queue: deque[_Submission] = deque()
        self._judged: set[_Submission] = set()
        self._slots: set[_Slot] = set()
        self._starting: set[_Slot] = set()
        self._idle: list[_Slot] = []
        self._refused: dict[str, str] = {}
        self._warned_commits: set[str] = set()
        self._was_ready = False  # any worker, ever
        self._warned_of_waiting = not self._room
        self._looked_at = time.monotonic()
        self._dispatcher = threading.Thread(
            target=self._dispatch, name="ray dispatcher", daemon=True
        )
        self._dispatcher.start()
        atexit.register(self._abandon)

    @property
    def num_workers(self) -> int:
        """As given, else what the cluster has room for now."""
        return self._given or max(1, self._room)

    def submit(self, job: Callable[..., R], /, *arguments: Any) -> Future[R]:
        """Queue a job; jobs start in the order in which they were submitted.

        Raises:
            RuntimeError: the executor was closed.
        """
        future: Future[R] = Future()
        submission = _Submission(job, arguments, future)
        with self._lock:
            if self._closed:
                raise RuntimeError("A closed executor takes no jobs. Make a new one.")
            self._mailbox.put(functools.partial(self._queue.append, submission))
        return future

    def close(self, *, cancel: bool = False) -> None:
        """Wait for the submitted jobs; with ``cancel``, drop what is queued and kill what runs.

        A cluster that does not answer is left after ten seconds then.
        """
        with self._lock:
            self._closed = True
            self._mailbox.put(self._drop_everything if cancel else self._begin_closing)
        self._dispatcher.join(CLOSE_S if cancel else None)
        if self._dispatcher.is_alive():
            log.warning("Ray did not end the workers within %g s. Leaving the cluster.", CLOSE_S)
            self._failure = ClusterError("The Ray cluster did not answer and was left.")
        self._cluster.disconnect()
        atexit.unregister(self._abandon)

    def _abandon(self) -> None:
        self.close(cancel=True)

    # What follows runs in the dispatcher's thread.

    def _dispatch(self) -> None:
        while not (self._closing and not self._outstanding()):
            try:
                with contextlib.suppress(Empty):
                    self._mailbox.get(timeout=TICK_S)()
                if self._failure is None:
                    self._look_at_cluster()
                if self._failure is None:
                    self._assign()
            except Exception as error:  # such as a cluster that is gone: whoever waits gets it
                self._failure = error
            if self._failure is not None:
                self._fail_everything(self._failure)
        for slot in self._slots:
            self._cluster.end_worker(slot.worker)

    def _outstanding(self) -> bool:
        return bool(self._queue or self._judged) or any(slot.submission for slot in self._slots)

    def _begin_closing(self) -> None:
        self._closing = True

    def _drop_everything(self) -> None:
        self._closing = True
        self._fail_everything(
            BrokenProcessPool("The executor was closed while this job was running.")
        )

    def _fail_everything(self, error: Exception) -> None:
        """End every worker; running jobs raise the error, waiting ones do or are dropped."""
        running = [slot.submission for slot in self._slots if slot.submission is not None]
        waiting = list(self._queue)
        self._queue.clear()
        for slot in list(self._slots):
            self._discard(slot)
        for submission in [*running, *self._judged, *waiting]:
            if self._failure is None and not submission.started and submission.future.cancel():
                submission.future.set_running_or_notify_cancel()
            elif submission.start():
                submission.future.set_exception(error)
        self._judged.clear()

    def _look_at_cluster(self) -> None:
        """Count the room anew now and then: machines come and go."""
        if time.monotonic() - self._looked_at < TICK_S or not self._queue:
            return
        self._looked_at = time.monotonic()
        machines = self._cluster.machines()
        self._refused = {n: why for n, why in self._refused.items() if machines.get(n)}
        self._room = self._cluster.room(self._request, self._refused)
        if self._room:
            self._warned_of_waiting = False
        elif self._refused and not self._was_ready:
            raise ClusterError(
                "No machine of the cluster can execute the runs:\n"
                + "\n".join(self._refused.values())
            )
        elif not self._warned_of_waiting and self._slots == self._starting:
            self._warned_of_waiting = True
            others = " besides those that are left out" if self._refused else ""
            log.warning(
                "The cluster has no machine with %s left%s. Waiting for one.", self._request, others
            )

    def _assign(self) -> None:
        """Give idle workers their next jobs, and start workers for what is left."""
        while self._idle and (submission := self._next()) is not None:
            self._hand(self._idle.pop(), submission)
        lacking = len(self._queue) - len(self._starting)
        free = (self._given or self._room) - len(self._slots)
        if min(lacking, free) < 1:
            return
        lost = lost_machines(self._cluster.machines())
        for _ in range(min(lacking, free)):
            slot = _Slot(self._cluster.start_worker(self._request, self._refused), lost)
            self._slots.add(slot)
            self._starting.add(slot)
            self._when_done(slot.worker.describe.remote(), self._described, slot)

    def _next(self) -> _Submission | None:
        """The first queued job that nobody has cancelled."""
        while self._queue:
            submission = self._queue.popleft()
            if submission.start():
                return submission
        return None

    def _hand(self, slot: _Slot, submission: _Submission) -> None:
        try:
            payload = pickle.dumps((submission.job, submission.arguments))
        except Exception as error:  # arguments that cannot be pickled
            self._idle.append(slot)
            submission.future.set_exception(error)
            return
        slot.submission = submission
        self._when_done(slot.worker.run.remote(payload), self._answered, slot)

    def _when_done(
        self, reference: Any, then: Callable[[_Slot, Future[Any]], None], slot: _Slot
    ) -> None:
        """Have a call's outcome handled here, unless its worker was abandoned before."""

        def handle(outcome: Future[Any]) -> None:
            if slot in self._slots:
                then(slot, outcome)

        future: Future[Any] = reference.future()
        future.add_done_callback(
            lambda outcome: self._mailbox.put(functools.partial(handle, outcome))
        )

    def _described(self, slot: _Slot, outcome: Future[Any]) -> None:
        if (error := outcome.exception()) is not None:
            self._lost(slot, error)
            return
        slot.worker_info = worker_info = WorkerInfo(**outcome.result())
        if not (problem := worker_info.problem or difference(self._code, worker_info.code)):
            self._warn_of_commit(worker_info)
            self._when_done(slot.worker.initialize.remote(self._initialize), self._ready, slot)
            return
        self._discard(slot)
        if worker_info.node_id not in self._refused:
            self._refused[worker_info.node_id] = f"- {worker_info.host}: {problem}"
            log.warning("%s is left out of the runs: %s", worker_info.host, problem)
        self._looked_at = 0.0

    def _warn_of_commit(self, worker_info: WorkerInfo) -> None:
        commit = other_commit(self._code, worker_info.code)
        if commit and commit not in self._warned_commits:
            self._warned_commits.add(commit)
            log.warning(
                "%s works with commit %s, the driver with %s; each run's record has its own.",
                worker_info.host,
                commit,
                self._code["commit"],
            )

    def _ready(self, slot: _Slot, outcome: Future[Any]) -> None:
        if (error := outcome.exception()) is not None:
            self._lost(slot, error)
            return
        self._was_ready = True
        self._starting.discard(slot)
        self._idle.append(slot)

    def _answered(self, slot: _Slot, outcome: Future[Any]) -> None:
        error = outcome.exception()
        if error is not None and self._cluster.is_worker_failure(error):
            self._lost(slot, error)
            return
        submission, slot.submission = slot.submission, None
        assert submission is not None
        self._idle.append(slot)
        try:
            answer: Answer = pickle.loads(outcome.result())
        except Exception as unreadable:  # such as an exception that cannot be built again
            answer = Answer(error=unreadable)
        answer.settle(submission.future)

    def _discard(self, slot: _Slot) -> None:
        self._slots.discard(slot)
        self._starting.discard(slot)
        if slot in self._idle:
            self._idle.remove(slot)
        self._cluster.end_worker(slot.worker)

    def _lost(self, slot: _Slot, error: BaseException) -> None:
        """A worker ended: its job, or the next one if it had none yet, is executed again."""
        self._discard(slot)
        if (submission := slot.submission or self._next()) is None:
            return
        submission.failures.append(
            WorkerFailure(
                worker_info=slot.worker_info,
                reason=self._cluster.reason(error),
                in_reach=not self._cluster.is_unreachable(error),
                starting=slot.submission is None,
                lost_before=slot.lost_before,
            )
        )
        if not self._hopeless(submission):
            self._queue.appendleft(submission)
            return
        self._judged.add(submission)
        judge = functools.partial(self._mailbox.put, functools.partial(self._judge, submission))
        timer = threading.Timer(grace_s(submission.failures), judge)
        timer.daemon = True
        timer.start()

    def _hopeless(self, submission: _Submission) -> bool:
        return are_too_many(submission.failures, self._cluster.machines(), self._max_retries)

    def _judge(self, submission: _Submission) -> None:
        """Give a job up, unless it turned out by now that its machines were to blame."""
        if submission not in self._judged:
            return
        self._judged.discard(submission)
        machines = self._cluster.machines()
        if are_too_many(submission.failures, machines, self._max_retries):
            error = retries_exhausted(submission.failures, machines, self._max_retries)
            submission.future.set_exception(error)
        else:
            self._queue.appendleft(submission)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)


def ray_executor(
    choice: ExecutorChoice, devices: int, initialize: Callable[[], None]
) -> RayExecutor:
    """The executor of a choice."""
    return RayExecutor(
        choice.workers,
        initialize=initialize,
        address=choice.address,
        devices=devices,
        cpus_per_run=choice.cpus_per_run,
        gpus_per_run=choice.gpus_per_run,
        local_cpus=choice.cores,
    )


@dataclass(eq=False, slots=True)
class _Submission:
    job: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any]
    started: bool = False
    failures: list[WorkerFailure] = field(default_factory=list[WorkerFailure])

    def start(self) -> bool:
        """Mark the job as running; False if it was cancelled before."""
        self.started = self.started or self.future.set_running_or_notify_cancel()
        return self.started


@dataclass(eq=False, slots=True)
class _Slot:
    """A worker and what it is doing."""

    worker: Any
    lost_before: frozenset[str]
    worker_info: WorkerInfo | None = None
    submission: _Submission | None = None
