from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from optbench.analysis.notices import (
    AllDiverged,
    CurveIncomplete,
    NoiseUnequal,
    NoNoise,
    RunsAbsent,
    Stage,
    TimedElsewhere,
    Unconfirmed,
)
from optbench.analysis.outcomes import RowVerdict
from optbench.analysis.summary import UNEQUAL_NOISE_P, StudySummary, summarise
from optbench.statistics.noise import paired_difference, pooled_noise
from optbench.statistics.speedup import BaselineLosses, OptimizerLoss, speedup
from tests.statistics.synthetic import UNIT_TOKENS, SimulatedStudy, Truth, finished_study


@pytest.fixture(scope="module")
def study() -> SimulatedStudy:
    return finished_study()


@pytest.fixture(scope="module")
def summary(study: SimulatedStudy) -> StudySummary:
    return summarise(study.store)


def confirmation_losses(study: SimulatedStudy, optimizer: str, ratio: float = 1.0) -> list[float]:
    """Straight from the records, by seed and budget, without the journal."""
    return [
        record.test_loss
        for record in study.store.records.values()
        if record.config["optimizer"]["name"] == optimizer
        and record.config["seed"] >= 1000
        and record.config["num_tokens"] == ratio * UNIT_TOKENS
        and record.test_loss is not None
    ]


def test_rows_stand_in_order_of_speed(summary: StudySummary) -> None:
    values = [row.tokens.value if row.tokens else 1.0 for row in summary.rows]
    assert values == sorted(values, reverse=True)
    assert [summary.rows[0].optimizer, summary.rows[-1].optimizer] == ["muon", "lion"]


def test_verdicts_follow_the_truth_of_the_simulation(summary: StudySummary) -> None:
    assert {row.optimizer: row.verdict for row in summary.rows} == {
        "adamw": RowVerdict.BASELINE,
        "muon": RowVerdict.FASTER,
        "lion": RowVerdict.SLOWER,
        "nadamw": RowVerdict.INCONCLUSIVE,  # 3 % is below what six seeds can see
    }


def test_intervals_contain_the_truth_of_the_simulation(summary: StudySummary) -> None:
    for name, efficiency in Truth().efficiency.items():
        if name != "adamw":
            found = summary.row(name).tokens
            assert found is not None
            assert found.low is not None
            assert found.high is not None
            assert found.low <= efficiency <= found.high


def test_numbers_are_those_of_the_records(study: SimulatedStudy, summary: StudySummary) -> None:
    curve = {r: confirmation_losses(study, "adamw", r) for r in (0.5, 1.0, 1.5, 2.0)}
    muon = confirmation_losses(study, "muon")
    untuned = [
        record.test_loss
        for record in study.store.records.values()
        if record.run_id in study.store.journal[3]["run_ids"] and record.test_loss is not None
    ]
    others = [confirmation_losses(study, name) for name in ("nadamw", "lion", "muon")]
    noise = pooled_noise([*curve.values(), *others, untuned])
    assert noise is not None
    assert summary.noise is not None
    assert summary.noise.dof == 4 * 5 + 3 * 5 + 3
    assert summary.noise.sigma == pytest.approx(noise.sigma)
    row = summary.row("muon")
    assert row.test is not None
    assert row.difference is not None
    assert row.test.value == pytest.approx(np.mean(muon))
    # the seeds are the same, so the difference is taken seed by seed
    expected = paired_difference([a - b for a, b in zip(muon, curve[1.0], strict=True)])
    assert row.difference.value == pytest.approx(expected.value)
    assert row.difference.p_value == pytest.approx(expected.p_value)
    baseline = BaselineLosses(
        tokens=tuple(r * UNIT_TOKENS for r in curve),
        means=tuple(float(np.mean(losses)) for losses in curve.values()),
        counts=(6, 6, 6, 6),
    )
    loss = OptimizerLoss(tokens=UNIT_TOKENS, mean=float(np.mean(muon)), count=6)
    assert row.tokens is not None
    assert row.tokens.value == pytest.approx(
        speedup(baseline, loss, None, estimator="interpolate").value
    )
    estimators = [estimate.estimator for estimate in row.estimates]
    assert estimators == ["interpolate", "paper", "joint"]


def test_seconds_account_for_slower_steps(summary: StudySummary) -> None:
    row = summary.row("muon")
    assert row.tokens is not None
    assert row.seconds is not None
    assert row.seconds.value / row.tokens.value == pytest.approx(0.012 / 0.0141, rel=0.03)
    assert row.s_per_token == pytest.approx(0.0141 / (16 * 128), rel=0.03)


def test_adam_state_is_eight_bytes_per_parameter(summary: StudySummary) -> None:
    assert summary.row("adamw").state_bytes_per_param == 8


def test_every_number_leads_to_stored_runs(study: SimulatedStudy, summary: StudySummary) -> None:
    for row in summary.rows:
        assert row.confirmed is not None
        assert row.tuning is not None
        ids = [seed.run_id for seed in row.confirmed.seeds]
        ids += [point.run_id for line in row.tuning.lines for point in line.points]
        assert len(ids) > 6
        assert set(ids) <= study.store.records.keys()
    assert {run for g in summary.noise_groups for run in g.run_ids} <= study.store.records.keys()


def test_curves_run_through_the_measured_budgets(summary: StudySummary) -> None:
    curve = summary.curve
    assert [point.mean.count for point in curve.points] == [6, 6, 6, 6]
    ends = (curve.sample_tokens[0], curve.sample_tokens[-1])
    assert ends == (0.5 * UNIT_TOKENS, 2.0 * UNIT_TOKENS)
    assert curve.interpolated[0] == pytest.approx(curve.points[0].mean.value)
    assert curve.fit is not None
    assert curve.fitted[0] == pytest.approx(curve.fit.predict(ends[0]))


def test_simulated_seeds_have_nothing_in_common(summary: StudySummary) -> None:
    assert summary.seed_correlation is not None
    assert abs(summary.seed_correlation) < 0.3


def test_training_curves_are_counted_in_tokens(summary: StudySummary) -> None:
    confirmed = summary.row("muon").confirmed
    assert confirmed is not None
    assert [tokens for tokens, _ in confirmed.seeds[0].val_curve] == [
        UNIT_TOKENS * k // 4 for k in (1, 2, 3, 4)
    ]


def test_budget_adds_up_the_records(study: SimulatedStudy, summary: StudySummary) -> None:
    records = study.store.records.values()
    budget = summary.budget
    assert budget.spent.runs == len(records)
    assert budget.spent.tokens == sum(r.num_tokens for r in records)
    assert budget.spent.core_s == pytest.approx(sum(r.wall_s for r in records))
    assert budget.spent.flops == pytest.approx(sum(r.run_config.train_flops for r in records))
    assert budget.ideal_wall_s == pytest.approx(budget.spent.core_s / 2)
    assert (budget.wall_s, budget.sessions, budget.open_sessions) == (320.0, 1, 0)
    assert sum(row.spent.runs for row in summary.rows) == budget.spent.runs


def test_diverged_runs_are_listed_with_their_reason(summary: StudySummary) -> None:
    assert {(run.optimizer, run.status) for run in summary.failed_or_diverged} == {
        ("lion", "diverged")
    }
    assert summary.failed_or_diverged[0].reason == "the loss was not finite at step 80"


def test_a_finished_study_misses_nothing(summary: StudySummary) -> None:
    assert summary.missing == ()


def test_same_store_gives_the_same_summary(study: SimulatedStudy, summary: StudySummary) -> None:
    assert summarise(study.store) == summary


def test_beyond_the_budgets_the_headline_is_the_fit_and_says_so() -> None:
    fast = Truth(efficiency={"adamw": 1.0, "muon": 3.0}, sigma=0.005)
    study = finished_study(fast, optimizers=("adamw", "muon"))
    summary = summarise(study.store)
    row = summary.row("muon")
    assert row.tokens is not None
    assert (row.tokens.estimator, row.tokens.extrapolated) == ("paper", True)
    assert row.verdict is RowVerdict.FASTER
    interpolated = row.estimates[0]
    assert (interpolated.value, interpolated.bound, interpolated.high) == (2.0, ">", np.inf)


def test_with_two_budgets_only_interpolation_speaks() -> None:
    study = finished_study(optimizers=("adamw", "muon"), ratios=(1.0, 2.0))
    row = summarise(study.store).row("muon")
    assert [estimate.estimator for estimate in row.estimates] == ["interpolate"]


def test_a_study_that_only_began_says_what_is_missing() -> None:
    study = SimulatedStudy()
    study.begin()
    summary = summarise(study.store)
    assert {row.verdict for row in summary.rows} == {RowVerdict.BASELINE, RowVerdict.NO_RESULT}
    assert Unconfirmed("muon", Stage.TUNING) in summary.missing
    assert NoNoise() in summary.missing
    assert summary.curve.points == ()
    assert summary.budget.open_sessions == 1


def test_an_unfinished_curve_names_the_cells_it_lacks() -> None:
    study = SimulatedStudy()
    study.begin()
    for optimizer in ("adamw", "muon"):
        study.confirm(optimizer, study.tune(optimizer))
    summary = summarise(study.store)
    row = summary.row("muon")
    assert row.test is not None
    assert row.difference is not None
    assert (row.tokens, row.verdict) == (None, RowVerdict.NO_SPEEDUP)
    assert CurveIncomplete(("d32 0.5x", "d32 1.5x", "d32 2x")) in summary.missing


def test_a_single_seed_has_a_value_but_no_interval() -> None:
    study = SimulatedStudy(seeds=1, optimizers=("adamw", "muon"))
    study.begin()
    for ratio in study.ratios:
        study.confirm("adamw", {"lr": 0.016, "beta2": 0.98}, ratio)
    study.confirm("muon", {"lr": 0.032, "beta2": 0.98})
    summary = summarise(study.store)
    row = summary.row("muon")
    assert summary.noise is None
    assert row.tokens is not None
    assert row.tokens.low is None
    assert row.verdict is RowVerdict.NO_INTERVAL


def test_diverged_seeds_are_left_out_of_the_mean_and_named() -> None:
    study = finished_study(optimizers=("adamw", "muon"))
    run_id = study.store.journal[-2]["run_ids"][0]
    record = study.store.records[run_id]
    study.store.records[run_id] = dataclasses.replace(
        record, status="diverged", val_loss=None, test_loss=None
    )
    row = summarise(study.store).row("muon")
    assert row.test is not None
    assert row.test.count == 5
    assert row.confirmed is not None
    assert (row.confirmed.num_diverged, len(row.confirmed.seeds)) == (1, 6)


def test_when_every_seed_diverged_there_is_no_result() -> None:
    study = finished_study(optimizers=("adamw", "muon"))
    for run_id in study.store.journal[-2]["run_ids"]:
        record = study.store.records[run_id]
        study.store.records[run_id] = dataclasses.replace(
            record, status="diverged", val_loss=None, test_loss=None
        )
    summary = summarise(study.store)
    row = summary.row("muon")
    assert row.verdict is RowVerdict.ALL_DIVERGED
    assert AllDiverged("muon", 6) in summary.missing


def test_failed_and_absent_runs_are_named() -> None:
    study = finished_study(optimizers=("adamw", "muon"))
    failed, absent, *_ = study.store.journal[-2]["run_ids"]
    study.store.records[failed] = dataclasses.replace(study.store.records[failed], status="failed")
    del study.store.records[absent]
    summary = summarise(study.store)
    row = summary.row("muon")
    assert row.test is not None
    assert row.test.count == 4
    assert RunsAbsent("muon", (failed, absent)) in summary.missing
    assert [run.status for run in summary.failed_or_diverged] == ["failed"]


def test_times_from_different_devices_are_not_compared() -> None:
    study = finished_study(optimizers=("adamw", "muon"))
    for run_id in study.store.journal[-2]["run_ids"]:
        record = study.store.records[run_id]
        study.store.records[run_id] = dataclasses.replace(
            record, environment={**record.environment, "device": "a GPU"}
        )
    summary = summarise(study.store)
    row = summary.row("muon")
    assert row.tokens is not None
    assert row.seconds is None
    assert TimedElsewhere("muon", ("a GPU",), ("a CPU",)) in summary.missing
    assert [use.runs for use in summary.environments] == [
        len(study.store.records) - 6,
        6,
    ]


def test_unequal_noise_is_reported() -> None:
    study = finished_study(optimizers=("adamw", "muon"))
    for k, run_id in enumerate(study.store.journal[-2]["run_ids"]):
        record = study.store.records[run_id]
        study.store.records[run_id] = dataclasses.replace(record, test_loss=4.0 + 0.3 * (-1) ** k)
    (notice,) = summarise(study.store).missing
    assert isinstance(notice, NoiseUnequal)
    assert notice.p_value < UNEQUAL_NOISE_P
