"""The study's journal, typed: what was planned, tuned, predicted, confirmed and when.

A study that goes on has some entries twice, and the last entry about the same cell and optimizer
is the one that holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from optbench.store.journal_entries import (
    ENTRY_KINDS,
    CellEntry,
    CellKey,
    ConfirmationEntry,
    JournalEntry,
    NoiseEntry,
    PlanEntry,
    PredictionEntry,
    SensitivityEntry,
    SessionEndEntry,
    SessionEntry,
    StudyEntry,
    TimingEntry,
    TuningEntry,
    kind_of,
)
from optbench.store.store import StoreError
from optbench.typed_data import builder, field_types, fits, is_required

E = TypeVar("E", bound=JournalEntry)


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
        """The held-out seeds of an optimizer's winner in a cell."""
        return self.confirmations.get((cell.key, optimizer))

    def prediction(self, cell: CellEntry, optimizer: str) -> PredictionEntry | None:
        """What the scaling laws gave an optimizer in a cell."""
        return self.predictions.get((cell.key, optimizer))


def read_journal(entries: Iterable[Mapping[str, Any]]) -> Journal:
    """Type the entries and keep the last of each kind, cell and optimizer.

    Kinds that this version does not know are left out.

    Raises:
        StoreError: an entry lacks a field, or no entry names the study.
    """
    found = typed_entries(entries)
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


def typed_entries(entries: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The entries by their kinds; kinds that this version does not know are left out.

    Raises:
        StoreError: an entry lacks a field, or has a value of another type.
    """
    found: dict[str, list[Any]] = {kind: [] for kind in ENTRY_KINDS}
    for number, raw in enumerate(entries, start=1):
        kind = raw.get("kind")
        if not isinstance(kind, str):
            raise StoreError(f"The journal entry {number} says of no kind what it is.")
        if (cls := ENTRY_KINDS.get(kind)) is not None:
            if not fits(cls, others=True)(raw):
                raise StoreError(_damage(cls, raw, f"journal entry {number} ('{kind}')"))
            found[kind].append(builder(cls)(raw))
    return found


def entries_of(cls: type[E], entries: Iterable[Mapping[str, Any]]) -> list[E]:
    """The entries of one kind, in their order.

    Raises:
        StoreError: as :func:`typed_entries`.
    """
    kind = kind_of(cls)
    return typed_entries(raw for raw in entries if raw.get("kind") == kind)[kind]


def _damage(cls: type[Any], raw: Mapping[str, Any], where: str) -> str:
    lacking = [f.name for f in dataclasses.fields(cls) if is_required(f) and f.name not in raw]
    if lacking:
        return f"The {where} lacks '{lacking[0]}'; it was written by another version."
    return f"The {where} was edited or is damaged: {_first_problem(cls, raw)}"


def _first_problem(cls: type[Any], raw: Mapping[str, Any]) -> str:
    from optbench.tables import table_problems  # pydantic, only where something is wrong

    for name, kind in field_types(cls).items():
        if name in raw and not fits(kind, others=True)(raw[name]):
            return table_problems(kind, raw[name], name)[0]
    raise AssertionError("a damaged entry has a damaged field")
