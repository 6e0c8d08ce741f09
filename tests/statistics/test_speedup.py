from __future__ import annotations

import dataclasses
import math

import pytest

from optbench.statistics.noise import SeedNoise
from optbench.statistics.speedup import (
    BaselineLosses,
    CurveEstimator,
    OptimizerLoss,
    Timing,
    speedup,
)
from tests.analysis.published import ADAMW_130M, ADAMW_SPEEDUPS, MUON_130M, MUON_SPEEDUPS, RATIOS

BASELINE = BaselineLosses(
    tokens=(0.5, 1.0, 1.5, 2.0), means=(4.6, 4.2, 4.05, 3.95), counts=(6, 6, 6, 6)
)
EXACT = BaselineLosses(  # a power law, so that a joint fit finds nothing wrong at any noise
    tokens=BASELINE.tokens,
    means=tuple(3.2 + t**-0.5 for t in BASELINE.tokens),
    counts=BASELINE.counts,
)
NOISE = SeedNoise(sigma=0.02, dof=25, low=0.015, high=0.028, equal_p=None)
ESTIMATORS: tuple[CurveEstimator, ...] = ("interpolate", "paper")


def at(loss: float, tokens: float = 1.0, count: int = 6) -> OptimizerLoss:
    return OptimizerLoss(tokens=tokens, mean=loss, count=count)


@pytest.mark.parametrize(
    ("losses", "expected"), [(ADAMW_130M, ADAMW_SPEEDUPS), (MUON_130M, MUON_SPEEDUPS)]
)
def test_published_losses_give_the_published_speedups(
    losses: list[float], expected: list[float]
) -> None:
    baseline = BaselineLosses(tokens=tuple(RATIOS), means=tuple(ADAMW_130M), counts=(1,) * 5)
    found = [
        speedup(baseline, at(loss, tokens), None, estimator="paper")
        for loss, tokens in zip(losses, RATIOS, strict=True)
    ]
    assert [f.value for f in found] == pytest.approx(expected, abs=1e-3)


def test_the_published_speedup_at_the_largest_ratio_is_marked_as_extrapolated() -> None:
    baseline = BaselineLosses(tokens=tuple(RATIOS), means=tuple(ADAMW_130M), counts=(1,) * 5)
    inside = speedup(baseline, at(MUON_130M[3], 8.0), None, estimator="paper")
    outside = speedup(baseline, at(MUON_130M[4], 16.0), None, estimator="paper")
    assert not inside.extrapolated
    assert outside.extrapolated


@pytest.mark.parametrize("tokens", BASELINE.tokens)
def test_the_baseline_is_exactly_as_fast_as_itself(tokens: float) -> None:
    own = BASELINE.means[BASELINE.tokens.index(tokens)]
    found = speedup(BASELINE, at(own, tokens), NOISE, estimator="interpolate")
    assert found.value == pytest.approx(1.0, rel=1e-12)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1 < found.high


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_interval_surrounds_the_estimate_and_narrows_with_the_noise(
    estimator: CurveEstimator,
) -> None:
    wide = speedup(EXACT, at(4.1), NOISE, estimator=estimator)
    quiet = SeedNoise(sigma=0.002, dof=25, low=0.0, high=0.0, equal_p=None)
    narrow = speedup(EXACT, at(4.1), quiet, estimator=estimator)
    assert wide.low is not None
    assert wide.high is not None
    assert narrow.low is not None
    assert narrow.high is not None
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(10, rel=0.1)


def test_a_power_law_that_does_not_fit_has_an_interval_for_its_own_error_too() -> None:
    """The curve falls by steps that no α·D^(−B) + β makes; interpolation does not mind."""
    quiet = SeedNoise(sigma=0.002, dof=25, low=0.0, high=0.0, equal_p=None)
    bent = dataclasses.replace(EXACT, means=(4.6, 4.3, 3.95, 3.9))
    width = {
        (name, estimator): found.high - found.low
        for name, curve in (("power law", EXACT), ("bent", bent))
        for estimator in ESTIMATORS
        for found in [speedup(curve, at(4.2), quiet, estimator=estimator)]
        if found.low is not None and found.high is not None
    }
    assert width["bent", "paper"] > 20 * width["power law", "paper"]
    assert width["bent", "interpolate"] < 2 * width["power law", "interpolate"]


def test_three_budgets_cannot_show_that_a_power_law_does_not_fit() -> None:
    quiet = SeedNoise(sigma=0.002, dof=25, low=0.0, high=0.0, equal_p=None)
    bent = BaselineLosses(tokens=(0.5, 1.0, 1.5), means=(4.6, 4.3, 3.95), counts=(6, 6, 6))
    found = speedup(bent, at(4.2), quiet, estimator="paper")
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low < 0.02


def test_interval_has_the_width_that_the_slope_of_the_curve_predicts() -> None:
    """With a straight line in log D and a known σ, the delta method is exact to first order."""
    line = BaselineLosses(tokens=(0.5, 2.0), means=(4.5, 3.5), counts=(4, 4))
    noise = SeedNoise(sigma=0.01, dof=100_000, low=0.01, high=0.01, equal_p=None)
    found = speedup(line, at(4.0, 1.0, 4), noise, estimator="interpolate", replicates=40_000)
    # L(1) is the mean of both ends: its variance is σ²/4/2, the optimizer's own is σ²/4
    stderr = 0.01 * (1 / 8 + 1 / 4) ** 0.5 * math.log(4)
    assert found.low == pytest.approx(math.exp(-1.96 * stderr), abs=3e-4)
    assert found.high == pytest.approx(math.exp(1.96 * stderr), abs=3e-4)


def test_few_degrees_of_freedom_widen_the_interval_like_students_t() -> None:
    line = BaselineLosses(tokens=(0.5, 2.0), means=(4.5, 3.5), counts=(4, 4))
    few = SeedNoise(sigma=0.01, dof=4, low=0.0, high=0.1, equal_p=None)
    found = speedup(line, at(4.0, 1.0, 4), few, estimator="interpolate", replicates=40_000)
    stderr = 0.01 * (1 / 8 + 1 / 4) ** 0.5 * math.log(4)
    assert found.high == pytest.approx(math.exp(2.776 * stderr), abs=1.5e-3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_without_a_noise_estimate_there_is_a_value_but_no_interval(
    estimator: CurveEstimator,
) -> None:
    found = speedup(BASELINE, at(4.1), None, estimator=estimator)
    assert found.value == speedup(BASELINE, at(4.1), NOISE, estimator=estimator).value
    assert (found.low, found.high) == (None, None)


def test_interpolation_bounds_what_it_cannot_measure() -> None:
    fast = speedup(BASELINE, at(3.8), NOISE, estimator="interpolate")
    assert (fast.value, fast.bound, fast.extrapolated) == (2.0, ">", False)
    slow = speedup(BASELINE, at(4.8), NOISE, estimator="interpolate")
    assert (slow.value, slow.bound, slow.extrapolated) == (0.5, "<", False)


def test_interval_of_a_bound_is_open_on_the_far_side_only() -> None:
    fast = speedup(BASELINE, at(3.5), NOISE, estimator="interpolate")
    assert (fast.low, fast.high) == (2.0, math.inf)
    slow = speedup(BASELINE, at(5.0), NOISE, estimator="interpolate")
    assert (slow.low, slow.high) == (0.0, 0.5)


def test_fit_below_its_irreducible_loss_gives_a_bound() -> None:
    found = speedup(BASELINE, at(1.0), NOISE, estimator="paper")
    assert (found.value, found.bound, found.extrapolated) == (2.0, ">", True)
    assert (found.low, found.high) == (2.0, math.inf)


def test_seconds_multiply_by_the_ratio_of_median_times() -> None:
    timing = Timing(baseline=(2.0, 2.0, 9.0), optimizer=(4.0, 4.0, 4.0))
    tokens = speedup(BASELINE, at(4.1), NOISE, estimator="interpolate")
    seconds = speedup(BASELINE, at(4.1), NOISE, estimator="interpolate", timing=timing)
    assert seconds.value == pytest.approx(tokens.value * 0.5)


def test_noisy_step_times_widen_the_interval_in_seconds() -> None:
    steady = Timing(baseline=(2.0,) * 6, optimizer=(2.0,) * 6)
    shaky = Timing(baseline=(1.6, 1.8, 2.0, 2.0, 2.2, 2.4), optimizer=(2.0,) * 6)
    width = []
    for timing in (steady, shaky):
        found = speedup(BASELINE, at(4.1), NOISE, estimator="interpolate", timing=timing)
        assert found.low is not None
        assert found.high is not None
        width.append(found.high - found.low)
    assert width[1] > 1.2 * width[0]


def test_the_same_seed_gives_the_same_interval() -> None:
    first = speedup(BASELINE, at(4.1), NOISE, estimator="interpolate", seed=3)
    assert first == speedup(BASELINE, at(4.1), NOISE, estimator="interpolate", seed=3)
    assert first != speedup(BASELINE, at(4.1), NOISE, estimator="interpolate", seed=4)


@pytest.mark.parametrize(("estimator", "least"), [("interpolate", 2), ("paper", 3)])
def test_too_few_budgets_are_refused(estimator: CurveEstimator, least: int) -> None:
    short = BaselineLosses(
        tokens=BASELINE.tokens[: least - 1],
        means=BASELINE.means[: least - 1],
        counts=BASELINE.counts[: least - 1],
    )
    with pytest.raises(ValueError, match=rf"at {least} budgets or more, but got {least - 1}"):
        speedup(short, at(4.1), NOISE, estimator=estimator)
