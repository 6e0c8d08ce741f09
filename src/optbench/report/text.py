"""The result as text: the same table and the same words on the terminal, in Markdown, in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.summary import StudySummary
from optbench.report.wording import title_text
from optbench.statistics.efficiency import SizeTrend
from optbench.statistics.noise import Difference, MeanLoss
from optbench.statistics.speedup import Speedup
from optbench.units import (
    format_configuration,
    format_ends,
    format_signed,
    format_signed_ends,
    format_times,
)

NOTHING = "–"
EXTRAPOLATED = "†"


def speedup_text(speedup: Speedup | None) -> str:
    """``1.42× [1.33, 1.52]``: the value and, with a noise estimate, its interval."""
    if speedup is None:
        return NOTHING
    return " ".join(part for part in (value_text(speedup), interval_text(speedup)) if part)


def value_text(speedup: Speedup) -> str:
    """``1.42×``; a bound as ``> 2.00×``; † if it was extrapolated."""
    extrapolated = EXTRAPOLATED if speedup.extrapolated else ""
    return f"{format_times(speedup.value, speedup.bound)}{extrapolated}"


def interval_text(speedup: Speedup) -> str:
    """``[1.33, 1.52]``, or nothing without a noise estimate."""
    return format_ends(speedup.low, speedup.high)


def trend_interval(trend: SizeTrend) -> str:
    """``[−0.310, −0.050]``; an end that the losses do not bound is ∞."""
    return format_signed_ends(trend.low, trend.high, 3)


def mean_text(mean: MeanLoss | None) -> str:
    """``4.088 ± 0.016``."""
    if mean is None:
        return NOTHING
    return f"{mean.value:.3f}" + ("" if mean.half_width is None else f" ± {mean.half_width:.3f}")


def difference_text(difference: Difference | None) -> str:
    """``−0.118 ± 0.023``."""
    if difference is None:
        return NOTHING
    return f"{format_signed(difference.value, 3)} ± {difference.half_width:.3f}"


def best_text(row: OptimizerRow) -> str:
    """The winner's hyperparameters."""
    if row.confirmed is not None:
        return format_configuration(row.confirmed.configuration)
    return format_configuration(row.tuning.entry.incumbent) if row.tuning else NOTHING


def tuning_text(row: OptimizerRow) -> str:
    """Whether the winner is certified, and on which edges of its grid it lies."""
    if row.tuning is None:
        return "predicted by scaling laws" if row.prediction else "not tuned yet"
    entry = row.tuning.entry
    kind = entry.certificate
    text = f"{kind}, so not certified" if kind in ("diverged", "nothing tried") else kind
    edges = ", ".join(dict.fromkeys(edge.axis for edge in entry.edges))
    return f"{text}; at the grid's edge in {edges}" if edges else text


def result_table(summary: StudySummary) -> tuple[list[str], list[list[str]]]:
    """Column titles, and one row of strings for each optimizer, the fastest first."""
    columns = [
        "optimizer",
        "speed-up in tokens",
        "speed-up in seconds",
        "test loss",
        "tuning runs",
        "best hyperparameters",
    ]
    return columns, [_cells(row) for row in summary.rows]


def _cells(row: OptimizerRow) -> list[str]:
    reference = "1 (baseline)"
    return [
        row.optimizer,
        reference if row.is_baseline else speedup_text(row.tokens),
        reference if row.is_baseline else speedup_text(row.seconds),
        mean_text(row.test),
        str(row.tuning.entry.runs) if row.tuning else NOTHING,
        best_text(row),
    ]


def markdown_table(summary: StudySummary) -> str:
    """The result table with its title as GitHub-flavoured Markdown."""
    columns, rows = result_table(summary)
    lines = [markdown_row(columns), markdown_row(["---"] * len(columns))]
    lines += [markdown_row(row) for row in rows]
    return "\n".join([f"**{_markdown(title_text(summary))}**", "", *lines])


def markdown_row(cells: Sequence[str]) -> str:
    """A line of a table, whatever is in its cells."""
    return "| " + " | ".join(_markdown(cell) for cell in cells) + " |"


def _markdown(text: str) -> str:
    """A bar would end the cell, and a line break the table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def reproduction_commands(directory: Path, *, smoke: bool) -> list[str]:
    """Commands that train the study anew, and that rebuild its report from its records."""
    store = directory.name or "STORE"
    return [
        f"optbench run {store}/study.toml{' --smoke' if smoke else ''} --out {store}-again",
        f"optbench report --store {store}",
        f"optbench show RUN --store {store}",
    ]
