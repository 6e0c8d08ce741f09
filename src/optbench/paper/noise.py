"""What the published figures can and cannot show of their noise, in which no run has a second seed.

Where a cell has two losses they are not two runs of one configuration: the published loss is the
least of the cell's sweep, and the other is that of the chosen configuration, a member within the
noise threshold. Their distance shows how the choice was made, nothing about noise. So σ is assumed.
The one bound in the figures is the scatter about a smooth curve, which holds noise, imperfect
tuning and the error of the curve together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from optbench.config import UserError
from optbench.paper.published_study import PHASE_ONE
from optbench.published import PublishedCell, PublishedResults
from optbench.recommend.tuned_cells import PUBLISHED_TIE
from optbench.statistics.joint_fit import JointFit

DEFAULT_SIGMA = 2e-3  # nats; an assumption, see docs/paper.md


class PaperError(UserError):
    """A question that the published figures cannot be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseEvidence:
    """What bears on the standard deviation σ of one published loss; losses in nats per token.

    Args:
        reported_twice: cells with a least loss and a loss of the chosen configuration.
        differing: of these, cells whose two losses are not the same; the least is the lower one.
        of_another_row: of those, cells whose least loss is, to all digits, that of another row of
            the same tuning table.
        median_above: how far the chosen configuration lies above the least loss in those that
            differ, in the median. No estimate of noise.
        within_tie: of those, cells where it lies within the noise threshold.
        tie_threshold: of the published tunings, a convention.
        scatter: root mean square residual of the joint fit over its degrees of freedom: noise,
            imperfect tuning and error of the curve together.
        sweep_runs: by optimizer, the most runs in one tuning table of phase I, which varies every
            hyperparameter: a loss is a minimum over that many, or more on the way to them.
    """

    reported_twice: int
    differing: int
    of_another_row: int
    median_above: float
    within_tie: int
    tie_threshold: float
    scatter: float
    sweep_runs: Mapping[str, int]


def noise_evidence(results: PublishedResults, joint: JointFit) -> NoiseEvidence:
    """Collect it.

    Args:
        results: as published.
        joint: the joint fit of all cells.
    """
    pairs = [(c, c.table_loss) for c in results.cells if c.table_loss is not None]
    apart = [(cell, chosen - cell.loss) for cell, chosen in pairs if chosen != cell.loss]
    return NoiseEvidence(
        reported_twice=len(pairs),
        differing=len(apart),
        of_another_row=sum(cell.loss in {t.loss for t in cell.trials} for cell, _ in apart),
        median_above=median(above for _, above in apart),
        within_tie=sum(above <= PUBLISHED_TIE for _, above in apart),
        tie_threshold=PUBLISHED_TIE,
        scatter=scatter_of(joint),
        sweep_runs=_sweep_runs(results),
    )


def scatter_of(joint: JointFit) -> float:
    """Root mean square residual of a joint fit over its degrees of freedom, nats per token."""
    assert joint.goodness is not None
    return (sum(residual**2 for residual in joint.residuals) / joint.goodness.dof) ** 0.5


def _sweep_runs(results: PublishedResults) -> dict[str, int]:
    return {
        name: max(_runs(c) for c in results.of(name) if (c.size, c.ratio) in PHASE_ONE)
        for name in results.optimizers
    }


def _runs(cell: PublishedCell) -> int:
    return 1 + sum(trial.diverged or trial.loss is not None for trial in cell.trials)


def checked_sigma(sigma: float) -> float:
    """The same σ.

    Raises:
        PaperError: it is not positive and finite.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise PaperError(
            f"--sigma is the standard deviation of one published loss in nats per token, above 0, "
            f"but got {sigma:g}. The figures do not determine it; {DEFAULT_SIGMA:g} is assumed "
            f"without the option."
        )
    return sigma
