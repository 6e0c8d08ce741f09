from __future__ import annotations

import dataclasses

import pytest

from optbench.analysis.outcomes import OptimizerRow, RowVerdict
from optbench.analysis.summary import StudySummary
from optbench.report.wording import budget_text, notes, verdict_text
from optbench.statistics.speedup import Speedup


def speed(low: float | None, high: float | None, *, extrapolated: bool = False) -> Speedup:
    return Speedup(
        value=1.3,
        low=low,
        high=high,
        estimator="paper" if extrapolated else "interpolate",
        extrapolated=extrapolated,
        bound="",
    )


def changed(summary: StudySummary, verdict: RowVerdict, **fields: Speedup | None) -> OptimizerRow:
    """The row of Muon with another verdict, and without its speed-ups where none are passed."""
    speedups = {"tokens": None, "seconds": None, **fields}
    return dataclasses.replace(summary.row("muon"), verdict=verdict, **speedups)


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (RowVerdict.BASELINE, "the baseline"),
        (RowVerdict.NO_RESULT, "no result yet"),
        (RowVerdict.ALL_DIVERGED, "no result: every confirmation run diverged"),
        (RowVerdict.NO_SPEEDUP, "no speed-up: adamw has too few budgets at this size"),
    ],
)
def test_without_a_speedup_the_verdict_names_the_reason(
    summary: StudySummary, verdict: RowVerdict, text: str
) -> None:
    assert verdict_text(changed(summary, verdict), "adamw") == text


@pytest.mark.parametrize(
    ("verdict", "tokens", "seconds", "text"),
    [
        (
            RowVerdict.FASTER,
            speed(1.2, 1.4),
            speed(0.9, 1.4),
            "faster than adamw in tokens: interval above 1; in seconds: inconclusive",
        ),
        (
            RowVerdict.SLOWER,
            speed(0.7, 0.9),
            speed(0.6, 0.8),
            "slower than adamw in tokens: interval below 1",
        ),
        (
            RowVerdict.INCONCLUSIVE,
            speed(0.9, 1.4, extrapolated=True),
            None,
            "inconclusive: interval contains 1; extrapolated beyond the baseline's budgets",
        ),
        (
            RowVerdict.NO_INTERVAL,
            speed(None, None),
            speed(1.2, 1.4),
            "inconclusive: no interval without a second seed",
        ),
    ],
)
def test_a_verdict_is_followed_by_what_limits_it(
    summary: StudySummary,
    verdict: RowVerdict,
    tokens: Speedup,
    seconds: Speedup | None,
    text: str,
) -> None:
    row = changed(summary, verdict, tokens=tokens, seconds=seconds)
    assert verdict_text(row, "adamw") == text


def test_diverged_seeds_are_counted_in_the_verdict(summary: StudySummary) -> None:
    row = summary.row("muon")
    assert row.confirmed is not None
    first, *others = row.confirmed.seeds
    seeds = (dataclasses.replace(first, test_loss=None), *others)
    unstable = dataclasses.replace(row, confirmed=dataclasses.replace(row.confirmed, seeds=seeds))
    assert verdict_text(unstable, "adamw").endswith(
        "; unstable: 1 of 6 confirmation runs diverged and are left out"
    )


def test_notes_end_with_what_was_spent(summary: StudySummary) -> None:
    assert notes(summary)[-1] == budget_text(summary.budget)
    assert notes(summary)[-1].startswith("Spent: ")


def test_time_that_was_cut_off_is_not_counted_in_silence(summary: StudySummary) -> None:
    budget = summary.budget
    assert "cut off" not in budget_text(budget)
    cut = dataclasses.replace(budget, sessions=5, open_sessions=2)
    assert "(without 2 of 5 sessions, which were cut off)" in budget_text(cut)
