"""Hyperparameters for a size and a budget that were not tuned, from the cells that were.

Learning rate and batch size follow a *trend*, ln h = c_o + a·ln N + b·ln r: the level c_o is the
optimizer's, the exponents a and b are shared by all of them, since one optimizer's dozen cells on a
grid of doublings do not settle them. The value of a cell is the mean, in ln h, of the winner and of
its statistically tied values, because a winner alone is a draw among ties. The trend's value is
then rounded to the grid that was searched, which goes on past its ends by its own step.

Every other hyperparameter keeps the *mode* of the optimizer, those left out
with which runs diverged at the nearest size. What fewer than
two cells searched is *copied* from the nearest cell, nearest in N first, then in r. At a tuned
cell all values are that cell's winner, *tuned*. These rules
were chosen among others by what they cost at sizes left out (see `accuracy`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from optbench.recommend.tuned_cells import TunedCell
from optbench.space import Value
from optbench.statistics.scaling_laws import least_factor

Floats: TypeAlias = NDArray[np.float64]
Rule: TypeAlias = Literal["tuned", "scaling fit", "mode", "nearest cell", "set here"]

TREND_AXES = ("lr", "batch_size")
LEVEL = 0.95
_SMALL = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """One hyperparameter where nothing was tuned.

    Args:
        axis: its name.
        value: recommended.
        low: lower end of its range: the 95 % prediction interval of a tuned value for a trend, the
            least statistically tied value otherwise; None where nothing is known of it.
        high: upper end.
        near_best: numbers that were tied with the best in some cell, ascending; empty for a trend.
        rule: how the value was found.
        num_cells: tuned cells of the optimizer that searched it.
        size_extrapolation: N over the largest size that was searched, or the smallest over N; 1
            between.
        ratio_extrapolation: likewise for r.
    """

    axis: str
    value: Value
    low: Value | None
    high: Value | None
    near_best: tuple[Value, ...]
    rule: Rule
    num_cells: int
    size_extrapolation: float
    ratio_extrapolation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Exponents that all optimizers share.

    Args:
        exponents: of N and r; 0 for one that the cells do not vary in.
        covariance: of the exponents (2, 2).
        known: projector onto the directions of (ln N, ln r) that the cells vary in (2, 2).
        residual_sd: of ln h, at least what the resolution of the grid leaves.
        dof: degrees of freedom behind it; without any there are no intervals.
    """

    exponents: tuple[float, float]
    covariance: Floats
    known: Floats
    residual_sd: float
    dof: int


def extrapolation_factor(place: float, measured: Sequence[float]) -> float:
    """How many times a place lies outside of a range; 1 within."""
    return max(place / max(measured), min(measured) / place, 1.0)


def transfer(
    cells: Sequence[TunedCell],
    optimizer: str,
    num_params: float,
    ratio: float,
    *,
    trend_axes: Collection[str] = TREND_AXES,
) -> tuple[Transferred, ...]:
    """All hyperparameters of an optimizer, in the order of its configurations.

    Args:
        cells: tuned ones of all optimizers, whose trends are shared.
        optimizer: that has at least one of them.
        num_params: N.
        ratio: r.
        trend_axes: hyperparameters that follow a trend.

    Raises:
        ValueError: no cell of the optimizer.
    """
    own = sorted(
        (cell for cell in cells if cell.optimizer == optimizer),
        key=lambda cell: cell.distance(num_params, ratio),
    )
    if not own:
        raise ValueError(f"There is no tuned cell of {optimizer}.")
    names = dict.fromkeys(axis for cell in own for axis in cell.winner)
    trends = {axis: fit_trend(cells, axis) for axis in names if axis in trend_axes}
    return tuple(_transfer(axis, own, trends.get(axis), num_params, ratio) for axis in names)


def _transfer(
    axis: str, own: Sequence[TunedCell], trend: Trend | None, num_params: float, ratio: float
) -> Transferred:
    searched = [cell for cell in own if axis in cell.near_best]
    places = searched if len(searched) > 1 else own[:1]
    rule: Rule = "nearest cell"
    low = high = None
    near: tuple[Value, ...] = ()
    value = next(cell.winner[axis] for cell in own if axis in cell.winner)
    if len(searched) > 1 and trend is not None and _levels(searched, axis) is not None:
        rule = "scaling fit"
        value, low, high = _by_trend(axis, searched, trend, num_params, ratio)
    elif len(searched) > 1:
        rule = "mode"
        value = _most_won(axis, searched)
        near = _near_best(searched, axis)
        low, high = (near[0], near[-1]) if near else (None, None)
    here = min(own, key=lambda cell: max(cell.distance(num_params, ratio)))
    if axis in here.winner and here.is_at(num_params, ratio):
        rule, value, places = "tuned", here.winner[axis], [here]
        low, high = _widened(low, high, value)
    if axis in here.set_here:
        rule = "set here"
    return Transferred(
        axis=axis,
        value=value,
        low=low,
        high=high,
        near_best=near,
        rule=rule,
        num_cells=len(searched),
        size_extrapolation=extrapolation_factor(num_params, [cell.num_params for cell in places]),
        ratio_extrapolation=extrapolation_factor(ratio, [cell.ratio for cell in places]),
    )


def _most_won(axis: str, searched: Sequence[TunedCell]) -> Value:
    """The commonest winner; of equals the one tied in more cells, then the nearest cell's.

    A value with which runs diverged at the nearest size is no winner.
    """
    nearest = [cell for cell in searched if cell.num_params == searched[0].num_params]
    diverged = {value for cell in nearest for value in cell.diverged[axis]}
    wins = Counter(cell.winner[axis] for cell in searched if cell.winner[axis] not in diverged)
    near = Counter(value for cell in searched for value in cell.near_best[axis])
    # A counter keeps the order in which it met them, the nearest cell first; max takes the first.
    return max(wins, key=lambda value: (wins[value], near[value]))


def _near_best(searched: Sequence[TunedCell], axis: str) -> tuple[Value, ...]:
    """Ascending; none of words and truth values."""
    values = {value for cell in searched for value in cell.near_best[axis]}
    if any(isinstance(value, (str, bool)) for value in values):
        return ()
    return tuple(sorted(values, key=float))


def _widened(
    low: Value | None, high: Value | None, value: Value
) -> tuple[Value | None, Value | None]:
    """A range that holds the value."""
    if low is None or high is None:
        return None, None
    return min(low, value, key=float), max(high, value, key=float)


# Trends -------------------------------------------------------------------------------------------


def _levels(cells: Sequence[TunedCell], axis: str) -> Floats | None:
    """Ln h of each cell (K,): the mean of the winner and the mean of its ties."""
    levels: list[float] = []
    for cell in cells:
        values = [cell.winner[axis], *cell.near_best[axis]]
        if any(isinstance(value, (str, bool)) or value <= 0 for value in values):
            return None
        logs = [math.log(float(value)) for value in values]
        levels.append((logs[0] + sum(logs[1:]) / (len(logs) - 1)) / 2)
    return np.array(levels)


def _places(cells: Sequence[TunedCell]) -> Floats:
    """Ln N and ln r (K, 2)."""
    return np.log([[cell.num_params, cell.ratio] for cell in cells])


def fit_trend(cells: Sequence[TunedCell], axis: str) -> Trend | None:
    """Least squares within optimizers; None if no optimizer has the axis in two cells."""
    places: list[Floats] = []
    levels: list[Floats] = []
    for optimizer in dict.fromkeys(cell.optimizer for cell in cells):
        own = [c for c in cells if c.optimizer == optimizer and axis in c.near_best]
        found = _levels(own, axis) if len(own) > 1 else None
        if found is not None:
            places.append(_places(own) - _places(own).mean(axis=0))
            levels.append(found - found.mean())
    if not places:
        return None
    design, values = np.concatenate(places), np.concatenate(levels)
    inverse: Floats = np.linalg.pinv(design.T @ design).astype(np.float64)
    exponents = inverse @ design.T @ values
    dof = len(values) - len(places) - int(np.linalg.matrix_rank(design))
    squares = float(np.sum((values - design @ exponents) ** 2))
    spread = math.sqrt(squares / dof) if dof > 0 else 0.0
    sd = max(spread, math.log(_step(axis, cells)) / math.sqrt(12))
    return Trend(
        exponents=(float(exponents[0]), float(exponents[1])),
        covariance=sd**2 * inverse,
        known=np.linalg.pinv(design) @ design,
        residual_sd=sd,
        dof=max(dof, 0),
    )


def _by_trend(
    axis: str, searched: Sequence[TunedCell], trend: Trend, num_params: float, ratio: float
) -> tuple[Value, Value | None, Value | None]:
    levels = _levels(searched, axis)
    assert levels is not None  # asked before
    step = np.log([num_params, ratio]) - _places(searched).mean(axis=0)
    log = float(levels.mean() + step @ trend.exponents)
    value = _on_grid(axis, log, searched)
    unknown = step - trend.known @ step
    if trend.dof == 0 or np.abs(unknown).max() > _SMALL:
        return value, None, None
    variance = trend.residual_sd**2 * (1 + 1 / len(levels)) + step @ trend.covariance @ step
    half = float(stats.t.ppf(0.5 + LEVEL / 2, trend.dof)) * math.sqrt(float(variance))
    low, high = math.exp(log - half), math.exp(log + half)
    return value, min(low, float(value)), max(high, float(value))  # rounding may leave the interval


def _step(axis: str, cells: Sequence[TunedCell]) -> float:
    """The factor between neighbours on the finest grid of any cell; 2 where there is none."""
    candidates = [set(c.candidates[axis]) for c in cells if axis in c.candidates]
    steps = [least_factor(values, complement=False) for values in candidates]
    return min((step for step in steps if step > 1), default=2.0)


def _on_grid(axis: str, log: float, searched: Sequence[TunedCell]) -> float | int:
    """The nearest value, in ln h, of all grids of an optimizer, continued past their ends."""
    values = {
        value
        for cell in searched
        for value in cell.candidates[axis]
        if not isinstance(value, (str, bool)) and value > 0
    }
    whole = all(isinstance(value, int) for value in values)
    step, grid = _step(axis, searched), sorted(map(float, values))
    while log > math.log(grid[-1] * math.sqrt(step)):
        grid.append(grid[-1] * step)
    # Whole numbers shrink down to 1: what comes below it is none.
    while log < math.log(grid[0] / math.sqrt(step)) and not (whole and grid[0] < step):
        grid.insert(0, grid[0] / step)
    nearest = min(grid, key=lambda value: abs(math.log(value) - log))
    return round(nearest) if whole else float(f"{nearest:.9g}")
