"""The nine claims of arXiv 2509.02046, judged on a study's own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.claim import Claim
from optbench.analysis.claims.ranks import (
    intermediate_ranks_mislead,
    matrix_based_beat_scalar_based,
    winner_depends_on_ratio,
)
from optbench.analysis.claims.size import speedups_shrink_with_size
from optbench.analysis.claims.speedups import (
    memory_efficient_keep_up,
    speedups_stay_low,
    variance_reduced_gain,
)
from optbench.analysis.claims.transfer import no_transfer_between_optimizers
from optbench.analysis.claims.tuning import tuning_is_worth
from optbench.statistics.joint_fit import JointFit
from optbench.store.journal import Journal


def evaluate_claims(
    journal: Journal,
    cells: Sequence[CellSummary],
    joint: JointFit,
    test_losses: Mapping[str, float],
    difference_noise: tuple[float, int] | None = None,
) -> tuple[Claim, ...]:
    """All nine, in order.

    Args:
        journal: of the study.
        cells: every cell in which something is confirmed.
        joint: the joint fit, for the trends of speed-ups with the size.
        test_losses: of the tuning runs, by run id; one that diverged has none.
        difference_noise: of two runs on one seed, standard deviation and degrees of freedom, where
            the journal has no measurement of it.
    """
    study = journal.study
    return (
        tuning_is_worth(study.baseline, cells, test_losses),
        no_transfer_between_optimizers(journal, difference_noise),
        speedups_stay_low(study, cells),
        speedups_shrink_with_size(study.baseline, cells, joint),
        matrix_based_beat_scalar_based(cells),
        winner_depends_on_ratio(cells),
        variance_reduced_gain(cells),
        memory_efficient_keep_up(study.baseline, cells),
        intermediate_ranks_mislead(cells),
    )
