"""Two configurations compared by their losses, seed by seed where they share the seeds."""

from __future__ import annotations

from collections.abc import Mapping

from optbench.statistics.mean_noise import MIN_SHARED_SEEDS
from optbench.statistics.noise import (
    Difference,
    SeedNoise,
    mean_difference,
    mean_loss,
    paired_difference,
)


def difference_by_seed(
    own: Mapping[int, float], other: Mapping[int, float], noise: SeedNoise | None
) -> Difference | None:
    """Mean loss of one minus that of the other, with its t-interval.

    Paired if both have the same seeds, three or more; else of two independent means with the pooled
    noise.

    Args:
        own: loss of each seed.
        other: of what it is compared with.
        noise: without it there is no difference.
    """
    if noise is None or not own or not other:
        return None
    if own.keys() == other.keys() and len(own) >= MIN_SHARED_SEEDS:
        return paired_difference([own[seed] - other[seed] for seed in own])
    means = [mean_loss(list(losses.values()), noise) for losses in (own, other)]
    return mean_difference(means[0], means[1], noise)
