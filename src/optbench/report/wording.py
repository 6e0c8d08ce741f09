"""Results of the analysis in words: the sentences that terminal, pages and JSON have in common."""

from __future__ import annotations

from collections.abc import Mapping

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
    return [*verdicts, *summary.missing, budget_text(summary.budget)]


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
