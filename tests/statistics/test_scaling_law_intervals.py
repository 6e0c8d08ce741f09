from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from optbench.statistics.scaling_laws import Form, fit_scaling_law
from tests.analysis.published import SIZE_1_2B
from tests.recommend.tuned_values import (
    GRID,
    PHASE_ONE,
    UNIT,
    Law,
    Places,
    curve_of,
    falling,
    interval,
    levelling,
    on,
    outer,
    tuned,
)


def test_interval_of_a_law_in_one_variable_is_that_of_a_straight_line() -> None:
    values = [0.016, 0.008, 0.008, 0.004]
    prediction = fit_scaling_law(tuned(GRID[:4], values)).predict(UNIT, 16.0)
    x, y = np.log([1.0, 2.0, 4.0, 8.0]), np.log(values)
    line = stats.linregress(x, y)
    at = math.log(16.0)
    s2 = np.sum((y - line.intercept - line.slope * x) ** 2) / 2
    spread = s2 * (1 + 1 / 4 + (at - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    half = stats.t.ppf(0.975, 2) * math.sqrt(spread)
    middle = line.intercept + line.slope * at
    assert prediction.value == pytest.approx(math.exp(middle))
    assert interval(prediction) == pytest.approx((math.exp(middle - half), math.exp(middle + half)))
    found = curve_of(fit_scaling_law(tuned(GRID[:4], values)))
    assert found.stderr("ratio_exponent") == pytest.approx(line.stderr)
    assert found.residual_sd == pytest.approx(math.sqrt(s2))


def test_interval_of_a_constant_is_that_of_a_mean_of_logarithms() -> None:
    values = [0.1, 0.2, 0.1, 0.4]
    law = fit_scaling_law(tuned(GRID[:4], values), at_most="constant")
    y = np.log(values)
    half = stats.t.ppf(0.975, 3) * y.std(ddof=1) * math.sqrt(1 + 1 / 4)
    prediction = law.predict(SIZE_1_2B, 4.0)
    assert prediction.value == pytest.approx(stats.gmean(values))
    expected = (math.exp(y.mean() - half), math.exp(y.mean() + half))
    assert interval(prediction) == pytest.approx(expected)


def test_agreeing_cells_have_an_interval_of_half_a_step_of_the_grid() -> None:
    cells = tuned(PHASE_ONE, [128] * 6)
    assert interval(fit_scaling_law(cells).predict(SIZE_1_2B, 1.0)) == (128.0, 128.0)
    law = fit_scaling_law(cells, resolution=2.0)
    assert curve_of(law).residual_sd == pytest.approx(math.log(2) / math.sqrt(12))
    factor = math.exp(stats.t.ppf(0.975, 5) * math.log(2) / math.sqrt(12) * math.sqrt(7 / 6))
    assert interval(law.predict(SIZE_1_2B, 1.0)) == pytest.approx((128 / factor, 128 * factor))


def test_resolution_does_not_narrow_a_noisy_law() -> None:
    cells = tuned(GRID[:4], [0.1, 0.8, 0.1, 0.8])
    plain, floored = (
        fit_scaling_law(cells, resolution=resolution).predict(UNIT, 16.0)
        for resolution in (1.0, 1.5)
    )
    assert plain == floored


def test_extrapolation_is_told_in_factors_of_size_and_ratio() -> None:
    law = fit_scaling_law(on(lambda n, r: 0.01 * n**-0.5 * r**-0.25, GRID))
    inside = law.predict(2 * UNIT, 3.0)
    assert (inside.size_extrapolation, inside.ratio_extrapolation) == (1.0, 1.0)
    beyond = law.predict(SIZE_1_2B, 16.0)
    assert (beyond.size_extrapolation, beyond.ratio_extrapolation) == (2.25, 2.0)
    below = law.predict(UNIT / 4, 0.5)
    assert (below.size_extrapolation, below.ratio_extrapolation) == (4.0, 2.0)


def coverage(
    truth: Law, places: Places, sd: float, at_most: Form = "full"
) -> tuple[float, float, float]:
    """Of 300 studies: whose interval, whose outer interval holds the value; which law is full."""
    rng = np.random.default_rng(20250902)
    n, r = SIZE_1_2B, 4.0
    inside = outside = full = 0
    for _ in range(300):
        noise = np.exp(sd * rng.standard_normal(len(places) + 1))
        cells = tuned(
            places, [truth(p / UNIT, q) * e for (p, q), e in zip(places, noise, strict=False)]
        )
        law = fit_scaling_law(cells, at_most=at_most)
        prediction = law.predict(n, r)
        value = truth(n / UNIT, r) * noise[-1]
        (low, high), (outer_low, outer_high) = interval(prediction), outer(prediction)
        inside += low <= value <= high
        outside += outer_low <= value <= outer_high
        full += law.form == "full"
    return inside / 300, outside / 300, full / 300


@pytest.mark.parametrize("places", [PHASE_ONE, GRID], ids=["6 cells", "12 cells"])
def test_power_law_interval_covers_95_percent(places: Places) -> None:
    inside, _, _ = coverage(falling, places, sd=0.2, at_most="power")
    assert 0.92 <= inside <= 0.98


def test_constant_interval_covers_95_percent() -> None:
    inside, _, _ = coverage(lambda n, r: 0.1, PHASE_ONE, sd=0.3, at_most="constant")
    assert 0.92 <= inside <= 0.98


def test_full_law_interval_covers_95_percent() -> None:
    inside, _, full = coverage(levelling, GRID, sd=0.02)
    assert full > 0.98
    assert 0.92 <= inside <= 0.98


def test_an_offset_that_the_cells_cannot_show_is_covered_by_the_outer_interval_only() -> None:
    inside, outside, full = coverage(lambda n, r: 0.006 * n**-0.6 * r**-0.3 + 0.001, GRID, sd=0.05)
    assert full < 0.5
    assert inside < 0.9
    assert 0.92 <= outside <= 0.98


def test_outer_interval_is_the_interval_where_the_form_is_certain() -> None:
    for law in (
        fit_scaling_law(on(levelling, GRID)),
        fit_scaling_law(tuned(GRID, [0.01, 0.02] * 6), at_most="power"),
        fit_scaling_law(tuned(GRID[:3], [0.01, 0.02, 0.01])),
    ):
        assert law.alternative is None
        prediction = law.predict(SIZE_1_2B, 4.0)
        assert outer(prediction) == interval(prediction)
