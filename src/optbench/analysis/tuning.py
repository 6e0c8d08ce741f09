"""How an optimizer's winner was found: its certificate, line by line through the current best."""

from __future__ import annotations

from dataclasses import dataclass

from optbench.space import Value
from optbench.store.journal import TuningEntry
from optbench.store.journal_entries import EvaluationEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePoint:
    """A candidate value of one axis, the rest as in the current best.

    Args:
        value: of the axis.
        loss: validation loss, nats per token; None if the run diverged.
        run_id: the run behind it.
        is_incumbent: the value that won.
    """

    value: Value
    loss: float | None
    run_id: str
    is_incumbent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisLine:
    """Everything tried along one axis through the current best, by increasing value."""

    axis: str
    points: tuple[LinePoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """A finished descent.

    Args:
        entry: as the journal has it.
        loss: validation loss of the current best on the tuning seed; optimistic, because it is the
            best of many, which is why the winner is trained again on held-out seeds.
        lines: one for each searched axis, in descent order.
    """

    entry: TuningEntry
    loss: float | None
    lines: tuple[AxisLine, ...]


def read_tuning(entry: TuningEntry, axes: tuple[str, ...]) -> Tuning:
    """Sort the evaluations into lines; ``axes`` in the order in which the descent visits them.

    An evaluation names only the searched axes, the current best also the values that were held
    fixed.
    """
    searched = [axis for axis in axes if any(axis in e.configuration for e in entry.evaluations)]
    losses = [e.loss for e in entry.evaluations if _differs_in(e, entry) == set()]
    return Tuning(
        entry=entry,
        loss=losses[0] if losses else None,
        lines=tuple(AxisLine(axis=axis, points=_line(entry, axis)) for axis in searched),
    )


def _differs_in(evaluation: EvaluationEntry, entry: TuningEntry) -> set[str]:
    return {
        name for name, value in evaluation.configuration.items() if entry.incumbent[name] != value
    }


def _line(entry: TuningEntry, axis: str) -> tuple[LinePoint, ...]:
    points = [
        LinePoint(
            value=evaluation.configuration[axis],
            loss=evaluation.loss,
            run_id=evaluation.run_id,
            is_incumbent=not differing,
        )
        for evaluation in entry.evaluations
        if (differing := _differs_in(evaluation, entry)) <= {axis}
    ]
    return tuple(sorted(points, key=lambda point: _rank(point.value)))


def _rank(value: Value) -> tuple[int, float, str]:
    """Numbers by size, then words by alphabet."""
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, value)
