"""Runs that differ in their seed alone, in all cells: what the noise is estimated from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optbench.analysis.confirmation import Replicates
from optbench.store.journal import Journal
from optbench.store.journal_entries import CellEntry
from optbench.store.store import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseGroup:
    """Seeds of one configuration, and their own standard deviation of test losses."""

    what: str
    optimizer: str
    cell: CellEntry
    run_ids: tuple[str, ...]
    losses: tuple[float, ...]
    sigma: float


def noise_groups(
    journal: Journal, confirmed: Sequence[Replicates], records: Mapping[str, RunRecord]
) -> tuple[NoiseGroup, ...]:
    """The confirmation runs, and the runs that measured the noise before anything was tuned."""
    groups = [_noise_group("confirmation", c.optimizer, c.cell, _by_run(c)) for c in confirmed]
    for entry in journal.noise:
        found = [records[run_id] for run_id in entry.run_ids if run_id in records]
        losses = {r.run_id: r.test_loss for r in found if r.test_loss is not None}
        groups.append(_noise_group("untuned", entry.optimizer, entry.cell, losses))
    return tuple(group for group in groups if group is not None)


def _by_run(confirmed: Replicates) -> dict[str, float]:
    return {s.run_id: s.test_loss for s in confirmed.seeds if s.test_loss is not None}


def _noise_group(
    what: str, optimizer: str, cell: CellEntry, losses: Mapping[str, float]
) -> NoiseGroup | None:
    if len(losses) < 2:
        return None
    return NoiseGroup(
        what=what,
        optimizer=optimizer,
        cell=cell,
        run_ids=tuple(losses),
        losses=tuple(losses.values()),
        sigma=float(np.std(list(losses.values()), ddof=1)),
    )
