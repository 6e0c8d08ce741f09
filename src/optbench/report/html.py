"""A study as one self-contained HTML file: opens without a network, and asks for none.

What every page of this project has, and how it keeps to itself, is in `page`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.summary import StudySummary
from optbench.report import text
from optbench.report.cells_table import without_speedup
from optbench.report.figures.layout import styles_of
from optbench.report.figures.overview import study_figures
from optbench.report.figures.palette import Style
from optbench.report.figures.tuning import tuning_panels
from optbench.report.page import embed_json, plotly, template, write_page
from optbench.report.sections import extrapolation_text, scale_sections
from optbench.report.wording import (
    SHORT_VERDICTS,
    budget_text,
    joint_reason,
    joint_remarks,
    missing_sentences,
    notice_text,
    verdict_text,
)
from optbench.store.journal import read_journal
from optbench.store.store import RunRecord, RunStore


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
        PageError: the folder cannot be written to.
    """
    write_page(render_report(summary, store), path)


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
        # With a table of all cells, the joint fit has its own section, which names its limits.
        missing=[notice_text(notice) for notice in summary.missing]
        if scale.table
        else missing_sentences(summary),
        joint_reason=joint_reason(summary),
        joint_remarks=joint_remarks(summary),
        study=summary.study,
        styles=styles,
        figures=sorted(figures),
        panels=panels,
        figures_json=embed_json(figures),
        plotly=plotly(),
        commands=text.reproduction_commands(store.directory, smoke=summary.study.smoke),
        runs=[_run_line(record) for record in store.records.values()],
        budget=budget_text(summary.budget),
    )


def _run_line(record: RunRecord) -> RunLine:
    optimizer = record.config["optimizer"]
    return RunLine(
        record=record,
        optimizer=optimizer["name"],
        configuration=optimizer["hyperparameters"],
        seed=record.config["seed"],
    )


def _swatch(row: OptimizerRow, styles: Mapping[str, Style]) -> Markup:
    """A dot in the optimizer's colour; the colour is from the palette, never from a record."""
    return Markup('<span class="dot" style="background:{}"></span>').format(
        styles[row.optimizer].color
    )


def _style_of_verdict(row: OptimizerRow) -> str:
    return SHORT_VERDICTS[row.verdict].replace(" ", "-")


def _side(row: OptimizerRow) -> str:
    """The style of a speed-up whose interval excludes 1."""
    return SHORT_VERDICTS[row.verdict] if row.verdict.excludes_one else ""


@functools.cache
def _template() -> Template:
    return template(
        "template.html",
        {
            "mean": text.mean_text,
            "best": text.best_text,
            "tuning": text.tuning_text,
            "swatch": _swatch,
            "without_speedup": without_speedup,
            "beyond": extrapolation_text,
            "verdict": verdict_text,
            "style_of_verdict": _style_of_verdict,
            "side": _side,
        },
    )
