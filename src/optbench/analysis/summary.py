"""A store → StudySummary: every number that a table, a figure or the report shows, by run."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.analysis.baseline import BaselineCurve, Reference, draw_curve
from optbench.analysis.cells import CellReader, CellSummary, by_speed, runs_by_key, size_basis
from optbench.analysis.claims.claim import Claim
from optbench.analysis.claims.registry import evaluate_claims
from optbench.analysis.confirmation import Replicates, read_confirmations
from optbench.analysis.notices import (
    CurveIncomplete,
    FitNotice,
    InCell,
    NoiseUnequal,
    NoNoise,
    NothingConfirmed,
    StudyNotice,
)
from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.seed_groups import NoiseGroup, noise_groups
from optbench.analysis.spending import Spending, compare_budget, spent_on
from optbench.analysis.study_fit import fit_study
from optbench.statistics.joint_fit import JointFit
from optbench.statistics.noise import SeedNoise, pooled_noise, shared_seed_correlation
from optbench.store.journal import read_journal
from optbench.store.journal_entries import NoiseEntry, StudyEntry
from optbench.store.store import RunRecord, RunStore

UNEQUAL_NOISE_P = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedOrDiverged:
    """A run that diverged (a result) or failed (not one)."""

    run_id: str
    optimizer: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentUse:
    """A device and its software, and how many runs it trained."""

    environment: Mapping[str, Any]
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """What a study has found so far; without further words, in its headline cell.

    Args:
        rows: one for each optimizer, the best headline speed-up first, unfinished ones last.
        curve: the baseline's, at the size of the headline cell.
        noise: σ of test losses there, pooled over the size; None until a group has two seeds.
        noise_groups: of the whole study.
        thresholds: the noise measurements that set the tie thresholds.
        seed_correlation: of the confirmation losses of two configurations over the seeds that they
            share, the mean over all pairs; what it is above 0 the paired intervals gain.
        missing: what is not there yet, but for the joint fit.
        cells: every cell in which something is confirmed, the headline first, then by size.
        curves: the baseline's at every size, by the name of the size.
        joint: the joint fit of all cells, with its speed-ups by size and their trends.
        joint_notice: what the study lacks for that fit.
        claims: the study's verdicts on the claims of the paper.
    """

    study: StudyEntry
    rows: tuple[OptimizerRow, ...]
    curve: BaselineCurve
    noise: SeedNoise | None
    noise_groups: tuple[NoiseGroup, ...]
    thresholds: tuple[NoiseEntry, ...]
    seed_correlation: float | None
    budget: Spending
    failed_or_diverged: tuple[FailedOrDiverged, ...]
    environments: tuple[EnvironmentUse, ...]
    missing: tuple[StudyNotice, ...]
    cells: tuple[CellSummary, ...]
    curves: Mapping[str, BaselineCurve]
    joint: JointFit
    joint_notice: FitNotice | None
    claims: tuple[Claim, ...]

    def row(self, optimizer: str) -> OptimizerRow:
        """The row of an optimizer.

        Raises:
            KeyError: the study does not have it.
        """
        return {row.optimizer: row for row in self.rows}[optimizer]


def summarise(store: RunStore) -> StudySummary:
    """Read a finished or unfinished study.

    Raises:
        StoreError: the journal has no entry that names the study, or lacks a field.
    """
    journal = read_journal(store.journal)
    study, records = journal.study, store.records
    confirmed = read_confirmations(journal, records)
    groups = noise_groups(journal, confirmed, records)
    everywhere = pooled_noise([group.losses for group in groups])
    joint, joint_notice = fit_study(confirmed, everywhere, baseline=study.baseline)
    sizes = dict.fromkeys([study.tuned_cell.size, *(c.cell.size for c in confirmed)])
    bases = {size: size_basis(size, confirmed, groups, study.baseline) for size in sizes}
    reader = CellReader(journal, runs_by_key(records.values()), confirmed, groups, bases, joint)
    cells = reader.summaries()
    reference = reader.reference(study.tuned_cell)
    rows = _headline_rows(reader, cells, reference)
    curves = {size: draw_curve(basis.points, basis.noise) for size, basis in bases.items()}
    return StudySummary(
        study=study,
        rows=rows,
        curve=curves[study.tuned_cell.size],
        noise=reference.noise,
        noise_groups=groups,
        thresholds=journal.noise,
        seed_correlation=_seed_correlation(study, confirmed),
        budget=compare_budget(journal, records.values()),
        failed_or_diverged=_failed_or_diverged(records),
        environments=_environments(records),
        missing=(*_missing(study, rows, reference), *_missing_elsewhere(study, cells)),
        cells=cells,
        curves=curves,
        joint=joint,
        joint_notice=joint_notice,
        claims=evaluate_claims(journal, cells, joint, _test_losses(records)),
    )


def _test_losses(records: Mapping[str, RunRecord]) -> dict[str, float]:
    return {key: r.test_loss for key, r in records.items() if r.test_loss is not None}


def _headline_rows(
    reader: CellReader, cells: Sequence[CellSummary], reference: Reference
) -> tuple[OptimizerRow, ...]:
    """One for each optimizer of the study, with all that it spent."""
    study = reader.journal.study
    spent: dict[str, list[RunRecord]] = {name: [] for name in study.optimizers}
    for (name, _, _), runs in reader.runs.items():
        spent.setdefault(name, []).extend(runs)
    there = [cell for cell in cells if cell.cell.key == study.tuned_cell.key]
    found = {row.optimizer: row for cell in there for row in cell.rows}
    return by_speed(
        dataclasses.replace(found[name], spent=spent_on(spent[name]))
        if name in found
        else reader.row(study.tuned_cell, name, spent_on(spent[name]), reference)
        for name in study.optimizers
    )


def _seed_correlation(study: StudyEntry, confirmed: Sequence[Replicates]) -> float | None:
    """Over the headline cell and the baseline's curve there."""
    headline = study.tuned_cell
    return shared_seed_correlation(
        [
            c.by_seed
            for c in confirmed
            if c.cell.key == headline.key
            or (c.optimizer == study.baseline and c.cell.size == headline.size)
        ]
    )


def _failed_or_diverged(records: Mapping[str, RunRecord]) -> tuple[FailedOrDiverged, ...]:
    return tuple(
        FailedOrDiverged(
            run_id=record.run_id,
            optimizer=record.config["optimizer"]["name"],
            status=record.status,
            reason=record.error.strip().splitlines()[-1] if record.error.strip() else "",
        )
        for record in records.values()
        if record.status != "completed"
    )


def _environments(records: Mapping[str, RunRecord]) -> tuple[EnvironmentUse, ...]:
    counts = Counter(json.dumps(r.environment, sort_keys=True) for r in records.values())
    return tuple(
        EnvironmentUse(environment=json.loads(text), runs=runs)
        for text, runs in counts.most_common()
    )


def _missing(
    study: StudyEntry, rows: Sequence[OptimizerRow], reference: Reference
) -> Iterator[StudyNotice]:
    for row in rows:
        yield from row.missing
    unmeasured = [
        cell.label
        for cell in study.curve_cells
        if float(cell.num_tokens) not in reference.losses.tokens
    ]
    if unmeasured:
        yield CurveIncomplete(tuple(unmeasured))
    if reference.noise is None:
        yield NoNoise()
    elif reference.noise.equal_p is not None and reference.noise.equal_p < UNEQUAL_NOISE_P:
        yield NoiseUnequal(reference.noise.equal_p)


def _missing_elsewhere(study: StudyEntry, cells: Sequence[CellSummary]) -> Iterator[StudyNotice]:
    for cell in cells:
        if cell.cell.key != study.tuned_cell.key:
            yield from (InCell(cell.cell.label, notice) for notice in cell.missing)
    begun = {cell.cell.key for cell in cells} | {c.key for c in study.curve_cells}
    if absent := [cell.label for cell in study.cells if cell.key not in begun]:
        yield NothingConfirmed(tuple(absent))
