"""The published results as one self-contained page: the paper's figures, and what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optbench.analysis.claims.families import ADAMW
from optbench.paper.figures import (
    PARAMS,
    estimator_panel,
    gap_panels,
    law_panel,
    loss_panels,
    paper_styles,
    ratio_panels,
    size_panels,
    size_styles,
)
from optbench.paper.hyperparameters import Extrapolation
from optbench.paper.results import PaperResults
from optbench.paper.tables import (
    WHY_NOT_DETERMINED,
    interesting,
    law_text,
    noise_sentences,
)
from optbench.report.figures.layout import Figure
from optbench.report.figures.scale import Panel
from optbench.report.page import embed_json, plotly, template, write_page
from optbench.report.sections import FigureSlot
from optbench.report.text import NOTHING, speedup_text

FILE_NAME = "paper.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Laws:
    """The extrapolated hyperparameters of one optimizer, with their figures."""

    optimizer: str
    rows: tuple[Extrapolation, ...]
    figures: tuple[FigureSlot, ...]


def write_paper_page(results: PaperResults, folder: Path) -> Path:
    """Write ``paper.html`` into a folder, and return its path.

    Raises:
        PageError: the folder cannot be written to.
    """
    path = folder / FILE_NAME
    write_page(render_paper_page(results), path)
    return path


def render_paper_page(results: PaperResults) -> str:
    """The page."""
    figures: dict[str, Figure] = {}

    def placed(prefix: str, panels: Sequence[Panel]) -> tuple[FigureSlot, ...]:
        places = tuple(FigureSlot(panel.title, f"{prefix}-{k}") for k, panel in enumerate(panels))
        figures.update(
            (place.name, panel.figure) for place, panel in zip(places, panels, strict=True)
        )
        return places

    places = {
        "losses": placed("losses", loss_panels(results)),
        "gaps": placed("gaps", gap_panels(results)),
        "ratios": placed("ratios", ratio_panels(results)),
        "sizes": placed("sizes", size_panels(results)),
        "estimators": placed("estimators", [estimator_panel(results)]),
    }
    laws: list[_Laws] = []
    for name in dict.fromkeys(e.optimizer for e in results.extrapolations):
        rows = tuple(e for e in results.extrapolations if e.optimizer == name and interesting(e))
        drawn = placed(f"law-{name}", [law_panel(row) for row in rows])
        laws.append(_Laws(optimizer=name, rows=rows, figures=drawn))
    cells = [(size, ratios) for size, ratios in _cells(results) if ratios]
    filters = {"law": law_text, "speedup": speedup_text}
    return template("paper.html", filters).render(
        results=results,
        noise_sentences=noise_sentences(results),
        baseline=ADAMW,
        styles=paper_styles(results),
        sizes=size_styles(),
        params=PARAMS,
        cells=cells,
        places=places,
        laws=laws,
        why=WHY_NOT_DETERMINED,
        nothing=NOTHING,
        trends={trend.optimizer: trend for trend in results.joint.trends},
        plotly=plotly(),
        figures_json=embed_json(figures),
    )


def _cells(results: PaperResults) -> list[tuple[str, list[float]]]:
    """Sizes, each with its data ratios."""
    return [
        (size, sorted({s.ratio for s in results.speedups if s.size == size})) for size in PARAMS
    ]
