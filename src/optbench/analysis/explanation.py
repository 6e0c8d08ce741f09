"""Why an optimizer has the hyperparameters it has in a cell: the journal's evidence, in order."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.analysis.axis_scaling import (
    AxisScaling,
    CurrentFit,
    current_fits,
    current_sensitivity,
    recorded_sensitivity,
    searched_axes,
    tunings_of,
)
from optbench.analysis.cells import runs_by_key, size_basis
from optbench.analysis.confirmation import Replicates, read_confirmation, read_confirmations
from optbench.analysis.jsonable import to_jsonable
from optbench.analysis.search_path import Search, read_search
from optbench.analysis.seed_groups import noise_groups
from optbench.config import UserError
from optbench.space import Axis, did_you_mean
from optbench.statistics.noise import MeanLoss, mean_loss
from optbench.store.journal import Journal
from optbench.store.journal_entries import (
    CellEntry,
    ConfirmationEntry,
    NoiseEntry,
    Phase,
    PredictionEntry,
    TuningEntry,
)
from optbench.store.store import RunRecord


class ExplanationError(UserError):
    """Nothing is known of this cell and optimizer; the message lists those that are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Where the noise threshold comes from.

    Args:
        tau: nats per token; a change must be better by more than this to count.
        measured: the measurement in this cell or, without one, in the nearest by size and budget.
        seeds: on which it was made, as far as its runs are stored.
    """

    tau: float
    measured: NoiseEntry | None
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedSearch:
    """A cell whose tuning the journal does not have: its runs so far.

    Args:
        runs: of this optimizer in this cell, measurements of the noise among them.
        best_loss: the least validation loss among them, nats per token.
        best_run_id: its run.
    """

    runs: int
    best_loss: float | None
    best_run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutSeeds:
    """The confirmation of the configuration.

    Args:
        confirmed: its runs.
        test: mean test loss; None if all of them diverged or failed.
        val_mean: mean validation loss at the end of the same runs, to compare with the tuning's.
    """

    confirmed: Replicates
    test: MeanLoss | None
    val_mean: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything that a study decided for an optimizer in a cell; None or empty is "not there".

    Args:
        study: its name.
        phase: of the protocol that the cell belongs to.
        start_from: ``start point`` (the study file's) or such as ``winner in d32 1x``.
        search: the descent, from its start to its certificate.
        unfinished: instead of ``search``.
        sensitivity: of every axis; ``sensitivity_recorded`` if the study itself judged it so,
            otherwise it is judged now.
        prediction: what the laws of the study gave this cell.
        laws: through the tunings that there are; with a prediction, through those that the study
            fits, so that they show what it was made from.
    """

    study: str
    cell: CellEntry
    optimizer: str
    phase: Phase
    start_from: str
    threshold: Threshold | None
    search: Search | None
    unfinished: UnfinishedSearch | None
    sensitivity: tuple[AxisScaling, ...]
    sensitivity_recorded: bool
    prediction: PredictionEntry | None
    laws: tuple[CurrentFit, ...]
    confirmation: HeldOutSeeds | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; a number that is infinite becomes None."""
        return to_jsonable(dataclasses.asdict(self))


def explain(
    journal: Journal,
    records: Mapping[str, RunRecord],
    cell: str,
    optimizer: str,
    axes: Mapping[str, Axis] | None = None,
) -> Explanation:
    """Gather what led to the configuration of an optimizer in a cell.

    Args:
        journal: of the study.
        records: its runs by id.
        cell: a label such as ``d32 1x``; ``d32-1x`` and ``d32@1`` are the same.
        optimizer: its name.
        axes: of the optimizer, which define what grows as one minus its value.

    Raises:
        ExplanationError: an unknown cell or optimizer, or one that nothing was done for.
    """
    _check_optimizer(journal, optimizer)
    place = find_cell(journal, cell)
    tuning = journal.tuning(place, optimizer)
    prediction = journal.prediction(place, optimizer)
    confirmation = journal.confirmation(place, optimizer)
    unfinished = None
    if not (tuning or prediction or confirmation):  # only then are all records looked through
        at = (optimizer, place.num_nonembedding_params, place.num_tokens)
        runs = runs_by_key(records.values()).get(at, [])
        if not runs:
            raise ExplanationError(_nothing_there(journal, place, optimizer))
        unfinished = _unfinished(runs)
    tunings = tunings_of(journal, optimizer)
    recorded = recorded_sensitivity(journal, optimizer)
    return Explanation(
        study=journal.study.name,
        cell=place,
        optimizer=optimizer,
        phase=journal.study.phase_of(place),
        start_from=_start_from(journal, tuning) if tuning else "",
        threshold=_threshold(journal, place, tuning, records),
        search=read_search(tuning, _axis_order(journal, tuning), records) if tuning else None,
        unfinished=unfinished,
        sensitivity=recorded or current_sensitivity(tunings),
        sensitivity_recorded=bool(recorded),
        prediction=prediction,
        laws=current_fits(_fitted(tunings, prediction), place, axes or {}),
        confirmation=_held_out_seeds(journal, records, confirmation) if confirmation else None,
    )


def find_cell(journal: Journal, text: str) -> CellEntry:
    """The cell of a label, however its parts are separated.

    Raises:
        ExplanationError: the study has no such cell; the nearest and all labels are given.
    """
    tuned = (tuning.cell for tuning in journal.tunings.values())
    cells = {cell.key: cell for cell in (*tuned, *journal.study.cells)}
    wanted = _place(text)
    for cell in cells.values():
        if _place(cell.label) == wanted:
            return cell
    labels = [cell.label for cell in sorted(cells.values(), key=_size_and_budget)]
    raise ExplanationError(did_you_mean(text, labels, what="cell"))


def _size_and_budget(cell: CellEntry) -> tuple[int, int]:
    return cell.num_nonembedding_params, cell.num_tokens


def _place(text: str) -> tuple[str, float] | str:
    """Size and ratio of ``d32 1x``, ``d32-1x``, ``d32@1``; anything else stays as it is."""
    found = re.fullmatch(r"(.+?)[\s@_-]+(\d+\.?\d*|\.\d+)\s*[x×]?", text.strip().casefold())
    return (found[1], float(found[2])) if found else text


def _check_optimizer(journal: Journal, optimizer: str) -> None:
    tuned = [name for _, name in journal.tunings]
    known = list(dict.fromkeys([*journal.study.optimizers, *tuned]))
    if optimizer not in known:
        raise ExplanationError(did_you_mean(optimizer, known, what="optimizer in this study"))


def _nothing_there(journal: Journal, cell: CellEntry, optimizer: str) -> str:
    places = [tuning.cell.label for tuning in tunings_of(journal, optimizer)]
    known = f"It was tuned in {', '.join(places)}." if places else "It was tuned nowhere yet."
    return (
        f"This store has no run of {optimizer} in {cell.label}, so there is nothing to explain. "
        f"{known} If the study is to reach that cell, `optbench run` goes on with it."
    )


def _unfinished(runs: Sequence[RunRecord]) -> UnfinishedSearch:
    losses = [(run.val_loss, run.run_id) for run in runs if run.val_loss is not None]
    best_loss, best_run_id = min(losses, default=(None, ""))
    return UnfinishedSearch(runs=len(runs), best_loss=best_loss, best_run_id=best_run_id)


def _start_from(journal: Journal, tuning: TuningEntry) -> str:
    """As recorded; before it was, the baseline's other cells began at its winner."""
    study = journal.study
    if tuning.start_from:
        return tuning.start_from
    if study.phase_of(tuning.cell) == "baseline":
        return f"winner in {study.tuned_cell.label}"
    return "start point"


def _fitted(
    tunings: Sequence[TuningEntry], prediction: PredictionEntry | None
) -> Sequence[TuningEntry]:
    """The study fits its laws to phases I and II; without one, every tuning is better than none."""
    return [t for t in tunings if prediction is None or t.phase != "baseline"]


def _axis_order(journal: Journal, tuning: TuningEntry) -> tuple[str, ...]:
    """As the study lists its axes, then those that it does not list."""
    listed = journal.study.axes.get(tuning.optimizer, ())
    return tuple(dict.fromkeys([*listed, *searched_axes(tuning)]))


def _threshold(
    journal: Journal,
    cell: CellEntry,
    tuning: TuningEntry | None,
    records: Mapping[str, RunRecord],
) -> Threshold | None:
    """The tuning's own τ if there is one, and the nearest measurement of the noise."""

    def distance(entry: NoiseEntry) -> float:
        size = entry.cell.num_nonembedding_params / cell.num_nonembedding_params
        return math.hypot(math.log(size), math.log(entry.cell.ratio / cell.ratio))

    measured = min(journal.noise, key=distance, default=None)
    if measured is None:
        return Threshold(tau=tuning.tie_threshold, measured=None, seeds=()) if tuning else None
    return Threshold(
        tau=tuning.tie_threshold if tuning else measured.tie_threshold,
        measured=measured,
        seeds=tuple(records[run].run_config.seed for run in measured.run_ids if run in records),
    )


def _held_out_seeds(
    journal: Journal, records: Mapping[str, RunRecord], entry: ConfirmationEntry
) -> HeldOutSeeds:
    """The mean has the interval that the report gives it: the noise is pooled over the size."""
    confirmed, everything = read_confirmation(entry, records), read_confirmations(journal, records)
    groups = noise_groups(journal, everything, records)
    noise = size_basis(entry.cell.size, everything, groups, journal.study.baseline).noise
    losses = [records[seed.run_id].val_loss for seed in confirmed.seeds]
    finite = [loss for loss in losses if loss is not None]
    return HeldOutSeeds(
        confirmed=confirmed,
        test=mean_loss(confirmed.losses, noise) if confirmed.losses else None,
        val_mean=math.fsum(finite) / len(finite) if finite else None,
    )
