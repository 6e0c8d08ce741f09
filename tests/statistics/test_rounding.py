from __future__ import annotations

import math

import pytest

from optbench.space import Axis, Value, choices, complement, geometric
from optbench.statistics.rounding import Rounding, Snapped, snap
from optbench.statistics.scaling_laws import Prediction


def snapped(value: Value, axis: Axis, rounding: Rounding = "as is") -> Snapped:
    prediction = Prediction(
        value=value,
        low=None,
        high=None,
        outer_low=None,
        outer_high=None,
        size_extrapolation=1.0,
        ratio_extrapolation=1.0,
    )
    result = snap(prediction, axis, rounding)
    assert result.predicted == value
    return result


LR = geometric(0.004, 0.008, 0.016, low=0.001, high=0.1)
BATCH = geometric(128, 256, 512, low=32, high=1000)
BETA = complement(0.9, 0.95, 0.98)


@pytest.mark.parametrize(
    ("value", "axis", "rounding", "expected", "clamped"),
    [
        (0.0123, LR, "as is", 0.0123, False),
        (0.2, LR, "as is", 0.1, True),
        (1e-5, LR, "as is", 0.001, True),
        (0.1 * (1 + 1e-12), LR, "as is", 0.1, False),
        (182.6, BATCH, "integer", 183, False),
        (10.0, BATCH, "integer", 32, True),
        (6.7, choices(1, 5, 10), "integer", 7, False),
        (2.4, geometric(1.0, 2.0, low=0.5, high=2.7), "integer", 2, False),
        (2.6, geometric(1.0, 2.0, low=0.5, high=2.7), "integer", 2, False),
        (181.0, BATCH, "power of two", 128, False),
        (182.0, BATCH, "power of two", 256, False),  # 256/√2 = 181.02
        (5000.0, BATCH, "power of two", 512, True),
        (3.0, BATCH, "power of two", 32, True),
        (0.3, choices(1, 2, 4), "power of two", 1, False),
    ],
)
def test_prediction_is_rounded_within_bounds(
    value: float, axis: Axis, rounding: Rounding, expected: float, clamped: bool
) -> None:
    result = snapped(value, axis, rounding)
    assert (result.value, result.clamped) == (expected, clamped)
    assert isinstance(result.value, int) == (rounding != "as is")


@pytest.mark.parametrize(
    ("value", "axis", "expected"),
    [
        (0.0056, LR, 0.004),  # 0.004·√2 = 0.00566
        (0.0057, LR, 0.008),
        (0.929, BETA, 0.9),  # 1 − √(0.1·0.05) = 0.9293
        (0.93, BETA, 0.95),
        (3.0, choices(1, 5, 10), 1),  # of two equally near the lower
        (3.01, choices(1, 5, 10), 5),
        (0.05, geometric(0.0, 0.1, 0.2), 0.1),  # nothing positive is near zero in ratio
        (0.0, geometric(0.0, 0.1, 0.2), 0.0),
        (7, choices(4, "auto", 8), 8),
    ],
)
def test_nearest_candidate_is_measured_as_the_axis_grows(
    value: float, axis: Axis, expected: float
) -> None:
    assert snapped(value, axis, "candidate") == Snapped(
        value=expected, clamped=False, predicted=value
    )


@pytest.mark.parametrize(
    ("value", "axis", "expected", "clamped"),
    [
        (0.022, LR, 0.016, False),  # a next candidate, 0.032, would not be nearer
        (0.023, LR, 0.016, True),
        (0.0029, LR, 0.004, False),
        (0.0027, LR, 0.004, True),
        (0.987, BETA, 0.98, False),  # steps of 5 to 2 in 1 − β: half a step is to 0.9874
        (0.988, BETA, 0.98, True),
        (13, choices(1, 5, 10), 10, True),
        (12, choices(1, 5, 10), 10, False),
        (0.1, choices(0.1), 0.1, False),
        (0.1001, choices(0.1), 0.1, True),
        (0.016 * (1 + 1e-12), geometric(0.016), 0.016, False),
    ],
)
def test_more_than_half_a_step_past_the_last_candidate_is_flagged(
    value: float, axis: Axis, expected: float, clamped: bool
) -> None:
    result = snapped(value, axis, "candidate")
    assert (result.value, result.clamped) == (expected, clamped)


def test_words_and_truth_values_pass_if_they_are_candidates() -> None:
    assert snapped("cosine", choices("cosine", "linear")).value == "cosine"
    assert snapped(True, choices(False, True), "candidate").value is True
    with pytest.raises(ValueError, match="'wsd' can only be one of the candidates"):
        snapped("wsd", choices("cosine", "linear"), "candidate")
    with pytest.raises(ValueError, match="is not rounded to 'integer'"):
        snapped("cosine", choices("cosine", "linear"), "integer")
    with pytest.raises(ValueError, match="True can only be one of the candidates"):
        snapped(True, choices(0, 1))


def test_roundings_without_an_answer_are_refused() -> None:
    with pytest.raises(ValueError, match="No power of two is near 0"):
        snapped(0.0, choices(0.0, 1.0), "power of two")
    with pytest.raises(ValueError, match=r"No power of two lies within the bounds \[5, 7\]"):
        snapped(6.0, geometric(5, 6, low=5, high=7), "power of two")
    with pytest.raises(ValueError, match=r"No integer lies within the bounds \[0\.1, 0\.9\]"):
        snapped(0.5, geometric(0.25, 0.5, low=0.1, high=0.9), "integer")
    with pytest.raises(ValueError, match="No candidate is near 2"):
        snapped(2.0, choices("cosine"), "candidate")
    with pytest.raises(ValueError, match="inf cannot be rounded"):
        snapped(math.inf, LR)
