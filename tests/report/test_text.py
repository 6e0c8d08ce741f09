from __future__ import annotations

import math
from pathlib import Path

import pytest

from optbench.analysis.summary import StudySummary, summarise
from optbench.report.text import (
    best_text,
    difference_text,
    markdown_table,
    mean_text,
    reproduction_commands,
    result_table,
    speedup_text,
    trend_interval,
    tuning_text,
)
from optbench.report.wording import title_text
from optbench.statistics.efficiency import SizeTrend
from optbench.statistics.noise import Difference, MeanLoss
from optbench.statistics.speedup import Bound, Estimator, Speedup
from tests.statistics.synthetic import SimulatedStudy


def estimate(
    value: float,
    low: float | None,
    high: float | None,
    *,
    bound: Bound = "",
    estimator: Estimator = "interpolate",
) -> Speedup:
    return Speedup(
        value=value,
        low=low,
        high=high,
        estimator=estimator,
        extrapolated=estimator == "paper",
        bound=bound,
    )


@pytest.mark.parametrize(
    ("speedup", "text"),
    [
        (estimate(1.3, 1.25, 1.41), "1.30× [1.25, 1.41]"),
        (estimate(1.3, None, None), "1.30×"),
        (estimate(2.0, 1.9, math.inf, bound=">"), "> 2.00× [1.90, ∞)"),
        (estimate(0.5, 0.0, 0.5, bound="<"), "< 0.50× (0, 0.50]"),
        (estimate(0.6, 0.1, 4.3e12), "0.60× [0.10, > 1000)"),
        (estimate(2.4, 2.1, 2.9, estimator="paper"), "2.40×† [2.10, 2.90]"),
        (None, "–"),
    ],
)
def test_speedups_say_what_is_known_of_them(speedup: Speedup | None, text: str) -> None:
    assert speedup_text(speedup) == text


def test_means_and_differences_carry_their_errors() -> None:
    assert mean_text(MeanLoss(value=4.0881, count=6, stderr=0.008, half_width=0.0163)) == (
        "4.088 ± 0.016"
    )
    assert mean_text(MeanLoss(value=4.0, count=1, stderr=None, half_width=None)) == "4.000"
    assert mean_text(None) == difference_text(None) == "–"
    assert difference_text(Difference(value=-0.118, half_width=0.023, p_value=1e-9)) == (
        "−0.118 ± 0.023"
    )


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-0.314, 0.052, "[−0.314, +0.052]"),
        (-math.inf, math.inf, "[−∞, ∞]"),
        (None, None, ""),
    ],
)
def test_trends_have_their_signs(low: float | None, high: float | None, text: str) -> None:
    trend = SizeTrend(optimizer="muon", value=-0.1, low=low, high=high)
    assert trend_interval(trend) == text


def test_table_has_a_row_for_each_optimizer_with_the_numbers_of_the_summary(
    summary: StudySummary,
) -> None:
    columns, rows = result_table(summary)
    assert {len(row) for row in rows} == {len(columns)}
    assert [row[0] for row in rows] == [row.optimizer for row in summary.rows]
    muon = dict(zip(columns, rows[0], strict=True))
    row = summary.row("muon")
    assert row.tuning is not None
    assert muon == {
        "optimizer": "muon",
        "speed-up in tokens": speedup_text(row.tokens),
        "speed-up in seconds": speedup_text(row.seconds),
        "test loss": mean_text(row.test),
        "tuning runs": str(row.tuning.entry.runs),
        "best hyperparameters": best_text(row),
    }


def test_the_baseline_is_one_by_definition(summary: StudySummary) -> None:
    rows = {row[0]: row for row in result_table(summary)[1]}
    assert rows["adamw"][1:3] == ["1 (baseline)", "1 (baseline)"]


def test_an_unfinished_study_has_a_table_of_dashes() -> None:
    study = SimulatedStudy()
    study.begin()
    rows = {row[0]: row for row in result_table(summarise(study.store))[1]}
    assert rows["muon"] == ["muon", "–", "–", "–", "–", "–"]
    assert best_text(summarise(study.store).row("muon")) == "–"
    assert tuning_text(summarise(study.store).row("muon")) == "not tuned yet"


def test_markdown_is_the_same_table(summary: StudySummary) -> None:
    columns, rows = result_table(summary)
    title, blank, header, rule, *body = markdown_table(summary).splitlines()
    assert title == f"**{title_text(summary)}**"
    assert blank == ""
    assert header == "| " + " | ".join(columns) + " |"
    assert rule.count("---") == len(columns)
    assert [line.split(" | ")[0] for line in body] == [f"| {row[0]}" for row in rows]


def test_a_bar_in_a_name_does_not_break_the_markdown() -> None:
    study = SimulatedStudy(optimizers=("adamw", "a|b"))
    study.begin()
    assert "| a\\|b |" in markdown_table(summarise(study.store))


def test_winners_say_whether_they_are_certified_and_where_they_lie(summary: StudySummary) -> None:
    assert tuning_text(summary.row("muon")).startswith("certified")
    assert "weight_decay=0.1" in best_text(summary.row("muon"))


def test_commands_name_the_folder_and_not_the_machine() -> None:
    for command in reproduction_commands(Path("/home/someone/runs/nano"), smoke=True):
        assert "nano" in command
        assert "someone" not in command
