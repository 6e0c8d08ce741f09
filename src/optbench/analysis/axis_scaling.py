"""Each axis of one optimizer over the cells: statistically tied values, and scaling laws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optbench.space import Axis, Value
from optbench.statistics.scaling_laws import (
    Form,
    Prediction,
    TunedValue,
    fit_scaling_law,
    hold_out,
    least_factor,
)
from optbench.statistics.sensitivity import (
    AxisSensitivity,
    CellEvaluations,
    evaluations_of,
    find_sensitivity,
)
from optbench.store.journal import Journal
from optbench.store.journal_entries import CellEntry, CellKey, TuningEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisScaling:
    """Whether one value of an axis serves every cell.

    Args:
        axis: its name.
        is_stable: None if fewer than two cells were searched along the axis.
        stable_values: statistically tied in every cell, the best first.
        candidates: the best stable value, or the fewest values that cover all cells.
        near_best: by cell label, the values of the configurations within τ of the cell's best.
        silent_cells: labels of the cells that were not searched along the axis.
    """

    axis: str
    is_stable: bool | None
    stable_values: tuple[Value, ...]
    candidates: tuple[Value, ...]
    near_best: Mapping[str, tuple[Value, ...]]
    silent_cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutCell:
    """A cell, predicted from all others.

    Args:
        cell: its label.
        form: of the law that the others gave.
        tuned: the value that won there.
        predicted: the law's.
        error: predicted over tuned, minus 1 (of one minus both for a complement); None for words.
        is_covered: whether the 95 % interval holds the tuned value; None without an interval.
        regret: nats lost by the prediction against the tuned value, all else as tuned, from the
            losses tried along the axis there; None outside of them or beside a run that diverged.
    """

    cell: str
    form: Form
    tuned: Value
    predicted: Value
    error: float | None
    is_covered: bool | None
    regret: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentFit:
    """The law of an axis through the tunings that there are.

    Args:
        axis: its name.
        form: of the law; ``reason`` is why not a richer one.
        complement: the law is that of one minus the value.
        tuned: the winner's value by cell label, of the cells that were searched along the axis.
        prediction: of the law in the cell that is explained.
        held_out: each cell predicted from all others; empty with a single cell.
    """

    axis: str
    form: Form
    reason: str
    complement: bool
    tuned: Mapping[str, Value]
    prediction: Prediction
    held_out: tuple[HeldOutCell, ...]


def recorded_sensitivity(journal: Journal, optimizer: str) -> tuple[AxisScaling, ...]:
    """What the study decided, and acted on; empty if it did not get there."""
    entry = journal.sensitivities.get(optimizer)
    if entry is None:
        return ()
    return tuple(
        AxisScaling(
            axis=axis.axis,
            is_stable=axis.is_stable if sum(map(bool, axis.near_best.values())) > 1 else None,
            stable_values=tuple(axis.stable_values),
            candidates=tuple(axis.candidates),
            near_best={cell: tuple(values) for cell, values in axis.near_best.items()},
            silent_cells=tuple(axis.silent_cells),
        )
        for axis in entry.axes
    )


def current_sensitivity(tunings: Sequence[TuningEntry]) -> tuple[AxisScaling, ...]:
    """The same rule on the tunings that there are.

    A cell shows nothing of an axis of which one value alone was tried there, and nothing at all if
    all of its runs diverged.
    """
    cells = [
        _searched_part(tuning)
        for tuning in tunings
        if any(evaluation.loss is not None for evaluation in tuning.evaluations)
    ]
    return tuple(_over_scale(found) for found in find_sensitivity(cells)) if cells else ()


def _searched_part(tuning: TuningEntry) -> CellEvaluations:
    axes, cell = searched_axes(tuning), evaluations_of(tuning)
    return dataclasses.replace(
        cell,
        evaluations=tuple(
            ({axis: configuration[axis] for axis in axes}, loss)
            for configuration, loss in cell.evaluations
        ),
    )


def _over_scale(found: AxisSensitivity) -> AxisScaling:
    return AxisScaling(
        axis=found.axis,
        is_stable=found.is_stable if len(found.near_best) > 1 else None,
        stable_values=found.stable_values,
        candidates=found.candidates,
        near_best={
            cell.cell: tuple(scored.value for scored in cell.values) for cell in found.near_best
        },
        silent_cells=found.silent_cells,
    )


def current_fits(
    tunings: Sequence[TuningEntry], cell: CellEntry, axes: Mapping[str, Axis]
) -> tuple[CurrentFit, ...]:
    """A law for every axis that was searched somewhere, in order of appearance.

    Args:
        tunings: of one optimizer, each cell once.
        cell: where the laws are evaluated.
        axes: how an axis grows; one that is not named is taken to grow geometrically.
    """
    names = dict.fromkeys(name for tuning in tunings for name in searched_axes(tuning))
    return tuple(_law(name, tunings, cell, axes.get(name)) for name in names)


def searched_axes(tuning: TuningEntry) -> tuple[str, ...]:
    """Axes of which at least two values were tried, in order of appearance."""
    values: dict[str, set[Value]] = {}
    for evaluation in tuning.evaluations:
        for name, value in evaluation.configuration.items():
            values.setdefault(name, set()).add(value)
    return tuple(name for name, found in values.items() if len(found) > 1)


def _law(
    name: str, tunings: Sequence[TuningEntry], cell: CellEntry, axis: Axis | None
) -> CurrentFit:
    winners = _winners(name, tunings)
    complement = axis is not None and axis.growth == "complement"
    tried = {e.configuration[name] for t in winners for e in t.evaluations}
    resolution = least_factor(tried, complement=complement)
    points = [_tuned_value(name, tuning) for tuning in winners]
    law = fit_scaling_law(points, complement=complement, resolution=resolution)
    return CurrentFit(
        axis=name,
        form=law.form,
        reason=law.reason,
        complement=law.complement,
        tuned={tuning.cell.label: tuning.incumbent[name] for tuning in winners},
        prediction=law.predict(cell.num_nonembedding_params, cell.ratio),
        held_out=_held_out(name, winners, points, complement, resolution),
    )


def _winners(name: str, tunings: Sequence[TuningEntry]) -> list[TuningEntry]:
    """Tunings that searched the axis, one for each N and r: two sizes may have the same N."""
    found: dict[tuple[int, float], TuningEntry] = {}
    for tuning in tunings:
        if name in searched_axes(tuning):
            found.setdefault((tuning.cell.num_nonembedding_params, tuning.cell.ratio), tuning)
    return list(found.values())


def _tuned_value(name: str, tuning: TuningEntry) -> TunedValue:
    cell = tuning.cell
    return TunedValue(
        num_params=cell.num_nonembedding_params, ratio=cell.ratio, value=tuning.incumbent[name]
    )


def _held_out(
    name: str,
    winners: Sequence[TuningEntry],
    points: Sequence[TunedValue],
    complement: bool,
    resolution: float,
) -> tuple[HeldOutCell, ...]:
    if len(points) < 2:
        return ()
    held_out = hold_out(points, complement=complement, resolution=resolution)
    return tuple(
        HeldOutCell(
            cell=tuning.cell.label,
            form=one.form,
            tuned=one.cell.value,
            predicted=one.prediction.value,
            error=one.error,
            is_covered=one.is_covered,
            regret=_regret(name, one.prediction.value, tuning, complement=complement),
        )
        for tuning, one in zip(winners, held_out, strict=True)
    )


def _regret(name: str, value: Value, tuning: TuningEntry, *, complement: bool) -> float | None:
    """The loss at a value, between neighbours that were tried, over that of the current best.

    Linear in the logarithm of the value, or of one minus it for a complement.
    """
    line = {
        evaluation.configuration[name]: evaluation.loss
        for evaluation in tuning.evaluations
        if all(
            evaluation.configuration[key] == fixed
            for key, fixed in tuning.incumbent.items()
            if key != name and key in evaluation.configuration
        )
    }
    best = line.get(tuning.incumbent[name])
    loss = line[value] if value in line else _between(value, line, complement=complement)
    return None if best is None or loss is None else loss - best


def _between(value: Value, line: Mapping[Value, float | None], *, complement: bool) -> float | None:
    def place(number: Value) -> float:
        distance = 1 - float(number) if complement else float(number)
        return math.log(distance) if distance > 0 else -math.inf

    if isinstance(value, (str, bool)) or any(isinstance(v, (str, bool)) for v in line):
        return None
    at = place(value)
    below = max((v for v in line if place(v) <= at), key=place, default=None)
    above = min((v for v in line if place(v) >= at), key=place, default=None)
    if below is None or above is None or math.isinf(place(below)):
        return None
    low, high = line[below], line[above]
    if low is None or high is None:
        return None
    width = place(above) - place(below)
    return low if width == 0 else low + (high - low) * (at - place(below)) / width


def tunings_of(journal: Journal, optimizer: str) -> tuple[TuningEntry, ...]:
    """The finished tunings of an optimizer, by size and budget."""
    found: dict[CellKey, TuningEntry] = {
        key: tuning for (key, name), tuning in journal.tunings.items() if name == optimizer
    }
    return tuple(
        sorted(found.values(), key=lambda t: (t.cell.num_nonembedding_params, t.cell.num_tokens))
    )
