"""Which hyperparameters are sensitive to scale: values that are tied with the best everywhere.

The tied set of a cell holds the configurations within the noise threshold τ of its best loss. A
hyperparameter is *stable* if one value occurs in the tied set of every cell. Otherwise it is
*scale-sensitive*, and the smallest set of values that has one in every tied set is what later
phases search (arXiv 2509.02046, phase II).

Many sets can be the smallest. The one chosen has the least loss: each cell's best excess loss with
a value of the set, averaged over the cells; the rest of a tie falls to the set that comes first by
its values in increasing order. A stable hyperparameter is the case of one value, so the same rule
names the stable value to keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

from optbench.space import Configuration, Value
from optbench.store.journal import TuningEntry

Evaluated: TypeAlias = tuple[Configuration, float | None]
_Key: TypeAlias = tuple[int, float, str]
_Cover: TypeAlias = tuple[_Key, ...]

_SLACK = 1e-9  # relative, on τ: a loss of best + τ is within τ whichever way its last digit rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEvaluations:
    """What was tried in a cell.

    Args:
        cell: its label, different for each cell.
        evaluations: configurations and their losses in nats per token; None, NaN or infinite if
            the run diverged.
        tau: noise threshold of the cell, nats per token.
    """

    cell: str
    evaluations: tuple[Evaluated, ...]
    tau: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredValue:
    """A value of one hyperparameter in a tied set.

    Args:
        value: of the hyperparameter.
        excess_loss: of its best configuration over the cell's best, nats per token; at most τ.
    """

    value: Value
    excess_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CellValues:
    """The values of one hyperparameter in the tied set of a cell, increasing."""

    cell: str
    values: tuple[ScoredValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisSensitivity:
    """Whether one hyperparameter can be held fixed over the cells.

    Args:
        axis: its name.
        near_best: by cell, those left out whose statistically tied configurations do not name the
            axis.
        silent_cells: the cells left out.
        stable_values: in the tied set of every cell, the best first; empty if scale-sensitive.
        candidates: what later phases search: the best stable value alone, or else the smallest set
            of values that covers all cells, increasing.
        mean_excess_loss: of the candidates, each cell at the best of them, nats per token.
    """

    axis: str
    near_best: tuple[CellValues, ...]
    silent_cells: tuple[str, ...]
    stable_values: tuple[Value, ...]
    candidates: tuple[Value, ...]
    mean_excess_loss: float

    @property
    def is_stable(self) -> bool:
        """Whether one value is tied with the best in every cell."""
        return bool(self.stable_values)


def evaluations_of(tuning: TuningEntry) -> CellEvaluations:
    """What a descent tried, with the noise threshold that it used."""
    return CellEvaluations(
        cell=tuning.cell.label,
        evaluations=tuple((e.configuration, e.loss) for e in tuning.evaluations),
        tau=tuning.tie_threshold,
    )


def near_best(cell: CellEvaluations) -> tuple[tuple[Configuration, float], ...]:
    """The configurations whose loss is within τ of the best, in the order given, with their losses.

    Raises:
        ValueError: no run of the cell ended with a finite loss, or τ is negative or not finite.
    """
    if not (math.isfinite(cell.tau) and cell.tau >= 0):
        raise ValueError(f"Noise threshold of {cell.cell} must be at least 0, but got {cell.tau}.")
    finished = [
        (configuration, loss)
        for configuration, loss in cell.evaluations
        if loss is not None and math.isfinite(loss)
    ]
    if not finished:
        raise ValueError(
            f"No configuration of {cell.cell} has a loss: all {len(cell.evaluations)} diverged or "
            f"none was tried. Tune the cell with lower learning rates, or leave it out."
        )
    limit = min(loss for _, loss in finished) + cell.tau * (1 + _SLACK)
    return tuple((configuration, loss) for configuration, loss in finished if loss <= limit)


def find_sensitivity(cells: Sequence[CellEvaluations]) -> tuple[AxisSensitivity, ...]:
    """Judge every hyperparameter that tied configurations name, in order of appearance.

    A statistically tied configuration that does not name an axis has no information on it, and a
    cell where none does is not asked to be covered. Numbers that agree in nine significant digits
    are one value (1e-25 and 9.999999999999999e-26; 128 and 128.0), the first one seen; truth values
    are not numbers.

    Raises:
        ValueError: no cells, a cell given twice, or a cell without a tied set (see
            `near_best`).
    """
    labels = [cell.cell for cell in cells]
    if not cells or len(set(labels)) < len(labels):
        raise ValueError(f"Sensitivity needs cells, each given once, but got {labels}.")
    sets = {cell.cell: near_best(cell) for cell in cells}
    axes = dict.fromkeys(
        axis for members in sets.values() for configuration, _ in members for axis in configuration
    )
    return tuple(_judge(axis, sets) for axis in axes)


def _judge(axis: str, sets: Mapping[str, Sequence[tuple[Configuration, float]]]) -> AxisSensitivity:
    spelling: dict[_Key, Value] = {}
    scores: dict[str, dict[_Key, float]] = {}
    for cell, members in sets.items():
        best = min(loss for _, loss in members)
        found: dict[_Key, float] = {}
        for configuration, loss in members:
            if axis in configuration:
                key = _key(configuration[axis])
                spelling.setdefault(key, tidy(configuration[axis]))
                found[key] = min(loss - best, found.get(key, math.inf))
        scores[cell] = found
    silent = tuple(cell for cell, found in scores.items() if not found)
    scored = {cell: found for cell, found in scores.items() if found}
    covers = _smallest_covers(list(scored.values()))
    excess, cover = covers[0]
    return AxisSensitivity(
        axis=axis,
        near_best=tuple(_cell_values(cell, found, spelling) for cell, found in scored.items()),
        silent_cells=silent,
        stable_values=tuple(spelling[c[0]] for _, c in covers) if len(cover) == 1 else (),
        candidates=tuple(spelling[key] for key in cover),
        mean_excess_loss=excess,
    )


def _cell_values(
    cell: str, found: Mapping[_Key, float], spelling: Mapping[_Key, Value]
) -> CellValues:
    return CellValues(
        cell=cell,
        values=tuple(
            ScoredValue(value=spelling[key], excess_loss=found[key]) for key in sorted(found)
        ),
    )


def _smallest_covers(cells: Sequence[Mapping[_Key, float]]) -> list[tuple[float, _Cover]]:
    """All covers of the least size with their mean excess loss, the best first.

    Exact search over subsets by size: an axis has some ten values at most, and the tied sets
    of neighbouring cells overlap, so covers of more than three values are rare.
    """
    values = sorted(set().union(*cells))
    for size in range(1, len(values) + 1):
        covers = [
            (_mean_excess(cells, cover), cover)
            for cover in combinations(values, size)
            if all(any(key in found for key in cover) for found in cells)
        ]
        if covers:
            return sorted(covers)
    raise AssertionError("All values together cover every cell.")


def _mean_excess(cells: Sequence[Mapping[_Key, float]], cover: Iterable[_Key]) -> float:
    members = tuple(cover)
    total = math.fsum(min(found[key] for key in members if key in found) for found in cells)
    return total / len(cells)


def tidy(value: Value) -> Value:
    """Nine significant digits, no grid being finer: 9.999999999999999e-26 becomes 1e-25."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _key(value: Value) -> _Key:
    """What makes two values the same, in the order of values: numbers, truth values, words."""
    if isinstance(value, str):
        return 2, 0.0, value
    return int(isinstance(value, bool)), float(tidy(value)), ""
