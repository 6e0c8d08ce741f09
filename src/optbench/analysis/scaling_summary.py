"""Hyperparameters over scale: tuned values, sensitive axes, and laws with their predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from optbench.analysis.axis_scaling import (
    AxisScaling,
    current_sensitivity,
    recorded_sensitivity,
    searched_axes,
    tunings_of,
)
from optbench.space import Value
from optbench.statistics.scaling_laws import ScalingLaw, TunedValue, fit_scaling_law
from optbench.store.journal import Journal
from optbench.store.journal_entries import (
    AxisPredictionEntry,
    CellEntry,
    PredictionEntry,
    TuningEntry,
)

_SAMPLES = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class CellValue:
    """The winner's value of an axis in a cell; ``is_fitted`` if the study's laws go through it."""

    cell: CellEntry
    value: Value
    is_fitted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPrediction:
    """What the law of an axis gave in a cell."""

    cell: CellEntry
    entry: AxisPredictionEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class LawLine:
    """The law at one size, over the budgets of the optimizer's cells there.

    Args:
        size: its name.
        tokens: budgets, increasing.
        values: of the hyperparameter.
        low: lower ends of the 95 % prediction intervals; empty without any.
        high: upper ends.
    """

    size: str
    tokens: tuple[float, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisSummary:
    """One hyperparameter of an optimizer.

    Args:
        sensitivity: whether one value serves every cell.
        tuned: wherever two of its values or more were tried, by size and budget.
        predictions: likewise.
        complement: its law is that of one minus the value.
        lines: of its law; empty without predictions, and where no law fitted to the journal's
            tunings gives the journal's predictions.
    """

    sensitivity: AxisScaling
    tuned: tuple[CellValue, ...]
    predictions: tuple[CellPrediction, ...]
    complement: bool
    lines: tuple[LawLine, ...]

    @property
    def name(self) -> str:
        """Of the hyperparameter."""
        return self.sensitivity.axis


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSummary:
    """One optimizer.

    Args:
        recorded: the study judged the sensitivity itself, and acted on it; else it is judged now.
        axes: in the order of the search.
        predictions: its predicted cells, by size and budget.
    """

    optimizer: str
    recorded: bool
    axes: tuple[AxisSummary, ...]
    predictions: tuple[PredictionEntry, ...]

    @property
    def sensitive(self) -> tuple[str, ...]:
        """Axes without a value for all cells."""
        return tuple(axis.name for axis in self.axes if axis.sensitivity.is_stable is False)


def read_scaling_summaries(journal: Journal) -> tuple[ScalingSummary, ...]:
    """Of every optimizer that was tuned in two cells of the phases or more, as the study lists."""
    found = (_summary(journal, optimizer) for optimizer in journal.study.optimizers)
    return tuple(summary for summary in found if summary is not None)


def _summary(journal: Journal, optimizer: str) -> ScalingSummary | None:
    tunings = tunings_of(journal, optimizer)
    in_phases = [t for t in tunings if journal.study.phase_of(t.cell) in ("I", "II")]
    if len(in_phases) < 2:
        return None
    recorded = recorded_sensitivity(journal, optimizer)
    first = [t for t in in_phases if journal.study.phase_of(t.cell) == "I"]
    predictions = [p for (_, name), p in journal.predictions.items() if name == optimizer]
    predictions.sort(key=lambda p: (p.cell.num_nonembedding_params, p.cell.num_tokens))
    return ScalingSummary(
        optimizer=optimizer,
        recorded=bool(recorded),
        axes=tuple(
            _axis_summary(axis, tunings, in_phases, predictions)
            for axis in recorded or current_sensitivity(first)
        ),
        predictions=tuple(predictions),
    )


def _axis_summary(
    sensitivity: AxisScaling,
    tunings: Sequence[TuningEntry],
    in_phases: Sequence[TuningEntry],
    predictions: Sequence[PredictionEntry],
) -> AxisSummary:
    name = sensitivity.axis
    placed = tuple(
        CellPrediction(cell=prediction.cell, entry=entry)
        for prediction in predictions
        for entry in prediction.axes
        if entry.axis == name
    )
    law = _law(sensitivity, in_phases, placed)
    cells = [*(t.cell for t in in_phases), *(p.cell for p in placed)]
    return AxisSummary(
        sensitivity=sensitivity,
        tuned=tuple(
            CellValue(cell=t.cell, value=t.incumbent[name], is_fitted=t in in_phases)
            for t in tunings
            if name in searched_axes(t)
        ),
        predictions=placed,
        complement=law is not None and law.complement,
        lines=tuple(_lines(law, cells)) if law is not None and law.curve is not None else (),
    )


def _law(
    sensitivity: AxisScaling,
    tunings: Sequence[TuningEntry],
    predictions: Sequence[CellPrediction],
) -> ScalingLaw | None:
    """The law that gave the predictions, fitted again: the journal has no coefficients."""
    if not predictions:
        return None
    entry = predictions[0].entry
    if entry.complement is None or entry.resolution is None:
        return None
    name = sensitivity.axis
    values = [
        TunedValue(
            num_params=t.cell.num_nonembedding_params, ratio=t.cell.ratio, value=t.incumbent[name]
        )
        for t in tunings
    ]
    law = fit_scaling_law(values, complement=entry.complement, resolution=entry.resolution)
    return law if all(_gives(law, prediction) for prediction in predictions) else None


def _gives(law: ScalingLaw, prediction: CellPrediction) -> bool:
    cell, entry = prediction.cell, prediction.entry
    found = law.predict(cell.num_nonembedding_params, cell.ratio)
    return law.form == entry.form and all(
        _is_same(mine, recorded)
        for mine, recorded in (
            (found.value, entry.value),
            (found.low, entry.low),
            (found.high, entry.high),
        )
    )


def _is_same(a: Value | None, b: Value | None) -> bool:
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return a == b
    return math.isclose(a, b, rel_tol=1e-6)


def _lines(law: ScalingLaw, cells: Sequence[CellEntry]) -> Iterator[LawLine]:
    """At every size that has two ratios or more."""
    by_size: dict[str, list[CellEntry]] = {}
    for cell in sorted(cells, key=lambda c: (c.num_nonembedding_params, c.ratio)):
        by_size.setdefault(cell.size, []).append(cell)
    for size, found in by_size.items():
        first, last = found[0], found[-1]
        if first.ratio == last.ratio:
            continue
        ratios = np.geomspace(first.ratio, last.ratio, _SAMPLES).tolist()
        at = [law.predict(first.num_nonembedding_params, ratio) for ratio in ratios]
        yield LawLine(
            size=size,
            tokens=tuple(first.num_tokens * ratio / first.ratio for ratio in ratios),
            values=tuple(float(p.value) for p in at),
            low=tuple(p.low for p in at if p.low is not None),
            high=tuple(p.high for p in at if p.high is not None),
        )
