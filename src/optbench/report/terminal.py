"""The result on a terminal: the tables, the verdicts, the cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from optbench.analysis.summary import StudySummary
from optbench.report.cells_table import CellsTable, brief_text, cells_table, claims_line
from optbench.report.text import NOTHING, result_table
from optbench.report.wording import notes, title_text

_KEY = (
    f"(in parentheses: the 95 % interval contains 1, or there is none; † extrapolated; {NOTHING} "
    f"not run there)\n"
)

_UNBOUNDED = 10_000  # columns of a terminal that fits everything


def print_result(summary: StudySummary, report: Path, console: Console) -> None:
    """The study's table, what is missing, its cost against the plan, and where the report is."""
    columns, rows = result_table(summary)
    table = Table(
        title=title_text(summary), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in columns:
        # Only hyperparameters may be broken over lines: a number torn apart cannot be read.
        table.add_column(column, no_wrap=column != columns[-1])
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if (cells := cells_table(summary)) is not None:
        for part in _fitting(cells, range(len(cells.cells)), summary.study.baseline, console):
            console.print(part)
        console.print(_KEY, highlight=False)
    for line in notes(summary):
        console.print(line, highlight=False, markup=False)
    if line := claims_line(summary.claims):
        console.print(line, highlight=False)
    console.print(f"Report: {report}", highlight=False)


def _fitting(
    found: CellsTable, columns: Sequence[int], baseline: str, console: Console
) -> list[Table]:
    """One table, or several where the terminal is too narrow for the numbers of all cells."""
    table = _cells(found, columns, baseline)
    wanted = console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum
    if len(columns) == 1 or wanted <= console.width:
        return [table]
    half = (len(columns) + 1) // 2
    return [
        one
        for part in (columns[:half], columns[half:])
        for one in _fitting(found, part, baseline, console)
    ]


def _cells(found: CellsTable, columns: Sequence[int], baseline: str) -> Table:
    """Values without their intervals: of many cells no more fits on a terminal."""
    table = Table(
        title=f"Speed-ups in tokens over {escape(baseline)} in every cell (phase)",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("optimizer", no_wrap=True)
    for cell in (found.cells[column] for column in columns):
        # the label over the phase: two short lines are narrower than a long one
        table.add_column(
            f"{escape(cell.cell.label)}\n({cell.phase})", no_wrap=True, justify="right"
        )
    for row in found.rows:
        table.add_row(
            escape(row.optimizer), *(brief_text(row.places[column]) for column in columns)
        )
    return table
