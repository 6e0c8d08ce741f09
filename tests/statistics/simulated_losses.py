"""Mean losses of simulated studies with a known truth, and what each estimator makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from optbench.statistics.joint_fit import CellLoss, JointFit, fit_joint
from optbench.statistics.noise import (
    Difference,
    SeedNoise,
    mean_difference,
    mean_loss,
    paired_difference,
    pooled_noise,
)
from optbench.statistics.speedup import (
    BaselineLosses,
    CurveEstimator,
    OptimizerLoss,
    Speedup,
    speedup,
)

BASELINE = "adamw"
UNIT_PARAMS, UNIT_TOKENS = 1e6, 2e7
Law = Callable[[float, float], float]  # of size and effective tokens, in their units


def power_law(size: float, tokens: float) -> float:
    """The truth of most scenarios, with the figures of the nano study."""
    return 2.9 + 0.5 * size**-0.35 + 0.8 * tokens**-0.5


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A kind of study.

    Args:
        law: the baseline's loss; an optimizer's is that at e·D tokens.
        sizes: in units of UNIT_PARAMS; the first one is where speed-ups are asked for.
        ratios: budgets of the baseline at every size.
        optimizer_ratios: of the others; the first one is where speed-ups are asked for.
        efficiency: of each optimizer; "twin" is the baseline under another name.
        drift: the efficiency at a budget r is that at 1 times r^drift.
        size_trend: the efficiency at a size s is that at 1 times s^size_trend.
        sigma: of a run over seeds.
        correlation: of the losses over one seed; None if the seeds are not known.
    """

    law: Law = power_law
    sizes: tuple[float, ...] = (1.0,)
    ratios: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    optimizer_ratios: tuple[float, ...] = (1.0,)
    efficiency: Mapping[str, float] = field(
        default_factory=lambda: {"twin": 1.0, "slow": 0.85, "fast": 1.3}
    )
    drift: float = 0.0
    size_trend: float = 0.0
    seeds: int = 6
    sigma: float = 0.02
    correlation: float | None = None


@dataclass(frozen=True, kw_only=True)
class SimulatedLosses:
    """One study of a scenario."""

    scenario: Scenario
    cells: tuple[CellLoss, ...]
    losses: Mapping[tuple[str, float, float], tuple[float, ...]]
    noise: SeedNoise
    seed: int

    def of(self, optimizer: str) -> CellLoss:
        """The cell in which the optimizer is judged."""
        size, ratio = self.scenario.sizes[0], self.scenario.optimizer_ratios[0]
        found = (optimizer, size * UNIT_PARAMS, size * ratio * UNIT_TOKENS)
        return next(c for c in self.cells if (c.optimizer, c.params, c.tokens) == found)

    def speedup(self, optimizer: str, estimator: CurveEstimator, replicates: int = 400) -> Speedup:
        """By an estimator that knows one size only."""
        own, size = self.of(optimizer), self.scenario.sizes[0] * UNIT_PARAMS
        points = [c for c in self.cells if c.optimizer == BASELINE and c.params == size]
        return speedup(
            BaselineLosses(
                tokens=tuple(c.tokens for c in points),
                means=tuple(c.mean for c in points),
                counts=tuple(c.count for c in points),
                by_seed=tuple(c.by_seed for c in points),
            ),
            OptimizerLoss(tokens=own.tokens, mean=own.mean, count=own.count, by_seed=own.by_seed),
            self.noise,
            estimator=estimator,
            replicates=replicates,
            seed=self.seed,
        )

    def shared(self, replicates: int = 400, *, by_size: bool = False) -> JointFit:
        return fit_joint(
            self.cells,
            self.noise,
            baseline=BASELINE,
            by_size=by_size,
            replicates=replicates,
            seed=self.seed,
        )

    def difference(self, optimizer: str) -> Difference:
        """Of mean losses to the baseline's, paired where the seeds are known."""
        own, other = (
            self.losses[cell.optimizer, cell.params, cell.tokens]
            for cell in (self.of(optimizer), self.of(BASELINE))
        )
        if self.scenario.correlation is not None:
            return paired_difference([x - y for x, y in zip(own, other, strict=True)])
        return mean_difference(mean_loss(own, self.noise), mean_loss(other, self.noise), self.noise)


def true_efficiency(scenario: Scenario, optimizer: str, ratio: float, size: float = 1.0) -> float:
    if optimizer == BASELINE:
        return 1.0
    return scenario.efficiency[optimizer] * ratio**scenario.drift * size**scenario.size_trend


def true_loss(scenario: Scenario, optimizer: str, size: float, ratio: float) -> float:
    return scenario.law(size, true_efficiency(scenario, optimizer, ratio, size) * size * ratio)


def simulate(scenario: Scenario, rng: np.random.Generator) -> SimulatedLosses:
    """Every run of a study: the truth, the seed's share of the noise, and the run's own."""
    common = rng.standard_normal(scenario.seeds)
    correlation = scenario.correlation or 0.0
    losses: dict[tuple[str, float, float], tuple[float, ...]] = {}
    for optimizer in (BASELINE, *scenario.efficiency):
        ratios = scenario.ratios if optimizer == BASELINE else scenario.optimizer_ratios
        for size in scenario.sizes:
            for ratio in ratios:
                own = rng.standard_normal(scenario.seeds)
                noise = correlation**0.5 * common + (1 - correlation) ** 0.5 * own
                values = true_loss(scenario, optimizer, size, ratio) + scenario.sigma * noise
                key = (optimizer, size * UNIT_PARAMS, size * ratio * UNIT_TOKENS)
                losses[key] = tuple(values.tolist())
    noise_estimate = pooled_noise(losses.values())
    assert noise_estimate is not None
    known = scenario.correlation is not None
    return SimulatedLosses(
        scenario=scenario,
        cells=tuple(
            CellLoss(
                optimizer=optimizer,
                params=params,
                tokens=tokens,
                mean=float(np.mean(values)),
                count=scenario.seeds,
                by_seed=dict(enumerate(values)) if known else {},
            )
            for (optimizer, params, tokens), values in losses.items()
        ),
        losses=losses,
        noise=noise_estimate,
        seed=int(rng.integers(2**31)),
    )
