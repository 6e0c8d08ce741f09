"""What every page has: its template's language, the drawing code, and a way onto the disk.

A page is one self-contained HTML file: it opens without a network, and forbids itself every
connection by its content security policy. Figures travel as JSON in a script element that the
browser does not run; all other strings pass the template's escaping.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from optbench.config import UserError
from optbench.files.durable import replacing
from optbench.report import text
from optbench.report.figures.layout import Figure
from optbench.report.figures.legend import marker_svg
from optbench.units import (
    format_configuration,
    format_count,
    format_p,
    format_range,
    format_seconds,
    format_signed,
    format_value,
)

_FILTERS: Mapping[str, Callable[..., object]] = {
    "speedup": text.speedup_text,
    "speedup_value": text.value_text,
    "interval": text.interval_text,
    "signed": format_signed,
    "difference": text.difference_text,
    "trend_interval": text.trend_interval,
    "configuration": format_configuration,
    "count": format_count,
    "seconds": format_seconds,
    "p_value": format_p,
    "value": format_value,
    "range": format_range,
    "marker": marker_svg,
}


class PageError(UserError):
    """A page that cannot be written."""


def write_page(page: str, path: Path) -> None:
    """Write a page; a reader never sees half of it.

    Raises:
        PageError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An error text of a run may hold half of a surrogate pair.
        with replacing(path, flush=False) as draft:
            draft.write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise PageError(
            f"{path} could not be written ({error.strerror or error}). No record is lost; free "
            f"some space, or choose another file with --out."
        ) from error


def embed_json(figures: Mapping[str, Figure]) -> Markup:
    """JSON that cannot end the script element it stands in.

    ``<``, ``>`` and ``&`` become escapes of the same string, so no ``</script>`` and no comment can
    appear whatever the records hold.
    """
    raw = json.dumps(figures, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return Markup(raw)


def plotly() -> Markup:
    """The code that draws the figures."""
    return Markup(_resource("vendor/plotly-cartesian.min.js"))


def template(name: str, filters: Mapping[str, Callable[..., object]]) -> Template:
    """A template of this package, with the filters that all have and those of its own."""
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named: dict[str, Any] = {**_FILTERS, **filters}
    environment.filters.update(named)
    return environment.get_template(name)


def _resource(name: str) -> str:
    return resources.files("optbench.report").joinpath(name).read_text(encoding="utf-8")
