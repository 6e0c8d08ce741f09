"""What all figures share: layout, axes, error bars, and the escaping of foreign text.

Colours of text, axes and background are left to the page, which knows whether it is dark. Strings
that come from records are escaped, because plotly reads a subset of HTML in its texts.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from optbench.analysis.summary import StudySummary
from optbench.report.figures.palette import Style, assign_styles

Figure: TypeAlias = dict[str, Any]
Trace: TypeAlias = dict[str, Any]

FONT = "system-ui, sans-serif"
NEUTRAL = "#808080"
_LONGEST_NAME = 20  # characters beside an axis
OFFSET = 0.22  # of the two marks of one optimizer from its row, in rows


def plain(text: str) -> str:
    """Text that plotly shows as it is."""
    return html.escape(text, quote=False)


def layout(height: int, **settings: Any) -> dict[str, Any]:
    """What all figures share: no background of their own, the legend above, room for labels."""
    return {
        "height": height,
        "autosize": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13},
        "margin": {"l": 64, "r": 16, "t": 12, "b": 56},
        "hovermode": "closest",
        "showlegend": False,
        **settings,
    }


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """An axis with its title; ``automargin`` keeps long labels out of the drawing."""
    return {
        "title": {"text": plain(title), "standoff": 10},
        "zeroline": False,
        "automargin": True,
        **settings,
    }


# From few to many in a decade; the densest that leaves room for the labels is taken.
_MANTISSAS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.5),
)


def log_ticks(low: float, high: float, *, at_most: int = 9) -> list[float]:
    """Round numbers from ``low`` to ``high`` for a logarithmic axis, as many as fit."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for mantissas in _MANTISSAS:
        # through decimal text, so that 7·10⁻¹ is 0.7
        all_ticks = [float(f"{mantissa}e{decade}") for decade in decades for mantissa in mantissas]
        ticks = [tick for tick in all_ticks if low <= tick <= high]
        if len(ticks) > at_most:
            # of very many decades every second, third, … one
            return found or ticks[:: math.ceil(len(ticks) / at_most)]
        found = ticks
    return found


def log_range(low: float, high: float) -> list[float]:
    """A range as plotly wants it on a logarithmic axis."""
    return [math.log10(low), math.log10(high)]


def legend_above() -> dict[str, Any]:
    """A legend that wraps over the drawing instead of covering it."""
    return {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}


def line_at_one() -> dict[str, Any]:
    """The baseline's own speed-up, across a figure of speed-ups."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": 1.0,
        "y1": 1.0,
        "line": {"color": NEUTRAL, "width": 2, "dash": "dash"},
        "layer": "below",
    }


def styles_of(summary: StudySummary) -> Mapping[str, Style]:
    """The look of every optimizer of the study."""
    return assign_styles(summary.study.optimizers, summary.study.baseline)


def shortened(name: str) -> str:
    """The end of a long name: of ``package.module:Class`` the class is the most telling part."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


def names_axis(names: Sequence[str]) -> dict[str, Any]:
    """Optimizers from top to bottom, on a numeric axis: two marks can stand side by side."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [plain(shortened(name)) for name in names],
        "range": [len(names) - 0.4, -0.6],
        "automargin": True,
        "zeroline": False,
        "showgrid": False,
        "fixedrange": True,
    }


def error_bars(half_widths: Sequence[float | None], color: str) -> dict[str, Any]:
    """Symmetric bars; none are drawn where a half width is not known."""
    visible = all(width is not None for width in half_widths)
    return {"type": "data", "array": list(half_widths), "visible": visible, "color": color}
