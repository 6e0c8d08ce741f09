from __future__ import annotations

import numpy as np
import pytest

from optbench.analysis.notices import (
    BaselineUnconfirmed,
    CurveIncomplete,
    InCell,
    LeftOutOfFit,
    NoiseBorrowed,
    NothingConfirmed,
    NothingToFit,
    TooFewBudgets,
)
from optbench.analysis.outcomes import RowVerdict
from optbench.analysis.summary import StudySummary, summarise
from optbench.statistics.noise import pooled_noise
from optbench.store.journal_entries import PredictionEntry, TimingEntry, cell_entry
from tests.statistics.synthetic import START, UNIT_PARAMS, UNIT_TOKENS, SimulatedStudy, Truth

TUNE = [("d32", 1.0), ("d32", 2.0), ("d48", 1.0), ("d64", 1.0)]
PHASES = {"tune": TUNE, "retune": [("d48", 2.0)], "predict": [("d32", 4.0), ("d64", 4.0)]}
TRUTH = Truth(efficiency={"adamw": 1.0, "muon": 1.4}, trend=-0.2, sigma=0.012)


def phased_study() -> SimulatedStudy:
    """Two optimizers; the baseline has one budget at d64, and nobody was trained at d64 4x."""
    study = SimulatedStudy(
        truth=TRUTH, optimizers=("adamw", "muon"), ratios=(0.5, 1.0), phases=PHASES
    )
    study.begin()
    study.measure_noise()
    for optimizer in study.optimizers:
        for size, ratio in TUNE:
            study.confirm(optimizer, study.tune(optimizer, ratio, size), ratio, size)
        study.confirm_best(optimizer, 2.0, "d48")
        cell, lr = study.cell(4.0), TRUTH.best_lr[optimizer]
        study.note(PredictionEntry(cell_entry(cell), optimizer, {**START, "lr": lr}, axes=()))
        study.confirm_best(optimizer, 4.0)
    study.confirm_best("adamw", 0.5)
    return study


@pytest.fixture(scope="module")
def study() -> SimulatedStudy:
    return phased_study()


@pytest.fixture(scope="module")
def summary(study: SimulatedStudy) -> StudySummary:
    return summarise(study.store)


def test_the_headline_comes_first_then_cells_by_size_and_ratio(summary: StudySummary) -> None:
    assert [(cell.cell.label, cell.phase) for cell in summary.cells] == [
        ("d32 1x", "I"),
        ("d32 0.5x", "baseline"),
        ("d32 2x", "I"),
        ("d32 4x", "III"),
        ("d48 1x", "I"),
        ("d48 2x", "II"),
        ("d64 1x", "I"),
    ]


def test_every_cell_is_judged_by_the_curve_of_its_own_size(summary: StudySummary) -> None:
    tokens = {c.cell.label: c.reference.losses.tokens for c in summary.cells}
    d48 = (48 / 32) ** 2 * UNIT_TOKENS
    assert tokens["d32 4x"] == tuple(r * UNIT_TOKENS for r in (0.5, 1.0, 2.0, 4.0))
    assert tokens["d48 1x"] == tokens["d48 2x"] == (d48, 2 * d48)
    assert len(tokens["d64 1x"]) == 1
    assert [len(curve.points) for curve in summary.curves.values()] == [4, 2, 1]
    assert summary.curve == summary.curves["d32"]


def test_speedups_in_all_cells_contain_the_truth(
    study: SimulatedStudy, summary: StudySummary
) -> None:
    seen = 0
    for cell in summary.cells:
        row = cell.row("muon")
        if row is not None and row.tokens is not None:
            truth = TRUTH.speedup("muon", study.cell(cell.cell.ratio, cell.cell.size))
            assert row.tokens.low is not None
            assert row.tokens.high is not None
            assert row.tokens.low <= truth <= row.tokens.high, cell.cell.label
            seen += 1
    assert seen == 5


def test_one_budget_at_a_size_gives_losses_but_no_speedup(summary: StudySummary) -> None:
    cell = summary.cells[-1]
    row = cell.row("muon")
    assert row is not None
    assert row.test is not None
    assert row.difference is not None
    assert row.difference.value < 0
    assert (row.tokens, row.verdict) == (None, RowVerdict.NO_SPEEDUP)
    notice = TooFewBudgets("d64", 1, 2)
    assert cell.missing == (notice,)
    assert InCell("d64 1x", notice) in summary.missing


def test_cells_without_any_result_are_named(summary: StudySummary) -> None:
    assert NothingConfirmed(("d64 4x",)) in summary.missing
    assert not any(isinstance(notice, CurveIncomplete) for notice in summary.missing)


def test_a_predicted_row_says_how_it_came_about(summary: StudySummary) -> None:
    row = summary.cells[3].row("muon")
    assert row is not None
    assert row.tuning is None
    assert row.prediction is not None
    assert row.prediction.configuration["lr"] == TRUTH.best_lr["muon"]
    assert row.tokens is not None


def test_the_headline_rows_stand_in_its_cell_too_but_for_the_spending(
    study: SimulatedStudy, summary: StudySummary
) -> None:
    headline = summary.cells[0]
    assert [row.optimizer for row in headline.rows] == [row.optimizer for row in summary.rows]
    assert [row.tokens for row in headline.rows] == [row.tokens for row in summary.rows]
    for optimizer in study.optimizers:
        in_cells = [row for c in summary.cells if (row := c.row(optimizer)) is not None]
        assert sum(row.spent.runs for row in in_cells) == summary.row(optimizer).spent.runs
        assert all(row.spent.runs >= 6 for row in in_cells)


def test_noise_is_that_of_the_size_and_of_the_cell(summary: StudySummary) -> None:
    def noise_of(*labels: str) -> float:
        found = [g.losses for g in summary.noise_groups if g.cell.label in labels]
        noise = pooled_noise(found)
        assert noise is not None
        return noise.sigma

    d48 = next(cell for cell in summary.cells if cell.cell.label == "d48 2x")
    assert d48.reference.noise is not None
    assert d48.reference.noise.sigma == noise_of("d48 1x", "d48 2x")
    assert d48.noise is not None
    assert d48.noise.sigma == noise_of("d48 2x")
    assert summary.noise is not None
    assert summary.noise.sigma == noise_of("d32 0.5x", "d32 1x", "d32 2x", "d32 4x")


def test_a_size_without_two_seeds_borrows_the_noise_and_says_so() -> None:
    study = SimulatedStudy(
        truth=TRUTH,
        optimizers=("adamw", "muon"),
        ratios=(1.0,),
        seeds=1,
        phases={"tune": [("d32", 1.0), ("d48", 1.0)], "retune": [], "predict": []},
    )
    study.begin()
    study.measure_noise()
    for optimizer in study.optimizers:
        for size in ("d32", "d48"):
            study.confirm_best(optimizer, 1.0, size)
    cell = summarise(study.store).cells[1]
    assert cell.noise is None
    assert cell.reference.noise is not None
    assert cell.reference.noise.dof == 3
    assert NoiseBorrowed("d48") in cell.missing


def test_without_the_baseline_there_are_no_differences() -> None:
    study = SimulatedStudy(truth=TRUTH, optimizers=("adamw", "muon"), phases=PHASES)
    study.begin()
    study.confirm_best("adamw")
    study.confirm_best("muon", 1.0, "d48")
    cell = summarise(study.store).cells[1]
    row = cell.row("muon")
    assert row is not None
    assert (row.difference, row.seconds) == (None, None)
    assert cell.missing == (TooFewBudgets("d48", 0, 2), BaselineUnconfirmed("adamw"))


def test_the_joint_fit_has_a_speedup_for_each_size_and_their_trend(summary: StudySummary) -> None:
    joint = summary.joint
    assert joint.reason == ""
    assert [trend.optimizer for trend in joint.trends] == ["muon"]
    trend = joint.trends[0]
    assert trend.low is not None
    assert trend.high is not None
    assert trend.low <= TRUTH.trend <= trend.high
    for size in (1.0, (48 / 32) ** 2):
        found = joint.efficiency("muon", size * UNIT_PARAMS)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low <= 1.4 * size**TRUTH.trend <= found.high
    assert summary.joint_notice == LeftOutOfFit(("d64 1x",), "adamw", 2)


def test_rows_have_the_joint_estimate_of_their_size(summary: StudySummary) -> None:
    for cell in summary.cells:
        row = cell.row("muon")
        if row is None:
            continue
        found = summary.joint.efficiency("muon", cell.cell.num_nonembedding_params)
        joint = [e for e in row.estimates if e.estimator == "joint"]
        assert len(joint) == (cell.cell.size != "d64")
        assert [e.value for e in joint] == ([found.value] if found else [])
        assert row.tokens is None or row.tokens.estimator != "joint"


def test_with_one_size_the_joint_fit_has_one_speedup_for_all_cells() -> None:
    study = SimulatedStudy(truth=TRUTH, optimizers=("adamw", "muon"), seeds=4)
    study.begin()
    for ratio in study.ratios:
        study.confirm_best("adamw", ratio)
    study.confirm_best("muon")
    summary = summarise(study.store)
    (found,) = summary.joint.efficiencies
    assert (found.params, summary.joint.trends) == (None, ())
    assert np.isfinite(found.value)


def test_without_a_joint_fit_there_is_a_reason() -> None:
    study = SimulatedStudy(truth=TRUTH, optimizers=("adamw", "muon"), ratios=(1.0, 2.0))
    study.begin()
    study.confirm_best("adamw")
    assert summarise(study.store).joint_notice == NothingToFit("adamw")
    study.confirm_best("muon")
    summary = summarise(study.store)
    assert summary.joint_notice is None
    assert summary.joint.reason == "The fit needs at least 3 budgets of adamw, has 1."


def test_side_by_side_times_count_in_their_own_cell_only() -> None:
    study = SimulatedStudy(truth=TRUTH, optimizers=("adamw", "muon"), ratios=(1.0, 2.0), seeds=3)
    study.begin()
    for optimizer in study.optimizers:
        for ratio in study.ratios:
            study.confirm_best(optimizer, ratio)
    times = {"adamw": [1.0] * 4, "muon": [4.0] * 4}
    study.note(TimingEntry(cell_entry(study.cell()), "a CPU", times))
    headline, other = summarise(study.store).cells
    ratios = [
        row.seconds.value / row.tokens.value
        for cell in (headline, other)
        if (row := cell.row("muon")) and row.seconds and row.tokens
    ]
    assert ratios == [pytest.approx(0.25), pytest.approx(0.012 / 0.0141, rel=0.05)]
