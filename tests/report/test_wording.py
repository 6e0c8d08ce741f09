from __future__ import annotations

import dataclasses

import pytest

from optbench.analysis.notices import (
    AllDiverged,
    BaselineUnconfirmed,
    CellNotice,
    CurveIncomplete,
    InCell,
    LeftOutOfFit,
    NoiseBorrowed,
    NoiseUnequal,
    NoNoise,
    NothingConfirmed,
    NothingToFit,
    RunsAbsent,
    Stage,
    StudyNotice,
    TimedElsewhere,
    TooFewBudgets,
    Unconfirmed,
)
from optbench.analysis.outcomes import OptimizerRow, RowVerdict
from optbench.analysis.summary import StudySummary
from optbench.report.wording import (
    budget_text,
    joint_reason,
    joint_remarks,
    missing_sentences,
    notes,
    notice_text,
    remark_text,
    verdict_text,
)
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


@pytest.mark.parametrize(
    ("notice", "text"),
    [
        (
            Unconfirmed("muon", Stage.TUNING),
            "muon is still being tuned: no confirmation runs yet.",
        ),
        (Unconfirmed("muon", Stage.TUNED), "muon is tuned: no confirmation runs yet."),
        (Unconfirmed("muon", Stage.PREDICTED), "muon is predicted: no confirmation runs yet."),
        (
            RunsAbsent("muon", ("a1", "b2")),
            "muon: 2 confirmation runs are not in the store (a1, b2).",
        ),
        (AllDiverged("muon", 6), "muon: all 6 confirmation runs diverged."),
        (
            TimedElsewhere("muon", ("a GPU",), ("a CPU", "a TPU")),
            "muon: no speed-up in seconds, because its runs were timed on a GPU and the "
            "baseline's on a CPU, a TPU.",
        ),
        (
            TooFewBudgets("d64", 1, 2),
            "No speed-ups: the baseline has 1 budget at d64; a speed-up needs 2.",
        ),
        (
            TooFewBudgets("d48", 0, 2),
            "No speed-ups: the baseline has no budgets at d48; a speed-up needs 2.",
        ),
        (
            BaselineUnconfirmed("adamw"),
            "No differences of losses: adamw is not confirmed here.",
        ),
        (
            NoiseBorrowed("d48"),
            "No configuration has two seeds at d48: the noise of the other sizes stands in for it.",
        ),
        (
            CurveIncomplete(("d32 1x", "d32 2x")),
            "The baseline's loss curve lacks d32 1x, d32 2x: no confirmation runs there.",
        ),
        (NoNoise(), "No intervals yet: no configuration has two seeds."),
        (
            NoiseUnequal(0.00123),
            "The seed noise is not the same everywhere (Bartlett p = 0.001); intervals with the "
            "pooled σ are too narrow for the noisier optimizers.",
        ),
        (NothingConfirmed(("d64 4x",)), "Nothing is confirmed yet in d64 4x."),
        (
            InCell("d48 1x", AllDiverged("muon", 6)),
            "d48 1x: muon: all 6 confirmation runs diverged.",
        ),
    ],
)
def test_every_notice_is_a_sentence(notice: StudyNotice | CellNotice, text: str) -> None:
    assert notice_text(notice) == text


def test_cells_left_out_of_the_joint_fit_are_its_last_remark(ladder: StudySummary) -> None:
    joint = dataclasses.replace(ladder.joint, remarks=("It is wide.",))
    left_out = LeftOutOfFit(("d64 1x",), "adamw", 2)
    found = dataclasses.replace(ladder, missing=(), joint=joint, joint_notice=left_out)
    remark = "Left out: d64 1x, where adamw has fewer than 2 budgets at the size."
    assert joint_remarks(found) == ["It is wide.", remark]
    assert missing_sentences(found) == [
        "Joint fit of all cells: It is wide.",
        f"Joint fit of all cells: {remark}",
    ]
    one = dataclasses.replace(left_out, needed=1)
    assert joint_remarks(dataclasses.replace(found, joint_notice=one))[-1] == (
        "Left out: d64 1x, where adamw has no budget at the size."
    )


def test_the_reason_for_no_joint_fit_is_a_notice_once_there_is_something_to_compare(
    ladder: StudySummary,
) -> None:
    failed = dataclasses.replace(ladder.joint, reason="Too few.")
    found = dataclasses.replace(ladder, missing=(), joint=failed, joint_notice=None)
    assert missing_sentences(found) == ["Joint fit of all cells: Too few."]
    nothing = dataclasses.replace(found, joint_notice=NothingToFit("adamw"))
    assert missing_sentences(nothing) == []
    assert joint_reason(nothing) == "No optimizer besides adamw is confirmed yet."


def test_remarks_of_recommendations_name_what_the_fit_lacks() -> None:
    assert remark_text("One seed.") == "One seed."
    assert remark_text(NothingToFit("adamw")) == (
        "No speed-ups: No optimizer besides adamw is confirmed yet."
    )
    assert remark_text(LeftOutOfFit(("d64 1x",), "adamw", 2)).startswith("Left out: d64 1x, ")
