"""A finished descent, replayed: its path line by line, its certificate, and what ended in a tie."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

from optbench.analysis.tuning import LinePoint, read_tuning
from optbench.space import Configuration, Value
from optbench.statistics.sensitivity import evaluations_of, near_best
from optbench.store.journal_entries import (
    Certificate,
    EdgeEntry,
    MoveEntry,
    RejectionEntry,
    TuningEntry,
)
from optbench.store.store import RunRecord

Standing: TypeAlias = Literal["reference", "better", "tie", "worse", "diverged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A candidate value on a line.

    Args:
        value: of the axis.
        loss: validation loss, nats per token; None if the run diverged.
        difference: loss minus that of the line's reference; None if either diverged.
        in_tau: the same in units of τ; None also where τ is 0.
        standing: against the reference; a difference of at most τ is a tie.
        run_id: the run behind it.
    """

    value: Value
    loss: float | None
    difference: float | None
    in_tau: float | None
    standing: Standing
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisTrials:
    """Everything tried along one axis with the other values held, by increasing value.

    Args:
        axis: its name.
        fixed: values of the other searched axes.
        candidates: one of them is the reference.
        refused: candidates that could not be run, with the reason.
    """

    axis: str
    fixed: Configuration
    candidates: tuple[Tried, ...]
    refused: tuple[RejectionEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A move of the current best.

    Args:
        before: value of the axis.
        after: likewise.
        loss_before: validation loss, nats per token; None if that run had diverged.
        loss_after: likewise.
        gain: how much lower the loss became; None from a run that had diverged.
        gain_in_tau: the same in units of τ; None also where τ is 0.
    """

    before: Value
    after: Value
    loss_before: float | None
    loss_after: float | None
    gain: float | None
    gain_in_tau: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """Moves that followed each other along one axis; the line's reference is where they began."""

    line: AxisTrials
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearBest:
    """A configuration within τ of the best loss of the cell; ``excess`` is over that best."""

    configuration: Configuration
    loss: float
    excess: float
    run_id: str
    is_incumbent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergedRun:
    """A configuration whose loss was lost, and the reason in its record."""

    configuration: Configuration
    run_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A finished descent.

    Args:
        start: values of the searched axes where it began.
        start_loss: validation loss there, nats per token; None if it diverged.
        fixed: hyperparameters that were held throughout.
        incumbent: the winner, its fixed values included.
        loss: its validation loss on the tuning seed.
        certified: whether every single change that the search asks for was tried, at least one,
            and none is better by more than ``tau``.
        certificate_kind: the same, with why it is not certified.
        searched: axes that had candidates.
        legs: the path.
        certificate: a line through the current best, its reference, for each searched axis.
        near_best: by increasing loss; empty if everything diverged.
        rejected: candidates that were refused before they cost anything.
        runs: spent on the search.
        tokens: likewise.
    """

    start: Configuration
    start_loss: float | None
    fixed: Configuration
    incumbent: Configuration
    loss: float | None
    tau: float
    certified: bool
    certificate_kind: Certificate
    searched: tuple[str, ...]
    legs: tuple[Leg, ...]
    certificate: tuple[AxisTrials, ...]
    near_best: tuple[NearBest, ...]
    edges: tuple[EdgeEntry, ...]
    rejected: tuple[RejectionEntry, ...]
    diverged: tuple[DivergedRun, ...]
    runs: int
    tokens: int


def read_search(
    entry: TuningEntry, axes: Sequence[str], records: Mapping[str, RunRecord]
) -> Search:
    """Replay a descent; ``axes`` in the order in which they are shown."""
    searched = [axis for axis in axes if any(axis in e.configuration for e in entry.evaluations)]
    start = {axis: entry.start[axis] for axis in searched} or dict(entry.incumbent)
    winner = {axis: entry.incumbent[axis] for axis in searched}
    return Search(
        start=start,
        start_loss=_loss_at(entry, start),
        fixed={
            name: value
            for name, value in {**entry.start, **entry.fixed}.items()
            if name not in start
        },
        incumbent=entry.incumbent,
        loss=_loss_at(entry, winner),
        tau=entry.tie_threshold,
        certified=entry.certificate == "certified",
        certificate_kind=entry.certificate,
        searched=entry.searched_axes,
        legs=_legs(entry, start),
        certificate=tuple(_line(entry, axis, winner) for axis in searched),
        near_best=_near_best(entry, winner),
        edges=entry.edges,
        rejected=entry.rejected,
        diverged=tuple(
            DivergedRun(
                configuration=evaluation.configuration,
                run_id=evaluation.run_id,
                reason=_reason(records.get(evaluation.run_id)),
            )
            for evaluation in entry.evaluations
            if evaluation.loss is None
        ),
        runs=entry.runs,
        tokens=entry.tokens,
    )


def _legs(entry: TuningEntry, start: Configuration) -> tuple[Leg, ...]:
    at = dict(start)
    legs: list[Leg] = []
    for axis, moves in groupby(entry.moves, key=lambda move: move.axis):
        line = _line(entry, axis, at)
        steps = tuple(_step(move, entry.tie_threshold) for move in moves)
        legs.append(Leg(line=line, steps=steps))
        at[axis] = steps[-1].after
    return tuple(legs)


def _step(move: MoveEntry, tau: float) -> Step:
    gain = None
    if move.loss_before is not None and move.loss_after is not None:
        gain = move.loss_before - move.loss_after
    return Step(
        before=move.before,
        after=move.after,
        loss_before=move.loss_before,
        loss_after=move.loss_after,
        gain=gain,
        gain_in_tau=_in_tau(gain, tau),
    )


def _line(entry: TuningEntry, axis: str, at: Configuration) -> AxisTrials:
    """The line through a point, which is its reference."""
    through = dataclasses.replace(entry, incumbent={**entry.incumbent, **at})
    (found,) = read_tuning(through, (axis,)).lines
    reference = _loss_at(entry, at)
    fixed = {name: value for name, value in at.items() if name != axis}
    return AxisTrials(
        axis=axis,
        fixed=fixed,
        candidates=tuple(_tried(point, reference, entry.tie_threshold) for point in found.points),
        refused=tuple(
            rejection
            for rejection in entry.rejected
            if all(rejection.configuration.get(name) == value for name, value in fixed.items())
            and rejection.configuration.get(axis) != at[axis]
        ),
    )


def _tried(point: LinePoint, reference: float | None, tau: float) -> Tried:
    difference = None
    if point.loss is not None and reference is not None:
        difference = point.loss - reference
    return Tried(
        value=point.value,
        loss=point.loss,
        difference=difference,
        in_tau=_in_tau(difference, tau),
        standing="reference" if point.is_incumbent else _standing(point.loss, difference, tau),
        run_id=point.run_id,
    )


def _standing(loss: float | None, difference: float | None, tau: float) -> Standing:
    if loss is None:
        return "diverged"
    if difference is None:
        return "better"  # than a reference that diverged
    if abs(difference) <= tau:
        return "tie"
    return "better" if difference < 0 else "worse"


def _in_tau(nats: float | None, tau: float) -> float | None:
    return nats / tau if nats is not None and tau > 0 else None


def _loss_at(entry: TuningEntry, at: Configuration) -> float | None:
    losses = [
        e.loss
        for e in entry.evaluations
        if all(e.configuration.get(name, value) == value for name, value in at.items())
    ]
    return losses[0] if losses else None


def _near_best(entry: TuningEntry, winner: Configuration) -> tuple[NearBest, ...]:
    finite = [e for e in entry.evaluations if e.loss is not None and math.isfinite(e.loss)]
    if not finite:
        return ()
    run_ids = {tuple(e.configuration.items()): e.run_id for e in finite}
    members = sorted(near_best(evaluations_of(entry)), key=lambda member: member[1])
    return tuple(
        NearBest(
            configuration=configuration or entry.incumbent,  # nothing was searched
            loss=loss,
            excess=loss - members[0][1],
            run_id=run_ids[tuple(configuration.items())],
            is_incumbent=all(configuration[name] == value for name, value in winner.items()),
        )
        for configuration, loss in members
    )


def _reason(record: RunRecord | None) -> str:
    lines = record.error.strip().splitlines() if record else []
    return lines[-1] if lines else ""
