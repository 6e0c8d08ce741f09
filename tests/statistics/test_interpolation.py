from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from optbench.statistics.interpolation import (
    MonotoneCurve,
    falling_projection,
    invert_interpolations,
)

TOKENS = [0.5, 1.0, 1.5, 2.0]
LOSSES = [4.6, 4.2, 4.05, 3.95]


def test_curve_goes_through_falling_points() -> None:
    curve = MonotoneCurve.through(TOKENS, LOSSES)
    assert curve.losses == pytest.approx(LOSSES)
    assert [curve.predict(t) for t in TOKENS] == pytest.approx(LOSSES)
    assert [curve.invert(loss).tokens for loss in LOSSES] == pytest.approx(TOKENS, rel=1e-12)


def test_curve_falls_between_its_points() -> None:
    curve = MonotoneCurve.through(TOKENS, LOSSES)
    losses = [curve.predict(t) for t in np.linspace(0.5, 2.0, 200)]
    assert (np.diff(losses) < 0).all()


def test_two_points_are_joined_by_a_line_in_log_tokens() -> None:
    curve = MonotoneCurve.through([1.0, 4.0], [4.0, 3.0])
    assert curve.predict(2.0) == pytest.approx(3.5)
    assert curve.invert(3.25).tokens == pytest.approx(8**0.5)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 1.0))
def test_inversion_undoes_prediction(position: float) -> None:
    curve = MonotoneCurve.through(TOKENS, LOSSES)
    tokens = float(np.clip(0.5 * 4**position, 0.5, 2.0))
    found = curve.invert(curve.predict(tokens))
    assert found.bound == ""
    assert found.tokens == pytest.approx(tokens, rel=1e-9)


def test_power_law_is_interpolated_within_one_per_cent() -> None:
    def law(d: float) -> float:
        return 0.8 * d**-0.5 + 3.4

    curve = MonotoneCurve.through(TOKENS, [law(t) for t in TOKENS])
    for tokens in np.linspace(0.5, 2.0, 50):
        assert curve.invert(law(tokens)).tokens == pytest.approx(tokens, rel=1e-2)


def test_a_better_loss_than_the_last_is_a_lower_bound_on_tokens() -> None:
    found = MonotoneCurve.through(TOKENS, LOSSES).invert(3.9)
    assert (found.tokens, found.bound) == (2.0, ">")


def test_a_worse_loss_than_the_first_is_an_upper_bound_on_tokens() -> None:
    found = MonotoneCurve.through(TOKENS, LOSSES).invert(4.7)
    assert (found.tokens, found.bound) == (0.5, "<")


def test_points_out_of_order_are_sorted() -> None:
    assert MonotoneCurve.through(TOKENS[::-1], LOSSES[::-1]) == MonotoneCurve.through(
        TOKENS, LOSSES
    )


def test_neighbours_that_rise_are_replaced_by_their_weighted_mean() -> None:
    curve = MonotoneCurve.through([1.0, 2.0, 4.0], [4.0, 3.4, 3.7], counts=[1, 1, 2])
    assert curve.losses == pytest.approx([4.0, 3.6, 3.6])


def test_a_flat_piece_is_inverted_in_its_middle() -> None:
    curve = MonotoneCurve.through([1.0, 2.0, 8.0, 16.0], [4.0, 3.5, 3.5, 3.0])
    assert curve.invert(3.5).tokens == pytest.approx(4.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 9)), min_size=2, max_size=8),
)
def test_projection_is_the_isotonic_regression(points: list[tuple[float, float]]) -> None:
    losses = np.array([loss for loss, _ in points])
    weights = np.array([weight for _, weight in points])
    expected = isotonic_regression(losses, weights=weights, increasing=False).x
    assert falling_projection(losses[None], weights)[0] == pytest.approx(expected, abs=1e-9)


def test_many_curves_are_inverted_like_each_of_them() -> None:
    rng = np.random.default_rng(0)
    losses = np.array(LOSSES) + rng.normal(0, 0.05, (30, 4))
    targets = rng.uniform(3.8, 4.8, 30)
    together = invert_interpolations(np.array(TOKENS), losses, np.ones(4), targets)
    for row, target, tokens in zip(losses, targets, together, strict=True):
        found = MonotoneCurve.through(TOKENS, row.tolist()).invert(float(target))
        expected = {"": found.tokens, ">": np.inf, "<": 0.0}[found.bound]
        assert tokens == pytest.approx(expected, rel=1e-12)


def test_prediction_outside_of_the_budgets_is_refused() -> None:
    curve = MonotoneCurve.through(TOKENS, LOSSES)
    with pytest.raises(
        ValueError, match=r"from 0\.5 to 2 tokens and is not extrapolated, but got 3"
    ):
        curve.predict(3.0)


@pytest.mark.parametrize("tokens", [[1.0], [1.0, 1.0]])
def test_one_budget_is_refused(tokens: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two budgets, each once"):
        MonotoneCurve.through(tokens, [4.0] * len(tokens))


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="but got 2, 3 and 3"):
        MonotoneCurve.through([1.0, 2.0], [4.0, 3.0, 2.0])
