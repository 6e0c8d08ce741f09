"""A hyperparameter over scale: tuned values, the law through them, and what it predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.analysis.scaling_summary import AxisSummary, CellPrediction, CellValue, LawLine
from optbench.report.figures.layout import (
    FONT,
    Figure,
    Trace,
    axis,
    layout,
    log_range,
    log_ticks,
    plain,
)
from optbench.report.figures.palette import Style
from optbench.space import Value
from optbench.units import format_count, format_range, format_value

_HEIGHT = 290
_ROOM = 3.0  # factor beyond tuned and predicted values that intervals may take
_APART = 1.25  # least factor between the labels of two values


@dataclass(frozen=True, slots=True)
class _Scale:
    """How a value is placed on the logarithmic axis: by itself, or by one minus it."""

    complement: bool

    def place(self, value: Value) -> float | None:
        """None for what has no logarithm."""
        if isinstance(value, (str, bool)):
            return None
        number = 1 - value if self.complement else float(value)
        return number if number > 0 else None


def law_figure(story: AxisSummary, styles: Mapping[str, Style]) -> Figure | None:
    """Over the tokens of the cells, a colour for each size; None for words and zeros.

    Args:
        story: of the axis.
        styles: of the sizes.
    """
    scale = _Scale(story.complement)
    values = [
        *(tuned.value for tuned in story.tuned),
        *(found.entry.snapped for found in story.predictions),
        *(found.entry.value for found in story.predictions),
    ]
    known = [scale.place(value) for value in values]
    places = [place for place in known if place is not None]
    if not places or len(places) < len(known):
        return None
    ends = min(places) / _ROOM, max(places) * _ROOM
    data: list[Trace] = []
    for line in story.lines:
        data += _law(line, styles[line.size], scale, ends)
    for size, style in styles.items():
        data += _tuned([t for t in story.tuned if t.cell.size == size], size, style, scale)
        predicted = [p for p in story.predictions if p.cell.size == size]
        data += _predicted(predicted, size, style, scale, ends)
    return {"data": data, "layout": _layout(story, ends, scale)}


def _layout(story: AxisSummary, ends: tuple[float, float], scale: _Scale) -> dict[str, Any]:
    cells = [*(t.cell for t in story.tuned), *(p.cell for p in story.predictions)]
    tokens = sorted(float(cell.num_tokens) for cell in cells)
    ticks = log_ticks(tokens[0] / 1.5, tokens[-1] * 1.5, at_most=6)
    labels = _labels([tuned.value for tuned in story.tuned], scale)
    # a complement grows upwards too, so one minus it downwards
    up = log_range(*reversed(ends)) if scale.complement else log_range(*ends)
    return layout(
        _HEIGHT,
        margin={"l": 60, "r": 12, "t": 8, "b": 48},
        font={"family": FONT, "size": 11},
        xaxis=axis(
            "training tokens (log scale)",
            type="log",
            range=log_range(tokens[0] / 1.5, tokens[-1] * 1.5),
            tickvals=ticks,
            ticktext=[format_count(tick) for tick in ticks],
        ),
        yaxis=axis(
            f"{story.name} ({'log of 1 − value' if scale.complement else 'log scale'})",
            type="log",
            range=up,
            tickvals=[place for place, _ in labels],
            ticktext=[plain(text) for _, text in labels],
        ),
    )


def _labels(values: Sequence[Value], scale: _Scale) -> list[tuple[float, str]]:
    """Places and texts of the tuned values, those left out that would touch the one before."""
    placed = sorted({(scale.place(value) or 1.0, format_value(value)) for value in values})
    found: list[tuple[float, str]] = []
    for place, text in placed:
        if not found or place >= found[-1][0] * _APART:
            found.append((place, text))
    return found


def _law(line: LawLine, style: Style, scale: _Scale, ends: tuple[float, float]) -> list[Trace]:
    """The line, and the band of its 95 % intervals as far as the figure reaches."""
    curve: Trace = {
        "type": "scatter",
        "mode": "lines",
        "name": f"law, {plain(line.size)}",
        "x": list(line.tokens),
        "y": [scale.place(value) for value in line.values],
        "line": {"color": style.color, "width": 2},
        "hoverinfo": "skip",
    }
    if not line.low or not line.high:
        return [curve]
    edges = [
        [_inside(scale.place(value), ends) for value in reversed(side)]
        for side in (line.high, line.low)
    ]
    band: Trace = {
        "type": "scatter",
        "mode": "lines",
        "name": f"interval, {plain(line.size)}",
        "x": [*line.tokens, *reversed(line.tokens)],
        "y": [*reversed(edges[0]), *edges[1]],
        "line": {"width": 0, "color": style.color},
        "fill": "toself",
        "fillcolor": _transparent(style.color),
        "hoverinfo": "skip",
    }
    return [band, curve]


def _inside(place: float | None, ends: tuple[float, float]) -> float:
    """Clipped a little outside of the figure; what has no logarithm lies below all that has."""
    low, high = ends[0] / 2, ends[1] * 2
    return low if place is None else min(max(place, low), high)


def _transparent(color: str) -> str:
    """``rgba`` of a ``#rrggbb``."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def _tuned(found: Sequence[CellValue], size: str, style: Style, scale: _Scale) -> list[Trace]:
    """Filled what the laws go through."""
    if not found:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"tuned, {plain(size)}",
            "x": [tuned.cell.num_tokens for tuned in found],
            "y": [scale.place(tuned.value) for tuned in found],
            "marker": {
                "color": style.color,
                "symbol": [f"{style.symbol}{'' if t.is_fitted else '-open'}" for t in found],
                "size": 9,
                "line": {"color": style.color, "width": 1.5},
            },
            "hovertext": [
                f"{plain(t.cell.label)}: tuned to {plain(format_value(t.value))}"
                f"{'' if t.is_fitted else ', not fitted'}"
                for t in found
            ],
            "hoverinfo": "text",
        }
    ]


def _predicted(
    found: Sequence[CellPrediction],
    size: str,
    style: Style,
    scale: _Scale,
    ends: tuple[float, float],
) -> list[Trace]:
    """What was trained with, and the interval of the law's value."""
    if not found:
        return []
    places = [scale.place(p.entry.snapped) or 1.0 for p in found]
    spans = [_span(p, place, scale, ends) for p, place in zip(found, places, strict=True)]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"predicted, {plain(size)}",
            "x": [p.cell.num_tokens for p in found],
            "y": places,
            "marker": {"color": style.color, "symbol": "star", "size": 13},
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [above for _, above in spans],
                "arrayminus": [below for below, _ in spans],
                "color": style.color,
                "thickness": 1.5,
                "width": 5,
            },
            "hovertext": [_hover(p) for p in found],
            "hoverinfo": "text",
        }
    ]


def _span(
    found: CellPrediction, place: float, scale: _Scale, ends: tuple[float, float]
) -> tuple[float, float]:
    low, high = found.entry.low, found.entry.high
    if low is None or high is None:
        return 0.0, 0.0
    edges = sorted(_inside(scale.place(value), ends) for value in (low, high))
    return max(0.0, place - edges[0]), max(0.0, edges[1] - place)


def _hover(found: CellPrediction) -> str:
    entry = found.entry
    text = f"{plain(found.cell.label)}: predicted {plain(format_value(entry.value))}"
    if ends := format_range(entry.low, entry.high):
        text += f" {ends}"
    if entry.snapped != entry.value:
        text += f", trained with {plain(format_value(entry.snapped))}"
    return f"{text} ({plain(entry.form)} law)"
