"""Tuned hyperparameters over model size and data ratio: h(N, r) = α·n^a·r^b + β, extrapolated.

n is N, the non-embedding parameters, over the smallest N of the fit; r is the Chinchilla ratio (the
form of arXiv 2509.02046). Hyperparameters are searched on geometric grids, so their errors are
relative, and laws are fitted to ln h. Of the *full* law, the *power* law (β = 0) and the *constant*
(geometric mean) the first is taken that the cells can carry; where values have no logarithm, the
*most common* one stands in. Every law has the reason for its form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from scipy import stats

from optbench.space import Value
from optbench.statistics.power_curve import (
    CurveFit,
    LogPoints,
    PowerCurve,
    fit_constant,
    fit_full,
    fit_power,
)
from optbench.statistics.sensitivity import tidy

Form: TypeAlias = Literal["most common", "constant", "power", "full"]

MIN_CELLS_FULL = 5
SIGNIFICANCE = 0.05  # of the F-test that lets the full law replace the power law
_EXACT = 1e-8  # residuals of ln h below this are rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedValue:
    """The best value of one hyperparameter in a cell.

    Args:
        num_params: N, non-embedding parameters.
        ratio: r, the Chinchilla ratio.
        value: of the hyperparameter.
    """

    num_params: float
    ratio: float
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A hyperparameter where nothing was tuned.

    Args:
        value: the law there.
        low: lower end of the 95 % prediction interval of a tuned value; None where the cells carry
            no error estimate or the law is the most common value.
        high: upper end.
        outer_low: lower end where the form is not taken for granted: of this interval and that of
            the law with an offset, wherever the cells can neither show nor exclude an offset.
        outer_high: upper end.
        size_extrapolation: N over the largest size fitted, or the smallest over N; 1 in between.
        ratio_extrapolation: likewise for r.
    """

    value: Value
    low: float | None
    high: float | None
    outer_low: float | None
    outer_high: float | None
    size_extrapolation: float
    ratio_extrapolation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingLaw:
    """A fitted law.

    Args:
        form: of the law.
        curve: its parameters; None for the most common value.
        alternative: beside a power law, the law with an offset that did not improve the fit.
        complement: whether the curve is that of one minus the value.
        most_common: the value of most cells; of equally many, that with the most tokens (N·r).
        cells: what was fitted.
        reason: why not a richer form, or why the richest.
    """

    form: Form
    curve: PowerCurve | None
    alternative: PowerCurve | None
    complement: bool
    most_common: Value
    cells: tuple[TunedValue, ...]
    reason: str

    def predict(self, num_params: float, ratio: float) -> Prediction:
        """The law at a size and ratio, with its 95 % prediction interval (t, delta method, ln h).

        Raises:
            ValueError: a size or ratio that is not positive and finite.
        """
        _check_place(num_params, ratio)
        value, *ends = self._points(self.curve, num_params, ratio) or [self.most_common]
        inner = [float(end) for end in ends]
        outer = [*inner, *self._points(self.alternative, num_params, ratio)[1:]]
        return Prediction(
            value=value,
            low=min(inner, default=None),
            high=max(inner, default=None),
            outer_low=min(outer, default=None),
            outer_high=max(outer, default=None),
            size_extrapolation=_extrapolation_factor(
                num_params, [c.num_params for c in self.cells]
            ),
            ratio_extrapolation=_extrapolation_factor(ratio, [c.ratio for c in self.cells]),
        )

    def _points(self, curve: PowerCurve | None, num_params: float, ratio: float) -> list[float]:
        """The value, then the ends of its interval as far as there are any."""
        if curve is None:
            return []
        value, factor = curve.at(num_params, ratio)
        found = [value] if factor is None else [value, value / factor, value * factor]
        # Nine digits, so that the mean of six times 0.1 is 0.1.
        return [float(tidy(1 - x if self.complement else x)) for x in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A cell, predicted from all others.

    Args:
        cell: with the value that was tuned there.
        form: of the law that the others gave.
        prediction: of that law.
        error: predicted over tuned value, minus 1 (of one minus both where the law is that of the
            complement); None for words, truth values and values without a logarithm.
    """

    cell: TunedValue
    form: Form
    prediction: Prediction
    error: float | None

    @property
    def is_covered(self) -> bool | None:
        """Whether the interval holds the tuned value; None without an interval."""
        low, high, value = self.prediction.low, self.prediction.high, self.cell.value
        return None if low is None or high is None else low <= float(tidy(value)) <= high


def least_factor(values: Iterable[Value], *, complement: bool) -> float:
    """Least factor between neighbouring numbers, of one minus them for a complement; 1 without any.

    The smallest factor between two candidates: the resolution of a grid.
    """
    numbers = sorted(
        1 - value if complement else float(value)
        for value in values
        if not isinstance(value, (str, bool))
    )
    return min((b / a for a, b in pairwise(numbers) if a > 0), default=1.0)


def fit_scaling_law(
    cells: Sequence[TunedValue],
    *,
    complement: bool = False,
    at_most: Form = "full",
    resolution: float = 1.0,
) -> ScalingLaw:
    """Fit the richest law that the cells can carry, up to ``at_most``.

    The power law needs a cell more than it has parameters: α, and an exponent for each of N and r
    that varies. The full law needs five cells over two sizes and two ratios, exponents within ±3,
    an offset between 0 and the geometric mean, and an F-test (p < 0.05) against the power law.

    Args:
        cells: at least one, each (N, r) once.
        complement: fit one minus the value, as suits betas and momenta (`space.complement` axes).
        at_most: the richest form allowed.
        resolution: factor between neighbouring candidates (2 for a grid of doublings). The best
            candidate is the best value within half a step at most, so the residual standard
            deviation is at least ln(resolution)/√12; without it, cells that all agree give an
            interval of no width.

    Raises:
        ValueError: no cells, one given twice, N or r not positive, or a resolution below 1.
    """
    cells = tuple(cells)
    _check_cells(cells, resolution)
    values = [_logarithmic(cell.value, complement=complement) for cell in cells]
    outcome = _climb(cells, values, at_most, resolution)
    return ScalingLaw(
        form=outcome.form,
        curve=outcome.curve,
        alternative=outcome.alternative,
        complement=complement and outcome.curve is not None,
        most_common=_most_common(cells),
        cells=cells,
        reason=outcome.reason,
    )


def hold_out(
    cells: Sequence[TunedValue],
    *,
    complement: bool = False,
    at_most: Form = "full",
    resolution: float = 1.0,
) -> tuple[HeldOut, ...]:
    """Predict each cell from a law fitted to all others; the options are `fit_scaling_law`'s.

    Raises:
        ValueError: fewer than two cells, or what `fit_scaling_law` refuses.
    """
    if len(cells) < 2:
        raise ValueError(f"Leaving a cell out needs at least two cells, but got {len(cells)}.")
    held_out: list[HeldOut] = []
    for i, cell in enumerate(cells):
        rest = [*cells[:i], *cells[i + 1 :]]
        law = fit_scaling_law(rest, complement=complement, at_most=at_most, resolution=resolution)
        prediction = law.predict(cell.num_params, cell.ratio)
        predicted = _logarithmic(prediction.value, complement=complement)
        actual = _logarithmic(cell.value, complement=complement)
        error = None if predicted is None or actual is None else predicted / actual - 1
        held_out.append(HeldOut(cell=cell, form=law.form, prediction=prediction, error=error))
    return tuple(held_out)


@dataclass(frozen=True, slots=True)
class _Outcome:
    form: Form
    curve: PowerCurve | None
    reason: str
    alternative: PowerCurve | None = None


def _climb(
    cells: Sequence[TunedValue], values: Sequence[float | None], at_most: Form, resolution: float
) -> _Outcome:
    positive = [value for value in values if value is not None]
    if at_most == "most common":
        return _Outcome("most common", None, "no more than the most common value was asked for")
    if len(positive) < len(values):
        return _Outcome("most common", None, _why_no_logarithm(cells, values))
    points = LogPoints.of(
        np.array([cell.num_params for cell in cells], dtype=float),
        np.array([cell.ratio for cell in cells], dtype=float),
        np.array(positive),
        least_sd=math.log(resolution) / math.sqrt(12),
    )
    if reason := _why_no_power(points, at_most):
        return _Outcome("constant", fit_constant(points), reason)
    power = fit_power(points)
    if power.curve is None:
        return _Outcome("constant", fit_constant(points), f"no power law: {power.failure_reason}")
    if reason := _why_no_full(points, power, at_most):
        return _Outcome("power", power.curve, reason)
    full = fit_full(points)
    if full.curve is None:
        return _Outcome("power", power.curve, f"no offset: {full.failure_reason}")
    p = _f_test(power, full, full.curve.dof)
    if p < SIGNIFICANCE:
        return _Outcome("full", full.curve, f"an offset improves the fit (F-test, p = {p:.2g})")
    reason = f"an offset does not improve the fit (F-test, p = {p:.2g})"
    return _Outcome("power", power.curve, reason, alternative=full.curve)


def _f_test(simple: CurveFit, rich: CurveFit, dof: int) -> float:
    """p-value of one parameter more; the residuals of an exact law are rounding, not noise."""
    noise = max(rich.squares / dof, _EXACT**2)
    return float(stats.f.sf(max(simple.squares - rich.squares, 0.0) / noise, 1, dof))


def _why_no_logarithm(cells: Sequence[TunedValue], values: Sequence[float | None]) -> str:
    without = [cell.value for cell, value in zip(cells, values, strict=True) if value is None]
    words = [value for value in without if isinstance(value, (str, bool))]
    if words:
        return f"a value such as {words[0]} is not a number"
    count = f"{len(without)} of {len(cells)} cells"
    return f"a power law is never {without[0]}, the value in {count}"


def _why_no_power(points: LogPoints, at_most: Form) -> str:
    count, needed = len(points.values), len(points.free) + 1
    if at_most == "constant":
        return "no more than a constant was asked for"
    if count < max(needed, 3):
        axes = f" in {_varying(points)}" if needed > 3 else ""
        cells = "1 cell" if count == 1 else f"{count} cells"
        return f"{cells}; the power law{axes} needs {max(needed, 3)}"
    if np.linalg.matrix_rank(points.design) < len(points.free):
        return "N and r change together in these cells; their exponents cannot be distinguished"
    if np.ptp(points.values) < _EXACT:
        return f"all {count} cells have the same value"
    return ""


def _why_no_full(points: LogPoints, power: CurveFit, at_most: Form) -> str:
    count = len(points.values)
    if at_most == "power":
        return "no more than a power law was asked for"
    if len(points.free) < 3:
        return f"only {_varying(points)} varies; the full law needs two sizes and two ratios"
    if count < MIN_CELLS_FULL:
        return f"{count} cells; the full law needs {MIN_CELLS_FULL}"
    if power.squares / count < _EXACT**2:
        return "the power law is exact"
    return ""


def _varying(points: LogPoints) -> str:
    symbols = {"size_exponent": "N", "ratio_exponent": "r"}
    return " and ".join(symbols[name] for name in points.free[1:])


def _logarithmic(value: Value, *, complement: bool) -> float | None:
    """The number whose logarithm is fitted; None if it has none."""
    if isinstance(value, (str, bool)):
        return None
    number = 1 - value if complement else float(value)
    return number if number > 0 and math.isfinite(number) else None


def _most_common(cells: Sequence[TunedValue]) -> Value:
    by_tokens = sorted(cells, key=lambda cell: cell.num_params * cell.ratio, reverse=True)
    # A counter lists equal counts in the order in which it met them: most tokens first.
    return Counter(tidy(cell.value) for cell in by_tokens).most_common(1)[0][0]


def _extrapolation_factor(place: float, fitted: Sequence[float]) -> float:
    return max(place / max(fitted), min(fitted) / place, 1.0)


def _check_place(num_params: float, ratio: float) -> None:
    if not all(math.isfinite(x) and x > 0 for x in (num_params, ratio)):
        raise ValueError(
            f"Parameters and ratio must be positive and finite, but got {num_params} and {ratio}."
        )


def _check_cells(cells: Sequence[TunedValue], resolution: float) -> None:
    if not cells:
        raise ValueError("A scaling law needs at least one cell, but got none. Tune a cell first.")
    for cell in cells:
        _check_place(cell.num_params, cell.ratio)
    counts = Counter((cell.num_params, cell.ratio) for cell in cells)
    twice = [place for place, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"Cell N = {twice[0][0]:g}, r = {twice[0][1]:g} was given {counts[twice[0]]} times. "
            f"Give the one value that is best in each cell."
        )
    if not (math.isfinite(resolution) and resolution >= 1):
        raise ValueError(f"Resolution is a factor of at least 1, but got {resolution}.")
