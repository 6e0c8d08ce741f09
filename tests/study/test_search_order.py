from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.space import Axis, Value, choices, complement, geometric
from optbench.study.search_order import AxisLosses, Origin, improvement_probability, lines_along

AXIS = geometric(1, 2, 4, 8, 16, low=1, high=16)
TAU = 0.003


def along(
    *lines: AxisLosses, axis: Axis = AXIS, at: Value = 4, start: Value = 4, tau: float = TAU
) -> dict[Value, float]:
    return improvement_probability(axis, at, start, lines, tau)


def here(**losses: float) -> AxisLosses:
    return AxisLosses({int(name[1:]): loss for name, loss in losses.items()}, "here")


def test_before_anything_is_known_both_directions_are_alike() -> None:
    found = along()
    assert found[2] == found[8]
    assert found[1] == found[16]
    assert 0.2 < found[2] < 0.6


def test_the_incumbent_itself_has_no_chance_to_be_judged() -> None:
    assert list(along()) == [1, 2, 8, 16]


def test_descent_towards_one_side_speaks_for_going_on() -> None:
    found = along(here(_2=3.2, _4=3.0))
    assert found[8] > along()[8]
    assert found[8] > 0.5
    assert found[1] < 0.05


def test_a_bracketed_minimum_leaves_less_hope() -> None:
    found = along(here(_2=3.02, _4=3.0, _8=3.02))
    assert found[1] < 0.7 * along()[1]
    assert found[16] < 0.7 * along()[16]


def test_a_steep_axis_comes_before_one_that_does_not_matter() -> None:
    steep, idle = along(here(_2=3.05, _4=3.0)), along(here(_2=3.0, _4=3.0))
    assert steep[8] > idle[8]


def test_the_minimum_of_a_parabola_is_foreseen() -> None:
    line = {value: 3 + 0.03 * (place - 3) ** 2 for place, value in enumerate(AXIS.values)}
    found = along(AxisLosses({value: line[value] for value in (1, 2, 4)}, "here"))
    assert max(found, key=lambda value: found[value]) == 8
    assert found[16] < found[8]


def test_what_lies_beyond_a_diverged_run_comes_late() -> None:
    found = along(here(_4=3.0, _8=math.inf))
    assert found[16] < 0.1 * along()[16]
    assert found[2] == along()[2]


@pytest.mark.parametrize("origin", ["here", "earlier"])
def test_a_line_of_this_descent_counts(origin: Origin) -> None:
    assert along(AxisLosses({2: 3.2, 4: 3.0}, origin))[8] > along()[8]


def test_a_neighbouring_cell_counts_less_than_this_one() -> None:
    losses = {2: 3.2, 4: 3.0, 8: 3.2}
    own, foreign, none = (
        along(*lines)[8]
        for lines in ([AxisLosses(losses, "earlier")], [AxisLosses(losses, "other_cell")], [])
    )
    assert own < foreign < none


def test_another_cells_divergence_is_no_evidence() -> None:
    assert along(AxisLosses({4: 3.0, 8: math.inf}, "other_cell")) == along()


def test_values_that_are_no_candidates_are_passed_over() -> None:
    assert along(here(_4=3.0, _7=2.0)) == along() == along(here(_4=3.0, _7=math.inf))


def test_only_differences_matter() -> None:
    low, high = (along(here(_2=0.2 + c, _4=0.0 + c, _8=0.1 + c)) for c in (0.0, 8.0))
    assert low == pytest.approx(high)


def test_losses_are_seen_in_units_of_the_threshold() -> None:
    fine = along(here(_2=3.01, _4=3.0), tau=0.01)
    coarse = along(here(_2=4.0, _4=3.0), tau=1.0)
    assert fine == pytest.approx(coarse, abs=1e-5)


def test_a_complement_axis_is_judged_by_its_steps() -> None:
    axis = complement(0.8, 0.9, 0.95)
    found = along(AxisLosses({0.8: 3.2, 0.9: 3.0}, "here"), axis=axis, at=0.9, start=0.9)
    assert found[0.95] > 0.5


def test_choices_are_judged_by_the_latest_line_that_compares_them() -> None:
    axis = choices("a", "b", "c", "d")
    found = along(
        AxisLosses({"a": 3.0, "b": 3.1, "c": 2.9}, "earlier"),
        AxisLosses({"a": 3.0, "b": 2.9}, "earlier"),
        AxisLosses({"b": 3.0, "c": 3.5}, "here"),
        axis=axis,
        at="a",
        start="b",
    )
    assert found["b"] > 0.9
    assert found["c"] > 0.9
    assert found["d"] == 0.2


def test_a_choice_that_diverged_comes_last() -> None:
    found = along(
        AxisLosses({"a": 3.0, "b": math.inf}, "earlier"),
        axis=choices("a", "b", "c"),
        at="a",
        start="a",
    )
    assert found["b"] < found["c"]


@given(
    losses=st.lists(
        st.dictionaries(
            st.sampled_from(AXIS.values), st.floats(allow_nan=False, min_value=-1e308), min_size=2
        ),
        max_size=4,
    ),
    origin=st.sampled_from(["here", "earlier", "other_cell"]),
    growth=st.sampled_from(["geometric", "fixed"]),
    tau=st.sampled_from([0.0, 0.003, 1.0]),
)
def test_chances_are_chances_whatever_was_measured(
    losses: list[dict[Value, float]], origin: Origin, growth: str, tau: float
) -> None:
    axis = AXIS if growth == "geometric" else choices(*AXIS.values)
    found = along(*(AxisLosses(line, origin) for line in losses), axis=axis, tau=tau)
    assert all(0 <= chance <= 1 for chance in found.values())


def test_a_thousand_lines_leave_a_belief() -> None:
    found = along(*[AxisLosses({2: 3.0 + place % 7, 4: 3.0}, "earlier") for place in range(1000)])
    assert all(math.isfinite(chance) for chance in found.values())


def test_lines_are_told_apart_by_what_was_held() -> None:
    told = [
        ({"a": 1, "b": 1}, 3.0),
        ({"a": 2, "b": 1}, 2.0),
        ({"a": 2, "b": 2}, 1.0),
        ({"a": 2, "b": 3}, 1.5),
        ({"a": 3, "b": 2}, math.inf),
    ]
    known = [({"a": 1, "b": 2}, 9.0), ({"a": 2, "b": 2}, 8.0), ({"a": 1, "b": 5}, 7.0)]
    assert lines_along("a", {"a": 2, "b": 2}, told, known) == [
        AxisLosses({1: 9.0, 2: 8.0}, "other_cell"),
        AxisLosses({1: 3.0, 2: 2.0}, "earlier"),
        AxisLosses({2: 1.0, 3: math.inf}, "here"),
    ]
