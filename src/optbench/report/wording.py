"""Results of the analysis in words: the sentences that terminal, pages and JSON have in common."""

from __future__ import annotations

from collections.abc import Mapping

from optbench.analysis.notices import (
    AllDiverged,
    BaselineUnconfirmed,
    CellNotice,
    CurveIncomplete,
    FitNotice,
    InCell,
    LeftOutOfFit,
    NoiseBorrowed,
    NoiseUnequal,
    NoNoise,
    NothingConfirmed,
    NothingToFit,
    RowNotice,
    RunsAbsent,
    Stage,
    StudyNotice,
    TimedElsewhere,
    TooFewBudgets,
    Unconfirmed,
)
from optbench.analysis.outcomes import OptimizerRow, RowVerdict, side_of_one
from optbench.analysis.spending import Spending
from optbench.analysis.summary import StudySummary
from optbench.units import format_count, format_p, format_seconds, format_signed

SHORT_VERDICTS: Mapping[RowVerdict, str] = {
    RowVerdict.BASELINE: "baseline",
    RowVerdict.FASTER: "faster",
    RowVerdict.SLOWER: "slower",
    RowVerdict.INCONCLUSIVE: "inconclusive",
    RowVerdict.NO_INTERVAL: "inconclusive",
    RowVerdict.NO_SPEEDUP: "no result",
    RowVerdict.ALL_DIVERGED: "no result",
    RowVerdict.NO_RESULT: "no result",
}
_VERDICTS: Mapping[RowVerdict, str] = {
    RowVerdict.BASELINE: "the baseline",
    RowVerdict.FASTER: "faster than {baseline} in tokens: interval above 1",
    RowVerdict.SLOWER: "slower than {baseline} in tokens: interval below 1",
    RowVerdict.INCONCLUSIVE: "inconclusive: interval contains 1",
    RowVerdict.NO_INTERVAL: "inconclusive: no interval without a second seed",
    RowVerdict.NO_SPEEDUP: "no speed-up: {baseline} has too few budgets at this size",
    RowVerdict.ALL_DIVERGED: "no result: every confirmation run diverged",
    RowVerdict.NO_RESULT: "no result yet",
}
_STAGES: Mapping[Stage, str] = {
    Stage.TUNING: "is still being tuned",
    Stage.TUNED: "is tuned",
    Stage.PREDICTED: "is predicted",
}


def verdict_text(row: OptimizerRow, baseline: str) -> str:
    """The verdict, and what limits it."""
    sentence = _VERDICTS[row.verdict].format(baseline=baseline)
    if row.tokens is None:
        return sentence
    if row.seconds is not None and row.verdict is not RowVerdict.NO_INTERVAL:
        side = side_of_one(row.seconds)
        sentence += "" if side is row.verdict else f"; in seconds: {SHORT_VERDICTS[side]}"
    if row.tokens.extrapolated:
        sentence += "; extrapolated beyond the baseline's budgets"
    if row.confirmed and row.confirmed.num_diverged:
        sentence += (
            f"; unstable: {row.confirmed.num_diverged} of {len(row.confirmed.seeds)} confirmation "
            f"runs diverged and are left out"
        )
    return sentence


def title_text(summary: StudySummary) -> str:
    """What was compared, on one line."""
    study, cell = summary.study, summary.study.tuned_cell
    return (
        f"{study.title or study.name}: speed-ups over {study.baseline} in cell {cell.label} "
        f"({format_count(cell.num_tokens)} tokens)"
    )


def notes(summary: StudySummary) -> list[str]:
    """What belongs under the table: verdicts, winners, what is missing, planned and spent."""
    verdicts = [
        f"{row.optimizer}: {verdict_text(row, summary.study.baseline)}.{_difference(row)}"
        for row in summary.rows
        if row.test
    ]
    return [*verdicts, *missing_sentences(summary), budget_text(summary.budget)]


def _difference(row: OptimizerRow) -> str:
    """The sentence on the test loss against the baseline, with its interval and p-value."""
    if row.difference is None:
        return ""
    change = format_signed(row.difference.value, 3)
    p = format_p(row.difference.p_value)
    return f" Test loss {change} ± {row.difference.half_width:.3f} against the baseline, {p}."


def budget_text(budget: Spending) -> str:
    """Runs, tokens and time, spent and planned."""
    spent, plan = budget.spent, budget.plan
    text = (
        f"Spent: {spent.runs} runs, {format_count(spent.tokens)} tokens, "
        f"{format_seconds(spent.core_s)} of CPU time"
    )
    if budget.wall_s:
        text += f", {format_seconds(budget.wall_s)} of wall time with {budget.workers} workers"
    if budget.open_sessions:
        text += (
            f" (without {budget.open_sessions} of {budget.sessions} sessions, which were cut off)"
        )
    if plan is None:
        return f"{text}. No plan was recorded."
    return (
        f"{text}. Planned: {plan.runs} runs (at most {plan.runs_worst}), "
        f"{format_count(plan.tokens)} tokens, {format_seconds(plan.seconds)} of wall time with "
        f"{plan.workers} workers."
    )


def missing_sentences(summary: StudySummary) -> list[str]:
    """What is not there yet, and what limits the joint fit once there is something to fit."""
    found = [notice_text(notice) for notice in summary.missing]
    if isinstance(summary.joint_notice, NothingToFit):
        return found
    limits = [reason] if (reason := joint_reason(summary)) else joint_remarks(summary)
    return [*found, *(f"Joint fit of all cells: {sentence}" for sentence in limits)]


def joint_reason(summary: StudySummary) -> str:
    """Why there is no joint fit; nothing if there is one."""
    notice = summary.joint_notice
    return fit_notice_text(notice) if isinstance(notice, NothingToFit) else summary.joint.reason


def joint_remarks(summary: StudySummary) -> list[str]:
    """What limits the joint fit, the cells that it leaves out last."""
    notice = summary.joint_notice
    left_out = [fit_notice_text(notice)] if isinstance(notice, LeftOutOfFit) else []
    return [*summary.joint.remarks, *left_out]


def fit_notice_text(notice: FitNotice) -> str:
    """What a study lacks for its joint fit."""
    if isinstance(notice, NothingToFit):
        return f"No optimizer besides {notice.baseline} is confirmed yet."
    too_few = "no budget" if notice.needed == 1 else f"fewer than {notice.needed} budgets"
    return (
        f"Left out: {', '.join(notice.cells)}, where {notice.baseline} has {too_few} at the size."
    )


def remark_text(remark: str | FitNotice) -> str:
    """A remark of a recommendation."""
    if isinstance(remark, str):
        return remark
    prefix = "No speed-ups: " if isinstance(remark, NothingToFit) else ""
    return f"{prefix}{fit_notice_text(remark)}"


def notice_text(notice: StudyNotice | CellNotice) -> str:
    """What a study, a cell or an optimizer lacks."""
    match notice:
        case InCell():
            return f"{notice.cell}: {notice_text(notice.notice)}"
        case CurveIncomplete():
            lacking = ", ".join(notice.cells)
            return f"The baseline's loss curve lacks {lacking}: no confirmation runs there."
        case NothingConfirmed():
            return f"Nothing is confirmed yet in {', '.join(notice.cells)}."
        case NoNoise():
            return "No intervals yet: no configuration has two seeds."
        case NoiseUnequal():
            return (
                f"The seed noise is not the same everywhere (Bartlett p = {notice.p_value:.1g}); "
                f"intervals with the pooled σ are too narrow for the noisier optimizers."
            )
        case _:
            return _cell_notice(notice)


def _cell_notice(notice: CellNotice) -> str:
    match notice:
        case TooFewBudgets():
            number = f"{notice.budgets or 'no'} budget{'s' * (notice.budgets != 1)}"
            return (
                f"No speed-ups: the baseline has {number} at {notice.size}; a speed-up needs "
                f"{notice.needed}."
            )
        case BaselineUnconfirmed():
            return f"No differences of losses: {notice.baseline} is not confirmed here."
        case NoiseBorrowed():
            return (
                f"No configuration has two seeds at {notice.size}: the noise of the other sizes "
                f"stands in for it."
            )
        case _:
            return f"{notice.optimizer}{_row_notice(notice)}"


def _row_notice(notice: RowNotice) -> str:
    match notice:
        case Unconfirmed():
            return f" {_STAGES[notice.stage]}: no confirmation runs yet."
        case RunsAbsent():
            runs = notice.run_ids
            return f": {len(runs)} confirmation runs are not in the store ({', '.join(runs)})."
        case AllDiverged():
            return f": all {notice.runs} confirmation runs diverged."
        case TimedElsewhere():
            return (
                f": no speed-up in seconds, because its runs were timed on "
                f"{', '.join(notice.devices)} and the baseline's on "
                f"{', '.join(notice.baseline_devices)}."
            )
