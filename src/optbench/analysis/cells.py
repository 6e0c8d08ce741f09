"""Every cell of a study: who was confirmed there, against the baseline's curve of that size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from optbench.analysis.baseline import Reference, build_reference
from optbench.analysis.confirmation import Replicates
from optbench.analysis.notices import (
    BaselineUnconfirmed,
    CellNotice,
    NoiseBorrowed,
    TooFewBudgets,
)
from optbench.analysis.outcomes import OptimizerRow, build_row
from optbench.analysis.seed_groups import NoiseGroup
from optbench.analysis.spending import Spent, spent_on
from optbench.analysis.tuning import read_tuning
from optbench.statistics.joint_fit import JointFit
from optbench.statistics.noise import SeedNoise, pooled_noise
from optbench.statistics.speedup import MIN_BUDGETS, REPLICATES
from optbench.store.journal import Journal
from optbench.store.journal_entries import CellEntry, CellKey, Phase
from optbench.store.store import RunRecord

RunKey: TypeAlias = tuple[str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeBasis:
    """What the cells of one model size have in common.

    Args:
        points: the baseline's held-out seeds, by budget.
        noise: of test losses, pooled over the groups of seeds of this size, or over all sizes where
            this one has no group of two; None if no size has one.
        is_noise_own: it is of this size.
    """

    size: str
    points: tuple[Replicates, ...]
    noise: SeedNoise | None
    is_noise_own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One cell.

    Args:
        phase: in which all optimizers meet there; "baseline" where only the baseline runs.
        rows: of every optimizer that is tuned, predicted or confirmed there, the fastest first;
            ``spent`` counts the runs of this cell alone.
        reference: the baseline there, and its curve and noise at this size.
        noise: σ of test losses in this cell alone; None until a configuration has two seeds.
        missing: what is not there.
    """

    cell: CellEntry
    phase: Phase
    rows: tuple[OptimizerRow, ...]
    reference: Reference
    noise: SeedNoise | None
    missing: tuple[CellNotice, ...]

    def row(self, optimizer: str) -> OptimizerRow | None:
        """The row of an optimizer; None if it has nothing here."""
        return next((row for row in self.rows if row.optimizer == optimizer), None)


def size_basis(
    size: str, confirmed: Sequence[Replicates], groups: Sequence[NoiseGroup], baseline: str
) -> SizeBasis:
    """Collect what a size has.

    Args:
        size: its name.
        confirmed: everything of the study, the baseline by budget.
        groups: of seeds, of the whole study.
        baseline: its name.
    """
    own = pooled_noise([group.losses for group in groups if group.cell.size == size])
    return SizeBasis(
        size=size,
        points=tuple(c for c in confirmed if c.optimizer == baseline and c.cell.size == size),
        noise=own or pooled_noise([group.losses for group in groups]),
        is_noise_own=own is not None,
    )


@dataclass(frozen=True, slots=True)
class CellReader:
    """Builds the rows of any cell of one study; ``runs`` are by optimizer, size and budget."""

    journal: Journal
    runs: Mapping[RunKey, Sequence[RunRecord]]
    confirmed: Sequence[Replicates]
    groups: Sequence[NoiseGroup]
    bases: Mapping[str, SizeBasis]
    joint: JointFit
    replicates: int = REPLICATES

    def summaries(self) -> tuple[CellSummary, ...]:
        """All cells in which something is confirmed, the headline first, then by size."""
        headline = self.journal.study.tuned_cell.key
        cells = {c.cell.key: c.cell for c in self.confirmed}
        order = sorted(
            cells.values(),
            key=lambda c: (c.key != headline, c.num_nonembedding_params, c.num_tokens),
        )
        return tuple(self._summary(cell) for cell in order)

    def _summary(self, cell: CellEntry) -> CellSummary:
        reference = self.reference(cell)
        names = [name for name in self.journal.study.optimizers if self._has_something(cell, name)]
        rows = by_speed(
            self.row(cell, name, spent_on(self._runs_of(cell, name)), reference) for name in names
        )
        groups = [group.losses for group in self.groups if group.cell.key == cell.key]
        return CellSummary(
            cell=cell,
            phase=self.journal.study.phase_of(cell),
            rows=rows,
            reference=reference,
            noise=pooled_noise(groups),
            missing=tuple(self._missing(cell, rows, reference)),
        )

    def reference(self, cell: CellEntry) -> Reference:
        """What the optimizers of a cell are compared with."""
        basis = self.bases[cell.size]
        name, timing = self.journal.study.baseline, self.journal.timing
        return build_reference(name, cell, basis.points, basis.noise, timing)

    def row(
        self, cell: CellEntry, optimizer: str, spent: Spent, reference: Reference
    ) -> OptimizerRow:
        """All that is known of an optimizer in a cell, which may be nothing."""
        entry = self.journal.tuning(cell, optimizer)
        axes = tuple(self.journal.study.axes.get(optimizer, ()))
        return build_row(
            optimizer,
            self._confirmed_in(cell.key, optimizer),
            read_tuning(entry, axes) if entry is not None else None,
            spent,
            reference,
            self.joint,
            self.journal.prediction(cell, optimizer),
            replicates=self.replicates,
        )

    def _confirmed_in(self, key: CellKey, optimizer: str) -> Replicates | None:
        found = (c for c in self.confirmed if c.cell.key == key and c.optimizer == optimizer)
        return next(found, None)

    def _has_something(self, cell: CellEntry, optimizer: str) -> bool:
        journal = self.journal
        return any(
            found is not None
            for found in (
                journal.tuning(cell, optimizer),
                journal.prediction(cell, optimizer),
                journal.confirmation(cell, optimizer),
            )
        )

    def _runs_of(self, cell: CellEntry, optimizer: str) -> Sequence[RunRecord]:
        return self.runs.get((optimizer, cell.num_nonembedding_params, cell.num_tokens), [])

    def _missing(
        self, cell: CellEntry, rows: Sequence[OptimizerRow], reference: Reference
    ) -> Iterator[CellNotice]:
        for row in rows:
            yield from row.missing
        if all(row.is_baseline for row in rows):
            return
        budgets, needed = len(reference.losses.tokens), MIN_BUDGETS["interpolate"]
        if budgets < needed:
            yield TooFewBudgets(cell.size, budgets, needed)
        if reference.confirmed is None:
            yield BaselineUnconfirmed(reference.name)
        if reference.noise is not None and not self.bases[cell.size].is_noise_own:
            yield NoiseBorrowed(cell.size)


def runs_by_key(records: Iterable[RunRecord]) -> dict[RunKey, list[RunRecord]]:
    """Sort records by optimizer, non-embedding parameters and budget."""
    found: dict[RunKey, list[RunRecord]] = {}
    for record in records:
        config = record.run_config
        place = (
            config.optimizer.name,
            config.model.num_nonembedding_params,
            config.num_tokens,
        )
        found.setdefault(place, []).append(record)
    return found


def by_speed(rows: Iterable[OptimizerRow]) -> tuple[OptimizerRow, ...]:
    """Fastest first, unfinished ones last; the baseline stands at 1, where it belongs."""
    return tuple(sorted(rows, key=_rank))


def _rank(row: OptimizerRow) -> tuple[bool, float]:
    speed = row.tokens.value if row.tokens else 1.0
    return row.tokens is None and not row.is_baseline, -speed
