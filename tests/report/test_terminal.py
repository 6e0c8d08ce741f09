from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from optbench.analysis.summary import StudySummary
from optbench.report.terminal import print_result


def shown(summary: StudySummary, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_result(summary, Path("report.html"), console)
    return console.export_text()


def test_a_study_of_cells_ends_in_a_table_of_all_of_them(ladder: StudySummary) -> None:
    text = shown(ladder, 100)
    table = text[text.index("in every cell") :]
    assert table.index("d32 1x") < table.index("d32 8x") < table.index("d64 1x")
    assert "(III)" in table
    row = ladder.row("muon").tokens
    assert row is not None
    (muon,) = [line for line in table.splitlines() if line.strip().startswith("muon ")]
    assert muon.split()[1] == f"{row.value:.2f}"
    words = " ".join(table.split())
    assert words.index("see the report.") < words.index("Report: report.html")


def test_the_table_of_cells_fits_eighty_columns(ladder: StudySummary) -> None:
    text = shown(ladder, 80)
    table = text[text.index("in every cell") : text.index("in parentheses")]
    assert "…" not in table
    assert len([line for line in table.splitlines() if "muon" in line]) == 1


def test_more_cells_than_fit_are_several_tables(ladder: StudySummary) -> None:
    table = shown(ladder, 40)
    table = table[table.index("Speed-ups") : table.index("(in parentheses")]
    assert "…" not in table
    muon = [line.split()[1:] for line in table.splitlines() if line.strip().startswith("muon")]
    assert len(muon) > 1
    whole = shown(ladder, 120)
    (line,) = [
        line for line in whole[whole.index("in every cell") :].splitlines() if "muon " in line
    ]
    assert [value for part in muon for value in part] == line.split()[1:]


def test_a_study_of_one_cell_has_one_table(summary: StudySummary) -> None:
    assert "in every cell" not in shown(summary, 100)
