"""Speed-ups over data ratios and over model sizes, as small figures with common axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from optbench.analysis.summary import StudySummary
from optbench.report.cells_table import CellsTable, SizeColumns
from optbench.report.figures.layout import (
    Figure,
    Trace,
    axis,
    layout,
    line_at_one,
    log_range,
    log_ticks,
    plain,
    styles_of,
)
from optbench.report.figures.palette import Style
from optbench.report.text import speedup_text
from optbench.statistics.efficiency import Efficiency, SizeTrend
from optbench.statistics.speedup import Speedup
from optbench.units import format_count

_HEIGHT = 330
_SPREAD = 0.16  # decades that the marks of one place are spread over, at most
_SHARE = 0.4  # of the way to the next place
_ROOM = 1.6  # factor beyond the outermost values that intervals may take
_MARGIN = {"l": 56, "r": 14, "t": 10, "b": 52}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An optimizer's speed-up at a place of a logarithmic axis."""

    optimizer: str
    x: float
    where: str
    speedup: Speedup


@dataclass(frozen=True, slots=True)
class Panel:
    """A figure with its title."""

    title: str
    figure: Figure


def ratio_panels(summary: StudySummary, table: CellsTable) -> list[Panel]:
    """Speed-ups over the data ratio, a panel for each size; all have the same axes."""
    by_size = [_marks_of_size(table, size) for size in table.sizes]
    marks = [mark for marks in by_size for mark in marks]
    if not marks:
        return []
    ends, along = ends_of(marks), ratio_axis(marks)
    return [
        Panel(_size_title(size), speedup_panel(styles_of(summary), found, along, ends))
        for size, found in zip(table.sizes, by_size, strict=True)
        if found
    ]


def ratio_axis(marks: Sequence[Mark]) -> dict[str, Any]:
    """For marks whose place is a data ratio."""
    ratios = sorted({mark.x for mark in marks})
    return axis(
        "data ratio (log scale)",
        type="log",
        range=_padded(ratios),
        tickvals=ratios,
        ticktext=[f"{ratio:g}×" for ratio in ratios],
    )


def size_axis(marks: Sequence[Mark], names: Mapping[float, str]) -> dict[str, Any]:
    """For marks whose place is a number of parameters; ``names`` are of the sizes."""
    sizes = sorted({mark.x for mark in marks})
    return axis(
        "non-embedding parameters (log scale)",
        type="log",
        range=_padded(sizes),
        tickvals=sizes,
        ticktext=[f"{format_count(n)}<br>{plain(names.get(n, ''))}" for n in sizes],
    )


def _size_title(size: SizeColumns) -> str:
    return f"{size.size}: {format_count(size.num_params)} parameters"


def _marks_of_size(table: CellsTable, size: SizeColumns) -> list[Mark]:
    return [
        Mark(optimizer=row.optimizer, x=cell.cell.ratio, where=cell.cell.label, speedup=row.tokens)
        for name in (row.optimizer for row in table.rows)
        for cell in size.cells
        if (row := cell.row(name)) is not None and row.tokens is not None
    ]


def size_panels(summary: StudySummary, table: CellsTable) -> list[Panel]:
    """Speed-ups over the model size: cell by cell at the headline ratio, and by the joint fit.

    Each has what at least two sizes have; both have the same axes.
    """
    ratio = summary.study.tuned_cell.ratio
    own, joint = _at_two_sizes(_marks_at_ratio(table, ratio)), _at_two_sizes(_joint_marks(summary))
    marks = [*own, *joint]
    if not marks:
        return []
    ends, styles = ends_of(marks), styles_of(summary)
    along = size_axis(marks, {float(size.num_params): size.size for size in table.sizes})
    panels: list[Panel] = []
    if own:
        panels.append(
            Panel(
                f"Cell by cell, at data ratio {ratio:g}×", speedup_panel(styles, own, along, ends)
            )
        )
    if joint:
        figure = trend_panel(styles, joint, summary.joint.trends, along, ends)
        panels.append(Panel("Joint fit of all cells, with its trend", figure))
    return panels


def _marks_at_ratio(table: CellsTable, ratio: float) -> list[Mark]:
    return [
        Mark(
            optimizer=row.optimizer,
            x=float(cell.cell.num_nonembedding_params),
            where=cell.cell.label,
            speedup=place.tokens,
        )
        for row in table.rows
        for cell, place in zip(table.cells, row.places, strict=True)
        if cell.cell.ratio == ratio and place is not None and place.tokens is not None
    ]


def _joint_marks(summary: StudySummary) -> list[Mark]:
    return joint_marks(summary.joint.efficiencies, [row.optimizer for row in summary.rows])


def joint_marks(efficiencies: Sequence[Efficiency], order: Sequence[str]) -> list[Mark]:
    """The joint fit at each size, the optimizers in the order given."""
    found = [e for e in efficiencies if e.params is not None]
    return [
        Mark(
            optimizer=e.optimizer,
            x=e.params,
            where=f"{format_count(e.params)} parameters, joint fit",
            speedup=as_speedup(e),
        )
        for e in sorted(found, key=lambda e: order.index(e.optimizer))
        if e.params is not None
    ]


def as_speedup(found: Efficiency) -> Speedup:
    """An efficiency of the joint fit is a speed-up."""
    return Speedup(
        value=found.value,
        low=found.low,
        high=found.high,
        estimator=found.estimator,
        extrapolated=found.extrapolated,
        bound=found.bound,
    )


def _at_two_sizes(marks: Sequence[Mark]) -> list[Mark]:
    sizes: dict[str, set[float]] = {}
    for mark in marks:
        sizes.setdefault(mark.optimizer, set()).add(mark.x)
    return [mark for mark in marks if len(sizes[mark.optimizer]) >= 2]


def trend_panel(
    styles: Mapping[str, Style],
    marks: Sequence[Mark],
    trends: Sequence[SizeTrend],
    along: Mapping[str, Any],
    ends: tuple[float, float],
) -> Figure:
    """Speed-ups by size with the slopes of the joint fit."""
    figure = speedup_panel(styles, marks, along, ends, connected=False)
    figure["data"] = [*_trend_lines(styles, marks, trends), *figure["data"]]
    return figure


def _trend_lines(
    styles: Mapping[str, Style], marks: Sequence[Mark], trends: Sequence[SizeTrend]
) -> list[Trace]:
    """The slope of the joint fit, through the weighted middle of its speed-ups by size."""
    shifts = _shifts(marks)
    lines: list[Trace] = []
    for trend in trends:
        own = [m for m in marks if m.optimizer == trend.optimizer and not m.speedup.bound]
        if len(own) < 2:
            continue
        xs = [min(m.x for m in own), max(m.x for m in own)]
        lines.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{plain(trend.optimizer)}, trend",
                "x": [x * shifts[trend.optimizer] for x in xs],
                "y": [_on_trend(trend, own, x) for x in xs],
                "line": {"color": styles[trend.optimizer].color, "width": 2, "dash": "dot"},
                "hoverinfo": "skip",
            }
        )
    return lines


def _on_trend(trend: SizeTrend, marks: Sequence[Mark], x: float) -> float:
    weights = [_precision(mark.speedup) for mark in marks]
    middle_x = _weighted([math.log(m.x) for m in marks], weights)
    middle_y = _weighted([math.log(m.speedup.value) for m in marks], weights)
    return math.exp(middle_y + trend.value * (math.log(x) - middle_x))


def _precision(speedup: Speedup) -> float:
    """One over the squared width of the interval in ln e; little where it has no end."""
    if not speedup.low or speedup.high is None or not math.isfinite(speedup.high):
        return 1e-6
    return 1 / max(math.log(speedup.high / speedup.low), 1e-9) ** 2


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def ends_of(marks: Sequence[Mark]) -> tuple[float, float]:
    """Of the axis of speed-ups: all values, 1, and of intervals what is not far beyond them."""
    values = [1.0, *(mark.speedup.value for mark in marks)]
    lows = [m.speedup.low for m in marks if m.speedup.low is not None]
    highs = [m.speedup.high for m in marks if m.speedup.high is not None]
    low = max(min([*values, *lows]), min(values) / _ROOM)
    high = min(max([*values, *highs]), max(values) * _ROOM)
    return low / 1.04, high * 1.04


def _padded(places: Sequence[float]) -> list[float]:
    low, high = log_range(min(places), max(places))
    room = max(0.1 * (high - low), 0.6 * _SPREAD + 0.03)
    return [low - room, high + room]


def _shifts(marks: Sequence[Mark]) -> dict[str, float]:
    """Factors that set the optimizers of one place side by side."""
    names = list(dict.fromkeys(mark.optimizer for mark in marks))
    places = sorted({math.log10(mark.x) for mark in marks})
    gaps = [_SHARE * (b - a) for a, b in pairwise(places)]
    middle, step = (len(names) - 1) / 2, min([_SPREAD, *gaps]) / max(len(names) - 1, 4)
    return {name: 10 ** (step * (k - middle)) for k, name in enumerate(names)}


def speedup_panel(
    styles: Mapping[str, Style],
    marks: Sequence[Mark],
    along: Mapping[str, Any],
    ends: tuple[float, float],
    *,
    connected: bool = True,
) -> Figure:
    """Speed-ups with their intervals along an axis, each optimizer in its style."""
    shifts = _shifts(marks)
    by_name: dict[str, list[Mark]] = {}
    for mark in marks:
        by_name.setdefault(mark.optimizer, []).append(mark)
    ticks = log_ticks(*ends)
    return {
        "data": [
            _trace(found, styles[name], shifts[name], ends, connected=connected)
            for name, found in by_name.items()
        ],
        "layout": layout(
            _HEIGHT,
            margin=_MARGIN,
            xaxis=dict(along),
            yaxis=axis(
                "speed-up (×, log scale)",
                type="log",
                range=log_range(*ends),
                tickvals=ticks,
                ticktext=[f"{tick:g}" for tick in ticks],
            ),
            shapes=[line_at_one()],
        ),
    }


def _trace(
    marks: Sequence[Mark], style: Style, shift: float, ends: tuple[float, float], *, connected: bool
) -> Trace:
    """Intervals without an end run to the border."""
    name = plain(marks[0].optimizer)
    found = [mark.speedup for mark in marks]
    return {
        "type": "scatter",
        "mode": "lines+markers" if connected else "markers",
        "name": name,
        "x": [mark.x * shift for mark in marks],
        "y": [s.value for s in found],
        "line": {"color": style.color, "width": 1.5},
        "marker": {
            "color": style.color,
            "symbol": [
                f"{style.symbol}{'-open' * (s.extrapolated or s.bound != '')}" for s in found
            ],
            "size": 9,
            "line": {"color": style.color, "width": 1.5},
        },
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, min(_high(s), ends[1]) - s.value) for s in found],
            "arrayminus": [max(0.0, s.value - max(_low(s), ends[0])) for s in found],
            "color": style.color,
            "thickness": 1.5,
            "width": 4,
        },
        "hovertext": [
            f"{name}, {plain(mark.where)}: {speedup_text(mark.speedup)}" for mark in marks
        ],
        "hoverinfo": "text",
    }


def _low(speedup: Speedup) -> float:
    return speedup.value if speedup.low is None else speedup.low


def _high(speedup: Speedup) -> float:
    return speedup.value if speedup.high is None else speedup.high
