"""The runs as figures: losses by seed, training curves, and what every optimizer has spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.summary import StudySummary
from optbench.report.figures.layout import (
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
from optbench.report.text import mean_text
from optbench.units import format_count


def seeds_figure(summary: StudySummary) -> Figure:
    """Every confirmation run in the tuned cell, and the mean with its interval."""
    styles = styles_of(summary)
    rows = [row for row in summary.rows if row.test is not None]
    traces: list[Trace] = []
    for place, row in enumerate(rows):
        traces.extend(_strip(row, place, styles[row.optimizer]))
    return {
        "data": traces,
        "layout": layout(
            70 + 46 * len(rows),
            xaxis=axis("test loss (nats/token)"),
            yaxis=names_axis([row.optimizer for row in rows]),
        ),
    }


def _strip(row: OptimizerRow, place: int, style: Style) -> list[Trace]:
    assert row.confirmed is not None
    assert row.test is not None
    runs = [seed for seed in row.confirmed.seeds if seed.test_loss is not None]
    name = plain(row.optimizer)
    points: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [seed.test_loss for seed in runs],
        "y": [place - OFFSET] * len(runs),
        "marker": {"color": style.color, "symbol": style.symbol, "size": 9, "opacity": 0.75},
        "hovertext": [
            f"{name}, seed {seed.seed}: {seed.test_loss:.4f} (run {plain(seed.run_id)})"
            for seed in runs
        ],
        "hoverinfo": "text",
    }
    mean: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name}, mean",
        "x": [row.test.value],
        "y": [place + OFFSET],
        "error_x": error_bars([row.test.half_width], style.color),
        "marker": {"color": style.color, "symbol": "line-ns-open", "size": 14},
        "hovertext": [f"{name}: {mean_text(row.test)} (mean, 95 % interval)"],
        "hoverinfo": "text",
    }
    return [points, mean]


def training_figure(summary: StudySummary) -> Figure:
    """Validation loss along the confirmation runs, one line a seed."""
    styles = styles_of(summary)
    traces: list[Trace] = []
    for row in summary.rows:
        seeds = row.confirmed.seeds if row.confirmed else ()
        for number, seed in enumerate(seeds):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": plain(row.optimizer),
                    "legendgroup": plain(row.optimizer),
                    "showlegend": number == 0,
                    "x": [tokens for tokens, _ in seed.val_curve],
                    "y": [loss for _, loss in seed.val_curve],
                    "line": {"color": styles[row.optimizer].color, "width": 1.2},
                    "marker": {"symbol": styles[row.optimizer].symbol, "size": 5},
                    "hovertemplate": (
                        f"{plain(row.optimizer)}, seed {seed.seed}<br>%{{x:.3s}} tokens: "
                        f"%{{y:.4f}}<extra></extra>"
                    ),
                }
            )
    return {
        "data": traces,
        "layout": layout(
            360 + 14 * len(summary.rows),
            showlegend=True,
            legend=legend_above(),
            margin={"l": 64, "r": 16, "t": 60, "b": 56},
            xaxis=axis("training tokens", rangemode="tozero"),
            yaxis=axis("validation loss (nats/token)"),
        ),
    }


def spending_figure(summary: StudySummary) -> Figure:
    """Runs and tokens of every optimizer: tuning in the tuned cell, and everything."""
    styles, rows = styles_of(summary), list(reversed(summary.rows))
    names = [plain(row.optimizer) for row in rows]
    if not any(row.spent.runs for row in rows):
        return {"data": [], "layout": layout(100)}
    bars = [
        _bar(names, [row.spent.runs for row in rows], rows, styles, "", "runs"),
        _bar(names, [row.spent.tokens for row in rows], rows, styles, "2", "tokens"),
    ]
    return {
        "data": bars,
        "layout": layout(
            90 + 34 * len(rows),
            margin={"l": 64, "r": 40, "t": 12, "b": 56},
            xaxis=axis("runs, all phases", domain=[0, 0.46], rangemode="tozero"),
            xaxis2=axis("training tokens", domain=[0.56, 1], rangemode="tozero", nticks=4),
            yaxis={"automargin": True},
            yaxis2={"anchor": "x2", "showticklabels": False},
        ),
    }


def _bar(
    names: Sequence[str],
    values: Sequence[int],
    rows: Sequence[OptimizerRow],
    styles: Mapping[str, Style],
    panel: str,
    unit: str,
) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "x": list(values),
        "y": list(names),
        "xaxis": f"x{panel}",
        "yaxis": f"y{panel}",
        "text": [format_count(value) for value in values],
        "textposition": "auto",
        "cliponaxis": False,
        "marker": {"color": [styles[row.optimizer].color for row in rows]},
        "hovertemplate": f"%{{y}}: %{{x:,}} {unit}<extra></extra>",
        "showlegend": False,
    }
