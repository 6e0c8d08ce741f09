import math

import pytest

from optbench.recommend.speedup_transfer import (
    Interval,
    loss_difference,
    reducible_loss,
    speedup_model,
    speedup_trends,
)
from optbench.statistics.efficiency import Efficiency, SizeTrend
from optbench.statistics.joint_fit import JointFit, JointParameters

SIZES = (1e8, 2e8, 4e8)
SPREAD = 1.959964 * 0.01  # of an efficiency's logarithm with a standard error of 0.01


def efficiency(optimizer: str, params: float, log: float) -> Efficiency:
    return Efficiency(
        optimizer=optimizer,
        params=params,
        value=math.exp(log),
        low=math.exp(log - SPREAD),
        high=math.exp(log + SPREAD),
        extrapolated=False,
        bound="",
    )


def made_fit() -> JointFit:
    """Muon's and Soap's ln e fall by 0.1 for each e-fold of N; Lion's is 0."""
    logs = {"muon": 0.5, "soap": 0.4}
    points = [
        efficiency(name, size, level - 0.1 * math.log(size / 1e8))
        for name, level in logs.items()
        for size in SIZES
    ]
    points += [efficiency("lion", size, 0.0) for size in SIZES]
    trends = tuple(
        SizeTrend(optimizer=name, value=0.0, low=-1.959964 * 0.02, high=1.959964 * 0.02)
        for name in ("muon", "soap", "lion")
    )
    return JointFit(baseline="adamw", efficiencies=tuple(points), trends=trends)


PARAMETERS = JointParameters(
    floor=2.0,
    size_coefficient=0.5,
    size_exponent=0.3,
    token_coefficients={1e8: 0.5, 4e8: 1.0},
    token_exponent=0.5,
    token_exponent_interval=None,
    unit_params=1e8,
    unit_tokens=1e9,
)


def test_a_line_in_ln_n_is_recovered_within_and_outside_of_the_sizes() -> None:
    trend = speedup_trends(made_fit())["muon"]
    assert trend.slope == pytest.approx(-0.1)
    assert trend.at(16e8).value == pytest.approx(math.exp(0.5 - 0.1 * math.log(16)))
    assert speedup_trends(made_fit())["lion"].at(1e9).value == pytest.approx(1.0)


def test_the_interval_is_that_of_level_and_slope_and_grows() -> None:
    trend = speedup_trends(made_fit())["soap"]
    away = math.log(16e8 / 2e8)
    half = 1.959964 * math.hypot(0.01 / math.sqrt(3), 0.02 * away)
    found = trend.at(16e8)
    assert found.high == pytest.approx(found.value * math.exp(half))
    assert found.low == pytest.approx(found.value * math.exp(-half))
    near = trend.at(2e8)
    assert (near.high or 0) / near.value < (found.high or 0) / found.value


def test_one_size_says_nothing_of_the_interval_at_another() -> None:
    fit = JointFit(baseline="adamw", efficiencies=(efficiency("muon", 1e8, 0.3),))
    trend = speedup_trends(fit)["muon"]
    assert trend.at(1e8).low == pytest.approx(math.exp(0.3 - SPREAD))
    assert trend.at(2e8) == Interval(value=math.exp(0.3), low=None, high=None)
    assert trend.at(1.04e8).low == pytest.approx(math.exp(0.3 - SPREAD))  # counts as the same


def test_the_baselines_falling_part_is_interpolated_and_goes_on_by_its_slope() -> None:
    assert reducible_loss(PARAMETERS, 1e8, 4e9) == pytest.approx(0.25)
    assert reducible_loss(PARAMETERS, 2e8, 1e9) == pytest.approx(math.sqrt(0.5))
    assert reducible_loss(PARAMETERS, 16e8, 1e9) == pytest.approx(2.0)


def test_a_speed_up_of_four_halves_what_is_left_to_learn_at_an_exponent_of_a_half() -> None:
    found = loss_difference(Interval(value=4.0, low=1.0, high=16.0), PARAMETERS, 1e8, 1e9)
    assert found.value == pytest.approx(-0.25)
    assert (found.low, found.high) == pytest.approx((-0.375, 0.0))


def test_without_a_fit_there_are_no_speed_ups() -> None:
    model = speedup_model(JointFit(baseline="adamw", reason="Too few budgets."))
    assert model.at("muon", 1e8, 1e9) is None
    assert model.reason == "Too few budgets."
