from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from optbench.analysis.explanation import Explanation, ExplanationError, explain, find_cell
from optbench.ladder import SIZES, Cell
from optbench.store.journal import read_journal
from optbench.store.store import RunRecord
from tests.analysis.explained import (
    around,
    cell,
    line_tuning,
    noise_entry,
    prediction_entry,
    sensitivity_entry,
    study_entry,
    tuning_entry,
)
from tests.builders import record_of
from tests.statistics.synthetic import START, finished_study, run_config


def explained(
    *entries: Mapping[str, Any],
    where: str = "d32 1x",
    optimizer: str = "adamw",
    records: dict[str, RunRecord] | None = None,
) -> Explanation:
    journal = read_journal([study_entry(), *entries])
    return explain(journal, records or {}, where, optimizer)


@pytest.mark.parametrize(
    "text", ["d32 2x", "d32-2x", "d32@2", "D32 2.0x", "d32_2×", " d32  2 ", "d32 2.X"]
)
def test_a_cell_is_found_however_its_label_is_written(text: str) -> None:
    journal = read_journal([study_entry()])
    assert find_cell(journal, text).label == "d32 2x"


def test_a_size_with_separators_in_its_name_is_found() -> None:
    journal = read_journal([study_entry(tuned_cell=cell(0.5, "my-size 2"))])
    assert find_cell(journal, "my-size 2-0.5x").label == "my-size 2 0.5x"


@pytest.mark.parametrize("text", ["d23 1x", "d32 3x", "d32", ""])
def test_an_unknown_cell_is_refused_with_all_labels(text: str) -> None:
    message = rf"Unknown cell '{text}'\..*Available: d32 1x, d32 2x\."
    with pytest.raises(ExplanationError, match=message):
        explained(tuning_entry(), where=text)


def test_an_unknown_optimizer_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ExplanationError,
        match=r"Unknown optimizer in this study 'moun'\. Did you mean 'muon'\? Available: adamw, m",
    ):
        explained(tuning_entry(), optimizer="moun")


def test_where_nothing_was_done_the_cells_are_named_where_something_was() -> None:
    with pytest.raises(
        ExplanationError, match=r"no run of adamw in d32 2x.*It was tuned in d32 1x\..*`optbench ru"
    ):
        explained(tuning_entry(), where="d32 2x")
    with pytest.raises(ExplanationError, match=r"no run of muon.*It was tuned nowhere yet\."):
        explained(tuning_entry(), optimizer="muon")


def test_an_unfinished_search_says_what_its_runs_are_and_how_good_the_best_is() -> None:
    place = Cell("d32", SIZES["d32"], 1.0)
    first, second = (run_config("muon", place, {**START, "lr": lr}, 0) for lr in (0.016, 0.032))
    elsewhere = run_config("muon", Cell("d32", SIZES["d32"], 2.0), START, 0)
    other = run_config("adamw", place, START, 0)
    runs = [
        record_of(first, loss=4.2),
        record_of(second, loss=4.1),
        record_of(elsewhere, loss=3.0),
        record_of(other, loss=3.0),
    ]
    found = explained(optimizer="muon", records={run.run_id: run for run in runs})
    assert found.search is None
    assert found.unfinished is not None
    assert (found.unfinished.runs, found.unfinished.best_loss) == (2, 4.1)
    assert found.unfinished.best_run_id == second.run_id


def test_an_unfinished_search_that_only_diverged_has_no_best() -> None:
    config = run_config("muon", Cell("d32", SIZES["d32"], 1.0), START, 0)
    run = record_of(config, loss=None, status="diverged")
    found = explained(optimizer="muon", records={run.run_id: run})
    assert found.unfinished is not None
    assert (found.unfinished.runs, found.unfinished.best_loss) == (1, None)


def test_the_start_is_where_the_journal_says() -> None:
    recorded = tuning_entry(start_from="winner in d32 0.5x")
    assert explained(recorded).start_from == "winner in d32 0.5x"


def test_older_studies_began_at_the_start_point_and_the_baselines_others_at_its_winner() -> None:
    assert explained(tuning_entry()).start_from == "start point"
    other = explained(line_tuning(2.0, around(0.016)), where="d32 2x")
    assert (other.phase, other.start_from) == ("baseline", "winner in d32 1x")


def test_the_threshold_is_the_tunings_and_its_measurement_that_of_the_nearest_cell() -> None:
    near, far = cell(4.0), cell(1.0, "d96", 294_912)
    entries = (noise_entry(far), noise_entry(near), line_tuning(2.0, around(0.016)))
    threshold = explained(*entries, where="d32 2x").threshold
    assert threshold is not None
    assert threshold.measured is not None
    assert (threshold.tau, threshold.measured.cell.label) == (0.01, "d32 4x")


def test_the_seeds_of_the_measurement_are_those_of_its_runs() -> None:
    study = finished_study()
    found = explain(read_journal(study.store.journal), study.store.records, "d32 1x", "adamw")
    assert found.threshold is not None
    assert found.threshold.seeds == (0, 1, 2, 3)


def test_a_tuning_without_a_measurement_still_has_its_threshold() -> None:
    threshold = explained(tuning_entry()).threshold
    assert threshold is not None
    assert (threshold.tau, threshold.measured) == (0.01, None)


def test_the_sensitivity_is_the_recorded_one_if_there_is_one() -> None:
    assert not explained(tuning_entry()).sensitivity_recorded
    found = explained(tuning_entry(), sensitivity_entry())
    assert found.sensitivity_recorded
    assert [axis.axis for axis in found.sensitivity] == ["lr", "beta2", "eps"]


def test_a_predicted_cell_has_its_prediction_and_no_search() -> None:
    study = study_entry(phases={"tune": [], "retune": [], "predict": [prediction_entry()["cell"]]})
    journal = read_journal([study, noise_entry(), tuning_entry(), prediction_entry()])
    found = explain(journal, {}, "d48 1x", "adamw")
    assert (found.phase, found.search, found.unfinished) == ("III", None, None)
    assert found.prediction is not None
    assert found.prediction.configuration == {"lr": 0.0123, "beta2": 0.98}
    assert found.threshold is not None
    assert found.threshold.tau == 0.01


def test_beside_a_prediction_the_laws_are_those_of_the_phases() -> None:
    study = study_entry(phases={"tune": [], "retune": [], "predict": [prediction_entry()["cell"]]})
    searched = line_tuning(1.0, around(0.016))
    curve = {**line_tuning(2.0, around(0.032)), "phase": "baseline"}
    journal = read_journal([study, searched, curve, prediction_entry()])
    (law,) = explain(journal, {}, "d48 1x", "adamw").laws
    assert law.tuned == {"d32 1x": 0.016}
    (law,) = explain(journal, {}, "d32 1x", "adamw").laws
    assert law.tuned == {"d32 1x": 0.016, "d32 2x": 0.032}


def test_fresh_seeds_have_the_mean_and_interval_of_the_report() -> None:
    study = finished_study()
    found = explain(read_journal(study.store.journal), study.store.records, "d32 1x", "muon")
    fresh = found.confirmation
    assert fresh is not None
    assert fresh.test is not None
    runs = [r for r in study.store.records.values() if r.run_id in _ids(fresh)]
    losses = [run.test_loss for run in runs if run.test_loss is not None]
    assert len(losses) == 6
    assert fresh.test.value == pytest.approx(math.fsum(losses) / 6)
    # The simulated test loss is the validation loss and 0.01.
    assert fresh.val_mean == pytest.approx(fresh.test.value - 0.01)
    assert fresh.test.half_width is not None


def _ids(fresh: Any) -> set[str]:
    return {seed.run_id for seed in fresh.confirmed.seeds}


def test_json_has_everything_and_null_for_an_end_that_is_not_known() -> None:
    study = study_entry(phases={"tune": [], "retune": [], "predict": [prediction_entry()["cell"]]})
    entries = [study, tuning_entry(), prediction_entry(outer_high=None)]
    found = explain(read_journal(entries), {}, "d48 1x", "adamw")
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["prediction"]["axes"][0]["outer_high"] is None
    assert plain["prediction"]["axes"][0]["outer_low"] == 0.006
    assert plain["cell"]["size"] == "d48"


def test_json_of_a_search_keeps_its_path() -> None:
    plain = explained(tuning_entry(), noise_entry()).to_dict()
    (leg,) = plain["search"]["legs"]
    assert [step["after"] for step in leg["steps"]] == [0.032, 0.064]
    assert [tried["value"] for tried in leg["line"]["candidates"]] == [
        0.008, 0.016, 0.032, 0.064, 0.128,
    ]  # fmt: skip
