"""What the page shows beyond the headline cell, gathered for its template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optbench.analysis.scaling_summary import AxisSummary, ScalingSummary, read_scaling_summaries
from optbench.analysis.summary import StudySummary
from optbench.report.cells_table import CellsTable, cells_table
from optbench.report.figures.curves import curves_figure
from optbench.report.figures.laws import law_figure
from optbench.report.figures.layout import Figure
from optbench.report.figures.palette import Style, assign_sizes
from optbench.report.figures.scale import Panel, as_speedup, ratio_panels, size_panels
from optbench.report.text import NOTHING
from optbench.space import Value
from optbench.statistics.efficiency import SizeTrend
from optbench.statistics.speedup import Speedup
from optbench.store.journal import Journal
from optbench.store.journal_entries import AxisPredictionEntry
from optbench.units import format_value


@dataclass(frozen=True, slots=True)
class FigureSlot:
    """Where a figure is drawn."""

    title: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JointRow:
    """The joint fit of an optimizer: a speed-up for each size, and their trend."""

    optimizer: str
    speedups: tuple[Speedup | None, ...]
    trend: SizeTrend | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTable:
    """The joint fit; ``sizes`` are non-embedding parameters, or None for one speed-up for all."""

    sizes: tuple[float | None, ...]
    rows: tuple[JointRow, ...]


@dataclass(frozen=True, slots=True)
class BestValues:
    """The winner's value in a cell, and the other statistically tied ones."""

    winner: str
    others: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRow:
    """A hyperparameter: stable or sensitive, what is kept of it, and its best values by cell."""

    axis: str
    verdict: str
    kept: str
    values: tuple[BestValues, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The hyperparameters of an optimizer over scale, with the figures of its sensitive axes.

    Args:
        cells: labels of the columns of ``rows``.
    """

    story: ScalingSummary
    cells: tuple[str, ...]
    rows: tuple[AxisRow, ...]
    figures: tuple[FigureSlot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSections:
    """Everything over sizes and data ratios.

    Args:
        figures: by name; each has its place in one of the fields below, ``curves`` has none.
        table: None for a study of one cell, for which the rest is empty, too.
        stories: of the optimizers that were tuned in two cells or more.
        sizes: the look of each size in the figures of hyperparameters.
    """

    figures: Mapping[str, Figure]
    table: CellsTable | None
    over_ratio: tuple[FigureSlot, ...]
    over_size: tuple[FigureSlot, ...]
    joint: JointTable | None
    stories: tuple[Story, ...]
    sizes: Mapping[str, Style]


def scale_sections(summary: StudySummary, journal: Journal) -> ScaleSections:
    """Gather tables and draw figures."""
    table, figures = cells_table(summary), dict[str, Figure]()
    ratio = _placed("over-ratio", ratio_panels(summary, table) if table else [], figures)
    size = _placed("over-size", size_panels(summary, table) if table else [], figures)
    if (curves := curves_figure(summary))["data"]:
        figures["curves"] = curves
    sizes = assign_sizes(list(dict.fromkeys(cell.size for cell in summary.study.cells)))
    found = read_scaling_summaries(journal)
    stories = [_story(f"law-{k}", story, sizes, figures) for k, story in enumerate(found)]
    return ScaleSections(
        figures=figures,
        table=table,
        over_ratio=ratio,
        over_size=size,
        joint=_joint_table(summary) if table else None,
        stories=tuple(stories),
        sizes=sizes,
    )


def _placed(
    prefix: str, panels: Sequence[Panel], figures: dict[str, Figure]
) -> tuple[FigureSlot, ...]:
    """Put figures under names of their own."""
    places = tuple(FigureSlot(p.title, f"{prefix}-{k}") for k, p in enumerate(panels))
    figures.update((place.name, p.figure) for place, p in zip(places, panels, strict=True))
    return places


def _story(
    prefix: str, story: ScalingSummary, sizes: Mapping[str, Style], figures: dict[str, Figure]
) -> Story:
    drawn = [
        Panel(axis.name, figure)
        for axis in story.axes
        if axis.sensitivity.is_stable is False
        if (figure := law_figure(axis, sizes)) is not None
    ]
    cells = _labels(story.axes)
    return Story(
        story=story,
        cells=cells,
        rows=tuple(_axis_row(axis, cells) for axis in story.axes),
        figures=_placed(prefix, drawn, figures),
    )


def _labels(axes: Sequence[AxisSummary]) -> tuple[str, ...]:
    """Cells in which any axis was tuned, by size and budget."""
    cells = {tuned.cell.label: tuned.cell for axis in axes for tuned in axis.tuned}
    order = sorted(cells.values(), key=lambda c: (c.num_nonembedding_params, c.num_tokens))
    return tuple(cell.label for cell in order)


def _axis_row(axis: AxisSummary, cells: Sequence[str]) -> AxisRow:
    found = axis.sensitivity
    winners = {tuned.cell.label: tuned.value for tuned in axis.tuned}
    kept = _listed(found.candidates[:1] if found.is_stable else found.candidates)
    return AxisRow(
        axis=axis.name,
        verdict={True: "stable", False: "sensitive", None: "inconclusive"}[found.is_stable],
        kept=""
        if found.is_stable is None
        else f"{'held at' if found.is_stable else 'covered by'} {kept}",
        values=tuple(
            BestValues(
                winner=format_value(winners[cell]) if cell in winners else NOTHING,
                others=_listed(v for v in found.near_best.get(cell, ()) if v != winners.get(cell)),
            )
            for cell in cells
        ),
    )


def _listed(values: Iterable[Value]) -> str:
    return ", ".join(format_value(value) for value in values)


def extrapolation_text(entry: AxisPredictionEntry) -> str:
    """How far the law was extrapolated."""
    factors = ((entry.size_extrapolation, "size"), (entry.ratio_extrapolation, "data ratio"))
    found = [f"{x:.3g} × the {what}" for x, what in factors if x is not None and x > 1]
    return ", ".join(found) or "within"


def _joint_table(summary: StudySummary) -> JointTable | None:
    joint = summary.joint
    if not joint.efficiencies:
        return None
    sizes = sorted({e.params for e in joint.efficiencies}, key=lambda params: params or 0.0)
    found = {(e.optimizer, e.params): as_speedup(e) for e in joint.efficiencies}
    trends = {trend.optimizer: trend for trend in joint.trends}
    return JointTable(
        sizes=tuple(sizes),
        rows=tuple(
            JointRow(
                optimizer=row.optimizer,
                speedups=tuple(found.get((row.optimizer, params)) for params in sizes),
                trend=trends.get(row.optimizer),
            )
            for row in summary.rows
            if any((row.optimizer, params) in found for params in sizes)
        ),
    )
