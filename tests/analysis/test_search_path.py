from __future__ import annotations

from typing import Any

import pytest

from optbench.analysis.search_path import Search, read_search
from optbench.store.journal import read_journal
from optbench.store.store import RunRecord
from tests.analysis.explained import FIXED, START, TAU, evaluation, move, study_entry, tuning_entry
from tests.builders import record_of


def search(records: dict[str, RunRecord] | None = None, **changes: Any) -> Search:
    journal = read_journal([study_entry(), tuning_entry(**changes)])
    (entry,) = journal.tunings.values()
    return read_search(entry, ("lr", "beta2"), records or {})


def test_moves_along_one_axis_are_one_leg_with_their_gains_in_tau() -> None:
    (leg,) = search().legs
    first, second = leg.steps
    assert (first.before, first.after, second.before, second.after) == (0.016, 0.032, 0.032, 0.064)
    assert first.gain == pytest.approx(0.03)
    assert first.gain_in_tau == pytest.approx(3.0)
    assert second.gain_in_tau == pytest.approx(1.5)


def test_a_leg_lists_all_that_was_tried_against_where_it_began() -> None:
    (leg,) = search().legs
    assert leg.line.fixed == {"beta2": 0.98}
    assert [(t.value, t.standing) for t in leg.line.candidates] == [
        (0.008, "worse"),
        (0.016, "reference"),
        (0.032, "better"),
        (0.064, "better"),
        (0.128, "diverged"),
    ]
    assert leg.line.candidates[0].difference == pytest.approx(0.05)
    assert leg.line.candidates[0].in_tau == pytest.approx(5.0)
    assert leg.line.candidates[4].difference is None


def test_each_leg_holds_what_earlier_legs_arrived_at() -> None:
    moves = [move("lr", 0.016, 0.032, 4.0, 3.97), move("beta2", 0.98, 0.95, 3.97, 3.9)]
    found = search(
        moves=moves,
        incumbent={"lr": 0.032, "beta2": 0.95, **FIXED},
        evaluations=[
            evaluation({"lr": 0.016, "beta2": 0.98}, 4.0),
            evaluation({"lr": 0.032, "beta2": 0.98}, 3.97),
            evaluation({"lr": 0.016, "beta2": 0.95}, 4.2),
            evaluation({"lr": 0.032, "beta2": 0.95}, 3.9),
        ],
    )
    first, second = found.legs
    assert (first.line.axis, first.line.fixed) == ("lr", {"beta2": 0.98})
    assert (second.line.axis, second.line.fixed) == ("beta2", {"lr": 0.032})
    assert [t.loss for t in second.line.candidates] == [3.9, 3.97]


def test_going_back_to_an_axis_is_another_leg() -> None:
    moves = [
        move("lr", 0.016, 0.032, 4.0, 3.97),
        move("beta2", 0.98, 0.95, 3.97, 3.9),
        move("lr", 0.032, 0.064, 3.9, 3.8),
    ]
    assert [leg.line.axis for leg in search(moves=moves).legs] == ["lr", "beta2", "lr"]


def test_the_certificate_has_a_line_for_each_axis_through_the_winner() -> None:
    lr, beta2 = search().certificate
    assert [(t.value, t.standing) for t in lr.candidates] == [
        (0.008, "worse"),
        (0.016, "worse"),
        (0.032, "worse"),
        (0.064, "reference"),
        (0.128, "diverged"),
    ]
    assert [(t.value, t.standing) for t in beta2.candidates] == [
        (0.95, "tie"),
        (0.98, "reference"),
    ]
    assert beta2.candidates[0].in_tau == pytest.approx(0.5)
    assert beta2.fixed == {"lr": 0.064}


def test_a_refused_candidate_is_on_the_line_that_it_belongs_to() -> None:
    lr, beta2 = search().certificate
    assert lr.refused == ()
    assert [(r.configuration["beta2"], r.reason) for r in beta2.refused] == [
        (0.99, "β2 is too large.")
    ]


def test_what_the_start_says_beyond_the_searched_axes_was_held() -> None:
    found = search()
    assert found.start == START
    assert found.fixed == FIXED
    assert (found.start_loss, found.loss, found.tau) == (4.0, 3.955, TAU)


def test_a_difference_of_tau_is_a_tie_and_more_is_not() -> None:
    found = search(
        tie_threshold=0.25,
        moves=[],
        incumbent={**START},
        evaluations=[
            evaluation({"lr": 0.016, "beta2": 0.98}, 4.0),
            evaluation({"lr": 0.008, "beta2": 0.98}, 4.25),
            evaluation({"lr": 0.004, "beta2": 0.98}, 3.75),
            evaluation({"lr": 0.032, "beta2": 0.98}, 4.2500001),
        ],
    )
    lr = found.certificate[0]
    standings = [t.standing for t in lr.candidates]
    assert standings == ["tie", "tie", "reference", "worse"]


def test_near_best_configurations_are_sorted_and_know_the_winner() -> None:
    members = search().near_best
    assert [(m.configuration["beta2"], m.is_incumbent) for m in members] == [
        (0.98, True),
        (0.95, False),
    ]
    assert [m.excess for m in members] == pytest.approx([0.0, 0.005])
    assert members[0].run_id == "run-0.064-0.98"


def test_from_a_diverged_start_there_is_no_gain() -> None:
    found = search(
        moves=[move("lr", 0.016, 0.008, None, 4.0)],
        incumbent={"lr": 0.008, "beta2": 0.98},
        evaluations=[
            evaluation({"lr": 0.016, "beta2": 0.98}, None),
            evaluation({"lr": 0.008, "beta2": 0.98}, 4.0),
        ],
    )
    (leg,) = found.legs
    assert (leg.steps[0].gain, leg.steps[0].gain_in_tau) == (None, None)
    assert [(t.value, t.standing) for t in leg.line.candidates] == [
        (0.008, "better"),
        (0.016, "reference"),
    ]


def test_a_diverged_run_has_the_last_line_of_its_record_as_reason() -> None:
    record = record_of(loss=None, status="diverged", error="step 80\nthe loss was not finite\n")
    (diverged,) = search({"run-0.128-0.98": record}).diverged
    assert diverged.configuration == {"lr": 0.128, "beta2": 0.98}
    assert diverged.reason == "the loss was not finite"
    assert search().diverged[0].reason == ""


def test_without_any_loss_nothing_is_near_best() -> None:
    found = search(
        certified=False,
        moves=[],
        incumbent=dict(START),
        evaluations=[evaluation(START, None)],
    )
    assert (found.loss, found.near_best) == (None, ())


def test_a_threshold_of_zero_gives_no_multiples() -> None:
    found = search(tie_threshold=0.0)
    assert found.legs[0].steps[0].gain_in_tau is None
    assert found.certificate[0].candidates[0].in_tau is None
