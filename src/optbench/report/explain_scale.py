"""The part of an explanation that looks at more than one cell: sensitivity, laws, predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from optbench.analysis.axis_scaling import AxisScaling, CurrentFit
from optbench.analysis.explanation import Explanation
from optbench.report.text import NOTHING
from optbench.report.text_table import text_table
from optbench.space import Value
from optbench.statistics.scaling_laws import Prediction
from optbench.store.journal_entries import AxisPredictionEntry
from optbench.units import format_configuration, format_range, format_signed, format_value

Block: TypeAlias = str | tuple[str, ...]  # a paragraph, or the lines of a table


def prediction_blocks(explanation: Explanation) -> list[Block]:
    """The predicted configuration, and of every predicted axis its law, interval and rounding."""
    prediction = explanation.prediction
    if prediction is None:
        return []
    rows = [
        (
            axis.axis,
            axis.form,
            format_value(axis.value),
            _interval(axis.low, axis.high),
            format_value(axis.snapped) + (" (clamped)" if axis.clamped else ""),
        )
        for axis in prediction.axes
    ]
    titles = ("", "law", "predicted", "95 % interval", "used")
    blocks: list[Block] = [f"Trained with {format_configuration(prediction.configuration)}."]
    if prediction.refused:
        blocks.append(
            f"That is the winner of the nearest cell: what the laws give cannot be run. "
            f"{prediction.refused}"
        )
    if rows:
        blocks.append(text_table(titles, rows, left=("law", "used")))
    laws = {law.axis: law for law in explanation.laws}
    notes = [_prediction_notes(axis, laws.get(axis.axis)) for axis in prediction.axes]
    return [*blocks, *(note for of_axis in notes for note in of_axis)]


def _prediction_notes(axis: AxisPredictionEntry, law: CurrentFit | None) -> list[str]:
    text = f"{axis.axis}: the law is '{axis.form}': {axis.reason}."
    if law is not None:
        text += f" It was fitted to {_by_cell(law.tuned)}.{_check(law, '')}"
    notes = [text]
    if extrapolation := _extrapolation(axis):
        notes.append(f"{axis.axis}: {extrapolation}.")
    if axis.clamped:
        notes.append(
            f"{axis.axis}: {format_value(axis.value)} lies outside of what the axis allows; "
            f"clamped to {format_value(axis.snapped)}."
        )
    return notes


def _extrapolation(found: AxisPredictionEntry | Prediction) -> str:
    """How far a law is extrapolated, and the interval that does not trust its form; or nothing."""
    factors = ((found.size_extrapolation, "sizes"), (found.ratio_extrapolation, "data ratios"))
    extrapolation = [
        f"{factor:.3g} times beyond the {what} that were fitted"
        for factor, what in factors
        if factor is not None and factor > 1
    ]
    if not extrapolation:
        return ""
    text = f"extrapolated, {' and '.join(extrapolation)}"
    if found.outer_low is None:
        return text
    outer = _interval(found.outer_low, found.outer_high)
    return f"{text}; if the form of the law is not taken for granted, the interval is {outer}"


def sensitivity_blocks(explanation: Explanation) -> list[Block]:
    """Which axes need another value in another cell."""
    axes = explanation.sensitivity
    if not axes:
        return []
    when = (
        "As the study judged it after phase I"
        if explanation.sensitivity_recorded
        else "Judged now, from the tunings that have ended"
    )
    cells = list(dict.fromkeys(cell for axis in axes for cell in axis.near_best))
    rows = [
        [axis.axis, *(_values(axis.near_best.get(cell, ())) or NOTHING for cell in cells)]
        for axis in axes
    ]
    return [
        f"{when}. The values of {explanation.optimizer} that are tied with the best in each cell "
        f"({NOTHING} = not searched there):",
        text_table(["", *cells], rows, left=cells),
        *_grouped((axis.axis, _verdict(axis)) for axis in axes),
    ]


def _verdict(axis: AxisScaling) -> str:
    searched = [cell for cell, values in axis.near_best.items() if values]
    if axis.is_stable is None:
        return f"inconclusive, searched in {searched[0] if searched else 'no cell'} only."
    if axis.is_stable:
        values = _values(axis.stable_values)
        return f"stable, {values} is tied with the best in all {len(searched)} cells."
    return (
        f"sensitive to scale, no value is tied with the best in all {len(searched)} cells; "
        f"{_values(axis.candidates)} cover them."
    )


def _grouped(sentences: Iterable[tuple[str, str]]) -> list[str]:
    """Axis and sentence; axes with the same sentence share a line."""
    axes: dict[str, list[str]] = {}
    for axis, sentence in sentences:
        axes.setdefault(sentence, []).append(axis)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in axes.items()]


def law_blocks(explanation: Explanation) -> list[Block]:
    """The laws through the tunings that there are, and what they predict in this cell.

    Nothing where the study has predicted it: then its own laws count.
    """
    if explanation.prediction is not None:
        return []
    sentences = ((law.axis, _law(law, explanation.cell.label)) for law in explanation.laws)
    return [*_grouped(sentences)]


def _law(law: CurrentFit, cell: str) -> str:
    if len(law.tuned) == 1:
        return f"cannot be fitted, {law.reason}."
    found = law.prediction
    text = f"tuned to {_by_cell(law.tuned)}. The law is '{law.form}': {law.reason}. "
    text += f"Here it gives {format_value(found.value)}"
    if found.low is not None:
        text += f", 95 % interval {_interval(found.low, found.high)}"
    if extrapolation := _extrapolation(found):
        text += f"; {extrapolation}"
    return f"{text}.{_check(law, cell)}"


def _check(law: CurrentFit, cell: str) -> str:
    """How well cells are predicted that the law was not shown."""
    errors = [one.error for one in law.held_out if one.error is not None]
    if not errors:
        return ""
    of = f" in 1 − {law.axis}" if law.complement else ""
    text = f" Check: with one cell left out at a time, the worst error{of} is "
    text += _percent(max(errors, key=abs))
    if regrets := [one.regret for one in law.held_out if one.regret is not None]:
        text += f" and the most it costs {_nats(max(regrets))}"
        if len(regrets) < len(law.held_out):
            text += f" (in {len(regrets)} of {len(law.held_out)} cells, with losses on both sides)"
    for one in law.held_out:
        if one.cell == cell and one.error is not None:
            text += f"; this cell would get {format_value(one.predicted)} ({_percent(one.error)}"
            text += ")" if one.regret is None else f", {_nats(one.regret)})"
    return f"{text}."


def _nats(regret: float) -> str:
    return f"{format_signed(regret, 4)} nats" if round(regret, 4) else "nothing"


def _percent(share: float) -> str:
    return f"{format_signed(100 * share, 0)} %" if round(100 * share) else "0 %"


def _by_cell(tuned: Mapping[str, Value]) -> str:
    first, *others = tuned.values()
    if others and all(other == first for other in others):
        return f"{format_value(first)} in all {len(tuned)} cells"
    return ", ".join(f"{format_value(value)} in {cell}" for cell, value in tuned.items())


def _values(values: Sequence[Value]) -> str:
    return ", ".join(format_value(value) for value in values)


def _interval(low: float | None, high: float | None) -> str:
    return format_range(low, high) or NOTHING
