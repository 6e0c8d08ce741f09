"""Losses: workers of Ray that ended on a job, and when the job is to blame and abandoned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from optbench.executors.ray_cluster import WorkerInfo

MAX_LOST_MACHINES = 20
GRACE_S = 2.0  # Ray may know that a worker is gone a moment before it knows that its machine is
CUT_OFF_GRACE_S = 20.0  # of a machine out of reach, Ray knows after 10 to 15 s


def lost_machines(machines: Mapping[str, bool]) -> frozenset[str]:
    """Those of Ray's machines (id → whether it is there) that are gone."""
    return frozenset(node_id for node_id, alive in machines.items() if not alive)


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """A worker that ended.

    Args:
        worker_info: where it lived; None if it ended before it reported that.
        reason: in Ray's words.
        in_reach: False where Ray does not know whether it lives.
        starting: it had no job yet; the loss is counted for the one that would have been its next.
        lost_before: machines that were gone when the worker was asked for.
    """

    worker_info: WorkerInfo | None
    reason: str
    in_reach: bool = True
    starting: bool = False
    lost_before: frozenset[str] = frozenset()

    def is_crash(self, machines: Mapping[str, bool]) -> bool:
        """Whether the worker ended by itself: its machine lives on."""
        return (
            self.worker_info is not None
            and self.in_reach
            and machines.get(self.worker_info.node_id, False)
        )

    def counts(self, machines: Mapping[str, bool]) -> bool:
        """Whether it counts against the job.

        A machine that was lost while workers started there was not felled by a job that none of
        them had. One machine can be the end of more starting workers than a job survives.
        """
        if not self.starting:
            return True
        if self.worker_info is not None:
            return machines.get(self.worker_info.node_id, False)
        return lost_machines(machines) <= self.lost_before


def grace_s(failures: Sequence[WorkerFailure]) -> float:
    """How long Ray may take to know of the machines of all these workers."""
    return GRACE_S if all(failure.in_reach for failure in failures) else CUT_OFF_GRACE_S


def are_too_many(
    failures: Sequence[WorkerFailure], machines: Mapping[str, bool], max_retries: int
) -> bool:
    """Whether a job is abandoned after these."""
    crashes, others = _crashes(failures, machines), _others(failures, machines)
    return len(crashes) > max_retries or len(others) > MAX_LOST_MACHINES


def retries_exhausted(
    failures: Sequence[WorkerFailure], machines: Mapping[str, bool], max_retries: int
) -> BrokenProcessPool:
    """What the future of a job raises that is abandoned."""
    crashes = _crashes(failures, machines)
    if len(crashes) <= max_retries:
        others = _others(failures, machines)
        return BrokenProcessPool(
            f"No worker lasted through {len(crashes) + len(others)} attempts at this job: their "
            f"machines were lost, or no worker could be started there (last: {others[-1].reason})."
        )
    last = crashes[-1]
    return BrokenProcessPool(
        f"The worker process ended on each of {len(crashes)} attempts at this job (last: "
        f"{last.reason}). If it was killed for want of memory, use fewer workers or a smaller "
        f"model.{last.worker_info.log_text() if last.worker_info else ''}"
    )


def _crashes(
    failures: Sequence[WorkerFailure], machines: Mapping[str, bool]
) -> list[WorkerFailure]:
    return [failure for failure in failures if failure.is_crash(machines)]


def _others(failures: Sequence[WorkerFailure], machines: Mapping[str, bool]) -> list[WorkerFailure]:
    """What counts besides crashes: a lost machine once, however many of its workers had the job.

    A job can be handed to one idle worker after another of a machine that is gone.
    """
    found: dict[str | int, WorkerFailure] = {}
    for number, failure in enumerate(failures):
        if failure.counts(machines) and not failure.is_crash(machines):
            gone = failure.worker_info is not None and not machines.get(
                failure.worker_info.node_id, False
            )
            found[failure.worker_info.node_id if failure.worker_info and gone else number] = failure
    return list(found.values())
