"""The published speed-ups, by the paper's estimator and by the others, with intervals.

The baseline's curve of a size goes through all of its ratios; the unit of the curve is the smallest
budget, 1×, so that its parameters are those of a curve in Chinchilla ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.families import ADAMW
from optbench.analysis.outcomes import OptimizerRow
from optbench.ladder import PAPER_SIZES
from optbench.paper.published_study import CASE_STUDY_RATIO, CASE_STUDY_SIZE, PublishedStudy
from optbench.statistics.contrasts import difference_by_seed
from optbench.statistics.noise import Difference
from optbench.statistics.scaling import LossCurveFit, fit_loss_curve
from optbench.statistics.speedup import Estimator, OptimizerLoss, Speedup, speedup


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineFit:
    """L = α·r^(−B) + β through the baseline's losses at one size, r the Chinchilla ratio."""

    size: str
    ratios: tuple[float, ...]
    curve: LossCurveFit

    @property
    def largest_residual(self) -> float:
        """Absolute, in nats."""
        return max(abs(residual) for residual in self.curve.residuals)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperSpeedup:
    """One optimizer in one cell.

    Args:
        loss: published, nats per token.
        paper: by the paper's estimator; of the baseline itself it has no interval, because the
            loss and the curve are the same runs.
        interpolate: between the baseline's cells; None of the baseline.
        joint: by the joint fit, the same at all ratios of a size; None of the baseline.
    """

    optimizer: str
    size: str
    ratio: float
    loss: float
    paper: Speedup
    interpolate: Speedup | None
    joint: Speedup | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedOptimizer:
    """One optimizer in the ranking of a cell.

    Args:
        to_best: its loss minus the least of the cell, with the interval under the stated noise;
            None for the first.
        to_baseline: minus the baseline's; None for the baseline.
    """

    optimizer: str
    loss: float
    to_best: Difference | None
    to_baseline: Difference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """A cell of a case study, the least loss first."""

    size: str
    ratio: float
    places: tuple[RankedOptimizer, ...]


def baseline_fits(study: PublishedStudy) -> tuple[BaselineFit, ...]:
    """One for each size, the smallest first."""
    found: list[BaselineFit] = []
    for size in PAPER_SIZES:
        cells = [cell for cell in study.cells if cell.cell.size == size]
        losses = cells[0].reference.losses
        found.append(
            BaselineFit(
                size=size,
                ratios=tuple(sorted(cell.cell.ratio for cell in cells)),
                curve=fit_loss_curve(losses.tokens, losses.means),
            )
        )
    return tuple(found)


def paper_speedups(study: PublishedStudy) -> tuple[PaperSpeedup, ...]:
    """All 150, by optimizer in the order of the study, size and ratio."""
    cells = sorted(study.cells, key=lambda c: (c.cell.num_nonembedding_params, c.cell.num_tokens))
    return tuple(
        _speedup(cell, row)
        for optimizer in study.journal.study.optimizers
        for cell in cells
        if (row := cell.row(optimizer)) is not None
    )


def _speedup(cell: CellSummary, row: OptimizerRow) -> PaperSpeedup:
    assert row.test is not None
    estimates: dict[Estimator, Speedup] = {e.estimator: e for e in row.estimates}
    own = OptimizerLoss(tokens=cell.cell.num_tokens, mean=row.test.value, count=1)
    return PaperSpeedup(
        optimizer=row.optimizer,
        size=cell.cell.size,
        ratio=cell.cell.ratio,
        loss=row.test.value,
        paper=estimates.get("paper")
        or speedup(cell.reference.losses, own, None, estimator="paper"),
        interpolate=estimates.get("interpolate"),
        joint=estimates.get("joint"),
    )


def case_studies(study: PublishedStudy) -> tuple[Ranking, ...]:
    """The largest size, then the largest ratio, which four optimizers have."""
    found = [
        cell
        for cell in study.cells
        if cell.cell.size == CASE_STUDY_SIZE or cell.cell.ratio == CASE_STUDY_RATIO
    ]
    found.sort(key=lambda c: (c.cell.size != CASE_STUDY_SIZE, c.cell.num_tokens))
    return tuple(rank(cell) for cell in found)


def rank(cell: CellSummary) -> Ranking:
    """Everyone in a cell by loss."""
    rows = sorted(cell.rows, key=lambda row: row.test.value if row.test else 0.0)
    return Ranking(
        size=cell.cell.size,
        ratio=cell.cell.ratio,
        places=tuple(
            RankedOptimizer(
                optimizer=row.optimizer,
                loss=row.test.value,
                to_best=None if row is rows[0] else lead(cell, row.optimizer, rows[0].optimizer),
                to_baseline=None if row.is_baseline else lead(cell, row.optimizer, ADAMW),
            )
            for row in rows
            if row.test is not None
        ),
    )


def lead(cell: CellSummary, one: str, other: str) -> Difference | None:
    """Loss of one minus that of the other; None where one of them is not there."""
    rows: Sequence[OptimizerRow | None] = (cell.row(one), cell.row(other))
    losses = [row.confirmed.by_seed if row and row.confirmed else {} for row in rows]
    return difference_by_seed(losses[0], losses[1], cell.reference.noise)
