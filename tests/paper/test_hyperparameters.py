"""Scale-sensitive hyperparameters and extrapolations against the published ones."""

from __future__ import annotations

import pytest

from optbench.paper.hyperparameters import judge_fit
from optbench.published import read_published
from optbench.statistics.scaling_laws import TunedValue
from tests.paper.published_analysis import paper_results


def test_sensitive_hyperparameters_are_the_published_ones_but_for_one_tie() -> None:
    found = paper_results().sensitive
    published = {
        (optimizer, axis): set(values)
        for optimizer, axes in read_published().sensitive.items()
        for axis, values in axes.items()
    }
    assert {(a.optimizer, a.axis): set(a.published) for a in found if a.published} == published
    by_agreement = {
        word: [(a.optimizer, a.axis) for a in found if a.agreement == word]
        for word in ("same", "tie", "not published", "differs")
    }
    assert len(by_agreement["same"]) == 17
    assert by_agreement["tie"] == [("adamw", "weight_decay")]
    assert {name for name, _ in by_agreement["not published"]} == {"sophia"}
    assert by_agreement["differs"] == []
    for axis in found:
        if axis.agreement == "same":
            assert (set(axis.found), axis.explanation) == (set(axis.published), "")


def test_the_tie_is_explained() -> None:
    (tie,) = [axis for axis in paper_results().sensitive if axis.agreement == "tie"]
    assert (tie.found, tie.published) == ((0.1, 0.2), (0.1, 0.3))
    assert tie.explanation == (
        "Both pairs serve all cells: the statistically tied values of 520m 1x are 0.2, 0.3, of "
        "which 0.2 is the best."
    )


def test_extrapolations_that_are_determined_are_met_to_one_percent() -> None:
    found = paper_results().extrapolations
    counts = {word: sum(e.determined == word for e in found) for word in
              ("constant", "determined", "start", "several minima", "no minimum")}  # fmt: skip
    assert counts == {
        "constant": 19, "determined": 18, "start": 3, "several minima": 1, "no minimum": 1,
    }  # fmt: skip
    for one in found:
        if one.determined in ("constant", "determined"):
            for value in one.values:
                assert value.reproduced == pytest.approx(value.published, rel=0.01), one


def test_what_is_not_determined_is_named_with_its_reason() -> None:
    hanging = {
        (e.optimizer, e.axis): e.determined
        for e in paper_results().extrapolations
        if e.determined not in ("constant", "determined")
    }
    assert hanging == {
        ("adamw", "eps"): "start",
        ("muon", "eps"): "start",
        ("soap", "eps"): "start",
        ("nadamw", "warmup_steps"): "several minima",
        ("soap", "precondition_frequency"): "no minimum",
    }


def test_a_fit_without_a_minimum_has_no_value() -> None:
    (found,) = [e for e in paper_results().extrapolations if e.determined == "no minimum"]
    assert found.deviation is None
    assert {v.reproduced for v in found.values} == {None}


def test_values_that_follow_the_form_determine_it() -> None:
    cells = [
        TunedValue(num_params=n, ratio=r, value=3e5 * n**-0.5 * r**-0.25 + 8.0)
        for n in (1e8, 3e8, 5e8)
        for r in (1.0, 2.0, 4.0, 8.0)
    ]
    form, determined = judge_fit(cells)
    assert determined == "determined"
    assert form is not None
    assert form.size_exponent == pytest.approx(-0.5, abs=1e-3)


def test_used_values_say_whether_they_were_tuned() -> None:
    by_name = {(e.optimizer, e.axis): e for e in paper_results().extrapolations}
    lr = by_name["adamw", "lr"]
    assert [v.was_tuned for v in lr.values] == [True, False, False, False]
    assert [v.used for v in lr.values] == [0.002] * 4
    assert len(lr.tuned) == 12
    assert lr.values[0].law.low is not None
    assert lr.values[0].law.low < 0.002 < lr.values[0].published
