from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.space import Value
from optbench.statistics.scaling_laws import (
    Form,
    TunedValue,
    fit_scaling_law,
    hold_out,
    least_factor,
)
from tests.analysis.published import SIZE_1_2B, SIZES
from tests.recommend.tuned_values import (
    GRID,
    PHASE_ONE,
    UNIT,
    Places,
    curve_of,
    falling,
    interval,
    levelling,
    on,
    tuned,
)


@settings(max_examples=30, deadline=None)
@given(
    alpha=st.sampled_from([1e-20, 0.003, 1.0, 2000.0]),
    a=st.floats(0.3, 1.2),
    b=st.floats(0.2, 0.8),
    signs=st.sampled_from([(1, 1), (-1, -1), (1, -1), (-1, 1)]),
    share=st.floats(0.2, 2.0),
)
def test_full_law_is_recovered_from_exact_values(
    alpha: float, a: float, b: float, signs: tuple[int, int], share: float
) -> None:
    a, b = signs[0] * a, signs[1] * b
    values = [alpha * ((n / UNIT) ** a * r**b + share) for n, r in GRID]
    law = fit_scaling_law(tuned(GRID, values))
    assert law.form == "full", law.reason
    found = curve_of(law)
    assert found.unit_params == UNIT
    assert found.coefficient == pytest.approx(alpha, rel=1e-4, abs=0)
    assert (found.size_exponent, found.ratio_exponent) == pytest.approx((a, b), abs=1e-4)
    assert found.offset == pytest.approx(share * alpha, rel=1e-3, abs=0)
    exact = alpha * ((SIZE_1_2B / UNIT) ** a * 4.0**b + share)
    assert law.predict(SIZE_1_2B, 4).value == pytest.approx(exact, rel=1e-4, abs=0)


@settings(max_examples=30, deadline=None)
@given(alpha=st.sampled_from([1e-20, 0.003, 1.0, 2000.0]), a=st.floats(-2, 2), b=st.floats(0.01, 2))
def test_power_law_is_recovered_from_exact_values(alpha: float, a: float, b: float) -> None:
    law = fit_scaling_law(tuned(GRID, [alpha * (n / UNIT) ** a * r**b for n, r in GRID]))
    assert (law.form, law.reason) == ("power", "the power law is exact")
    found = curve_of(law)
    assert found.coefficient == pytest.approx(alpha, rel=1e-9, abs=0)
    assert (found.size_exponent, found.ratio_exponent) == pytest.approx((a, b), abs=1e-9)
    assert (found.offset, found.dof) == (0.0, 9)
    exact = alpha * (SIZE_1_2B / UNIT) ** a * 16.0**b
    assert law.predict(SIZE_1_2B, 16).value == pytest.approx(exact, rel=1e-8, abs=0)


def test_only_what_varies_gets_an_exponent() -> None:
    in_size = fit_scaling_law(on(lambda n, _: 0.01 * n**-0.5, [(n, 2.0) for n in SIZES]))
    assert curve_of(in_size).free == ("log_coefficient", "size_exponent")
    assert curve_of(in_size).size_exponent == pytest.approx(-0.5)
    assert curve_of(in_size).stderr("ratio_exponent") is None
    assert in_size.reason == "only N varies; the full law needs two sizes and two ratios"
    in_ratio = fit_scaling_law(on(lambda _, r: 0.01 * r**0.25, GRID[:4]))
    assert curve_of(in_ratio).free == ("log_coefficient", "ratio_exponent")
    assert curve_of(in_ratio).ratio_exponent == pytest.approx(0.25)
    assert in_ratio.predict(UNIT, 16.0).value == pytest.approx(0.02)


def test_complement_is_fitted_to_one_minus_the_value() -> None:
    law = fit_scaling_law(on(lambda n, r: 1 - 0.1 * n**-0.5 * r**-0.25, GRID), complement=True)
    assert curve_of(law).coefficient == pytest.approx(0.1)
    exact = 1 - 0.1 * (SIZE_1_2B / UNIT) ** -0.5 * 8**-0.25
    prediction = law.predict(SIZE_1_2B, 8)
    assert prediction.value == pytest.approx(exact)
    noisy = [0.9, 0.95, 0.95, 0.98, 0.9, 0.95, 0.98, 0.98, 0.95, 0.98, 0.98, 0.98]
    prediction = fit_scaling_law(tuned(GRID, noisy), complement=True).predict(SIZE_1_2B, 8)
    low, high = interval(prediction)
    assert low < float(prediction.value) < high < 1


# --- fallbacks


@pytest.mark.parametrize(
    ("places", "values", "form", "reason"),
    [
        (GRID[:1], [0.1], "constant", "1 cell; the power law needs 3"),
        (GRID[:2], [0.1, 0.2], "constant", "2 cells; the power law needs 3"),
        (PHASE_ONE[3:], [1, 2, 3], "constant", "3 cells; the power law in N and r needs 4"),
        (GRID[:4], [2, 2.0, 2, 2], "constant", "all 4 cells have the same value"),
        (
            [(1e6, 1.0), (2e6, 2.0), (4e6, 4.0), (8e6, 8.0)],
            [1, 2, 4, 7],
            "constant",
            "N and r change together in these cells; their exponents cannot be distinguished",
        ),
        (
            [(1e6, 1.0), (1.1e6, 1.0), (1.2e6, 1.0)],
            [1, 2, 4],
            "constant",
            "no power law: an exponent of 7.6 is beyond ±3",
        ),
        (GRID[2:6], [1, 2, 2, 1], "power", "4 cells; the full law needs 5"),
        (
            GRID[:5],
            [True, False, True, False, True],
            "most common",
            "a value such as True is not a number",
        ),
        (GRID[:2], ["cosine", "linear"], "most common", "a value such as cosine is not a number"),
        (
            GRID[:5],
            [0.1, 0.1, 0, 0.1, 0],
            "most common",
            "a power law is never 0, the value in 2 of 5 cells",
        ),
    ],
)
def test_fallback_says_why(places: Places, values: list[Value], form: Form, reason: str) -> None:
    law = fit_scaling_law(tuned(places, values))
    assert (law.form, law.reason) == (form, reason)


@pytest.mark.parametrize(
    ("at_most", "reason"),
    [
        ("power", "no more than a power law was asked for"),
        ("constant", "no more than a constant was asked for"),
        ("most common", "no more than the most common value was asked for"),
    ],
)
def test_form_can_be_limited(at_most: Form, reason: str) -> None:
    law = fit_scaling_law(on(levelling, GRID), at_most=at_most)
    assert (law.form, law.reason) == (at_most, reason)


def test_offset_must_improve_the_fit() -> None:
    shown = fit_scaling_law(on(levelling, GRID))
    assert shown.reason.startswith("an offset improves the fit (F-test, p = ")
    values = [0.016, 0.008, 0.008, 0.008, 0.008, 0.008, 0.004, 0.008, 0.008, 0.004, 0.008, 0.008]
    law = fit_scaling_law(tuned(GRID, values))
    assert law.form == "power"
    assert law.reason.startswith("an offset does not improve the fit (F-test, p = 0.")
    assert law.alternative is not None


def test_a_lone_cell_has_a_value_and_no_interval() -> None:
    law = fit_scaling_law(tuned(GRID[:1], [0.1]))
    prediction = law.predict(SIZE_1_2B, 1.0)
    assert prediction.value == pytest.approx(0.1)
    assert prediction.low is prediction.high is prediction.outer_low is None
    assert curve_of(law).stderr("log_coefficient") is None


def test_values_without_a_logarithm_give_the_most_common_one() -> None:
    law = fit_scaling_law(tuned(GRID[:5], [0.1, 0.1, 0, 0.1, 0]))
    prediction = law.predict(SIZE_1_2B, 1.0)
    assert (prediction.value, prediction.low, prediction.high) == (0.1, None, None)
    assert prediction.size_extrapolation == pytest.approx(4.0)
    words = fit_scaling_law(tuned(GRID[:3], ["linear", "cosine", "linear"]))
    assert words.predict(SIZE_1_2B, 1.0).value == "linear"
    truth = fit_scaling_law(tuned(GRID[:3], [True, False, False]))
    assert truth.predict(SIZE_1_2B, 1.0).value is False


def test_of_equally_common_values_that_of_most_tokens_is_taken() -> None:
    places = [GRID[8], GRID[0], GRID[7], GRID[1]]  # the third has the most tokens
    assert fit_scaling_law(tuned(places, [0.0, 0.0, 0.2, 0.2])).most_common == 0.2
    assert fit_scaling_law(tuned(places, [0.2, 0.2, 0.0, 0.0])).most_common == 0.0


def test_beta_of_one_has_no_complement_to_fit() -> None:
    law = fit_scaling_law(tuned(GRID[:4], [1.0, 0.9, 0.9, 0.95]), complement=True)
    assert (law.form, law.complement) == ("most common", False)
    assert law.predict(UNIT, 1.0).value == 0.9


# --- leaving cells out


def test_held_out_cell_of_an_exact_law_is_predicted() -> None:
    held = hold_out(on(falling, GRID))
    assert [h.cell.value for h in held] == [falling(n / UNIT, r) for n, r in GRID]
    assert all(h.form == "power" for h in held)
    assert [h.error for h in held] == pytest.approx([0.0] * len(GRID), abs=1e-8)
    # All cells of ratios 1 to 4 stay among the others; of 8x there are three.
    assert held[3].prediction.ratio_extrapolation == 1.0


def test_held_out_cell_is_not_used() -> None:
    cells = tuned(GRID[:4], [1.0, 1.0, 1.0, 5.0])
    last = hold_out(cells)[-1]
    assert last.prediction == fit_scaling_law(cells[:3]).predict(UNIT, 8.0)
    assert last.error == pytest.approx(1 / 5 - 1)
    assert last.is_covered is False
    assert last.prediction.ratio_extrapolation == 2.0


def test_held_out_error_of_a_beta_is_that_of_its_complement() -> None:
    cells = tuned(GRID[:4], [0.9, 0.9, 0.9, 0.95])
    assert hold_out(cells, complement=True)[-1].error == pytest.approx(1.0)


def test_held_out_words_and_zeros_have_no_error() -> None:
    for values in (["a", "b", "a", "a"], [0.1, 0.0, 0.1, 0.1]):
        held = hold_out(tuned(GRID[:4], values))
        assert held[1].error is None
        assert held[1].prediction.value == values[0]
    held = hold_out(tuned(GRID[:4], [0.1, 0.0, 0.1, 0.2]), at_most="constant")
    assert held[0].error == pytest.approx(1.0)  # the most common of 0, 0.1 and 0.2: most tokens
    assert held[0].is_covered is None


# --- what is refused


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "at least one cell, but got none"),
        (
            tuned([GRID[0], GRID[1], GRID[0]], [1, 2, 3]),
            r"Cell N = 1\.34218e\+08, r = 1 was given 2",
        ),
        (tuned([(0.0, 1.0)], [1]), "must be positive and finite, but got 0.0 and 1.0"),
        (tuned([(1.0, math.nan)], [1]), "must be positive and finite, but got 1.0 and nan"),
    ],
)
def test_cells_that_are_no_cells_are_refused(cells: list[TunedValue], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_scaling_law(cells)


def test_other_impossible_requests_are_refused() -> None:
    cells = tuned(GRID[:3], [1, 2, 3])
    with pytest.raises(ValueError, match=r"a factor of at least 1, but got 0\.5"):
        fit_scaling_law(cells, resolution=0.5)
    with pytest.raises(ValueError, match="at least two cells, but got 1"):
        hold_out(cells[:1])
    with pytest.raises(ValueError, match="must be positive and finite, but got -1 and 2"):
        fit_scaling_law(cells).predict(-1, 2)


def test_least_factor_is_that_of_neighbours_or_of_one_minus_them() -> None:
    assert least_factor([0.4, 0.0, 0.1, 0.2], complement=False) == 2
    assert least_factor([0.8, 0.9, 0.975], complement=True) == pytest.approx(2)
    assert least_factor([True, "cosine"], complement=False) == 1
    assert least_factor([3], complement=False) == 1
