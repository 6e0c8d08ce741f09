"""The result as figures: speed-ups, and where on the baseline's curve they come from.

Figures are plain plotly.js dictionaries; nothing is computed here beyond what places a mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.summary import StudySummary
from optbench.report.figures.layout import (
    NEUTRAL,
    OFFSET,
    Figure,
    Trace,
    axis,
    error_bars,
    layout,
    legend_above,
    names_axis,
    plain,
    styles_of,
)
from optbench.report.figures.palette import Style
from optbench.report.figures.runs import seeds_figure, spending_figure, training_figure
from optbench.report.text import mean_text, speedup_text, value_text
from optbench.statistics.speedup import Speedup
from optbench.store.journal import CellEntry
from optbench.units import format_count

_ROW_PX = 42  # two labels of 12 px, one above the other, and room between rows
_LABELS_PX = 78  # the column of labels
_DWARFS = 2.5  # times the largest value: there an interval leaves the figure


def study_figures(summary: StudySummary) -> dict[str, Figure]:
    """All figures of the whole study that have something to show, by name."""
    figures = {
        "speedups": speedup_figure(summary),
        "baseline": baseline_figure(summary),
        "seeds": seeds_figure(summary),
        "training": training_figure(summary),
        "spending": spending_figure(summary),
    }
    return {name: figure for name, figure in figures.items() if figure["data"]}


def speedup_figure(summary: StudySummary) -> Figure:
    """Dots and whiskers, tokens above seconds, around the baseline's 1."""
    styles = styles_of(summary)
    rows = [row for row in summary.rows if row.tokens is not None]
    end = _right_end([s for row in rows for s in (row.tokens, row.seconds) if s is not None])
    traces: list[Trace] = []
    labels: list[dict[str, Any]] = []
    for place, row in enumerate(rows):
        for name, speedup, shift in (
            ("tokens", row.tokens, -OFFSET),
            ("seconds", row.seconds, OFFSET),
        ):
            if speedup is not None:
                y = place + shift
                traces.append(_whisker(row.optimizer, name, speedup, y, styles, end=end))
                labels.append(_label(speedup, y, is_main=name == "tokens"))
    if not traces:
        return {"data": [], "layout": layout(100)}
    keys = [_key_to("tokens", filled=True), _key_to("seconds on this device", filled=False)]
    return {
        "data": [*traces, *keys],
        "layout": layout(
            92 + _ROW_PX * len(rows),
            showlegend=True,
            legend=legend_above(),
            margin={"l": 64, "r": _LABELS_PX, "t": 36, "b": 56},
            annotations=labels,
            xaxis=axis(f"speed-up over {summary.study.baseline} (×, 95 % interval)", nticks=7),
            yaxis=names_axis([row.optimizer for row in rows]),
            shapes=[_vertical_line(1.0)],
        ),
    }


def _right_end(speedups: Sequence[Speedup]) -> float:
    """Of the axis: beyond all values and 1, and beyond intervals that do not dwarf them."""
    largest = max([1.0, *(speedup.value for speedup in speedups)])
    highs = [speedup.high for speedup in speedups if speedup.high is not None]
    return 1.04 * max([largest, *(high for high in highs if high <= _DWARFS * largest)])


def _whisker(
    optimizer: str,
    name: str,
    speedup: Speedup,
    y: float,
    styles: Mapping[str, Style],
    *,
    end: float,
) -> Trace:
    """An end that is infinite, or far out, runs to the right border."""
    color = styles[optimizer].color
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": plain(f"{optimizer}, {name}"),
        "x": [speedup.value],
        "y": [y],
        "hovertext": [plain(f"{optimizer}, {name}: {speedup_text(speedup)} ({speedup.estimator})")],
        "hoverinfo": "text",
        "marker": _mark(color, filled=name == "tokens"),
        "cliponaxis": False,
        "showlegend": False,
    }
    if speedup.low is not None and speedup.high is not None:
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [min(speedup.high, end) - speedup.value],
            "arrayminus": [speedup.value - speedup.low],
            "color": color,
            "thickness": 2,
            "width": 5,
        }
    return trace


def _label(speedup: Speedup, y: float, *, is_main: bool) -> dict[str, Any]:
    """The value in a column of its own beside the drawing, where no mark can come in its way."""
    text = plain(value_text(speedup))
    return {
        "xref": "paper",
        "x": 1,
        "xanchor": "left",
        "xshift": 10,
        "y": y,
        "yanchor": "middle",
        "text": f"<b>{text}</b>" if is_main else text,
        "font": {"size": 12},
        "showarrow": False,
    }


def _mark(color: str, *, filled: bool) -> dict[str, Any]:
    symbol = "circle" if filled else "circle-open"
    return {"color": color, "symbol": symbol, "size": 10, "line": {"color": color, "width": 2}}


def _key_to(name: str, *, filled: bool) -> Trace:
    """A legend entry without a colour of its own: the colours belong to the optimizers."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [None],
        "y": [None],
        "name": name,
        "marker": _mark(NEUTRAL, filled=filled),
        "hoverinfo": "skip",
    }


def _vertical_line(x: float) -> dict[str, Any]:
    line = {"color": NEUTRAL, "width": 2, "dash": "dash"}
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": line,
        "layer": "below",
    }


def baseline_figure(summary: StudySummary) -> Figure:
    """The baseline's loss curve, and how far along it each optimizer's loss lies."""
    styles, curve, study = styles_of(summary), summary.curve, summary.study
    color = styles[study.baseline].color
    traces: list[Trace] = []
    if curve.interpolated:
        traces.append(_curve(curve.sample_tokens, curve.interpolated, "interpolation", color, ""))
    if curve.fitted:
        traces.append(_curve(curve.sample_tokens, curve.fitted, "power-law fit", color, "dot"))
    if curve.points:
        traces.append(_measured_baseline(summary, styles[study.baseline]))
    for row in summary.rows:
        if row.test is not None and not row.is_baseline:
            traces.extend(_optimizer_on_curve(row, study.tuned_cell, styles[row.optimizer]))
    return {
        "data": traces,
        "layout": layout(
            400 + 14 * len(summary.rows),
            showlegend=True,
            legend=legend_above(),
            margin={"l": 64, "r": 16, "t": 84, "b": 56},
            xaxis=axis("training tokens (log scale)", type="log", **_cell_ticks(study.curve_cells)),
            yaxis=axis("test loss (nats/token)"),
        ),
    }


def _curve(
    tokens: Sequence[float], losses: Sequence[float], name: str, color: str, dash: str
) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(tokens),
        "y": list(losses),
        "line": {"color": color, "width": 2, "dash": dash or "solid"},
        "hoverinfo": "skip",
    }


def _measured_baseline(summary: StudySummary, style: Style) -> Trace:
    points = summary.curve.points
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(summary.study.baseline),
        "x": [point.confirmed.cell.num_tokens for point in points],
        "y": [point.mean.value for point in points],
        "error_y": error_bars([point.mean.half_width for point in points], style.color),
        "marker": {"color": style.color, "symbol": style.symbol, "size": 9},
        "hovertext": [
            f"{plain(summary.study.baseline)}, {format_count(point.confirmed.cell.num_tokens)} "
            f"tokens: {mean_text(point.mean)} (n = {point.mean.count})"
            for point in points
        ],
        "hoverinfo": "text",
    }


def _optimizer_on_curve(row: OptimizerRow, cell: CellEntry, style: Style) -> list[Trace]:
    """The measured point, and a line to the budget at which the baseline has the same loss."""
    assert row.test is not None
    text = f"{plain(row.optimizer)}: {mean_text(row.test)} (n = {row.test.count})"
    marker = {"color": style.color, "symbol": style.symbol, "size": 11}
    point: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": plain(row.optimizer),
        "legendgroup": plain(row.optimizer),
        "x": [cell.num_tokens],
        "y": [row.test.value],
        "error_y": error_bars([row.test.half_width], style.color),
        "marker": marker,
        "hovertext": [text],
        "hoverinfo": "text",
    }
    if row.tokens is None or row.baseline_tokens is None:
        return [point]
    is_faster = row.baseline_tokens >= cell.num_tokens
    needed = (
        f"{text}; the baseline needs {row.tokens.bound} {format_count(row.baseline_tokens)} tokens"
    )
    line: Trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "legendgroup": plain(row.optimizer),
        "showlegend": False,
        "x": [cell.num_tokens, row.baseline_tokens],
        "y": [row.test.value, row.test.value],
        "line": {
            "color": style.color,
            "width": 2,
            "dash": "dot" if row.tokens.extrapolated else "solid",
        },
        "marker": {
            "color": style.color,
            "symbol": ["line-ns", "triangle-right" if is_faster else "triangle-left"],
            "size": 9,
        },
        "hovertext": ["", needed],
        "hoverinfo": "text",
    }
    return [line, point]


def _cell_ticks(cells: Sequence[CellEntry]) -> dict[str, Any]:
    return {
        "tickvals": [cell.num_tokens for cell in cells],
        "ticktext": [f"{format_count(cell.num_tokens)}<br>{cell.ratio:g}×" for cell in cells],
    }
