"""The accuracy of losses and rankings that docs/recommend.md states, measured again."""

import pytest

from optbench.published import read_published
from optbench.recommend.speedup_accuracy import (
    coverage,
    hold_out_differences,
    summarise_rankings,
)


def test_loss_differences_are_closer_than_copied_ones_and_rank_as_well() -> None:
    found = hold_out_differences(read_published(), replicates=200)
    assert len(found) == 132
    ours = summarise_rankings(found, lambda d: d.predicted)
    theirs = summarise_rankings(found, lambda d: d.copied)
    assert ours.mean_error == pytest.approx(0.0042, abs=2e-4)
    assert theirs.mean_error == pytest.approx(0.0060, abs=5e-5)
    assert ours.rank_correlation == pytest.approx(0.94, abs=0.01)
    assert theirs.rank_correlation == pytest.approx(0.93, abs=0.01)
    assert (ours.best_found, theirs.best_found) == pytest.approx((14 / 18, 14 / 18))
    assert ours.choice_regret < 3e-4
    assert 0.92 <= coverage(found) <= 0.98
