from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optbench.space import Axis, SearchSpace, choices, complement, did_you_mean, geometric


def grown(axis: Axis, value: float) -> tuple[object, ...]:
    result = axis.extended(value)
    assert result is not None
    return result.values


@pytest.mark.parametrize(
    ("axis", "end", "expected"),
    [
        (geometric(0.001, 0.002, 0.004), 0.004, (0.001, 0.002, 0.004, 0.008)),
        (geometric(0.001, 0.002, 0.004), 0.001, (0.0005, 0.001, 0.002, 0.004)),
        (geometric(1e-15, 1e-10), 1e-10, (1e-15, 1e-10, 1e-5)),
        # The ratio of the last two candidates counts, not that of the others.
        (geometric(0.1, 0.2, 0.6), 0.6, (0.1, 0.2, 0.6, 1.8)),
        (geometric(0.1, 0.2, 0.6), 0.1, (0.05, 0.1, 0.2, 0.6)),
        (complement(0.9, 0.95, 0.98), 0.98, (0.9, 0.95, 0.98, 0.99)),
        (complement(0.9, 0.95, 0.98), 0.9, (0.8, 0.9, 0.95, 0.98)),
        (complement(0.5, 0.9), 0.5, (0.0, 0.5, 0.9)),
    ],
)
def test_an_axis_grows_by_one_step_past_an_end(
    axis: Axis, end: float, expected: tuple[float, ...]
) -> None:
    assert grown(axis, end) == expected


def test_growing_keeps_the_kind_of_growth_and_the_bounds() -> None:
    axis = geometric(1.0, 2.0, low=0.5, high=8.0)
    assert axis.extended(2.0) == Axis((1.0, 2.0, 4.0), "geometric", 0.5, 8.0)


@pytest.mark.parametrize(
    ("axis", "value"),
    [
        (geometric(1.0, 2.0, 4.0), 2.0),  # not an end
        (geometric(1.0, 2.0, 4.0), 3.0),  # not a candidate
        (geometric(1.0, 2.0, high=3.9), 2.0),
        (geometric(1.0, 2.0, low=0.6), 1.0),
        (complement(0.9, 0.999, high=0.9994), 0.999),
        (complement(0.4, 0.9), 0.4),  # -0.2
        (geometric(0.0, 0.1), 0.0),  # no ratio leads to zero or away from it
        (choices(1.0, 2.0), 2.0),
        (choices("cosine", "linear"), "linear"),
        (choices(False, True), True),
    ],
)
def test_an_axis_does_not_grow(axis: Axis, value: float) -> None:
    assert axis.extended(value) is None


def test_betas_grow_up_to_their_default_bound() -> None:
    axis = complement(0.99, 0.999)
    while (longer := axis.extended(axis.values[-1])) is not None:
        axis = longer
    assert axis.values == (0.99, 0.999, 0.9995, 0.99975, 0.999875)


def test_a_bound_itself_may_be_reached() -> None:
    assert grown(geometric(8, 16, high=32), 16) == (8, 16, 32)
    assert grown(geometric(8, 16, low=4), 8) == (4, 8, 16)


def test_a_single_geometric_candidate_grows_by_two_on_both_sides() -> None:
    assert grown(geometric(0.3), 0.3) == (0.3, 0.6)
    assert grown(geometric(0.3, high=0.5), 0.3) == (0.15, 0.3)


def test_a_single_complement_candidate_grows_upwards_first() -> None:
    assert grown(complement(0.9), 0.9) == (0.9, 0.95)
    assert grown(complement(0.9, high=0.94), 0.9) == (0.8, 0.9)


def test_whole_numbers_stay_whole_and_end_at_one() -> None:
    axis = geometric(8, 16, 32)
    assert all(type(value) is int for value in grown(axis, 32))
    for expected in (4, 2, 1):
        axis = axis.extended(axis.values[0])
        assert axis is not None
        assert (type(axis.values[0]), axis.values[0]) == (int, expected)
    # Half of one is no whole number: a batch of 0 sequences must not be proposed.
    assert axis.extended(1) is None


def test_whole_numbers_are_rounded_to_the_nearest() -> None:
    assert grown(geometric(3, 4), 3) == (2, 3, 4)  # 9/4
    assert grown(geometric(4, 7), 7) == (4, 7, 12)  # 49/4
    assert grown(geometric(3, 5), 3) == (2, 3, 5)  # 9/5, which is not cut to 1


def test_growing_out_and_back_makes_no_near_duplicates() -> None:
    axis = geometric(0.1, 0.3)
    for _ in range(3):
        axis = axis.extended(axis.values[-1]) or axis
    assert axis.values == (0.1, 0.3, 0.9, 2.7, 8.1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: choices(), "An axis needs at least one candidate value, but got none."),
        (lambda: geometric(0.2, 0.1), "Candidates must increase strictly, but got [0.2, 0.1]."),
        (lambda: geometric(0.1, 0.1), "Candidates must increase strictly, but got [0.1, 0.1]."),
        (
            lambda: complement(0.9, 1.5),
            "Candidates must lie in [0, 0.9999], but got [0.9, 1.5].",
        ),
        (lambda: geometric(-1.0, 1.0), "Candidates must lie in [0, inf], but got [-1.0, 1.0]."),
        (
            lambda: geometric(1.0, math.inf),
            "Candidates of a geometric axis must be finite numbers, but got [1.0, inf].",
        ),
        (
            lambda: geometric(math.nan),
            "Candidates of a geometric axis must be finite numbers, but got [nan].",
        ),
        (
            lambda: Axis(("0.001", "0.002"), "geometric"),
            "Candidates of a geometric axis must be finite numbers, but got ['0.001', '0.002'].",
        ),
        (
            lambda: Axis((True,), "complement"),
            "Candidates of a complement axis must be finite numbers, but got [True].",
        ),
        (lambda: choices(1.0, 2.0, 1), "Candidates must differ, but got [1.0, 2.0, 1]."),
    ],
)
def test_impossible_candidates_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()  # type: ignore[operator]


def test_choices_may_come_in_any_order() -> None:
    assert choices(1.0, 0.2, 0.6).values == (1.0, 0.2, 0.6)


@given(
    values=st.one_of(
        st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=5, unique=True),
        st.lists(st.integers(1, 10**6), min_size=1, max_size=5, unique=True),
    ),
    growth=st.sampled_from(["geometric", "complement"]),
    upwards=st.booleans(),
)
def test_a_grown_axis_increases_strictly_and_keeps_every_value(
    values: list[float], growth: str, upwards: bool
) -> None:
    axis = Axis(tuple(sorted(values)), growth, low=-1e12, high=1e12)  # type: ignore[arg-type]
    longer = axis.extended(axis.values[-1 if upwards else 0])
    assume(longer is not None)
    assert longer is not None
    assert len(longer.values) == len(axis.values) + 1
    assert set(axis.values) < set(longer.values)
    assert all(a < b for a, b in pairwise(float(v) for v in longer.values))
    if growth == "geometric":
        assert {type(v) for v in longer.values} == {type(v) for v in axis.values}
        assert float(longer.values[0]) > 0


@given(start=st.floats(1e-6, 1e6), ratio=st.floats(1.2, 100), upwards=st.booleans())
def test_growth_ends_at_the_bounds(start: float, ratio: float, upwards: bool) -> None:
    axis = Axis((start, start * ratio), "geometric", low=start / 1e3, high=start * 1e5)
    for _ in range(200):
        longer = axis.extended(axis.values[-1 if upwards else 0])
        if longer is None:
            break
        axis = longer
    else:
        pytest.fail(f"still growing after 200 steps: {axis.values[-3:]}")
    assert start / 1e3 <= float(axis.values[0])
    assert float(axis.values[-1]) <= start * 1e5


def test_a_space_is_a_mapping_in_the_order_of_its_axes() -> None:
    space = SearchSpace(lr=geometric(0.1, 0.2), beta=complement(0.9), shape=choices("a", "b"))
    assert list(space) == ["lr", "beta", "shape"]
    assert len(space) == 3
    assert space["beta"] == complement(0.9)
    assert repr(space) == "SearchSpace(lr=[0.1, 0.2], beta=[0.9], shape=['a', 'b'])"
    assert SearchSpace({"lr": space["lr"]}, eps=choices(1)) == {
        "lr": space["lr"],
        "eps": choices(1),
    }


def test_the_nearest_name_is_guessed() -> None:
    known = ["beta1", "beta2", "lr"]
    assert did_you_mean("betta1", known, what="key") == (
        "Unknown key 'betta1'. Did you mean 'beta1'? Available: beta1, beta2, lr."
    )
    assert did_you_mean("xyz", known, what="optimizer") == (
        "Unknown optimizer 'xyz'. Available: beta1, beta2, lr."
    )
