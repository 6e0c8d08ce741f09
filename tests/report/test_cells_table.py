from __future__ import annotations

import dataclasses

from optbench.analysis.outcomes import OptimizerRow, RowVerdict
from optbench.analysis.summary import StudySummary, summarise
from optbench.report.cells_table import (
    brief_text,
    cells_table,
    claims_line,
    markdown_cells_table,
    place_text,
)
from optbench.report.text import speedup_text
from optbench.statistics.speedup import Speedup
from tests.statistics.synthetic import SimulatedStudy, Truth


def row_in(summary: StudySummary, optimizer: str, label: str) -> OptimizerRow:
    (cell,) = [cell for cell in summary.cells if cell.cell.label == label]
    row = cell.row(optimizer)
    assert row is not None
    return row


def test_columns_are_the_compared_cells_by_size_and_ratio(ladder: StudySummary) -> None:
    table = cells_table(ladder)
    assert table is not None
    assert [(s.size, s.num_params, len(s.cells)) for s in table.sizes] == [
        ("d32", 32_768, 3),
        ("d48", 73_728, 2),
        ("d64", 131_072, 1),
    ]
    assert [(c.cell.label, c.phase) for c in table.cells] == [
        ("d32 1x", "I"),
        ("d32 4x", "I"),
        ("d32 8x", "III"),
        ("d48 1x", "I"),
        ("d48 4x", "II"),
        ("d64 1x", "III"),
    ]


def test_rows_are_the_other_optimizers_in_the_order_of_the_headline(ladder: StudySummary) -> None:
    table = cells_table(ladder)
    assert table is not None
    assert [row.optimizer for row in table.rows] == ["muon", "lion"]
    muon, lion = table.rows
    assert [row is None for row in lion.places] == [False] + [True] * 5
    for cell, row in zip(table.cells, muon.places, strict=True):
        assert row == row_in(ladder, "muon", cell.cell.label)


def test_a_study_of_one_cell_has_no_such_table(summary: StudySummary) -> None:
    assert cells_table(summary) is None
    assert markdown_cells_table(summary) == ""


def test_markdown_has_every_speedup_with_its_interval(ladder: StudySummary) -> None:
    title, blank, header, rule, *body = markdown_cells_table(ladder).splitlines()
    assert "adamw" in title
    assert blank == ""
    assert header.startswith("| optimizer | d32 1x (I) | d32 4x (I) | d32 8x (III) | d48 1x (I) |")
    assert rule.count("---") == 7
    muon, lion = ([cell.strip() for cell in line.strip("| ").split("|")] for line in body)
    assert muon[0] == "muon"
    assert muon[2] == speedup_text(row_in(ladder, "muon", "d32 4x").tokens)
    assert lion[2:] == ["–"] * 5


def test_without_a_speedup_the_difference_of_losses_stands_in_its_place() -> None:
    truth = Truth(efficiency={"adamw": 1.0, "muon": 1.4})
    phases = {"tune": [("d32", 1.0), ("d48", 1.0)], "retune": [], "predict": []}
    study = SimulatedStudy(
        truth=truth, optimizers=("adamw", "muon"), ratios=(0.5, 1.0), phases=phases
    )
    study.begin()
    study.confirm_best("adamw", 0.5)
    for optimizer in study.optimizers:
        for size in ("d32", "d48"):
            study.confirm_best(optimizer, 1.0, size)
    row = row_in(summarise(study.store), "muon", "d48 1x")
    assert row.difference is not None
    assert (
        place_text(row)
        == f"−{abs(row.difference.value):.3f} ± {row.difference.half_width:.3f} nats"
    )
    assert brief_text(row) == "–"


def test_a_brief_speedup_says_whether_it_can_be_told_from_one(ladder: StudySummary) -> None:
    row = row_in(ladder, "muon", "d32 1x")
    speedup = Speedup(value=1.3, low=0.9, high=1.6, estimator="paper", extrapolated=True, bound="")
    unsure = dataclasses.replace(row, tokens=speedup, verdict=RowVerdict.INCONCLUSIVE)
    assert brief_text(unsure) == "(1.30†)"
    bound = dataclasses.replace(speedup, value=2.0, low=1.9, bound=">", extrapolated=False)
    assert brief_text(dataclasses.replace(row, tokens=bound, verdict=RowVerdict.FASTER)) == ">2.00"
    assert brief_text(None) == place_text(None) == "–"


def test_cells_in_which_all_seeds_diverged_say_so(ladder: StudySummary) -> None:
    row = dataclasses.replace(row_in(ladder, "muon", "d32 1x"), test=None, tokens=None)
    assert place_text(row) == brief_text(row) == "diverged"


def test_the_line_of_claims_counts_verdicts(ladder: StudySummary) -> None:
    claims = [
        dataclasses.replace(claim, verdict=verdict)
        for claim, verdict in zip(
            ladder.claims, ["holds", "inconclusive", "holds", "does not hold"], strict=False
        )
    ]
    assert claims_line(claims) == (
        "Claims of the paper, checked on this study: 2 × holds, 1 × does not hold, "
        "1 × inconclusive; see the report."
    )
    assert claims_line([claims[1]]) == ""
