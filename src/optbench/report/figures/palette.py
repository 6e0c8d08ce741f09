"""One colour and one marker for every optimizer, the same in all figures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Okabe and Ito's colour-blind-safe colours that show on white and on black, then further hues.
_COLORS = (
    "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#999933", "#8C6BB1",
    "#A65628", "#44AA99",
)  # fmt: skip
# As many as have no factor in common with the colours: 70 optimizers before a pair comes again.
_SYMBOLS = ("square", "diamond", "triangle-up", "cross", "triangle-down", "star", "hexagon")
_BASELINE = ("#808080", "circle")
# Sizes have an order, so their colours have one: from blue to yellow through purple.
_SIZE_COLORS = ("#2B8CBE", "#7A6BC0", "#C65B9B", "#E8704A", "#D9A21B")
_SIZE_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down")


@dataclass(frozen=True, slots=True)
class Style:
    """How an optimizer is drawn: a CSS colour and a plotly marker symbol."""

    color: str
    symbol: str


def assign_styles(optimizers: Sequence[str], baseline: str) -> dict[str, Style]:
    """Grey circles for the baseline, the rest in the order in which the study names them."""
    others = [name for name in optimizers if name != baseline]
    styles = {
        name: Style(_COLORS[k % len(_COLORS)], _SYMBOLS[k % len(_SYMBOLS)])
        for k, name in enumerate(others)
    }
    return {baseline: Style(*_BASELINE), **styles}


def assign_sizes(sizes: Sequence[str]) -> dict[str, Style]:
    """Colours and markers of model sizes, in the order given."""
    return {
        size: Style(_SIZE_COLORS[k % len(_SIZE_COLORS)], _SIZE_SYMBOLS[k % len(_SIZE_SYMBOLS)])
        for k, size in enumerate(sizes)
    }
