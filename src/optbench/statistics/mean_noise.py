"""How the means over seeds of many cells err, together where they share their seeds.

- *Shared seeds.* The protocol trains all optimizers and all budgets on the same held-out seeds, and
  a seed moves all of their losses alike (docs/log.md has the correlations). Means over the same
  three seeds or more err as a multivariate t with n − 1 degrees of freedom and the sample
  covariance over the seeds: what the seeds have in common cancels.
- *Otherwise* (a diverged seed, other seeds) means err independently: σ² ~ s²·ν/χ²_ν around the
  pooled seed variance s², and every mean by σ·z/√n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from optbench.statistics.noise import SeedNoise

Floats: TypeAlias = NDArray[np.float64]
MIN_SHARED_SEEDS = 3  # a covariance of two seeds has one degree of freedom: wider than no pairing


@dataclass(frozen=True, slots=True, eq=False)
class NoiseBlock:
    """Means whose errors have one variance estimate.

    Args:
        factor: (Q, C) in nats; factorᵀ·factor is the covariance of the means.
        dof: degrees of freedom of the variance estimate.
        is_joint: the cells are over the same seeds, so there are ``dof`` in every direction of
            the space of means.
    """

    factor: Floats
    dof: int
    is_joint: bool


@dataclass(frozen=True, slots=True, eq=False)
class MeanNoise:
    """Errors of the means of C cells; blocks err independently of each other."""

    blocks: tuple[NoiseBlock, ...]

    def __add__(self, other: MeanNoise) -> MeanNoise:
        """Errors of both kinds, independent of each other."""
        return MeanNoise((*self.blocks, *other.blocks))

    def draw(self, replicates: int, rng: np.random.Generator) -> Floats:
        """Errors (R, C): of every block a multivariate t."""
        errors: list[Floats] = []
        for block in self.blocks:
            normal = rng.standard_normal((replicates, len(block.factor)))
            scale = np.sqrt(block.dof / rng.chisquare(block.dof, replicates))
            errors.append(scale[:, None] * (normal @ block.factor))
        return np.sum(errors, axis=0)

    def expected_squares(self, weight: Floats, projection: Floats) -> tuple[float, int]:
        """Mean sum of squares of the weighted and projected errors, and its degrees of freedom.

        With several blocks the least certain one counts, which errs towards finding no misfit.

        Args:
            weight: (C,).
            projection: orthogonal (C, C).
        """
        rank = round(float(np.trace(projection)))
        moved = [(block.factor * weight) @ projection for block in self.blocks]
        dofs = [block.dof * rank if block.is_joint else block.dof for block in self.blocks]
        return float(sum(np.sum(m**2) for m in moved)), min(dofs)


def noise_of_means(
    counts: Sequence[int], by_seed: Sequence[Mapping[int, float]], noise: SeedNoise
) -> MeanNoise:
    """Group the cells by their seeds.

    Args:
        counts: seeds behind each mean.
        by_seed: the losses behind each mean; empty where the seeds are not known.
        noise: pooled, for the cells that share their seeds with no other.
    """
    cells_of: dict[frozenset[int], list[int]] = {}
    for cell, losses in enumerate(by_seed):
        cells_of.setdefault(frozenset(losses), []).append(cell)
    shared = {
        seeds: cells
        for seeds, cells in cells_of.items()
        if len(seeds) >= MIN_SHARED_SEEDS and len(cells) >= 2
    }
    blocks = [_joint(sorted(seeds), cells, by_seed) for seeds, cells in shared.items()]
    joint = {cell for cells in shared.values() for cell in cells}
    alone = [cell for cell in range(len(counts)) if cell not in joint]
    if alone:
        blocks.append(_independent(noise.sigma, noise.dof, counts, alone))
    return MeanNoise(tuple(blocks))


def independent_noise(sigma: float, dof: int, counts: Sequence[int]) -> MeanNoise:
    """Errors of σ/√count, where σ was estimated with ``dof`` degrees of freedom."""
    return MeanNoise((_independent(sigma, dof, counts, range(len(counts))),))


def _joint(
    seeds: Sequence[int], cells: Sequence[int], by_seed: Sequence[Mapping[int, float]]
) -> NoiseBlock:
    """The residuals over seeds are a factor of their covariance, without factorising it."""
    table = np.array([[by_seed[cell][seed] for cell in cells] for seed in seeds])
    count = len(seeds)
    factor = np.zeros((count, len(by_seed)))
    factor[:, cells] = (table - table.mean(axis=0)) / np.sqrt(count * (count - 1))
    return NoiseBlock(factor, count - 1, is_joint=True)


def _independent(sigma: float, dof: int, counts: Sequence[int], cells: Sequence[int]) -> NoiseBlock:
    factor = np.zeros((len(cells), len(counts)))
    factor[np.arange(len(cells)), cells] = sigma / np.sqrt(np.asarray(counts, dtype=float)[cells])
    return NoiseBlock(factor, dof, is_joint=False)
