"""Speed-ups of every optimizer in every cell, as a table for terminal, Markdown and HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.claim import Claim, Verdict
from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.summary import StudySummary
from optbench.report.text import (
    EXTRAPOLATED,
    NOTHING,
    difference_text,
    markdown_row,
    speedup_text,
)

MIN_CELLS = 2
_VERDICTS: tuple[Verdict, ...] = ("holds", "does not hold", "inconclusive")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeColumns:
    """The cells of one model size, by data ratio."""

    size: str
    num_params: int
    cells: tuple[CellSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsRow:
    """One optimizer; None stands for a cell in which it was not run."""

    optimizer: str
    places: tuple[OptimizerRow | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsTable:
    """All cells in which anything is compared with the baseline.

    Args:
        sizes: smallest first; their cells, one after another, are the columns.
        rows: of all optimizers but the baseline, in the order of the headline table.
    """

    sizes: tuple[SizeColumns, ...]
    rows: tuple[CellsRow, ...]

    @property
    def cells(self) -> tuple[CellSummary, ...]:
        """The columns."""
        return tuple(cell for size in self.sizes for cell in size.cells)


def cells_table(summary: StudySummary) -> CellsTable | None:
    """None for a study that compares in one cell only: its headline table is complete."""
    compared = [cell for cell in summary.cells if any(_has_run(row) for row in cell.rows)]
    if len(compared) < MIN_CELLS:
        return None
    by_size: dict[str, list[CellSummary]] = {}
    for cell in sorted(compared, key=lambda c: (c.cell.num_nonembedding_params, c.cell.num_tokens)):
        by_size.setdefault(cell.cell.size, []).append(cell)
    sizes = tuple(
        SizeColumns(size=size, num_params=cells[0].cell.num_nonembedding_params, cells=tuple(cells))
        for size, cells in by_size.items()
    )
    cells = [cell for size in sizes for cell in size.cells]
    rows = tuple(
        CellsRow(optimizer=row.optimizer, places=tuple(cell.row(row.optimizer) for cell in cells))
        for row in summary.rows
        if not row.is_baseline
    )
    return CellsTable(sizes=sizes, rows=rows)


def _has_run(row: OptimizerRow) -> bool:
    return not row.is_baseline and row.confirmed is not None


def place_text(row: OptimizerRow | None) -> str:
    """The speed-up with its interval, or else how far the losses are apart."""
    if row is None or row.confirmed is None:
        return NOTHING
    return speedup_text(row.tokens) if row.tokens is not None else without_speedup(row)


def without_speedup(row: OptimizerRow) -> str:
    """What stands for a speed-up where the baseline's curve gives none."""
    if row.test is None:
        return "diverged" if row.confirmed is not None and row.confirmed.seeds else NOTHING
    return f"{difference_text(row.difference)} nats" if row.difference is not None else NOTHING


def brief_text(row: OptimizerRow | None) -> str:
    """``1.42``, ``>2.00``, ``1.30†``; in parentheses where no interval excludes 1."""
    if row is None or row.tokens is None:
        return NOTHING if row is None or row.test is not None else place_text(row)
    found = row.tokens
    text = f"{found.bound}{found.value:.2f}{EXTRAPOLATED if found.extrapolated else ''}"
    return text if row.verdict.excludes_one else f"({text})"


def markdown_cells_table(summary: StudySummary) -> str:
    """Speed-ups in tokens with their intervals; nothing for a study of one cell."""
    table = cells_table(summary)
    if table is None:
        return ""
    columns = ["optimizer", *(f"{c.cell.label} ({c.phase})" for c in table.cells)]
    lines = [markdown_row(columns), markdown_row(["---"] * len(columns))]
    lines += [markdown_row([row.optimizer, *map(place_text, row.places)]) for row in table.rows]
    title = f"**Speed-ups in tokens over {summary.study.baseline} in every cell (phase)**"
    return "\n".join([title.replace("\n", " "), "", *lines])


def claims_line(claims: Sequence[Claim]) -> str:
    """How often each verdict was given; nothing if every claim is inconclusive."""
    counts = Counter[Verdict](claim.verdict for claim in claims)
    if not counts["holds"] + counts["does not hold"]:
        return ""
    counted = ", ".join(f"{counts[verdict]} × {verdict}" for verdict in _VERDICTS)
    return f"Claims of the paper, checked on this study: {counted}; see the report."
