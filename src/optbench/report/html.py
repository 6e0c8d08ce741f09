"""A study as one self-contained HTML file: opens without a network, and asks for none.

The page forbids itself every connection by its content security policy. Figures travel as JSON in
a script element that the browser does not run; all other strings pass the template's escaping.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from optbench.analysis.journal import read_journal
from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.summary import StudySummary, budget_sentence
from optbench.analysis.units import (
    format_configuration,
    format_count,
    format_p,
    format_seconds,
    format_value,
)
from optbench.report import text
from optbench.report.cells_table import without_speedup
from optbench.report.figures import study_figures
from optbench.report.layout import Figure, styles_of
from optbench.report.legend import marker_svg
from optbench.report.palette import Style
from optbench.report.sections import beyond_text, missing_sentences, scale_sections
from optbench.report.tuning_figures import tuning_panels
from optbench.store import RunRecord, RunStore


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in the report's list of all runs."""

    record: RunRecord
    optimizer: str
    configuration: Mapping[str, Any]
    seed: int


def write_report(summary: StudySummary, store: RunStore, path: Path) -> None:
    """Write the report of a finished or unfinished study; a reader never sees half of it.

    Raises:
        OSError: the folder cannot be written to.
    """
    page = render_report(summary, store)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        # mkstemp makes the file private; a report is as readable as any other new file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """The process's mask; the system tells it only while setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def render_report(summary: StudySummary, store: RunStore) -> str:
    """The page."""
    figures = study_figures(summary)
    styles = styles_of(summary)
    panels: dict[str, list[str]] = {}
    for number, row in enumerate(summary.rows):
        drawn = tuning_panels(row, styles[row.optimizer])
        names = [f"tuning-{number}-{k}" for k in range(len(drawn))]
        panels[row.optimizer] = names
        figures.update(zip(names, drawn, strict=True))
    scale = scale_sections(summary, read_journal(store.journal))
    figures.update(scale.figures)
    return _template().render(
        summary=summary,
        scale=scale,
        missing=missing_sentences(summary, scale.table),
        study=summary.study,
        styles=styles,
        figures=sorted(figures),
        panels=panels,
        figures_json=embed_json(figures),
        plotly=Markup(_resource("vendor/plotly-cartesian.min.js")),
        commands=text.reproduction_commands(store.directory, smoke=summary.study.smoke),
        runs=[_run_line(record) for record in store.records.values()],
        budget=budget_sentence(summary.budget),
    )


def embed_json(figures: Mapping[str, Figure]) -> Markup:
    """JSON that cannot end the script element it stands in.

    ``<``, ``>`` and ``&`` become escapes of the same string, so no ``</script>`` and no comment can
    appear whatever the records hold.
    """
    raw = json.dumps(figures, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return Markup(raw)


def _run_line(record: RunRecord) -> RunLine:
    optimizer = record.config["optimizer"]
    return RunLine(
        record=record,
        optimizer=optimizer["name"],
        configuration=optimizer["hyperparameters"],
        seed=record.config["seed"],
    )


def _resource(name: str) -> str:
    return resources.files("optbench.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _template() -> Any:
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "speedup": text.speedup_text,
        "speedup_value": text.value_text,
        "interval": text.interval_text,
        "signed": text.signed_text,
        "mean": text.mean_text,
        "difference": text.difference_text,
        "best": text.best_text,
        "tuning": text.tuning_text,
        "configuration": format_configuration,
        "count": format_count,
        "seconds": format_seconds,
        "p_value": format_p,
        "value": format_value,
        "swatch": _swatch,
        "marker": marker_svg,
        "without_speedup": without_speedup,
        "trend_interval": text.trend_interval,
        "beyond": beyond_text,
    }
    environment.filters.update(filters)
    return environment.get_template("template.html")


def _swatch(row: OptimizerRow, styles: Mapping[str, Style]) -> Markup:
    """A dot in the optimizer's colour; the colour is from the palette, never from a record."""
    return Markup('<span class="dot" style="background:{}"></span>').format(
        styles[row.optimizer].color
    )
