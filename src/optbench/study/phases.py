"""Phases: how one optimizer goes through a study, as tasks for a sweep.

1. *Tune* (phase I): a coordinate descent over all axes in every cell of ``phases.tune``, each from
   the winner of the nearest cell before it; then the winner again on held-out seeds, and only these
   runs are quoted.
2. *Retune* (phase II): the axes whose statistically tied values differ between the cells of phase I
   are searched again in the cells of ``phases.retune``, over the fewest values that serve all
   cells; the others stay at a value that serves them all.
3. *Predict* (phase III): for each sensitive axis a law h(N, r) through the tuned cells; in the
   cells of ``phases.predict`` its predictions are trained on held-out seeds, nothing is tuned.

Every decision is a pure function of losses in the store and is written to its journal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from optbench.config import RunConfig
from optbench.ladder import Cell
from optbench.optimizers import optimizer_class
from optbench.space import Axis, Configuration, SearchSpace
from optbench.statistics.rounding import Rounding, Snapped, snap
from optbench.statistics.scaling_laws import (
    Prediction,
    ScalingLaw,
    TunedValue,
    fit_scaling_law,
    least_factor,
)
from optbench.statistics.sensitivity import AxisSensitivity, CellEvaluations, find_sensitivity
from optbench.store.journal import entries_of
from optbench.store.journal_entries import (
    AxisPredictionEntry,
    AxisSensitivityEntry,
    CellEntry,
    ConfirmationEntry,
    EvaluationEntry,
    MoveEntry,
    NoiseEntry,
    PredictionEntry,
    SensitivityEntry,
    TuningEntry,
    cell_entry,
)
from optbench.store.store import RunRecord, RunStore
from optbench.study.config import StudyConfig
from optbench.study.coordinate_descent import CoordinateDescent, Evaluation, Move
from optbench.study.sweep import Task


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a descent found in a cell."""

    cell: Cell
    winner: Configuration
    evaluations: tuple[Evaluation, ...]
    tie_threshold: float


@dataclass(slots=True)
class PhaseRunner:
    """One optimizer's way through a study.

    Args:
        config: the checked study file.
        store: where its runs and decisions are; the noise has been measured.
        fingerprint: of the prepared corpus; part of every run's identity.
        optimizer: a name of the study's.
    """

    config: StudyConfig
    store: RunStore
    fingerprint: str
    optimizer: str
    tuned: list[Tuned] = field(default_factory=list)

    def task(self) -> Task:
        """All phases of the optimizer, and the loss curve if it is the baseline."""
        config, phases = self.config, self.config.phases
        search = config.optimizers[self.optimizer]
        for cell in config.cells_of(self.optimizer, phases.tune):
            yield from self._tune(cell, search.space, {}, phase="I")
        retune = config.cells_of(self.optimizer, phases.retune)
        predict = config.cells_of(self.optimizer, phases.predict)
        if retune or predict:
            sensitivity = self._find_sensitivity()
            stable = {a.axis: a.candidates[0] for a in sensitivity if a.is_stable}
            space = _narrowed(search.space, sensitivity)
            for cell in retune:
                yield from self._tune(cell, space, stable, phase="II")
            for cell in predict:
                yield from self._predict(cell, space, stable)
        if self.optimizer == config.baseline:
            yield from self._baseline_curve(search.space)

    def _baseline_curve(self, space: SearchSpace) -> Task:
        retuned = SearchSpace({name: space[name] for name in self.config.baseline_retuned})
        for cell in sorted(self.config.baseline_cells, key=lambda c: -c.num_tokens):
            # Its own points are no cells of the phases, so they are no neighbours of one another.
            yield from self._tune(cell, retuned, {}, phase="baseline")

    # Tuning -----------------------------------------------------------------------------------

    def _tune(self, cell: Cell, space: SearchSpace, fixed: Configuration, *, phase: str) -> Task:
        """A descent in one cell, then its winner on held-out seeds."""
        start, start_from = self._start(cell, fixed)
        fixed = {k: v for k, v in start.items() if k not in space}
        neighbour = self._nearest(cell)
        descent = CoordinateDescent(
            space=space,
            start={k: v for k, v in start.items() if k in space},
            tie_threshold=tie_threshold(self.store, cell, self.config.protocol.tie_floor),
            invalid_reason=lambda c: invalid_reason(self._tuning_run(cell, {**fixed, **c})),
            max_runs=self.config.protocol.max_runs,
            grow=self.config.protocol.grow_grids,
            known=neighbour.evaluations if neighbour else (),
        )
        while candidates := descent.ask():
            records = yield [self._tuning_run(cell, {**fixed, **c}) for c in candidates]
            for candidate, record in zip(candidates, records, strict=True):
                descent.tell(candidate, loss_of(record))
        winner = {**descent.incumbent, **fixed}
        evaluations = tuple(
            Evaluation({**fixed, **e.configuration}, e.loss) for e in descent.evaluations
        )
        self._note_tuning(cell, phase, start, start_from, fixed, descent)
        if phase != "baseline":
            self.tuned.append(Tuned(cell, winner, evaluations, descent.tie_threshold))
        yield from self._confirm(cell, winner)

    def _start(self, cell: Cell, fixed: Configuration) -> tuple[Configuration, str]:
        """Where a descent starts: the nearest winner if it can be run here, else the study's start.

        Every optimizer has the same choice (protocol.md §2.1).
        """
        search = self.config.optimizers[self.optimizer]
        neighbour = self._nearest(cell)
        if neighbour is not None:
            start = {**neighbour.winner, **fixed}
            if invalid_reason(self._tuning_run(cell, start)) is None:
                return start, f"winner in {neighbour.cell.label}"
        return {**search.start, **fixed}, "start point"

    def _nearest(self, cell: Cell) -> Tuned | None:
        """The tuned cell at the least distance in ln N and ln r; of equal ones the first."""
        return min(self.tuned, key=lambda t: _distance(t.cell, cell), default=None)

    def _tuning_run(self, cell: Cell, configuration: Configuration) -> RunConfig:
        return self._run(cell, configuration, self.config.protocol.tuning_seed)

    def _run(self, cell: Cell, configuration: Configuration, seed: int) -> RunConfig:
        return self.config.run_config(
            self.optimizer, cell, configuration, seed=seed, fingerprint=self.fingerprint
        )

    def _note_tuning(
        self,
        cell: Cell,
        phase: str,
        start: Configuration,
        start_from: str,
        fixed: Configuration,
        descent: CoordinateDescent,
    ) -> None:
        """Write how the descent went: its path, everything it tried, and its certificate."""
        configs = [
            self._tuning_run(cell, {**fixed, **e.configuration}) for e in descent.evaluations
        ]
        evaluated = zip(descent.evaluations, configs, strict=True)
        self.store.note(
            TuningEntry(
                cell=cell_entry(cell),
                optimizer=self.optimizer,
                phase=phase,
                start=dict(start),
                start_from=start_from,
                fixed=dict(fixed),
                grid={name: list(axis.values) for name, axis in descent.space.items()},
                incumbent={**descent.incumbent, **fixed},
                certified=descent.certified,
                tie_threshold=descent.tie_threshold,
                moves=tuple(map(_move, descent.moves)),
                evaluations=tuple(
                    EvaluationEntry(dict(e.configuration), config.run_id, _finite(e.loss))
                    for e, config in evaluated
                ),
                rejected=tuple(descent.rejections),
                edges=tuple(descent.edges),
                runs=len(configs),
                tokens=sum(c.num_steps * c.tokens_per_step for c in configs),
            )
        )

    def _confirm(self, cell: Cell, winner: Configuration) -> Task:
        """The winner on held-out seeds, the same for all optimizers."""
        seeds = self.config.protocol.held_out_seeds
        records = yield [self._run(cell, winner, seed) for seed in seeds]
        self.store.note(
            ConfirmationEntry(
                cell=cell_entry(cell),
                optimizer=self.optimizer,
                configuration=dict(winner),
                run_ids=tuple(record.run_id for record in records),
            )
        )

    # Scale ------------------------------------------------------------------------------------

    def _find_sensitivity(self) -> tuple[AxisSensitivity, ...]:
        """Which axes differ between the cells of phase I; cells that wholly diverged left out."""
        cells = [
            CellEvaluations(
                cell=t.cell.label,
                evaluations=tuple((e.configuration, e.loss) for e in t.evaluations),
                tau=t.tie_threshold,
            )
            for t in self.tuned
            if any(math.isfinite(e.loss) for e in t.evaluations)
        ]
        searched = self.config.optimizers[self.optimizer].space
        found = tuple(a for a in find_sensitivity(cells) if a.axis in searched) if cells else ()
        self.store.note(
            SensitivityEntry(
                optimizer=self.optimizer,
                cells=tuple(cell.cell for cell in cells),
                axes=tuple(map(_sensitivity, found)),
            )
        )
        return found

    def _predict(self, cell: Cell, space: SearchSpace, stable: Configuration) -> Task:
        """Train what the laws of the sensitive axes predict, the others at their stable values.

        Where that cannot be run, the nearest winner is trained instead.
        """
        nearest = self._nearest(cell)
        assert nearest is not None  # every optimizer is tuned in the tuned cell
        laws = {name: self._law(name, axis) for name, axis in space.items()}
        predictions = {name: law.predict(*_place(cell)) for name, law in laws.items()}
        snapped = {
            name: snap(predictions[name], axis, rounding_of(name, axis))
            for name, axis in space.items()
        }
        predicted = {name: s.value for name, s in snapped.items()}
        configuration = {**nearest.winner, **stable, **predicted}
        refused = invalid_reason(self._tuning_run(cell, configuration))
        if refused is not None:
            configuration = dict(nearest.winner)
        self.store.note(
            PredictionEntry(
                cell=cell_entry(cell),
                optimizer=self.optimizer,
                configuration=configuration,
                refused=refused,
                axes=tuple(
                    _prediction(name, axis, laws[name], predictions[name], snapped[name])
                    for name, axis in space.items()
                ),
            )
        )
        yield from self._confirm(cell, configuration)

    def _law(self, name: str, axis: Axis) -> ScalingLaw:
        cells = [
            TunedValue(num_params=n, ratio=r, value=t.winner[name])
            for t in self.tuned
            for n, r in [_place(t.cell)]
        ]
        return fit_scaling_law(
            cells, complement=axis.growth == "complement", resolution=grid_step(axis)
        )


def tie_threshold(store: RunStore, cell: Cell, floor: float) -> float:
    """τ of a cell: measured there, or in the nearest cell with a measurement; else the floor."""
    measured = entries_of(NoiseEntry, store.journal)
    if not measured:
        return floor
    here = cell_entry(cell)
    nearest = min(measured, key=lambda entry: _log_distance(entry.cell, here))
    return nearest.tie_threshold


def loss_of(record: RunRecord) -> float:
    """The loss by which a run is judged in tuning; infinite if it diverged."""
    return math.inf if record.val_loss is None else record.val_loss


def invalid_reason(config: RunConfig) -> str | None:
    """Why a candidate is refused before it costs anything."""
    if problems := config.problems():
        return " ".join(problems)
    cls = optimizer_class(config.optimizer.name)
    return cls.invalid_reason(dict(config.optimizer.hyperparameters))


def rounding_of(name: str, axis: Axis) -> Rounding:
    """How a prediction becomes a value that can be trained with."""
    if axis.growth == "fixed":
        return "candidate"
    if name == "batch_size":
        return "power of two"
    whole = all(isinstance(value, int) for value in axis.values)
    return "integer" if whole else "as is"


def grid_step(axis: Axis) -> float:
    """The factor that a law of this axis resolves; 1 for choices that have no order."""
    if axis.growth == "fixed":
        return 1.0
    return least_factor(axis.values, complement=axis.growth == "complement")


def _narrowed(space: SearchSpace, sensitivity: Sequence[AxisSensitivity]) -> SearchSpace:
    """The sensitive axes with the candidates that cover all cells of phase I."""
    return SearchSpace(
        {
            a.axis: dataclasses.replace(space[a.axis], values=a.candidates)
            for a in sensitivity
            if not a.is_stable
        }
    )


def _place(cell: Cell) -> tuple[float, float]:
    return float(cell.model.num_nonembedding_params), cell.ratio


def _distance(a: Cell, b: Cell) -> float:
    return _log_distance(cell_entry(a), cell_entry(b))


def _log_distance(a: CellEntry, b: CellEntry) -> float:
    """The distance in (ln N, ln r), in which the grid of cells is about even."""
    sizes = math.log(a.num_nonembedding_params / b.num_nonembedding_params)
    return math.hypot(sizes, math.log(a.ratio / b.ratio))


def _sensitivity(axis: AxisSensitivity) -> AxisSensitivityEntry:
    return AxisSensitivityEntry(
        axis=axis.axis,
        is_stable=axis.is_stable,
        stable_values=axis.stable_values,
        candidates=axis.candidates,
        near_best={cell.cell: [v.value for v in cell.values] for cell in axis.near_best},
        silent_cells=axis.silent_cells,
    )


def _prediction(
    name: str, axis: Axis, law: ScalingLaw, prediction: Prediction, snapped: Snapped
) -> AxisPredictionEntry:
    return AxisPredictionEntry(
        axis=name,
        form=law.form,
        reason=law.reason,
        complement=law.complement,
        resolution=grid_step(axis),
        **asdict(prediction),
        snapped=snapped.value,
        clamped=snapped.clamped,
    )


def _finite(loss: float) -> float | None:
    """A loss as JSON has it: None where the run diverged."""
    return loss if math.isfinite(loss) else None


def _move(move: Move) -> MoveEntry:
    losses = _finite(move.loss_before), _finite(move.loss_after)
    return MoveEntry(move.axis, move.before, move.after, *losses)
