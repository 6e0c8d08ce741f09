"""Seed noise: how far the same configuration lands from itself, and what that means for a mean.

All seeds of all groups (one group: one configuration in one cell) share one standard deviation σ,
because five seeds alone know their own spread only within a factor of about two. Its degrees of
freedom are carried along, so every interval below is a Student t-interval, not a normal one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import correlation, fmean
from typing import TypeVar

import numpy as np
from scipy import special, stats

LEVEL = 0.95
Cell = TypeVar("Cell")  # whatever distinguishes the caller's cells


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNoise:
    """Pooled standard deviation over seeds, in nats per token.

    Args:
        sigma: √(Σ (n−1)·s² / Σ (n−1)) over the groups.
        dof: Σ (n−1), the degrees of freedom behind ``sigma``.
        low: lower end of its 95 % χ² interval.
        high: upper end.
        equal_p: p-value of Bartlett's test that all groups have the same σ; None where it cannot
            be computed (fewer than two groups, or a group without any spread).
    """

    sigma: float
    dof: int
    low: float
    high: float
    equal_p: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanLoss:
    """Mean over seeds; without a noise estimate it has no error.

    Args:
        value: nats per token.
        count: seeds behind it.
        stderr: σ/√n with the pooled σ.
        half_width: of the 95 % t-interval.
    """

    value: float
    count: int
    stderr: float | None
    half_width: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Mean loss minus the baseline's, in nats per token; negative is better.

    Args:
        value: the difference of the two means.
        half_width: of its 95 % t-interval.
        p_value: two-sided, of a true difference of zero.
    """

    value: float
    half_width: float
    p_value: float


def pooled_noise(groups: Iterable[Sequence[float]]) -> SeedNoise | None:
    """The σ that all groups of seeds share; None if no group has two seeds.

    The χ² interval (σ²·ν/χ²) is exact for normal noise of equal variance.
    """
    arrays = [np.asarray(group, dtype=float) for group in groups if len(group) >= 2]
    dof = sum(len(group) - 1 for group in arrays)
    if dof == 0:
        return None
    squares = sum(float(np.sum((group - group.mean()) ** 2)) for group in arrays)
    sigma = float(np.sqrt(squares / dof))
    low, high = sigma_interval(sigma, dof)
    return SeedNoise(sigma=sigma, dof=dof, low=low, high=high, equal_p=_equal_variance_p(arrays))


def sigma_interval(sigma: float, dof: int, level: float = LEVEL) -> tuple[float, float]:
    """σ·√(ν/χ²) at both tails: exact for normal noise, whose ν·s²/σ² is χ²-distributed.

    Args:
        sigma: a standard deviation, estimated with ``dof`` degrees of freedom ν.

    Raises:
        ValueError: no degrees of freedom, a negative σ, or a level outside of (0, 1).
    """
    if dof < 1 or not sigma >= 0 or not 0 < level < 1:
        raise ValueError(
            f"An interval of σ needs σ ≥ 0, one degree of freedom or more (two seeds) and a level "
            f"between 0 and 1, but got σ = {sigma}, {dof} degrees of freedom and level {level}."
        )
    low, high = sigma * np.sqrt(dof / stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], dof))
    return float(low), float(high)


def noise_by_cell(groups: Mapping[Cell, Sequence[float]]) -> dict[Cell, SeedNoise]:
    """σ of every cell alone, with its interval; cells without a second seed are left out."""
    found = {cell: pooled_noise([losses]) for cell, losses in groups.items()}
    return {cell: noise for cell, noise in found.items() if noise is not None}


def _equal_variance_p(groups: list[np.ndarray]) -> float | None:
    if len(groups) < 2 or any(np.ptp(group) == 0 for group in groups):
        return None
    return float(stats.bartlett(*groups).pvalue)


def shared_seed_correlation(groups: Sequence[Mapping[int, float]]) -> float | None:
    """Mean correlation between the losses (by seed) of every two groups that have the same seeds.

    None if no two groups share at least three seeds, or none of those has any spread.
    """
    found = [
        correlation(list(one.values()), [other[seed] for seed in one])
        for one, other in combinations(groups, 2)
        if len(one) >= 3 and one.keys() == other.keys()
        if np.ptp(list(one.values())) > 0 and np.ptp(list(other.values())) > 0
    ]
    return fmean(found) if found else None


def mean_loss(losses: Sequence[float], noise: SeedNoise | None) -> MeanLoss:
    """Mean of the seeds with the pooled standard error.

    Raises:
        ValueError: there are no losses.
    """
    if not losses:
        raise ValueError("A mean needs at least one loss, but got none.")
    value, count = float(np.mean(losses)), len(losses)
    if noise is None:
        return MeanLoss(value=value, count=count, stderr=None, half_width=None)
    stderr = noise.sigma / count**0.5
    half_width = _quantile(noise.dof) * stderr
    return MeanLoss(value=value, count=count, stderr=stderr, half_width=half_width)


def mean_difference(mean: MeanLoss, baseline: MeanLoss, noise: SeedNoise) -> Difference:
    """t-interval of the difference of two independent means that share the pooled σ."""
    value = mean.value - baseline.value
    stderr = noise.sigma * (1 / mean.count + 1 / baseline.count) ** 0.5
    return _difference(value, stderr, noise.dof)


def paired_difference(differences: Sequence[float]) -> Difference:
    """t-interval of the mean of differences between two configurations on the same seeds.

    Raises:
        ValueError: fewer than two differences.
    """
    if len(differences) < 2:
        raise ValueError(f"A paired interval needs two seeds or more, but got {len(differences)}.")
    stderr = float(np.std(differences, ddof=1)) / len(differences) ** 0.5
    return _difference(float(np.mean(differences)), stderr, len(differences) - 1)


def _difference(value: float, stderr: float, dof: int) -> Difference:
    if stderr == 0:
        return Difference(value=value, half_width=0.0, p_value=float(value == 0))
    # the function behind stats.t, whose own way to it costs more than the rest of a difference
    p_value = 2 * float(special.stdtr(dof, -abs(value) / stderr))
    return Difference(value=value, half_width=_quantile(dof) * stderr, p_value=p_value)


@functools.lru_cache
def _quantile(dof: int) -> float:
    """Of Student's t, at the upper end of an interval."""
    return float(stats.t.ppf((1 + LEVEL) / 2, dof))
