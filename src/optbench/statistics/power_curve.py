"""The curve g(N, r) = α·n^a·r^b + β, n = N/N₀, fitted by least squares of ln g.

Without β the fit is linear in ln n and ln r. With it, bounds keep the curve positive and
identifiable: 0 ≤ β ≤ the geometric mean of the values. Without the lower one, the limit a, b → 0,
α → ∞, β → −∞ is a straight line in ln N and ln r, where many fits of this form end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import OptimizeResult, least_squares

Floats: TypeAlias = NDArray[np.float64]
Parameter: TypeAlias = Literal["log_coefficient", "size_exponent", "ratio_exponent", "offset"]

PARAMETERS: tuple[Parameter, ...] = (
    "log_coefficient",
    "size_exponent",
    "ratio_exponent",
    "offset",
)
LEVEL = 0.95
MAX_EXPONENT = 3.0
_OFFSET_STARTS = (0.1, 0.5, 0.9)  # in units of the smallest value
_MAX_LOG = 700.0
_AT_BOUND = 1 - 1e-6
_MAX_CONDITION = 1e7  # of the Jacobian with columns of unit length


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCurve:
    """g(N, r) = coefficient·(N/unit_params)^size_exponent·r^ratio_exponent + offset.

    Args:
        coefficient: α.
        size_exponent: a; 0 where it was not fitted.
        ratio_exponent: b; likewise.
        offset: β, at least 0.
        unit_params: N₀.
        free: the parameters that were fitted, in the order of ``covariance``.
        covariance: of the fitted parameters; empty without degrees of freedom.
        residual_sd: of ln g; None without degrees of freedom.
        dof: points minus fitted parameters.
    """

    coefficient: float
    size_exponent: float
    ratio_exponent: float
    offset: float
    unit_params: float
    free: tuple[Parameter, ...]
    covariance: tuple[tuple[float, ...], ...]
    residual_sd: float | None
    dof: int

    def stderr(self, parameter: Parameter) -> float | None:
        """Standard error of a parameter; None if it was not fitted or has no error estimate."""
        if parameter not in self.free or self.residual_sd is None:
            return None
        index = self.free.index(parameter)
        return math.sqrt(self.covariance[index][index])

    def at(self, num_params: float, ratio: float) -> tuple[float, float | None]:
        """The curve, and the factor to either end of its 95 % prediction interval.

        Delta method in ln g: the variance of one more residual plus that of the fitted ln g. The
        factor is None without degrees of freedom.
        """
        terms = np.array([1.0, math.log(num_params / self.unit_params), math.log(ratio)])
        logs = (math.log(self.coefficient), self.size_exponent, self.ratio_exponent)
        power = math.exp(float(terms @ logs))
        value = power + self.offset
        if self.residual_sd is None:
            return value, None
        gradient = dict(zip(PARAMETERS, (*(terms * power / value), 1 / value), strict=True))
        g = np.array([gradient[name] for name in self.free])
        variance = self.residual_sd**2 + float(g @ np.array(self.covariance) @ g)
        half = float(stats.t.ppf(0.5 + LEVEL / 2, self.dof)) * math.sqrt(variance)
        # The interval of a fit with one degree of freedom may reach past the largest float.
        return value, math.exp(half) if half < _MAX_LOG else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPoints:
    """Points to fit, as logarithms; build them with :meth:`of`.

    Args:
        design: (K, p), columns of 1 and of what varies of ln n and ln r.
        values: ln g (K,).
        free: names of the columns.
        unit_params: N₀, the smallest N.
        least_sd: lower bound of the residual standard deviation.
    """

    design: Floats
    values: Floats
    free: tuple[Parameter, ...]
    unit_params: float
    least_sd: float

    @classmethod
    def of(cls, sizes: Floats, ratios: Floats, values: Floats, least_sd: float) -> LogPoints:
        """Take the logarithms of N, r and g, all positive and of shape (K,)."""
        unit = float(sizes.min())
        columns: dict[Parameter, Floats] = {"log_coefficient": np.ones_like(sizes)}
        if np.ptp(sizes) > 0:
            columns["size_exponent"] = np.log(sizes / unit)
        if np.ptp(ratios) > 0:
            columns["ratio_exponent"] = np.log(ratios)
        return cls(
            design=np.stack(list(columns.values()), axis=1),
            values=np.log(values),
            free=tuple(columns),
            unit_params=unit,
            least_sd=least_sd,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveFit:
    """The outcome of a fit.

    Args:
        curve: that was found; None if it is of no use.
        squares: sum of squared residuals of ln g.
        failure_reason: why the curve is of no use, in words that follow "no power law:" or "no
            offset:".
    """

    curve: PowerCurve | None
    squares: float
    failure_reason: str = ""


def fit_constant(points: LogPoints) -> PowerCurve:
    """The geometric mean."""
    return _linear_fit(points, 1)[0]


def fit_power(points: LogPoints) -> CurveFit:
    """The power law; the design must have full rank."""
    curve, squares = _linear_fit(points, len(points.free))
    steepest = max(abs(curve.size_exponent), abs(curve.ratio_exponent))
    if steepest <= MAX_EXPONENT:
        return CurveFit(curve=curve, squares=squares)
    failure_reason = f"an exponent of {steepest:.2g} is beyond ±{MAX_EXPONENT:g}"
    return CurveFit(curve=None, squares=squares, failure_reason=failure_reason)


def fit_full(points: LogPoints) -> CurveFit:
    """The law with an offset; the design must have three columns and more than four rows.

    Least squares within the bounds from several offsets, because the sum of squares can have two
    minima, one of a rising and one of a falling power.
    """
    # In units of the smallest value: a learning rate's offset may be 1e-3, a warm-up's 1e3.
    unit = float(points.values.min())
    values = points.values - unit
    highest = np.array([np.inf, MAX_EXPONENT, MAX_EXPONENT, math.exp(values.mean())])
    lowest = np.array([-np.inf, -MAX_EXPONENT, -MAX_EXPONENT, 0.0])

    def parts(theta: Floats) -> tuple[Floats, Floats]:
        power = np.exp(points.design @ theta[:3])
        return power, power + theta[3]

    def residuals(theta: Floats) -> Floats:
        return np.log(parts(theta)[1]) - values

    def jacobian(theta: Floats) -> Floats:
        power, value = parts(theta)
        return np.column_stack([points.design * (power / value)[:, None], 1 / value])

    fits: list[OptimizeResult] = [
        least_squares(
            residuals,
            np.clip(_start(points.design, values, offset), lowest, highest),
            jac=jacobian,  # pyright: ignore[reportArgumentType]
            bounds=(lowest, highest),
            xtol=1e-10,
            ftol=1e-10,
        )
        for offset in _OFFSET_STARTS
    ]
    best = min(fits, key=lambda fit: float(fit.cost))
    found = best.x + np.array([unit, 0.0, 0.0, 0.0])
    found[3] *= math.exp(unit)
    slopes = jacobian(best.x) / np.array([1.0, 1.0, 1.0, math.exp(unit)])
    failure_reason = _failure_reason(best.x, slopes, highest)
    squares = float(best.fun @ best.fun)
    curve = None if failure_reason else _curve(points, PARAMETERS, found, slopes, squares)
    return CurveFit(curve=curve, squares=squares, failure_reason=failure_reason)


def _start(design: Floats, values: Floats, offset: float) -> Floats:
    """Power law of the values less a fixed offset, which is below all of them."""
    logs = np.log(np.exp(values) - offset)
    return np.append(np.linalg.lstsq(design, logs, rcond=None)[0], offset)


def _failure_reason(theta: Floats, slopes: Floats, highest: Floats) -> str:
    if np.any(np.abs(theta[1:3]) >= highest[1:3] * _AT_BOUND):
        return f"with one, the exponents run to ±{MAX_EXPONENT:g}"
    if theta[3] >= highest[3] * _AT_BOUND:
        return "it runs to the mean of the values"
    scale = np.linalg.norm(slopes, axis=0)
    if not scale.all() or np.linalg.cond(slopes / scale) > _MAX_CONDITION:
        return "with one, the parameters cannot be distinguished"
    return ""


def _linear_fit(points: LogPoints, num_free: int) -> tuple[PowerCurve, float]:
    """Least squares on the first columns of the design, and the sum of squares."""
    design = points.design[:, :num_free]
    found = np.linalg.lstsq(design, points.values, rcond=None)[0].astype(float)
    residuals = points.values - design @ found
    squares = float(residuals @ residuals)
    return _curve(points, points.free[:num_free], found, design, squares), squares


def _curve(
    points: LogPoints,
    free: tuple[Parameter, ...],
    found: Floats,
    jacobian: Floats,
    squares: float,
) -> PowerCurve:
    dof = len(points.values) - len(free)
    variance = max(squares / dof, points.least_sd**2) if dof else None
    scale = np.linalg.norm(jacobian, axis=0)  # the offset's column may be 1e10 times the others
    inverse = np.linalg.inv((jacobian / scale).T @ (jacobian / scale)) / np.outer(scale, scale)
    values = dict(zip(free, found.tolist(), strict=True))
    return PowerCurve(
        coefficient=math.exp(values["log_coefficient"]),
        size_exponent=values.get("size_exponent", 0.0),
        ratio_exponent=values.get("ratio_exponent", 0.0),
        offset=values.get("offset", 0.0),
        unit_params=points.unit_params,
        free=free,
        covariance=() if variance is None else tuple(map(tuple, (variance * inverse).tolist())),
        residual_sd=None if variance is None else math.sqrt(variance),
        dof=dof,
    )
