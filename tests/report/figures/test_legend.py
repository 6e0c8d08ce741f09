from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from optbench.report.figures.legend import marker_svg
from optbench.report.figures.palette import assign_sizes, assign_styles


def test_every_marker_of_the_palette_can_be_drawn_in_its_colour() -> None:
    styles = [
        *assign_styles([f"o{k}" for k in range(71)], "o0").values(),
        *assign_sizes([f"d{k}" for k in range(9)]).values(),
    ]
    shapes: dict[str, str] = {}
    for style in styles:
        (path,) = ElementTree.fromstring(marker_svg(style))
        assert path.attrib["fill"] == style.color
        shapes[style.symbol] = path.attrib["d"]
    assert len(set(shapes.values())) == len(shapes)
