"""The published results as a study of this project: what its judges of cells and claims read.

Every loss is the least of a sweep with one seed, so nothing in it shows its noise: σ is stated by
the caller (see `noise`) and taken as known. The tuning tables change one value of the chosen
configuration at a time, which is what a descent tries at its end; the order of the descents, and
what they tried on their way, were not published.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from optbench.analysis.cells import CellReader, CellSummary, SizeBasis
from optbench.analysis.claims.claim import Claim
from optbench.analysis.claims.families import ADAMW
from optbench.analysis.claims.registry import evaluate_claims
from optbench.analysis.confirmation import Replicates, SeedResult
from optbench.analysis.outcomes import OptimizerRow
from optbench.ladder import PAPER_SIZES
from optbench.published import PublishedCell, PublishedResults
from optbench.recommend.tuned_cells import PUBLISHED_TIE
from optbench.statistics.joint_fit import CellLoss, JointFit, fit_joint
from optbench.statistics.noise import SeedNoise
from optbench.store.journal import Journal
from optbench.store.journal_entries import (
    CellEntry,
    CellKey,
    ConfirmationEntry,
    EvaluationEntry,
    PhasesEntry,
    StudyEntry,
    TuningEntry,
)
from optbench.units import format_value

PHASE_ONE: tuple[CellKey, ...] = (
    ("130m", 1.0), ("130m", 2.0), ("130m", 4.0), ("130m", 8.0), ("300m", 1.0), ("520m", 1.0),
)  # fmt: skip
CASE_STUDY_SIZE = "1.2b"
CASE_STUDY_RATIO = 16.0
KNOWN_DOF = 1_000_000  # of a σ that is stated, not estimated: Student's t is normal to six digits
CELL_REPLICATES = 1000
JOINT_REPLICATES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedStudy:
    """What is known of the published study under a stated noise.

    Args:
        noise: as stated, with the degrees of freedom of a known one.
        journal: its cells and tuning tables; ``evaluations`` name the value changed.
        cells: every optimizer in every cell, by size and ratio, with its speed-ups by all
            estimators.
        joint: the joint fit of all cells, whose intervals come from the scatter about it.
        claims: the nine, judged on these cells.
    """

    noise: SeedNoise
    journal: Journal
    cells: tuple[CellSummary, ...]
    joint: JointFit
    claims: tuple[Claim, ...]

    def cell(self, size: str, ratio: float) -> CellSummary | None:
        """One cell, if it was published."""
        return next((c for c in self.cells if c.cell.key == (size, ratio)), None)


def known_noise(sigma: float) -> SeedNoise:
    """A standard deviation that is stated, in nats per token."""
    return SeedNoise(sigma=sigma, dof=KNOWN_DOF, low=sigma, high=sigma, equal_p=None)


def cell_losses(results: PublishedResults) -> list[CellLoss]:
    """All cells, for a joint fit."""
    return [
        CellLoss(
            optimizer=cell.optimizer,
            params=float(cell.cell.model.num_nonembedding_params),
            tokens=float(cell.cell.num_tokens),
            mean=cell.loss,
            count=1,
        )
        for cell in results.cells
    ]


def read_published_study(
    results: PublishedResults,
    sigma: float,
    *,
    joint: JointFit | None = None,
    replicates: int = CELL_REPLICATES,
    joint_replicates: int = JOINT_REPLICATES,
) -> PublishedStudy:
    """Build the study and judge it.

    Args:
        results: as published.
        sigma: standard deviation of a published loss, nats per token.
        joint: the joint fit of all cells, which does not depend on σ; without it, it is made.
        replicates: of the bootstrap of every cell's speed-ups.
        joint_replicates: of the bootstrap of the joint fit.
    """
    noise, journal = known_noise(sigma), _journal(results)
    joint = joint or fit_joint(
        cell_losses(results), None, baseline=ADAMW, by_size=True, replicates=joint_replicates
    )
    confirmed = [_confirmed(cell) for cell in results.cells]
    bases = {
        size: SizeBasis(
            size=size,
            points=tuple(c for c in confirmed if c.optimizer == ADAMW and c.cell.size == size),
            noise=noise,
            is_noise_own=True,
        )
        for size in PAPER_SIZES
    }
    reader = CellReader(journal, {}, confirmed, (), bases, joint, replicates)
    cells = tuple(_within_budgets(cell) for cell in reader.summaries())
    losses = {
        evaluation.run_id: evaluation.loss
        for tuning in journal.tunings.values()
        for evaluation in tuning.evaluations
        if evaluation.loss is not None
    }
    return PublishedStudy(
        noise=noise,
        journal=journal,
        cells=cells,
        joint=joint,
        claims=evaluate_claims(journal, cells, joint, losses, (2**0.5 * sigma, KNOWN_DOF)),
    )


def _within_budgets(cell: CellSummary) -> CellSummary:
    """The cell, with the paper's estimate as the headline where interpolation leaves the budgets.

    An interpolated interval that ends below the smallest or above the largest budget of the
    baseline has no number there, which no mean over cells could count.
    """
    return dataclasses.replace(cell, rows=tuple(_with_ends(row) for row in cell.rows))


def _with_ends(row: OptimizerRow) -> OptimizerRow:
    found = row.tokens
    if found is None or found.low is None or found.high is None or row.confirmed is None:
        return row
    if found.low > 0 and math.isfinite(found.high):
        return row
    other = next((e for e in row.estimates if e.estimator == "paper"), found)
    tokens = other.value * row.confirmed.cell.num_tokens
    return dataclasses.replace(row, tokens=other, baseline_tokens=tokens)


def entry_of(cell: PublishedCell) -> CellEntry:
    """Its place, as journals name it."""
    place = cell.cell
    return CellEntry(place.size, place.ratio, place.num_tokens, place.model.num_nonembedding_params)


def _journal(results: PublishedResults) -> Journal:
    places = {cell.cell.label: entry_of(cell) for cell in results.cells}
    order = sorted(places.values(), key=lambda c: (c.num_nonembedding_params, c.num_tokens))
    case_studies = [c for c in order if _is_case_study(c)]
    study = StudyEntry(
        name="published",
        title=results.source,
        smoke=False,
        baseline=ADAMW,
        optimizers=results.optimizers,
        confirm_seeds=1,
        tuned_cell=order[0],
        baseline_cells=(),
        axes={name: _axes(results, name) for name in results.optimizers},
        phases=PhasesEntry(
            tune=tuple(c for c in order if c.key in PHASE_ONE),
            retune=tuple(c for c in order if c.key not in PHASE_ONE and not _is_case_study(c)),
            predict=tuple(case_studies),
        ),
    )
    tunings = {(entry_of(cell).key, cell.optimizer): _tuning(cell) for cell in results.cells}
    return Journal(
        study=study,
        plan=None,
        noise=(),
        tunings={key: tuning for key, tuning in tunings.items() if tuning.runs > 1},
        confirmations={
            (entry_of(cell).key, cell.optimizer): ConfirmationEntry(
                entry_of(cell), cell.optimizer, cell.configuration, (_name(cell),)
            )
            for cell in results.cells
        },
        sessions=(),
        session_ends=(),
        timing=None,
    )


def _is_case_study(cell: CellEntry) -> bool:
    return cell.size == CASE_STUDY_SIZE or cell.ratio == CASE_STUDY_RATIO


def _axes(results: PublishedResults, optimizer: str) -> tuple[str, ...]:
    """What its tuning tables vary, in their order."""
    trials = (trial for cell in results.of(optimizer) for trial in cell.trials)
    return tuple(dict.fromkeys(trial.axis for trial in trials))


def _tuning(cell: PublishedCell) -> TuningEntry:
    evaluations = tuple(_evaluations(cell))
    return TuningEntry(
        cell=entry_of(cell),
        optimizer=cell.optimizer,
        start=cell.configuration,
        incumbent=cell.configuration,
        certified=False,
        tie_threshold=PUBLISHED_TIE,
        moves=(),
        evaluations=evaluations,
        rejected=(),
        edges=(),
        runs=len(evaluations),
        tokens=len(evaluations) * cell.cell.num_tokens,
    )


def _evaluations(cell: PublishedCell) -> Iterator[EvaluationEntry]:
    """The best configuration with its loss in the table, and every change that has a result."""
    name = _name(cell)
    own = cell.loss if cell.table_loss is None else cell.table_loss
    yield EvaluationEntry(cell.configuration, name, own)
    for trial in cell.trials:
        if trial.loss is not None or trial.diverged:
            yield EvaluationEntry(
                {**cell.configuration, trial.axis: trial.value},
                f"{name} {trial.axis}={format_value(trial.value)}",
                trial.loss,
            )


def _name(cell: PublishedCell) -> str:
    """Stands for the id of the run, which was not published."""
    return f"{cell.optimizer} {cell.cell.label}"


def _confirmed(cell: PublishedCell) -> Replicates:
    """The published loss as the one run of a winner."""
    seed = SeedResult(
        run_id=_name(cell),
        seed=0,
        test_loss=cell.loss,
        seconds_per_token=None,
        state_bytes_per_param=float("nan"),
        device="unknown",
        val_curve=(),
    )
    return Replicates(
        cell=entry_of(cell),
        optimizer=cell.optimizer,
        configuration=cell.configuration,
        seeds=(seed,),
        absent=(),
    )
