from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from optbench.analysis.cells import CellSummary
from optbench.analysis.summary import StudySummary
from optbench.report.cells_table import CellsTable, cells_table
from optbench.report.figures.layout import styles_of
from optbench.report.figures.scale import Panel, ratio_panels, size_panels
from optbench.statistics.speedup import Speedup
from tests.report.simulated_ladder import efficiency


@pytest.fixture(scope="module")
def table(ladder: StudySummary) -> CellsTable:
    found = cells_table(ladder)
    assert found is not None
    return found


def trace(panel: Panel, name: str) -> dict[str, Any]:
    (found,) = [trace for trace in panel.figure["data"] if trace["name"] == name]
    return found


def replaced(ladder: StudySummary, label: str, **changes: Any) -> StudySummary:
    """With another speed-up of muon in a cell."""

    def changed(cell: CellSummary) -> CellSummary:
        rows = tuple(
            dataclasses.replace(row, tokens=dataclasses.replace(row.tokens, **changes))
            if row.optimizer == "muon" and row.tokens
            else row
            for row in cell.rows
        )
        return dataclasses.replace(cell, rows=rows) if cell.cell.label == label else cell

    return dataclasses.replace(ladder, cells=tuple(changed(cell) for cell in ladder.cells))


def panels_with(summary: StudySummary) -> list[Panel]:
    found = cells_table(summary)
    assert found is not None
    return ratio_panels(summary, found)


def test_every_size_has_a_panel_with_the_speedups_of_its_cells(
    ladder: StudySummary, table: CellsTable
) -> None:
    panels = ratio_panels(ladder, table)
    assert [panel.title for panel in panels] == [
        "d32: 32.8k parameters",
        "d48: 73.7k parameters",
        "d64: 131k parameters",
    ]
    for panel, size in zip(panels, table.sizes, strict=True):
        muon = trace(panel, "muon")
        rows = [cell.row("muon") for cell in size.cells]
        speedups = [row.tokens for row in rows if row and row.tokens]
        assert muon["y"] == [s.value for s in speedups]
        bottom, top = (10**end for end in panel.figure["layout"]["yaxis"]["range"])
        for k, speedup in enumerate(speedups):
            assert speedup.low is not None
            assert speedup.high is not None
            ends = max(speedup.low, bottom), min(speedup.high, top)
            error = muon["error_y"]
            assert muon["y"][k] - error["arrayminus"][k] == pytest.approx(ends[0])
            assert muon["y"][k] + error["array"][k] == pytest.approx(ends[1])
    assert [len(panel.figure["data"]) for panel in panels] == [2, 1, 1]


def test_panels_have_the_same_axes_and_a_line_at_one(
    ladder: StudySummary, table: CellsTable
) -> None:
    for panels in (ratio_panels(ladder, table), size_panels(ladder, table)):
        layouts = [panel.figure["layout"] for panel in panels]
        for along in ("xaxis", "yaxis"):
            assert len({json.dumps(layout[along]) for layout in layouts}) == 1
        for layout in layouts:
            (line,) = layout["shapes"]
            assert (line["y0"], line["y1"]) == (1.0, 1.0)
            low, high = layout["yaxis"]["range"]
            assert low < 0 < high
            assert 1.0 in layout["yaxis"]["tickvals"]


def test_marks_of_one_place_stand_side_by_side_and_near_it(
    ladder: StudySummary, table: CellsTable
) -> None:
    panel = ratio_panels(ladder, table)[0]
    places = [trace(panel, name)["x"][0] for name in ("muon", "lion")]
    assert places[0] < places[1]
    assert places == pytest.approx([1.0, 1.0], rel=0.1)
    assert math.prod(places) == pytest.approx(1.0)


def test_extrapolated_speedups_are_open_marks(ladder: StudySummary) -> None:
    sure = replaced(ladder, "d32 8x", extrapolated=False, bound="")
    symbol = styles_of(ladder)["muon"].symbol
    assert trace(panels_with(sure)[0], "muon")["marker"]["symbol"] == [symbol] * 3
    unsure = replaced(sure, "d32 8x", extrapolated=True)
    assert trace(panels_with(unsure)[0], "muon")["marker"]["symbol"][2] == f"{symbol}-open"
    bound = replaced(sure, "d32 8x", bound=">")
    assert trace(panels_with(bound)[0], "muon")["marker"]["symbol"][2] == f"{symbol}-open"


def test_an_interval_without_ends_stays_within_the_figure(ladder: StudySummary) -> None:
    (panel, *_) = panels_with(replaced(ladder, "d32 8x", low=1e-9, high=math.inf))
    muon = trace(panel, "muon")
    low, high = (10**end for end in panel.figure["layout"]["yaxis"]["range"])
    assert muon["y"][2] + muon["error_y"]["array"][2] == pytest.approx(high)
    assert muon["y"][2] - muon["error_y"]["arrayminus"][2] == pytest.approx(low)
    assert low > 0.3
    json.dumps(panel.figure, allow_nan=False)


def test_speedups_over_the_size_are_those_of_the_headline_ratio(
    ladder: StudySummary, table: CellsTable
) -> None:
    own, joint = size_panels(ladder, table)
    assert own.title == "Cell by cell, at data ratio 1×"
    rows = [cell.row("muon") for cell in table.cells if cell.cell.ratio == 1]
    values = [row.tokens.value for row in rows if row and row.tokens]
    assert trace(own, "muon")["y"] == values
    assert len(values) == 3
    found = [e.value for e in ladder.joint.efficiencies if e.optimizer == "muon"]
    assert trace(joint, "muon")["y"] == found
    # lion was run at one size only, which says nothing of a trend
    names = [trace["name"] for panel in (own, joint) for trace in panel.figure["data"]]
    assert names == ["muon", "muon, trend", "muon"]


def test_the_trend_has_the_slope_of_the_joint_fit(ladder: StudySummary, table: CellsTable) -> None:
    line = trace(size_panels(ladder, table)[1], "muon, trend")
    (x0, x1), (y0, y1) = line["x"], line["y"]
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    (trend,) = ladder.joint.trends
    assert slope == pytest.approx(trend.value)
    sizes = [32_768, 131_072]
    assert math.log(x1 / x0) == pytest.approx(math.log(sizes[1] / sizes[0]))
    truth = [efficiency("muon", size) for size in sizes]
    assert [y0, y1] == pytest.approx(truth, rel=0.15)


def test_with_one_size_there_is_nothing_over_sizes(ladder: StudySummary) -> None:
    cells = tuple(cell for cell in ladder.cells if cell.cell.size == "d32")
    joint = dataclasses.replace(ladder.joint, efficiencies=(), trends=())
    summary = dataclasses.replace(ladder, cells=cells, joint=joint)
    table = cells_table(summary)
    assert table is not None
    assert size_panels(summary, table) == []
    assert len(ratio_panels(summary, table)) == 1


def test_without_speedups_there_are_no_panels(ladder: StudySummary) -> None:
    def silent(cell: CellSummary) -> CellSummary:
        rows = tuple(dataclasses.replace(row, tokens=None) for row in cell.rows)
        return dataclasses.replace(cell, rows=rows)

    summary = dataclasses.replace(ladder, cells=tuple(silent(cell) for cell in ladder.cells))
    assert panels_with(summary) == []


def test_hovering_tells_the_interval(ladder: StudySummary, table: CellsTable) -> None:
    (text, *_) = trace(ratio_panels(ladder, table)[0], "muon")["hovertext"]
    row = ladder.row("muon").tokens
    assert isinstance(row, Speedup)
    assert text.startswith(f"muon, d32 1x: {row.value:.2f}× [")
