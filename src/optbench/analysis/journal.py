"""The study's journal, typed: what was planned, tuned, predicted, confirmed and when.

The driver of a study appends plain dictionaries (see `store.RunStore.note`); a study that goes on
says some things twice, and the last entry about the same cell and optimizer is the one that holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from optbench.analysis.journal_entries import (
    AxisPredictionEntry,
    AxisSensitivityEntry,
    CellEntry,
    CellKey,
    ConfirmationEntry,
    EdgeEntry,
    EvaluationEntry,
    MoveEntry,
    NoiseEntry,
    PhasesEntry,
    PlanEntry,
    PredictionEntry,
    RejectionEntry,
    SensitivityEntry,
    SessionEndEntry,
    SessionEntry,
    StudyEntry,
    TimingEntry,
    TuningEntry,
)
from optbench.store import StoreError

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Journal:
    """Everything that holds, by what it is about."""

    study: StudyEntry
    plan: PlanEntry | None
    noise: tuple[NoiseEntry, ...]
    tunings: Mapping[tuple[CellKey, str], TuningEntry]
    confirmations: Mapping[tuple[CellKey, str], ConfirmationEntry]
    sessions: tuple[SessionEntry, ...]
    session_ends: tuple[SessionEndEntry, ...]
    timing: TimingEntry | None
    sensitivities: Mapping[str, SensitivityEntry] = field(
        default_factory=dict[str, SensitivityEntry]
    )
    predictions: Mapping[tuple[CellKey, str], PredictionEntry] = field(
        default_factory=dict[tuple[CellKey, str], PredictionEntry]
    )

    def tuning(self, cell: CellEntry, optimizer: str) -> TuningEntry | None:
        """The tuning of an optimizer in a cell, once it has ended."""
        return self.tunings.get((cell.key, optimizer))

    def confirmation(self, cell: CellEntry, optimizer: str) -> ConfirmationEntry | None:
        """The fresh seeds of an optimizer's winner in a cell."""
        return self.confirmations.get((cell.key, optimizer))

    def prediction(self, cell: CellEntry, optimizer: str) -> PredictionEntry | None:
        """What the scaling laws gave an optimizer in a cell."""
        return self.predictions.get((cell.key, optimizer))


_KINDS: dict[str, type[Any]] = {
    "study": StudyEntry,
    "plan": PlanEntry,
    "noise": NoiseEntry,
    "tuning": TuningEntry,
    "confirmation": ConfirmationEntry,
    "session": SessionEntry,
    "session_end": SessionEndEntry,
    "timing": TimingEntry,
    "sensitivity": SensitivityEntry,
    "prediction": PredictionEntry,
}
_NESTED: dict[tuple[type[Any], str], type[Any]] = {
    (PhasesEntry, "tune"): CellEntry,
    (PhasesEntry, "retune"): CellEntry,
    (PhasesEntry, "predict"): CellEntry,
    (StudyEntry, "tuned_cell"): CellEntry,
    (StudyEntry, "baseline_cells"): CellEntry,
    (StudyEntry, "phases"): PhasesEntry,
    (NoiseEntry, "cell"): CellEntry,
    (TuningEntry, "cell"): CellEntry,
    (TuningEntry, "moves"): MoveEntry,
    (TuningEntry, "evaluations"): EvaluationEntry,
    (TuningEntry, "rejected"): RejectionEntry,
    (TuningEntry, "edges"): EdgeEntry,
    (ConfirmationEntry, "cell"): CellEntry,
    (TimingEntry, "cell"): CellEntry,
    (SensitivityEntry, "axes"): AxisSensitivityEntry,
    (PredictionEntry, "cell"): CellEntry,
    (PredictionEntry, "axes"): AxisPredictionEntry,
}


def read_journal(entries: Iterable[Mapping[str, Any]]) -> Journal:
    """Type the entries and keep the last of each kind, cell and optimizer.

    Kinds that this version does not know are left out.

    Raises:
        StoreError: an entry lacks a field, or nothing says what the study is.
    """
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    for number, raw in enumerate(entries, start=1):
        kind = str(raw.get("kind"))
        if kind in _KINDS:
            found[kind].append(_typed(_KINDS[kind], raw, f"journal entry {number} ('{kind}')"))
    if not found["study"]:
        raise StoreError(
            "The journal of this store names no study, so its runs cannot be compared. Give the "
            "folder that 'optbench run' wrote, with its journal.jsonl."
        )
    by_place = {
        kind: {(entry.cell.key, entry.optimizer): entry for entry in found[kind]}
        for kind in ("noise", "tuning", "confirmation", "prediction")
    }
    return Journal(
        study=found["study"][-1],
        plan=found["plan"][-1] if found["plan"] else None,
        noise=tuple(by_place["noise"].values()),
        tunings=by_place["tuning"],
        confirmations=by_place["confirmation"],
        sessions=tuple(found["session"]),
        session_ends=tuple(found["session_end"]),
        timing=found["timing"][-1] if found["timing"] else None,
        sensitivities={entry.optimizer: entry for entry in found["sensitivity"]},
        predictions=by_place["prediction"],
    )


def _typed(cls: type[Entry], raw: Mapping[str, Any], where: str) -> Entry:
    values: dict[str, Any] = {}
    for item in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType]
        if item.name in raw:
            values[item.name] = _typed_value(_NESTED.get((cls, item.name)), raw[item.name], where)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise StoreError(f"The {where} lacks '{item.name}'; it was written by another version.")
    return cls(**values)


def _typed_value(nested: type[Any] | None, value: Any, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_typed(nested, item, where) if nested else item for item in value)
    return _typed(nested, value, where) if nested and value is not None else value
