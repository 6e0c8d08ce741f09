from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from optbench.analysis.axis_scaling import (
    current_fits,
    current_sensitivity,
    recorded_sensitivity,
    searched_axes,
    tunings_of,
)
from optbench.space import Axis, choices, complement, geometric
from optbench.store.journal import read_journal
from optbench.store.journal_entries import CellEntry, TuningEntry
from tests.analysis.explained import (
    N,
    around,
    cell,
    line_tuning,
    sensitivity_entry,
    study_entry,
    tuning_entry,
)

AXES: Mapping[str, Axis] = {"lr": geometric(0.016), "beta2": complement(0.98)}
HERE = CellEntry("d32", 4.0, 4 * 655_360, N)


def tunings(*entries: dict[str, Any]) -> tuple[TuningEntry, ...]:
    return tunings_of(read_journal([study_entry(), *entries]), "adamw")


def test_tunings_are_those_of_the_optimizer_by_size_and_budget() -> None:
    found = tunings(
        line_tuning(2.0, around(0.016)),
        line_tuning(1.0, around(0.016), optimizer="muon"),
        line_tuning(1.0, around(0.016), size="d48", params=73_728),
        line_tuning(0.5, around(0.016)),
    )
    assert [tuning.cell.label for tuning in found] == ["d32 0.5x", "d32 2x", "d48 1x"]


def test_an_axis_with_one_value_was_not_searched() -> None:
    (tuning,) = tunings(tuning_entry())
    assert searched_axes(tuning) == ("lr", "beta2")
    (alone,) = tunings(line_tuning(1.0, {0.016: 4.0}))
    assert searched_axes(alone) == ()


def test_one_cell_cannot_tell_whether_an_axis_is_stable() -> None:
    lr, beta2 = current_sensitivity(tunings(tuning_entry()))
    assert (lr.axis, lr.is_stable, lr.near_best) == ("lr", None, {"d32 1x": (0.064,)})
    assert beta2.near_best == {"d32 1x": (0.95, 0.98)}


def test_a_value_that_is_near_best_everywhere_makes_an_axis_stable() -> None:
    (lr,) = current_sensitivity(
        tunings(
            line_tuning(1.0, {0.016: 4.0, 0.032: 4.005, 0.064: 4.1}),
            line_tuning(2.0, {0.016: 4.1, 0.032: 4.0, 0.064: 4.005}),
        )
    )
    assert (lr.is_stable, lr.stable_values, lr.candidates) == (True, (0.032,), (0.032,))


def test_without_such_a_value_it_is_sensitive() -> None:
    (lr,) = current_sensitivity(
        tunings(line_tuning(1.0, around(0.016)), line_tuning(2.0, around(0.032)))
    )
    assert (lr.is_stable, lr.candidates) == (False, (0.016, 0.032))


def test_a_cell_where_everything_diverged_says_nothing() -> None:
    lost = line_tuning(2.0, around(0.016))
    lost["evaluations"] = [{**e, "loss": None} for e in lost["evaluations"]]
    (lr,) = current_sensitivity(tunings(line_tuning(1.0, around(0.016)), lost))
    assert list(lr.near_best) == ["d32 1x"]
    assert current_sensitivity(tunings(lost)) == ()


def test_an_axis_of_which_one_value_was_tried_is_not_judged() -> None:
    capped = line_tuning(2.0, {0.016: 4.0})
    (lr,) = current_sensitivity(tunings(line_tuning(1.0, around(0.016)), capped))
    assert (list(lr.near_best), lr.silent_cells) == (["d32 1x"], ("d32 2x",))
    assert current_sensitivity(tunings(capped)) == ()


def test_what_the_study_recorded_is_taken_as_it_is_except_for_one_cell_alone() -> None:
    journal = read_journal([study_entry(), sensitivity_entry()])
    lr, beta2, eps = recorded_sensitivity(journal, "adamw")
    assert (lr.is_stable, lr.candidates) == (False, (0.032, 0.064))
    assert (beta2.is_stable, beta2.stable_values) == (True, (0.98,))
    assert (eps.is_stable, eps.silent_cells) == (None, ("d32 2x",))
    assert recorded_sensitivity(journal, "muon") == ()


def test_an_exact_power_law_is_found_and_predicts_each_cell_from_the_others() -> None:
    entries = [line_tuning(r, around(0.032 * r**-0.5)) for r in (0.25, 1.0, 4.0, 16.0)]
    (law,) = current_fits(tunings(*entries), HERE, AXES)
    assert (law.axis, law.form, law.complement) == ("lr", "power", False)
    assert law.prediction.value == pytest.approx(0.016)
    assert law.tuned == pytest.approx(
        {"d32 0.25x": 0.064, "d32 1x": 0.032, "d32 4x": 0.016, "d32 16x": 0.008}
    )
    assert [fixed.cell for fixed in law.held_out] == list(law.tuned)
    assert [fixed.error for fixed in law.held_out] == pytest.approx([0.0] * 4, abs=1e-9)


def test_a_complement_is_fitted_as_one_minus_its_value() -> None:
    values = {1.0: 0.96, 2.0: 0.98, 4.0: 0.99}
    entries = [line_tuning(r, {v: 4.0, 2 * v - 1: 4.1}, axis="beta2") for r, v in values.items()]
    (law,) = current_fits(tunings(*entries), CellEntry("d32", 8.0, 1, N), AXES)
    assert (law.form, law.complement) == ("power", True)
    assert law.prediction.value == pytest.approx(0.995)


def test_the_interval_is_as_wide_as_the_step_between_the_values_that_were_tried() -> None:
    """Cells that all agree are known to half a step of the grid, not exactly."""
    wide = [line_tuning(r, around(0.016, (0.25, 4.0))) for r in (1.0, 2.0, 4.0)]
    narrow = [line_tuning(r, around(0.016, (0.5, 2.0))) for r in (1.0, 2.0, 4.0)]
    (first,), (second,) = (current_fits(tunings(*e), HERE, AXES) for e in (wide, narrow))
    assert first.form == second.form == "constant"
    assert first.prediction.low is not None
    assert second.prediction.low is not None
    assert (0.016 / first.prediction.low) == pytest.approx((0.016 / second.prediction.low) ** 2)


def test_two_cells_carry_a_constant_and_say_what_more_would_need() -> None:
    found = tunings(line_tuning(1.0, around(0.016)), line_tuning(4.0, around(0.032)))
    (law,) = current_fits(found, HERE, AXES)
    assert (law.form, law.reason) == ("constant", "2 cells; the power law needs 3")
    assert [fixed.predicted for fixed in law.held_out] == pytest.approx([0.032, 0.016])


def test_a_held_out_prediction_is_priced_by_the_losses_tried_in_its_cell() -> None:
    """Left out, each cell gets the other's value: a step of the grid off, on the priced side."""
    line = {0.008: 4.3, 0.016: 4.0, 0.032: 4.1}
    found = tunings(line_tuning(1.0, line), line_tuning(4.0, {v * 2: x for v, x in line.items()}))
    (law,) = current_fits(found, HERE, AXES)
    assert [fixed.predicted for fixed in law.held_out] == pytest.approx([0.032, 0.016])
    assert [fixed.regret for fixed in law.held_out] == pytest.approx([0.1, 0.3])


def test_between_two_losses_the_price_is_linear_in_the_logarithm() -> None:
    line = {0.01: 4.2, 0.02: 4.0, 0.08: 4.1}
    others = [line_tuning(r, {0.04: 4.0, 0.02: 4.2, 0.16: 4.2}) for r in (2.0, 4.0)]
    (law,) = current_fits(tunings(line_tuning(1.0, line), *others), HERE, AXES)
    first = law.held_out[0]
    assert first.predicted == pytest.approx(0.04)
    assert first.regret == pytest.approx(0.05)


def test_of_a_complement_the_logarithm_is_that_of_one_minus_it() -> None:
    entries = [line_tuning(1.0, {0.9: 4.0, 0.975: 4.2}, axis="beta2")]
    entries += [line_tuning(r, {0.95: 4.0, 0.9: 4.2}, axis="beta2") for r in (2.0, 4.0)]
    (law,) = current_fits(tunings(*entries), HERE, AXES)
    assert law.held_out[0].predicted == pytest.approx(0.95)
    assert law.held_out[0].regret == pytest.approx(0.1)


def test_there_is_no_price_outside_of_what_was_tried_or_beside_a_diverged_run() -> None:
    found = tunings(line_tuning(1.0, around(0.016)), line_tuning(4.0, around(0.256)))
    (law,) = current_fits(found, HERE, AXES)
    assert [fixed.regret for fixed in law.held_out] == [None, None]
    line = {0.01: 4.2, 0.02: 4.0, 0.08: 4.1}
    entry = line_tuning(1.0, line)
    entry["evaluations"][-1]["loss"] = None
    others = [line_tuning(r, {0.04: 4.0, 0.02: 4.2, 0.16: 4.2}) for r in (2.0, 4.0)]
    (law,) = current_fits(tunings(entry, *others), HERE, AXES)
    assert law.held_out[0].regret is None


def test_one_cell_is_held_out_of_nothing() -> None:
    (law,) = current_fits(tunings(line_tuning(1.0, around(0.016))), HERE, AXES)
    assert law.held_out == ()
    assert law.reason == "1 cell; the power law needs 3"


def test_words_have_the_most_common_value_and_no_error() -> None:
    def words(ratio: float, best: str) -> dict[str, Any]:
        entry = line_tuning(ratio, around(0.016))
        other = {"cosine": "linear", "linear": "cosine"}[best]
        entry["start"] = entry["incumbent"] = {"shape": best}
        entry["evaluations"] = [
            {"configuration": {"shape": value}, "run_id": value, "loss": loss}
            for value, loss in ((best, 4.0), (other, 4.1))
        ]
        return entry

    entries = (words(1.0, "cosine"), words(2.0, "linear"), words(4.0, "linear"))
    (law,) = current_fits(tunings(*entries), HERE, {"shape": choices("cosine", "linear")})
    assert (law.form, law.prediction.value) == ("most common", "linear")
    assert [fixed.error for fixed in law.held_out] == [None] * 3


def test_two_sizes_with_the_same_parameters_are_one_place() -> None:
    twin = line_tuning(1.0, around(0.032), size="d32b")
    (law,) = current_fits(tunings(line_tuning(1.0, around(0.016)), twin), HERE, AXES)
    assert law.tuned == {"d32 1x": 0.016}
    assert cell()["num_nonembedding_params"] == twin["cell"]["num_nonembedding_params"]
