"""What the published figures themselves say of their noise, in which no run has a second seed.

Three traces of it: two losses published of one configuration (the best of a cell, and the same
configuration in the tuning table) that are not always the same run; the tie threshold that the
tunings used; and the scatter about a smooth curve. The first is the noise of a run and nothing
else; the second is what the authors took for a tie; the last has the errors of the curve in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from scipy import stats

from optbench.analysis.published_study import TIE_THRESHOLD
from optbench.analysis.shared_fit import SharedFit
from optbench.published import PublishedResults

DEFAULT_SIGMA = 2e-3  # nats; see docs/paper.md
# |x − y| of two normal losses has the median 0.954·σ.
_MEDIAN_OF_DIFFERENCE = 2**0.5 * float(stats.norm.ppf(0.75))


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseEvidence:
    """Estimates of the standard deviation σ of one published loss, in nats per token.

    Args:
        told_twice: cells with two losses of their best configuration.
        differing: of these, cells whose two losses are not the same.
        median_difference: of those, absolute.
        sigma_of_repeats: σ of which two runs differ by that median; robust against the few large
            differences, whose configurations may not have been quite the same.
        tie_threshold: of the published tunings.
        sigma_of_ties: σ of which two runs differ by the threshold in the root mean square.
        sigma_of_scatter: root mean square residual of the joint fit over its degrees of freedom:
            noise, imperfect tuning and error of the curve together.
    """

    told_twice: int
    differing: int
    median_difference: float
    sigma_of_repeats: float
    tie_threshold: float
    sigma_of_ties: float
    sigma_of_scatter: float


def noise_evidence(results: PublishedResults, shared: SharedFit) -> NoiseEvidence:
    """Collect the traces.

    Args:
        results: as published.
        shared: the joint fit of all cells.
    """
    pairs = [(c.loss, c.table_loss) for c in results.cells if c.table_loss is not None]
    apart = [abs(loss - other) for loss, other in pairs if loss != other]
    assert shared.goodness is not None
    squares = sum(residual**2 for residual in shared.residuals)
    return NoiseEvidence(
        told_twice=len(pairs),
        differing=len(apart),
        median_difference=median(apart),
        sigma_of_repeats=median(apart) / _MEDIAN_OF_DIFFERENCE,
        tie_threshold=TIE_THRESHOLD,
        sigma_of_ties=TIE_THRESHOLD / 2**0.5,
        sigma_of_scatter=(squares / shared.goodness.dof) ** 0.5,
    )
