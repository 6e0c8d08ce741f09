"""What a study planned to spend and what it did spend: runs, tokens, FLOPs and time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from optbench.store.journal import Journal, PlanEntry
from optbench.store.store import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Sums over runs that ended by themselves, diverged ones included, failed ones not.

    Args:
        runs: how many.
        tokens: trained on.
        flops: of the training passes, evaluation and optimizer arithmetic not counted.
        core_s: wall seconds of the runs, added up over workers, evaluation included.
    """

    runs: int
    tokens: int
    flops: float
    core_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Planned against spent.

    Args:
        plan: as first made; None if the study recorded none.
        spent: by all runs in the store.
        workers: of the last session; None without one.
        wall_s: of all sessions that ended in good order.
        ideal_wall_s: core seconds over workers: the wall time without idle workers.
        sessions: starts of the driver.
        open_sessions: starts without an end: still running, or killed; their time is not counted.
    """

    plan: PlanEntry | None
    spent: Spent
    workers: int | None
    wall_s: float
    ideal_wall_s: float | None
    sessions: int
    open_sessions: int


def spent_on(records: Iterable[RunRecord]) -> Spent:
    """Add up what the runs cost."""
    ended = [record for record in records if record.status != "failed"]
    return Spent(
        runs=len(ended),
        tokens=sum(record.num_tokens for record in ended),
        flops=sum(r.run_config.model.train_flops_per_token * r.num_tokens for r in ended),
        core_s=sum(record.wall_s for record in ended),
    )


def compare_budget(journal: Journal, records: Iterable[RunRecord]) -> Spending:
    """Set the plan against the runs and sessions of a study."""
    spent = spent_on(records)
    workers = journal.sessions[-1].workers if journal.sessions else None
    ended = {end.started_at for end in journal.session_ends}
    return Spending(
        plan=journal.plan,
        spent=spent,
        workers=workers,
        wall_s=sum(end.wall_s for end in journal.session_ends),
        ideal_wall_s=spent.core_s / workers if workers else None,
        sessions=len(journal.sessions),
        open_sessions=sum(session.started_at not in ended for session in journal.sessions),
    )
