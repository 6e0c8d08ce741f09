from __future__ import annotations

import pytest

from optbench.statistics.contrasts import difference_by_seed
from optbench.statistics.noise import SeedNoise

NOISE = SeedNoise(sigma=0.02, dof=10, low=0.01, high=0.04, equal_p=None)
OTHER = {0: 4.0, 1: 4.1, 2: 3.9}


def test_shared_seeds_are_paired_whatever_their_order() -> None:
    """Differences −0.09, −0.10 and −0.11: a spread of 0.01, and t of 2 degrees of freedom."""
    found = difference_by_seed({2: 3.81, 0: 3.9, 1: 3.99}, OTHER, NOISE)
    assert found is not None
    assert found.value == pytest.approx(-0.1)
    assert found.half_width == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)


@pytest.mark.parametrize("own", [{0: 3.9, 1: 4.0, 3: 3.8}, {0: 3.9, 1: 4.0}], ids=["other", "few"])
def test_otherwise_the_pooled_noise_of_independent_means_counts(own: dict[int, float]) -> None:
    found = difference_by_seed(own, OTHER, NOISE)
    assert found is not None
    stderr = 0.02 * (1 / len(own) + 1 / 3) ** 0.5
    assert found.half_width == pytest.approx(2.2281 * stderr, rel=1e-4)


def test_nothing_is_said_without_noise_or_losses() -> None:
    assert difference_by_seed(OTHER, OTHER, None) is None
    assert difference_by_seed({}, OTHER, NOISE) is None
