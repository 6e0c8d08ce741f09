from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.statistics.scaling import fit_loss_curve, invert_fits
from tests.analysis.published import ADAMW_130M, RATIOS


@settings(max_examples=40, deadline=None)
@given(
    alpha=st.floats(0.1, 3.0),
    exponent=st.floats(0.15, 1.5),
    beta=st.floats(0.5, 4.0),
    unit=st.sampled_from([0.5, 1.0, 655_360.0, 1e10]),
)
def test_fit_recovers_a_noiseless_curve(
    alpha: float, exponent: float, beta: float, unit: float
) -> None:
    tokens = [unit * r for r in (1, 2, 4, 8, 16)]
    losses = [alpha * r**-exponent + beta for r in (1, 2, 4, 8, 16)]
    fit = fit_loss_curve(tokens, losses)
    assert fit.unit_tokens == unit
    assert fit.coefficient == pytest.approx(alpha, abs=1e-6)
    assert fit.exponent == pytest.approx(exponent, abs=1e-6)
    assert fit.irreducible_loss == pytest.approx(beta, abs=1e-6)
    assert np.abs(fit.residuals).max() < 1e-9
    assert fit.invert(alpha * 3.0**-exponent + beta) == pytest.approx(3 * unit, rel=1e-5)


def test_fit_of_the_published_baseline_gives_the_published_curve() -> None:
    fit = fit_loss_curve(RATIOS, ADAMW_130M)
    assert fit.coefficient == pytest.approx(0.45540, abs=1e-5)
    assert fit.exponent == pytest.approx(0.43530, abs=1e-5)
    assert fit.irreducible_loss == pytest.approx(3.07292, abs=1e-5)
    assert np.abs(fit.residuals).max() == pytest.approx(3.4e-3, abs=5e-5)


def test_order_of_the_points_does_not_matter() -> None:
    forwards = fit_loss_curve(RATIOS, ADAMW_130M)
    backwards = fit_loss_curve(RATIOS[::-1], ADAMW_130M[::-1])
    assert backwards.exponent == pytest.approx(forwards.exponent, rel=1e-7)
    assert backwards.residuals == pytest.approx(forwards.residuals[::-1], abs=1e-9)


def test_prediction_and_inversion_are_inverse() -> None:
    fit = fit_loss_curve(RATIOS, ADAMW_130M)
    for tokens in (0.3, 1.0, 5.0, 40.0):
        assert fit.invert(fit.predict(tokens)) == pytest.approx(tokens, rel=1e-9)


def test_the_irreducible_loss_is_never_reached() -> None:
    fit = fit_loss_curve(RATIOS, ADAMW_130M)
    assert fit.invert(fit.irreducible_loss) == math.inf
    assert fit.invert(fit.irreducible_loss - 1) == math.inf


def test_a_point_with_a_huge_error_is_ignored() -> None:
    losses = [1.5 * r**-0.4 + 3 for r in RATIOS]
    losses[2] += 0.3
    weighted = fit_loss_curve(RATIOS, losses, stderr=[0.01, 0.01, 1e6, 0.01, 0.01])
    assert weighted.exponent == pytest.approx(0.4, abs=1e-5)
    assert weighted.residuals[2] == pytest.approx(0.3, abs=1e-5)
    assert fit_loss_curve(RATIOS, losses).residuals[2] < 0.25


def test_rising_losses_give_a_flat_curve_within_the_bounds() -> None:
    fit = fit_loss_curve([1.0, 2.0, 4.0], [3.0, 3.1, 3.2])
    assert fit.coefficient >= 0
    assert 0 <= fit.irreducible_loss <= 3.0


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.02])
def test_fits_of_many_curves_agree_with_the_fit_of_each(noise: float) -> None:
    rng = np.random.default_rng(3)
    tokens = np.array([0.5, 1.0, 1.5, 2.0])
    losses = 3.4 + 0.8 * tokens**-0.5 + rng.normal(0, noise, (40, 4))
    targets = np.full(40, 3.4 + 0.8 * 1.3**-0.5)
    together = invert_fits(tokens, losses, targets)
    one_by_one = [
        fit_loss_curve(tokens.tolist(), row.tolist()).invert(float(target))
        for row, target in zip(losses, targets, strict=True)
    ]
    assert together == pytest.approx(one_by_one, rel=1e-3)


def test_fits_of_many_curves_say_never_below_the_irreducible_loss() -> None:
    tokens = np.array([1.0, 2.0, 4.0])
    losses = (3 + tokens**-0.5)[None].repeat(2, axis=0)
    found = invert_fits(tokens, losses, np.array([2.9, 3.0 + 3**-0.5]))
    assert found[0] == math.inf
    assert found[1] == pytest.approx(3.0, rel=1e-3)


def test_two_budgets_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"at least three different budgets.*'interpolate'"):
        fit_loss_curve([1.0, 2.0, 2.0], [4.0, 3.9, 3.9])


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="4 budgets, 3 losses and 3 errors"):
        fit_loss_curve([1.0, 2.0, 3.0, 4.0], [4.0, 3.9, 3.8])


def test_a_diverged_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="losses finite"):
        fit_loss_curve([1.0, 2.0, 3.0], [4.0, math.inf, 3.8])
