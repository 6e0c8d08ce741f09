"""The joint fit of `joint_fit` over all confirmed cells of a study, as far as they carry it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optbench.analysis.confirmation import Replicates
from optbench.analysis.notices import FitNotice, LeftOutOfFit, NothingToFit
from optbench.statistics.joint_fit import CellLoss, JointFit, fit_joint
from optbench.statistics.noise import SeedNoise

MIN_BUDGETS_BY_SIZE = 2  # of the baseline, for a coefficient of a size's own


def fit_study(
    confirmed: Sequence[Replicates], noise: SeedNoise | None, *, baseline: str
) -> tuple[JointFit, FitNotice | None]:
    """Fit once: an efficiency for each size where two sizes or more allow it, else one for all.

    Cells at sizes where the baseline has too few budgets are left out, and the notice names them.

    Args:
        confirmed: every optimizer in every cell; those without a loss are left out.
        noise: pooled over all cells.
        baseline: the optimizer whose efficiency is 1.
    """
    measured = [c for c in confirmed if c.losses]
    if all(c.optimizer == baseline for c in measured):
        return JointFit(baseline=baseline), NothingToFit(baseline)
    budgets: dict[str, int] = {c.cell.size: 0 for c in measured}
    for c in measured:
        budgets[c.cell.size] += c.optimizer == baseline
    by_size = sum(n >= MIN_BUDGETS_BY_SIZE for n in budgets.values()) >= 2
    least = MIN_BUDGETS_BY_SIZE if by_size else 1
    used = [c for c in measured if budgets[c.cell.size] >= least]
    fit = fit_joint([_cell_loss(c) for c in used], noise, baseline=baseline, by_size=by_size)
    left_out = dict.fromkeys(c.cell.label for c in measured if budgets[c.cell.size] < least)
    return fit, LeftOutOfFit(tuple(left_out), baseline, least) if left_out else None


def _cell_loss(confirmed: Replicates) -> CellLoss:
    return CellLoss(
        optimizer=confirmed.optimizer,
        params=float(confirmed.cell.num_nonembedding_params),
        tokens=float(confirmed.cell.num_tokens),
        mean=float(np.mean(confirmed.losses)),
        count=len(confirmed.losses),
        by_seed=confirmed.by_seed,
    )
