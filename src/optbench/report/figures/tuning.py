"""A tuning's certificate as small panels, one for each axis: loss against candidate value."""

from __future__ import annotations

from typing import Any

from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.tuning import AxisLine, LinePoint, Tuning
from optbench.report.figures.layout import FONT, Figure, Trace, axis, layout, plain
from optbench.report.figures.palette import Style
from optbench.units import format_value

_HEIGHT = 210


def tuning_panels(row: OptimizerRow, style: Style) -> list[Figure]:
    """One figure for each searched axis, in descent order; candidates are evenly spaced.

    The band is the current best's loss ± the noise threshold: what lies in it counts as equally
    good.
    """
    if row.tuning is None or row.tuning.loss is None:
        return []
    return [_panel(line, row.tuning, row.tuning.loss, style) for line in row.tuning.lines]


def _panel(line: AxisLine, tuning: Tuning, best: float, style: Style) -> Figure:
    threshold = tuning.entry.tie_threshold
    losses = [point.loss for point in line.points if point.loss is not None]
    low, high = min([*losses, best - threshold]), max([*losses, best + threshold])
    room = 0.12 * (high - low)
    return {
        "data": [_candidates(line, style), _diverged(line, high), _incumbent(line, style)],
        "layout": layout(
            _HEIGHT,
            margin={"l": 60, "r": 10, "t": 8, "b": 44},
            xaxis=axis(
                line.axis,
                type="category",
                categoryorder="array",
                categoryarray=[_label(point) for point in line.points],
                showgrid=False,
            ),
            yaxis=axis(
                "loss (nats/token)",
                range=[low - room, high + room],
                nticks=5,
            ),
            font={"family": FONT, "size": 11},
            shapes=[_tie_band(best, threshold, style)],
        ),
    }


def _label(point: LinePoint) -> str:
    return plain(format_value(point.value))


def _candidates(line: AxisLine, style: Style) -> Trace:
    points = [point for point in line.points if point.loss is not None]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [_label(point) for point in points],
        "y": [point.loss for point in points],
        "line": {"color": style.color, "width": 1.2},
        "marker": {"color": style.color, "symbol": style.symbol, "size": 7},
        "hovertext": [
            f"{plain(line.axis)} = {_label(point)}: {point.loss:.4f} (run {plain(point.run_id)})"
            for point in points
        ],
        "hoverinfo": "text",
    }


def _diverged(line: AxisLine, top: float) -> Trace:
    """Crosses at the top: these have no loss to be drawn at."""
    points = [point for point in line.points if point.loss is None]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [_label(point) for point in points],
        "y": [top] * len(points),
        "text": ["diverged"] * len(points),
        "textposition": "bottom center",
        "textfont": {"size": 10},
        "marker": {"color": "#D55E00", "symbol": "x", "size": 8},
        "hovertext": [
            f"{plain(line.axis)} = {_label(point)}: diverged (run {plain(point.run_id)})"
            for point in points
        ],
        "hoverinfo": "text",
    }


def _incumbent(line: AxisLine, style: Style) -> Trace:
    points = [point for point in line.points if point.is_incumbent]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [_label(point) for point in points],
        "y": [point.loss for point in points],
        "marker": {
            "color": style.color,
            "symbol": "circle-open",
            "size": 16,
            "line": {"width": 2},
        },
        "hoverinfo": "skip",
    }


def _tie_band(best: float, threshold: float, style: Style) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": best - threshold,
        "y1": best + threshold,
        "fillcolor": style.color,
        "opacity": 0.15,
        "line": {"width": 0},
        "layer": "below",
    }
