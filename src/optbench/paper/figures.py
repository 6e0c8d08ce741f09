"""The paper's figures, drawn from the published losses: losses, speed-ups, case studies, laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optbench.analysis.claims.families import ADAMW
from optbench.ladder import PAPER_SIZES
from optbench.paper.hyperparameters import ExtrapolatedValue, Extrapolation
from optbench.paper.published_study import CASE_STUDY_SIZE
from optbench.paper.results import PaperResults
from optbench.paper.speedups import BaselineFit, PaperSpeedup
from optbench.report.figures.layout import (
    FONT,
    NEUTRAL,
    Figure,
    Trace,
    axis,
    layout,
    log_range,
    plain,
)
from optbench.report.figures.palette import Style, assign_sizes, assign_styles
from optbench.report.figures.scale import (
    Mark,
    Panel,
    ends_of,
    joint_marks,
    ratio_axis,
    size_axis,
    speedup_panel,
    trend_panel,
)
from optbench.report.text import speedup_text
from optbench.statistics.speedup import Speedup
from optbench.units import format_count, format_value

_MARGIN = {"l": 56, "r": 14, "t": 10, "b": 52}
_HEIGHT = 340
_RATIOS = (1.0, 2.0, 4.0, 8.0, 16.0)
_FINE = 40
PARAMS = {size: model.num_nonembedding_params for size, model in PAPER_SIZES.items()}


def paper_styles(results: PaperResults) -> dict[str, Style]:
    """One look for every optimizer in all figures."""
    return assign_styles(results.optimizers, ADAMW)


def _title(size: str) -> str:
    return f"{size}: {format_count(PARAMS[size])} parameters"


def loss_panels(results: PaperResults) -> list[Panel]:
    """Losses over the data ratio, a panel for each size, with the baseline's fit."""
    styles = paper_styles(results)
    return [Panel(_title(fit.size), _losses(fit, results.speedups, styles)) for fit in results.fits]


def _losses(
    fit: BaselineFit, speedups: Sequence[PaperSpeedup], styles: Mapping[str, Style]
) -> Figure:
    own = [s for s in speedups if s.size == fit.size]
    by_name = {name: [s for s in own if s.optimizer == name] for name in styles}
    lines = [_loss_line(name, found, styles[name]) for name, found in by_name.items() if found]
    return {
        "data": [_fit_line(fit), *lines],
        "layout": layout(
            _HEIGHT,
            margin=_MARGIN,
            xaxis=_ratios(own),
            yaxis=axis("loss on C4 (nats/token)"),
        ),
    }


def _ratios(own: Sequence[PaperSpeedup]) -> dict[str, Any]:
    ratios = sorted({s.ratio for s in own})
    return axis(
        "data ratio (log scale)",
        type="log",
        range=log_range(ratios[0] / 1.25, ratios[-1] * 1.25),
        tickvals=ratios,
        ticktext=[f"{ratio:g}×" for ratio in ratios],
    )


def _loss_line(name: str, found: Sequence[PaperSpeedup], style: Style) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "x": [s.ratio for s in found],
        "y": [s.loss for s in found],
        "line": {"color": style.color, "width": 1.5},
        "marker": {"color": style.color, "symbol": style.symbol, "size": 8},
        "hovertext": [f"{plain(name)}, {s.size} {s.ratio:g}x: {s.loss:.4f}" for s in found],
        "hoverinfo": "text",
    }


def _fit_line(fit: BaselineFit) -> Trace:
    low, high = fit.ratios[0], fit.ratios[-1]
    ratios = [low * (high / low) ** (k / _FINE) for k in range(_FINE + 1)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{ADAMW}, power law",
        "x": ratios,
        "y": [fit.curve.predict(fit.curve.unit_tokens * ratio / low) for ratio in ratios],
        "line": {"color": NEUTRAL, "width": 2, "dash": "dash"},
        "hoverinfo": "skip",
    }


def gap_panels(results: PaperResults) -> list[Panel]:
    """Losses minus the baseline's in the same cell, with the band of two runs that are equal."""
    styles, half = paper_styles(results), 1.96 * 2**0.5 * results.sigma
    panels: list[Panel] = []
    for size in PARAMS:
        own = [s for s in results.speedups if s.size == size]
        base = {s.ratio: s.loss for s in own if s.optimizer == ADAMW}
        lines: list[Trace] = []
        for name in styles:
            found = [s for s in own if s.optimizer == name and s.ratio in base]
            if found and name != ADAMW:
                line = _loss_line(name, found, styles[name])
                line["y"] = [s.loss - base[s.ratio] for s in found]
                line["hovertext"] = [
                    f"{plain(name)}, {size} {s.ratio:g}x: {s.loss - base[s.ratio]:+.4f}"
                    for s in found
                ]
                lines.append(line)
        figure: Figure = {
            "data": lines,
            "layout": layout(
                _HEIGHT,
                margin=_MARGIN,
                xaxis=_ratios(own),
                yaxis=axis(f"loss minus {ADAMW}'s (nats/token)"),
                shapes=[_band(half), _zero()],
            ),
        }
        panels.append(Panel(_title(size), figure))
    return panels


def _band(half: float) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": -half,
        "y1": half,
        "fillcolor": "rgba(128,128,128,0.18)",
        "line": {"width": 0},
        "layer": "below",
    }


def _zero() -> dict[str, Any]:
    line = {"color": NEUTRAL, "width": 2, "dash": "dash"}
    where = {"xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0}
    return {"type": "line", **where, "line": line, "layer": "below"}


def ratio_panels(results: PaperResults) -> list[Panel]:
    """Speed-ups by the paper's estimator over the data ratio, a panel for each size."""
    marks = {
        size: [_over_ratio(s) for s in results.speedups if s.size == size and s.optimizer != ADAMW]
        for size in PARAMS
    }
    ends = ends_of([mark for found in marks.values() for mark in found])
    styles = paper_styles(results)
    return [
        Panel(_title(size), speedup_panel(styles, found, ratio_axis(found), ends))
        for size, found in marks.items()
    ]


def _over_ratio(one: PaperSpeedup) -> Mark:
    where = f"{one.size} {one.ratio:g}x"
    return Mark(optimizer=one.optimizer, x=one.ratio, where=where, speedup=one.paper)


def size_panels(results: PaperResults) -> list[Panel]:
    """Speed-ups over the model size: at one ratio each by the paper's estimator, and jointly."""
    styles = paper_styles(results)
    large = {s.optimizer for s in results.speedups if s.size == CASE_STUDY_SIZE} - {ADAMW}
    by_ratio = {
        ratio: [
            Mark(
                optimizer=s.optimizer,
                x=float(PARAMS[s.size]),
                where=f"{s.size} {s.ratio:g}x",
                speedup=s.paper,
            )
            for s in results.speedups
            if s.ratio == ratio and s.optimizer in large
        ]
        for ratio in (1.0, 8.0)
    }
    order = [name for name in results.optimizers if name in large]
    found = [e for e in results.joint.efficiencies if e.optimizer in large]
    joint = joint_marks(found, order)
    everything = [*joint, *(mark for marks in by_ratio.values() for mark in marks)]
    names = {float(params): size for size, params in PARAMS.items()}
    ends, along = ends_of(everything), size_axis(everything, names)
    trends = [t for t in results.joint.trends if t.optimizer in large]
    return [
        *(
            Panel(f"At data ratio {ratio:g}×", speedup_panel(styles, marks, along, ends))
            for ratio, marks in by_ratio.items()
        ),
        Panel(
            "Joint fit of all 150 cells, with its trend",
            trend_panel(styles, joint, trends, along, ends),
        ),
    ]


_ESTIMATOR_LOOKS = (
    (-0.22, "circle", "paper"),
    (0.0, "square-open", "interpolate"),
    (0.22, "diamond", "joint"),
)
_ENDS = (0.8, 1.6)  # beyond the axis, so that a longer bar is cut off at its border


def estimator_panel(results: PaperResults) -> Panel:
    """Every estimator at the largest size: filled the paper's, then the others."""
    styles = paper_styles(results)
    chosen = [s for s in results.speedups if s.size == CASE_STUDY_SIZE and s.optimizer != ADAMW]
    traces = [
        _estimate(one, found, place + shift, symbol, styles[one.optimizer].color)
        for shift, symbol, name in _ESTIMATOR_LOOKS
        for place, one in enumerate(chosen)
        if (found := _by_estimator(one)[name]) is not None and not found.bound
    ]
    figure: Figure = {"data": traces, "layout": _estimator_layout(chosen)}
    return Panel(f"All estimators at {CASE_STUDY_SIZE}", figure)


def _by_estimator(one: PaperSpeedup) -> dict[str, Speedup | None]:
    return {"paper": one.paper, "interpolate": one.interpolate, "joint": one.joint}


def _estimate(one: PaperSpeedup, found: Speedup, height: float, symbol: str, color: str) -> Trace:
    low = found.value if found.low is None else max(found.low, _ENDS[0])
    high = found.value if found.high is None else min(found.high, _ENDS[1])
    return {
        "type": "scatter",
        "mode": "markers",
        "name": found.estimator,
        "x": [found.value],
        "y": [height],
        "marker": {"color": color, "symbol": symbol, "size": 8},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, high - found.value)],
            "arrayminus": [max(0.0, found.value - low)],
            "color": color,
            "thickness": 1.5,
            "width": 3,
        },
        "hovertext": [f"{_label(one)}, {found.estimator}: {speedup_text(found)}"],
        "hoverinfo": "text",
    }


def _label(one: PaperSpeedup) -> str:
    return f"{plain(one.optimizer)} {one.ratio:g}×"


def _estimator_layout(chosen: Sequence[PaperSpeedup]) -> dict[str, Any]:
    line = {"color": NEUTRAL, "width": 2, "dash": "dash"}
    at_one = {"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1, "line": line}
    return layout(
        80 + 34 * len(chosen),
        margin={"l": 90, "r": 14, "t": 10, "b": 52},
        xaxis=axis(f"speed-up over {ADAMW} (×)", range=[0.84, 1.5]),
        yaxis={
            "tickvals": list(range(len(chosen))),
            "ticktext": [_label(one) for one in chosen],
            "range": [len(chosen) - 0.4, -0.6],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
        },
        shapes=[{**at_one, "layer": "below"}],
    )


def size_styles() -> dict[str, Style]:
    """The look of the sizes in the figures of hyperparameters."""
    return assign_sizes(list(PARAMS))


def law_panel(found: Extrapolation) -> Panel:
    """Tuned values of the smaller sizes, and what was predicted and used at 1.2b."""
    styles = size_styles()
    sizes = {params: size for size, params in PARAMS.items()}
    traces = [
        _points(
            f"tuned, {size}",
            [t.ratio for t in found.tuned if sizes[int(t.num_params)] == size],
            [_number(t.value) for t in found.tuned if sizes[int(t.num_params)] == size],
            styles[size].color,
            styles[size].symbol,
            spread=0.94 + 0.04 * k,
        )
        for k, size in enumerate(list(PARAMS)[:-1])
    ]
    ratios, values = [v.ratio for v in found.values], found.values
    color = styles[CASE_STUDY_SIZE].color
    used = [_number(v.used) for v in values]
    traces.append(_points("used at 1.2b", ratios, used, color, styles[CASE_STUDY_SIZE].symbol))
    published = _points(
        "published", ratios, [v.published for v in values], NEUTRAL, "diamond-open", spread=1.07
    )
    traces.append({**published, "mode": "lines+markers", "line": {"color": NEUTRAL, "dash": "dot"}})
    traces.append(_law_trace(values))
    numbers = [y for trace in traces for y in trace["y"]]
    known = [*(_number(t.value) for t in found.tuned), *used]
    figure: Figure = {
        "data": traces,
        "layout": layout(
            280,
            margin={"l": 60, "r": 12, "t": 8, "b": 48},
            font={"family": FONT, "size": 11},
            xaxis=axis(
                "data ratio (log scale)",
                type="log",
                range=log_range(0.75, 11),
                tickvals=ratios,
                ticktext=[f"{ratio:g}×" for ratio in ratios],
            ),
            yaxis=axis(plain(found.axis), **_value_axis(numbers, known)),
        ),
    }
    return Panel(found.axis, figure)


def _value_axis(numbers: Sequence[float], known: Sequence[float]) -> dict[str, Any]:
    """Logarithmic where all are positive and more than a quarter apart, with ``known`` labelled."""
    low, high = min(numbers), max(numbers)
    if low <= 0 or high < 1.25 * low:
        return {"nticks": 6, "tickformat": ".4~g"}
    ticks = sorted(set(known))
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick > kept[-1] * (high / low) ** 0.14:
            kept.append(tick)
    return {
        "type": "log",
        "range": log_range(low / 1.3, high * 1.3),
        "tickvals": kept,
        "ticktext": [format_value(tick) for tick in kept],
    }


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)


def _points(
    name: str,
    ratios: Sequence[float],
    values: Sequence[float],
    color: str,
    symbol: str,
    *,
    spread: float = 1.0,
) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [ratio * spread for ratio in ratios],
        "y": list(values),
        "marker": {"color": color, "symbol": symbol, "size": 9},
        "hovertext": [
            f"{name}, {ratio:g}×: {value:.4g}" for ratio, value in zip(ratios, values, strict=True)
        ],
        "hoverinfo": "text",
    }


def _law_trace(values: Sequence[ExtrapolatedValue]) -> Trace:
    """This project's law, with the cautious ends of its interval as far as three times away."""
    laws = [_number(v.law.value) for v in values]
    trace = _points("law", [v.ratio for v in values], laws, "#009E73", "star", spread=1.16)
    if any(v.law.outer_low is None for v in values):
        return trace
    high = [min(v.law.outer_high or y, 3 * y) - y for v, y in zip(values, laws, strict=True)]
    low = [y - max(v.law.outer_low or y, y / 3) for v, y in zip(values, laws, strict=True)]
    trace["error_y"] = {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, h) for h in high],
        "arrayminus": [max(0.0, h) for h in low],
        "color": "#009E73",
        "thickness": 1.5,
        "width": 4,
    }
    return trace
