"""The markers of the figures as small drawings, for legends that many figures share."""

from __future__ import annotations

from markupsafe import Markup

from optbench.report.figures.palette import Style

# In a box from −6 to 6 with y downwards, drawn like plotly's markers of these names.
_SHAPES = {
    "circle": "M-5,0A5,5 0 1 1 5,0A5,5 0 1 1 -5,0Z",
    "square": "M-4.5,-4.5H4.5V4.5H-4.5Z",
    "diamond": "M0,-5.8L5.8,0L0,5.8L-5.8,0Z",
    "triangle-up": "M0,-5.2L5.4,4.4H-5.4Z",
    "triangle-down": "M0,5.2L5.4,-4.4H-5.4Z",
    "cross": "M-1.8,-5.4H1.8V-1.8H5.4V1.8H1.8V5.4H-1.8V1.8H-5.4V-1.8H-1.8Z",
    "hexagon": "M0,-5.4L4.7,-2.7V2.7L0,5.4L-4.7,2.7V-2.7Z",
    "star": (
        "M0,-6L1.4,-1.9L5.7,-1.9L2.2,0.7L3.5,4.9L0,2.3L-3.5,4.9L-2.2,0.7L-5.7,-1.9L-1.4,-1.9Z"
    ),
}


def marker_svg(style: Style) -> Markup:
    """A marker in its colour; both are from the palette, never from a record."""
    return Markup(
        '<svg class="mark" viewBox="-6 -6 12 12" width="12" height="12" aria-hidden="true">'
        '<path fill="{}" d="{}"/></svg>'
    ).format(style.color, _SHAPES[style.symbol])
