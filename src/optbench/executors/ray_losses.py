"""Losses: workers of Ray that ended on a job, and when the job is to blame and given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from optbench.executors.ray_cluster import Home

MAX_LOST_MACHINES = 20
GRACE_S = 2.0  # Ray may know that a worker is gone a moment before it knows that its machine is
CUT_OFF_GRACE_S = 20.0  # of a machine out of reach, Ray knows after 10 to 15 s


def lost_machines(machines: Mapping[str, bool]) -> frozenset[str]:
    """Those of Ray's machines (id → whether it is there) that are gone."""
    return frozenset(node_id for node_id, alive in machines.items() if not alive)


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker that ended.

    Args:
        home: where it lived; None if it ended before it said so.
        reason: what Ray says.
        in_reach: False where Ray cannot tell whether it lives.
        starting: it had no job yet; the loss is counted for the one that would have been its next.
        lost_before: machines that were gone when the worker was asked for.
    """

    home: Home | None
    reason: str
    in_reach: bool = True
    starting: bool = False
    lost_before: frozenset[str] = frozenset()

    def is_crash(self, machines: Mapping[str, bool]) -> bool:
        """Whether the worker ended by itself: its machine lives on."""
        return self.home is not None and self.in_reach and machines.get(self.home.node_id, False)

    def counts(self, machines: Mapping[str, bool]) -> bool:
        """Whether it says anything of the job.

        A machine that was lost while workers started there was not felled by a job that none of
        them had. One machine can be the end of more starting workers than a job survives.
        """
        if not self.starting:
            return True
        if self.home is not None:
            return machines.get(self.home.node_id, False)
        return lost_machines(machines) <= self.lost_before


def grace_s(losses: Sequence[Loss]) -> float:
    """How long Ray may take to know of the machines of all these workers."""
    return GRACE_S if all(loss.in_reach for loss in losses) else CUT_OFF_GRACE_S


def are_too_many(losses: Sequence[Loss], machines: Mapping[str, bool], max_retries: int) -> bool:
    """Whether a job is given up after these."""
    crashes, others = _crashes(losses, machines), _others(losses, machines)
    return len(crashes) > max_retries or len(others) > MAX_LOST_MACHINES


def given_up(
    losses: Sequence[Loss], machines: Mapping[str, bool], max_retries: int
) -> BrokenProcessPool:
    """What the future of a job raises that is given up."""
    crashes = _crashes(losses, machines)
    if len(crashes) <= max_retries:
        others = _others(losses, machines)
        return BrokenProcessPool(
            f"No worker lasted through {len(crashes) + len(others)} attempts at this job: their "
            f"machines were lost, or no worker could be started there (last: {others[-1].reason})."
        )
    last = crashes[-1]
    return BrokenProcessPool(
        f"The worker process ended on each of {len(crashes)} attempts at this job (last: "
        f"{last.reason}). If it was killed for want of memory, use fewer workers or a smaller "
        f"model.{last.home.log_text() if last.home else ''}"
    )


def _crashes(losses: Sequence[Loss], machines: Mapping[str, bool]) -> list[Loss]:
    return [loss for loss in losses if loss.is_crash(machines)]


def _others(losses: Sequence[Loss], machines: Mapping[str, bool]) -> list[Loss]:
    """What counts besides crashes: a lost machine once, however many of its workers had the job.

    A job can be handed to one idle worker after another of a machine that is gone.
    """
    found: dict[str | int, Loss] = {}
    for number, loss in enumerate(losses):
        if loss.counts(machines) and not loss.is_crash(machines):
            gone = loss.home is not None and not machines.get(loss.home.node_id, False)
            found[loss.home.node_id if loss.home and gone else number] = loss
    return list(found.values())
