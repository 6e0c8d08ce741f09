"""Speed-ups out of the linear parameters of a joint fit: e = (B_o/B_baseline)^(−1/b)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optbench.statistics.interpolation import Bound
from optbench.statistics.noise import LEVEL
from optbench.statistics.separable import SeparableFits

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """A speed-up over the baseline in tokens, in the fields of `speedup.Speedup`.

    Args:
        optimizer: whose.
        params: the size it holds for; None if it is the same at all sizes.
        value: e_o, or the bound on it.
        low: lower end of the 95 % interval; None if nothing is known of the noise.
        high: upper end; infinite where the losses do not bound it.
        extrapolated: in no cell of the optimizer does e_o·D lie within the baseline's budgets.
        bound: ">" the loss is at or below the fitted floor, so e_o is larger than ``value``.
    """

    optimizer: str
    params: float | None
    value: float
    low: float | None
    high: float | None
    extrapolated: bool
    bound: Bound
    estimator: Literal["joint"] = "joint"


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeTrend:
    """d ln e_o / d ln N: below 0 the speed-up shrinks as the model grows."""

    optimizer: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The cells that share a coefficient B.

    Args:
        optimizer: whose cells they are.
        params: their size, if the coefficient is that of one size only.
        base: index of the baseline's group that it is measured against; of itself if it is one.
        reaches: for each cell, the least and the largest efficiency at which a measured budget of
            the baseline holds the cell's loss.
    """

    optimizer: str
    params: float | None
    base: int
    reaches: tuple[tuple[float, float], ...]


def log_efficiencies(groups: Sequence[Group], fits: SeparableFits) -> Floats:
    """Logarithms (R, G): infinite at or below the floor, NaN where the baseline rises."""
    base = [group.base for group in groups]
    coefficients = np.where(fits.coefficients > 0, fits.coefficients, 0.0)
    with np.errstate(divide="ignore"):
        logs = np.log(coefficients)
    reference = np.where(np.isfinite(logs), logs, np.nan)[:, base]
    return (reference - logs) / np.exp(fits.log_exponents[:, :1])


def read_efficiencies(
    groups: Sequence[Group], logs: Floats, drawn: Floats | None
) -> Iterator[Efficiency]:
    """One for each group that is not the baseline's.

    Args:
        groups: of the fit (G,).
        logs: logarithms of the efficiencies (G,).
        drawn: the same of R replicates (R, G); without them there are no intervals.
    """
    for k, group in enumerate(groups):
        if group.base == k:
            continue
        at_most = min(most for _, most in group.reaches)
        with np.errstate(over="ignore"):
            value = float(np.exp(logs[k]))
            ends = None if drawn is None else np.exp(interval(drawn[:, k]))
        is_bound = not np.isfinite(value)
        yield Efficiency(
            optimizer=group.optimizer,
            params=group.params,
            value=at_most if is_bound else value,
            # a replicate below the floor only means "more than was measured", never "infinitely"
            low=None if ends is None else float(ends[0] if ends[0] < np.inf else at_most),
            high=None if ends is None else float(ends[1]),
            extrapolated=not any(least <= value <= most for least, most in group.reaches),
            bound=">" if is_bound else "",
        )


def read_trends(groups: Sequence[Group], logs: Floats, drawn: Floats | None) -> Iterator[SizeTrend]:
    """Weighted least squares over the sizes, the same weights for the estimate and its draws."""
    for optimizer in dict.fromkeys(group.optimizer for group in groups):
        of = [
            (k, group.params)
            for k, group in enumerate(groups)
            if group.optimizer == optimizer
            if group.base != k and group.params is not None and np.isfinite(logs[k])
        ]
        if len(of) < 2:
            continue
        own = [k for k, _ in of]
        sizes = np.log([params for _, params in of])
        weight = np.ones(len(of)) if drawn is None else _precision(drawn[:, own])
        centred = sizes - np.average(sizes, weights=weight)
        slope = weight * centred / np.sum(weight * centred**2)
        low = high = None
        if drawn is not None:
            with np.errstate(invalid="ignore"):  # ∞ − ∞ of open-ended draws: no information, NaN
                low, high = interval(drawn[:, own] @ slope)
        yield SizeTrend(optimizer=optimizer, value=float(logs[own] @ slope), low=low, high=high)


def _precision(draws: Floats) -> Floats:
    """1/spread² of each column, the spread without its tails; infinite draws make it small."""
    known = np.nan_to_num(draws, nan=np.inf)
    low, high = np.quantile(known, [0.16, 0.84], axis=0, method="nearest")
    return 1 / np.clip(high - low, 1e-9, 1e3) ** 2


def interval(draws: Floats) -> tuple[float, float]:
    """Outward 95 % percentiles; a replicate without information (NaN) counts on both sides."""
    nothing = np.isnan(draws)
    low = np.quantile(np.where(nothing, -np.inf, draws), (1 - LEVEL) / 2, method="lower")
    high = np.quantile(np.where(nothing, np.inf, draws), (1 + LEVEL) / 2, method="higher")
    return float(low), float(high)
