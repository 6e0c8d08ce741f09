"""The entries of a study's journal: one dataclass for each kind of entry, and for their parts.

This is the only declaration: the driver of a study writes them (`store.RunStore.note`), and
`journal.read_journal` reads them back. Fields with a default were added later; journals without
them are read as before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from optbench.ladder import Cell
from optbench.space import Configuration, Value

CellKey: TypeAlias = tuple[str, float]
Phase: TypeAlias = Literal["I", "II", "III", "baseline"]
Certificate: TypeAlias = Literal["certified", "stopped at the cap", "diverged", "nothing tried"]


@dataclass(frozen=True, slots=True)
class CellEntry:
    """A model size and a budget, as the journal names them (see `ladder.Cell`)."""

    size: str
    ratio: float
    num_tokens: int
    num_nonembedding_params: int

    @property
    def key(self) -> CellKey:
        """What distinguishes two cells of one study."""
        return self.size, self.ratio

    @property
    def label(self) -> str:
        """Such as ``d32 1x``."""
        return f"{self.size} {self.ratio:g}x"


@dataclass(frozen=True, slots=True)
class PhasesEntry:
    """The cells of the protocol's three phases; ``tune`` has the headline cell too."""

    tune: tuple[CellEntry, ...] = ()
    retune: tuple[CellEntry, ...] = ()
    predict: tuple[CellEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """What is compared with what, and where.

    ``tuned_cell`` is the headline cell; ``baseline_cells`` have the baseline only; ``digest`` is
    that of the study file's tables, ``fingerprint`` that of the corpus.
    """

    name: str
    title: str
    smoke: bool
    baseline: str
    optimizers: tuple[str, ...]
    confirm_seeds: int
    tuned_cell: CellEntry
    baseline_cells: tuple[CellEntry, ...]
    axes: Mapping[str, Sequence[str]]
    phases: PhasesEntry | None = None
    digest: str | None = None
    fingerprint: str | None = None

    @property
    def cells(self) -> tuple[CellEntry, ...]:
        """All cells, each once, by size and budget."""
        phases = self.phases or PhasesEntry()
        compared = (*phases.tune, *phases.retune, *phases.predict, self.tuned_cell)
        cells = {cell.key: cell for cell in (*self.baseline_cells, *compared)}
        return tuple(
            sorted(cells.values(), key=lambda c: (c.num_nonembedding_params, c.num_tokens))
        )

    @property
    def curve_cells(self) -> tuple[CellEntry, ...]:
        """Cells of the baseline's loss curve at the headline cell's size, by budget."""
        return tuple(cell for cell in self.cells if cell.size == self.tuned_cell.size)

    def phase_of(self, cell: CellEntry) -> Phase:
        """In which phase all optimizers meet there; "baseline" where only the baseline runs."""
        phases = self.phases or PhasesEntry()
        if cell.key in {c.key for c in (self.tuned_cell, *phases.tune)}:
            return "I"
        if cell.key in {c.key for c in phases.retune}:
            return "II"
        return "III" if cell.key in {c.key for c in phases.predict} else "baseline"


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
    """The measurement that set the noise threshold of a cell.

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
    """A step of the current best along one axis; a loss of None diverged."""

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
    """A current best that lies on the end of an axis, and why the axis did not grow past it."""

    axis: str
    value: Value
    note: str


@dataclass(frozen=True, slots=True)
class TuningEntry:
    """A finished coordinate descent of one optimizer in one cell.

    ``phase`` is "I", "II" or "baseline", ``start_from`` is where the start came from, ``fixed``
    are the values that were held; all empty in journals of studies with one tuned cell. ``grid``
    has the candidates before any axis grew; empty where the journal lacks them.
    """

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
    phase: str = ""
    start_from: str = ""
    fixed: Mapping[str, Value] = field(default_factory=dict[str, Value])
    grid: Mapping[str, Sequence[Value]] = field(default_factory=dict[str, Sequence[Value]])

    def __post_init__(self) -> None:
        """A descent that tried nothing is not certified, whatever its journal says."""
        if self.certificate != "certified":
            object.__setattr__(self, "certified", False)

    @property
    def certificate(self) -> Certificate:
        """What the descent shows of its winner.

        Nothing is tried where no axis is searched, or every change is refused.
        """
        won = [e for e in self.evaluations if not self._differs(e.configuration)]
        if any(one.loss is None for one in won):
            return "diverged"
        if len(won) == len(self.evaluations):
            return "nothing tried"
        return "certified" if self.certified else "stopped at the cap"

    @property
    def searched_axes(self) -> tuple[str, ...]:
        """Axes that had candidates here, tried or refused."""
        if self.grid:
            return tuple(self.grid)
        named = (
            *(e.configuration for e in self.evaluations),
            *(r.configuration for r in self.rejected),
        )
        return tuple(dict.fromkeys(axis for one in named for axis in one if axis not in self.fixed))

    def _differs(self, configuration: Configuration) -> bool:
        return any(self.incumbent.get(name) != value for name, value in configuration.items())


@dataclass(frozen=True, slots=True)
class AxisSensitivityEntry:
    """Whether one value of an axis is tied with the best in every cell (see `sensitivity`).

    ``candidates`` are the fewest values that cover all cells, ``near_best`` has the statistically
    tied values by cell label, ``silent_cells`` the cells that were not searched along the axis.
    """

    axis: str
    is_stable: bool
    stable_values: tuple[Value, ...]
    candidates: tuple[Value, ...]
    near_best: Mapping[str, Sequence[Value]]
    silent_cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SensitivityEntry:
    """Which axes of an optimizer are sensitive to scale, judged over ``cells`` (labels)."""

    optimizer: str
    cells: tuple[str, ...]
    axes: tuple[AxisSensitivityEntry, ...]


@dataclass(frozen=True, slots=True)
class AxisPredictionEntry:
    """One hyperparameter predicted by its scaling law (see `scaling_laws` and `rounding`).

    ``low`` and ``high`` are the prediction interval, ``outer_low`` and ``outer_high`` its cautious
    widening; ``value`` is the law's, ``snapped`` what is trained with. ``complement`` and
    ``resolution`` are those of `fit_scaling_law`; None in journals that lack them.
    """

    axis: str
    form: str
    reason: str
    value: Value
    low: float | None
    high: float | None
    outer_low: float | None
    outer_high: float | None
    snapped: Value
    clamped: bool
    size_extrapolation: float | None
    ratio_extrapolation: float | None
    complement: bool | None = None
    resolution: float | None = None


@dataclass(frozen=True, slots=True)
class PredictionEntry:
    """The configuration that the scaling laws give an optimizer in a cell.

    With ``refused``, why it cannot be run, ``configuration`` is the nearest winner instead.
    """

    cell: CellEntry
    optimizer: str
    configuration: Configuration
    axes: tuple[AxisPredictionEntry, ...]
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class ConfirmationEntry:
    """The winner of a tuning, or a predicted configuration, trained on held-out seeds."""

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


def cell_entry(cell: Cell) -> CellEntry:
    """A cell of a study as the journal names it."""
    params = cell.model.num_nonembedding_params
    return CellEntry(cell.size, cell.ratio, cell.num_tokens, params)


ENTRY_KINDS: Mapping[str, type[Any]] = {
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
JournalEntry: TypeAlias = (
    StudyEntry
    | PlanEntry
    | NoiseEntry
    | TuningEntry
    | ConfirmationEntry
    | SessionEntry
    | SessionEndEntry
    | TimingEntry
    | SensitivityEntry
    | PredictionEntry
)


def kind_of(cls: type[JournalEntry]) -> str:
    """What the journal calls an entry of this class."""
    return next(kind for kind, one in ENTRY_KINDS.items() if one is cls)


def entry_to_dict(entry: JournalEntry) -> dict[str, Any]:
    """The line of an entry: its kind, then its fields; dataclasses within become tables."""
    return {"kind": kind_of(type(entry)), **dataclasses.asdict(entry)}
