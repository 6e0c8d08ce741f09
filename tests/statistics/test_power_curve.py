from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from optbench.statistics.power_curve import (
    PARAMETERS,
    CurveFit,
    LogPoints,
    PowerCurve,
    fit_full,
    fit_power,
)

SIZES = np.repeat([1e6, 2e6, 4e6, 8e6], 3)
RATIOS = np.tile([1.0, 2.0, 4.0], 4)


def noisy(scale: float = 1.0, sd: float = 0.05) -> LogPoints:
    noise = np.exp(sd * np.random.default_rng(3).standard_normal(12))
    values = scale * (3.0 * (SIZES / 1e6) ** -0.9 * RATIOS**-0.5 + 1.0) * noise
    return LogPoints.of(SIZES, RATIOS, values, least_sd=0.0)


def found(fit: CurveFit) -> PowerCurve:
    assert fit.curve is not None, fit.failure_reason
    return fit.curve


def theta_of(curve: PowerCurve) -> list[float]:
    log = math.log(curve.coefficient)
    return [log, curve.size_exponent, curve.ratio_exponent, curve.offset]


def log_curve(theta: list[float], n: float, r: float) -> float:
    return math.log(math.exp(theta[0]) * n ** theta[1] * r ** theta[2] + theta[3])


def slopes(theta: list[float], n: float, r: float) -> list[float]:
    """Central differences of ln g in each parameter."""
    changed: list[float] = []
    for k, value in enumerate(theta):
        step = 1e-6 * max(abs(value), 1e-3)
        up, down = ([*theta[:k], value + s, *theta[k + 1 :]] for s in (step, -step))
        changed.append((log_curve(up, n, r) - log_curve(down, n, r)) / (2 * step))
    return changed


def test_no_neighbouring_curve_fits_better() -> None:
    points = noisy()
    fit = fit_full(points)
    theta = theta_of(found(fit))

    def squares(at: list[float]) -> float:
        pairs = zip(SIZES / 1e6, RATIOS, points.values, strict=True)
        return sum((log_curve(at, n, r) - y) ** 2 for n, r, y in pairs)

    assert squares(theta) == pytest.approx(fit.squares, rel=1e-9)
    for k in range(4):
        for step in (-1e-3, 1e-3):
            assert squares([*theta[:k], theta[k] + step, *theta[k + 1 :]]) > fit.squares


def test_covariance_and_interval_follow_from_the_slopes_of_the_curve() -> None:
    points = noisy()
    fit = fit_full(points)
    curve = found(fit)
    theta = theta_of(curve)
    jacobian = np.array([slopes(theta, n, r) for n, r in zip(SIZES / 1e6, RATIOS, strict=True)])
    s2 = fit.squares / 8
    covariance = s2 * np.linalg.inv(jacobian.T @ jacobian)
    assert curve.dof == 8
    assert np.array(curve.covariance) == pytest.approx(covariance, rel=1e-3)
    assert [curve.stderr(p) for p in PARAMETERS] == pytest.approx(
        np.sqrt(np.diag(covariance)), rel=1e-3
    )
    value, factor = curve.at(32e6, 8.0)
    g = np.array(slopes(theta, 32.0, 8.0))
    assert math.log(value) == pytest.approx(log_curve(theta, 32.0, 8.0))
    assert factor is not None
    half = stats.t.ppf(0.975, 8) * math.sqrt(s2 + g @ covariance @ g)
    assert math.log(factor) == pytest.approx(half, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 2000.0])
def test_scale_of_the_values_changes_nothing_else(scale: float) -> None:
    one, other = found(fit_full(noisy())), found(fit_full(noisy(scale)))
    assert other.coefficient == pytest.approx(scale * one.coefficient, rel=1e-5)
    assert other.offset == pytest.approx(scale * one.offset, rel=1e-5)
    assert other.size_exponent == pytest.approx(one.size_exponent, rel=1e-5)
    errors = one.stderr("offset"), other.stderr("offset")
    assert errors[1] == pytest.approx(scale * (errors[0] or math.nan), rel=1e-4)
    assert other.at(32e6, 8.0)[1] == pytest.approx(one.at(32e6, 8.0)[1], rel=1e-4)


def test_troubled_fits_have_no_curve() -> None:
    # A step between the two smallest sizes: the steeper the power, the better.
    step = np.where(SIZES > 1e6, 1.0, 2.0) * np.exp(0.01 * np.log(RATIOS))
    fit = fit_full(LogPoints.of(SIZES, RATIOS, step, least_sd=0.0))
    assert (fit.curve, fit.failure_reason) == (None, "with one, the exponents run to ±3")
    steep = fit_power(LogPoints.of(SIZES, RATIOS, SIZES**4.0, least_sd=0.0))
    assert (steep.curve, steep.failure_reason) == (None, "an exponent of 4 is beyond ±3")


def test_an_interval_past_the_largest_float_is_infinite() -> None:
    points = LogPoints.of(
        np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.1, 1.2]), np.array([1.0, 3.0, 1.0]), 0.0
    )
    assert found(fit_power(points)).at(1.0, 1e30)[1] == math.inf
