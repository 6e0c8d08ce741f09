"""The baseline's loss over tokens at every model size, in one figure."""

from __future__ import annotations

from optbench.analysis.baseline import BaselineCurve
from optbench.analysis.summary import StudySummary
from optbench.report.figures.layout import (
    NEUTRAL,
    Figure,
    Trace,
    axis,
    error_bars,
    layout,
    legend_above,
    log_ticks,
    plain,
)
from optbench.report.figures.palette import Style, assign_sizes
from optbench.report.text import mean_text
from optbench.units import format_count


def curves_figure(summary: StudySummary) -> Figure:
    """The baseline's measured losses at every size, interpolated, and their power laws."""
    curves = {size: curve for size, curve in summary.curves.items() if curve.points}
    order = sorted(curves, key=lambda size: _params(curves[size]))
    styles = assign_sizes(order)
    tokens = [p.confirmed.cell.num_tokens for c in curves.values() for p in c.points]
    if len(curves) < 2:
        return {"data": [], "layout": layout(100)}
    ticks = log_ticks(min(tokens), max(tokens))
    return {
        "data": [t for size in order for t in _curve(size, curves[size], styles[size])]
        + [_dashed_key()],
        "layout": layout(
            420,
            showlegend=True,
            legend=legend_above(),
            margin={"l": 64, "r": 16, "t": 40, "b": 56},
            xaxis=axis(
                "training tokens (log scale)",
                type="log",
                tickvals=ticks,
                ticktext=[format_count(tick) for tick in ticks],
            ),
            yaxis=axis(f"test loss of {summary.study.baseline} (nats/token)"),
        ),
    }


def _params(curve: BaselineCurve) -> int:
    return curve.points[0].confirmed.cell.num_nonembedding_params


def _curve(size: str, curve: BaselineCurve, style: Style) -> list[Trace]:
    name = plain(f"{size}: {format_count(_params(curve))} parameters")
    line = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False}
    lines = [
        {
            **line,
            "name": f"{plain(size)}, {what}",
            "x": list(curve.sample_tokens),
            "y": list(losses),
            "line": {"color": style.color, "width": 2, "dash": dash},
        }
        for what, losses, dash in (
            ("interpolation", curve.interpolated, "solid"),
            ("fit", curve.fitted, "dash"),
        )
        if losses
    ]
    means = [point.mean for point in curve.points]
    points: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [point.confirmed.cell.num_tokens for point in curve.points],
        "y": [mean.value for mean in means],
        "error_y": error_bars([mean.half_width for mean in means], style.color),
        "marker": {"color": style.color, "symbol": style.symbol, "size": 9},
        "hovertext": [
            f"{plain(point.confirmed.cell.label)}: {mean_text(point.mean)} (n = {point.mean.count})"
            for point in curve.points
        ],
        "hoverinfo": "text",
    }
    return [*lines, points]


def _dashed_key() -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [None],
        "y": [None],
        "name": "power-law fit",
        "line": {"color": NEUTRAL, "width": 2, "dash": "dash"},
        "hoverinfo": "skip",
    }
