"""What a summary lacks, one type for each kind; the report has the words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias


class Stage(Enum):
    """How far the configuration of an unconfirmed optimizer is."""

    TUNING = auto()
    TUNED = auto()
    PREDICTED = auto()


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """No confirmation was begun."""

    optimizer: str
    stage: Stage


@dataclass(frozen=True, slots=True)
class RunsAbsent:
    """Confirmation runs that are not in the store."""

    optimizer: str
    run_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AllDiverged:
    """Every confirmation run diverged."""

    optimizer: str
    runs: int


@dataclass(frozen=True, slots=True)
class TimedElsewhere:
    """Runs that were not timed on the devices of the baseline's, so seconds are not compared."""

    optimizer: str
    devices: tuple[str, ...]
    baseline_devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TooFewBudgets:
    """The baseline has fewer budgets at a size than a speed-up needs."""

    size: str
    budgets: int
    needed: int


@dataclass(frozen=True, slots=True)
class BaselineUnconfirmed:
    """The baseline is not confirmed in a cell, so losses are not compared there."""

    baseline: str


@dataclass(frozen=True, slots=True)
class NoiseBorrowed:
    """A size without two seeds of any configuration, for which other sizes' noise is used."""

    size: str


@dataclass(frozen=True, slots=True)
class CurveIncomplete:
    """Cells of the baseline's curve without confirmation runs, by label."""

    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoNoise:
    """No configuration has two seeds, so there are no intervals."""


@dataclass(frozen=True, slots=True)
class NoiseUnequal:
    """The seed noise differs between configurations, by the p-value of Bartlett's test."""

    p_value: float


@dataclass(frozen=True, slots=True)
class NothingConfirmed:
    """Cells without any confirmation, by label."""

    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InCell:
    """A notice of a cell other than the headline, which is named by its label."""

    cell: str
    notice: CellNotice


@dataclass(frozen=True, slots=True)
class NothingToFit:
    """No optimizer besides the baseline is confirmed, so there is no joint fit."""

    baseline: str


@dataclass(frozen=True, slots=True)
class LeftOutOfFit:
    """Cells without a part in the joint fit: the baseline has too few budgets at their sizes."""

    cells: tuple[str, ...]
    baseline: str
    needed: int


RowNotice: TypeAlias = Unconfirmed | RunsAbsent | AllDiverged | TimedElsewhere
CellNotice: TypeAlias = RowNotice | TooFewBudgets | BaselineUnconfirmed | NoiseBorrowed
StudyNotice: TypeAlias = (
    RowNotice | CurveIncomplete | NoNoise | NoiseUnequal | InCell | NothingConfirmed
)
FitNotice: TypeAlias = NothingToFit | LeftOutOfFit
