"""The study's journal, typed: what was planned, tuned, confirmed and when.

The driver of a study appends plain dictionaries (see `store.RunStore.note`); a study that goes on
says some things twice, and the last entry about the same cell and optimizer is the one that holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from optbench.space import Configuration, Value
from optbench.store import StoreError

CellKey: TypeAlias = tuple[str, float]
Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class CellEntry:
    """A model size and a budget, as the journal names them (see `ladder.Cell`)."""

    size: str
    ratio: float
    num_tokens: int
    num_nonembedding_params: int

    @property
    def key(self) -> CellKey:
        """What tells two cells of one study apart."""
        return self.size, self.ratio

    @property
    def label(self) -> str:
        """Such as ``d32 1x``."""
        return f"{self.size} {self.ratio:g}x"


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """What is compared with what, and where."""

    name: str
    title: str
    smoke: bool
    baseline: str
    optimizers: tuple[str, ...]
    confirm_seeds: int
    tuned_cell: CellEntry
    baseline_cells: tuple[CellEntry, ...]
    axes: Mapping[str, Sequence[str]]

    @property
    def curve_cells(self) -> tuple[CellEntry, ...]:
        """Cells of the baseline's loss curve, the tuned one among them, by budget."""
        cells = {cell.key: cell for cell in (*self.baseline_cells, self.tuned_cell)}
        return tuple(sorted(cells.values(), key=lambda cell: cell.num_tokens))


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """What the study expected to spend before it started; ``runs_worst`` if every edge is grown."""

    runs: int
    runs_worst: int
    tokens: int
    flops: float
    seconds: float
    workers: int


@dataclass(frozen=True, slots=True)
class NoiseEntry:
    """The measurement that set the tie threshold of a cell.

    ``sigma`` is the standard deviation of validation losses over seeds, ``paired_sigma`` that of
    the difference to a neighbouring configuration on the same seeds; the threshold is made from it.
    """

    cell: CellEntry
    optimizer: str
    run_ids: tuple[str, ...]
    neighbour_run_ids: tuple[str, ...]
    sigma: float
    paired_sigma: float
    tie_threshold: float


@dataclass(frozen=True, slots=True)
class MoveEntry:
    """A step of the incumbent along one axis; a loss of None diverged."""

    axis: str
    before: Value
    after: Value
    loss_before: float | None
    loss_after: float | None


@dataclass(frozen=True, slots=True)
class EvaluationEntry:
    """A configuration, its run and its validation loss; None if it diverged."""

    configuration: Configuration
    run_id: str
    loss: float | None


@dataclass(frozen=True, slots=True)
class RejectionEntry:
    """A candidate that was refused before it cost anything."""

    configuration: Configuration
    reason: str


@dataclass(frozen=True, slots=True)
class EdgeEntry:
    """An incumbent on the end of an axis."""

    axis: str
    value: Value
    note: str


@dataclass(frozen=True, slots=True)
class TuningEntry:
    """A finished coordinate descent of one optimizer in one cell."""

    cell: CellEntry
    optimizer: str
    start: Configuration
    incumbent: Configuration
    certified: bool
    tie_threshold: float
    moves: tuple[MoveEntry, ...]
    evaluations: tuple[EvaluationEntry, ...]
    rejected: tuple[RejectionEntry, ...]
    edges: tuple[EdgeEntry, ...]
    runs: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ConfirmationEntry:
    """The winner of a tuning, trained again on fresh seeds."""

    cell: CellEntry
    optimizer: str
    configuration: Configuration
    run_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """One start of the study's driver, on one machine."""

    started_at: str
    workers: int
    host: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SessionEndEntry:
    """The orderly end of the session that started then."""

    started_at: str
    wall_s: float
    runs_trained: int


@dataclass(frozen=True, slots=True)
class TimingEntry:
    """Training seconds per token of each winner, round by round side by side on one device."""

    cell: CellEntry
    device: str
    s_per_token: Mapping[str, Sequence[float]]


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

    def tuning(self, cell: CellEntry, optimizer: str) -> TuningEntry | None:
        """The tuning of an optimizer in a cell, once it has ended."""
        return self.tunings.get((cell.key, optimizer))

    def confirmation(self, cell: CellEntry, optimizer: str) -> ConfirmationEntry | None:
        """The fresh seeds of an optimizer's winner in a cell."""
        return self.confirmations.get((cell.key, optimizer))


_KINDS: dict[str, type[Any]] = {
    "study": StudyEntry,
    "plan": PlanEntry,
    "noise": NoiseEntry,
    "tuning": TuningEntry,
    "confirmation": ConfirmationEntry,
    "session": SessionEntry,
    "session_end": SessionEndEntry,
    "timing": TimingEntry,
}
_NESTED: dict[str, type[Any]] = {
    "cell": CellEntry,
    "tuned_cell": CellEntry,
    "baseline_cells": CellEntry,
    "moves": MoveEntry,
    "evaluations": EvaluationEntry,
    "rejected": RejectionEntry,
    "edges": EdgeEntry,
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
        for kind in ("noise", "tuning", "confirmation")
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
    )


def _typed(cls: type[Entry], raw: Mapping[str, Any], where: str) -> Entry:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType]
        if field.name not in raw:
            raise StoreError(
                f"The {where} lacks '{field.name}'; it was written by another version."
            )
        values[field.name] = _typed_value(field.name, raw[field.name], where)
    return cls(**values)


def _typed_value(name: str, value: Any, where: str) -> Any:
    nested = _NESTED.get(name)
    if isinstance(value, list):
        return tuple(_typed(nested, item, where) if nested else item for item in value)
    return _typed(nested, value, where) if nested else value
