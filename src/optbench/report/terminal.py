"""The result on a terminal: the table, the verdicts, the cost."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from optbench.analysis.summary import StudySummary
from optbench.report.text import result_table


def print_result(summary: StudySummary, report: Path, console: Console) -> None:
    """The study's table, what is missing, its cost against the plan, and where the report is."""
    columns, rows = result_table(summary)
    table = Table(title=summary.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        # Only hyperparameters may be broken over lines: a number torn apart cannot be read.
        table.add_column(column, no_wrap=column != columns[-1])
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in summary.notes():
        console.print(line, highlight=False, markup=False)
    console.print(f"Report: {report}", highlight=False)
