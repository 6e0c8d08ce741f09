"""Speed-ups: how many more tokens or seconds the baseline needs for the same loss, with intervals.

The speed-up of optimizer O with mean loss L_O after D tokens is D_baseline(L_O) / D, where
D_baseline inverts the baseline's loss curve (arXiv 2509.02046). Two estimators of that curve:
``interpolate`` (see `interpolation`; gives nothing outside of the measured budgets) and ``paper``
(see `scaling`; extrapolates, and marks it).

The 95 % interval is a parametric bootstrap of everything that is uncertain: each replicate moves
every mean loss of the baseline and the optimizer's, fits or interpolates the moved baseline anew,
and inverts it. Percentiles of the replicates are the interval; both estimators are monotone in the
losses, so no correction for the curvature of the inverse is needed. Simulated studies with a known
truth check the coverage (``tests/statistics/test_coverage.py``).

A power law with four budgets or more can be seen to be wrong. Where it does not fit the baseline
and the optimizer by the noise of their means (the test of `joint_fit`), the replicates of
``paper`` also move every mean by an error of the model: wide rather than wrong.

How the means move, and that what shared seeds have in common cancels, is explained in `mean_noise`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optbench.statistics.interpolation import Bound, MonotoneCurve, invert_interpolations
from optbench.statistics.joint_fit import CellLoss, fit_joint
from optbench.statistics.mean_noise import independent_noise, noise_of_means
from optbench.statistics.noise import LEVEL, SeedNoise
from optbench.statistics.scaling import LossCurveFit, fit_loss_curve, invert_fits

Floats: TypeAlias = NDArray[np.float64]
CurveEstimator: TypeAlias = Literal["interpolate", "paper"]
Estimator: TypeAlias = Literal["interpolate", "paper", "joint"]
MIN_BUDGETS: dict[CurveEstimator, int] = {"interpolate": 2, "paper": 3}
MIN_BUDGETS_MISFIT = 4  # a power law goes through any three falling losses
REPLICATES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineLosses:
    """The baseline's mean losses, by increasing budget.

    Args:
        tokens: budgets.
        means: nats per token.
        counts: seeds behind each mean.
        by_seed: the losses behind each mean, where the seeds are known.
    """

    tokens: tuple[float, ...]
    means: tuple[float, ...]
    counts: tuple[int, ...]
    by_seed: tuple[Mapping[int, float], ...] = ()

    @property
    def known_seeds(self) -> tuple[Mapping[int, float], ...]:
        """The losses behind each mean, empty where the seeds are not known."""
        return self.by_seed or ({},) * len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerLoss:
    """An optimizer's mean loss, nats per token, over ``count`` seeds after ``tokens`` tokens.

    Args:
        by_seed: the losses behind the mean, where the seeds are known.
    """

    tokens: float
    mean: float
    count: int
    by_seed: Mapping[int, float] = field(default_factory=dict[int, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Training seconds per token, evaluation left out; medians are compared.

    Args:
        paired: round i of both was measured side by side, so rounds are resampled together.
    """

    baseline: tuple[float, ...]
    optimizer: tuple[float, ...]
    paired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """A speed-up over the baseline; 1 is equally fast, 1.3 means that the baseline needs 1.3×.

    Args:
        value: the estimate, or the bound on it.
        low: lower end of the 95 % interval; None without a noise estimate.
        high: upper end; infinite where the measured budgets do not bound it.
        estimator: how the baseline's curve was drawn; ``joint`` by a joint fit of all cells.
        extrapolated: the curve was used outside of the measured budgets.
        bound: ">" the speed-up is larger than ``value``, "<" smaller, "" an estimate.
    """

    value: float
    low: float | None
    high: float | None
    estimator: Estimator
    extrapolated: bool
    bound: Bound


def speedup(
    baseline: BaselineLosses,
    optimizer: OptimizerLoss,
    noise: SeedNoise | None,
    *,
    estimator: CurveEstimator,
    timing: Timing | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Speedup:
    """Estimate a speed-up in tokens, or in seconds if ``timing`` is given.

    Args:
        baseline: its loss curve.
        optimizer: the loss to be matched.
        noise: without it there is no interval.
        estimator: how the curve is drawn between and beyond its points.
        timing: of the runs behind the two losses, on the same device.
        replicates: of the bootstrap.
        seed: of the bootstrap; the same one gives the same interval.

    Raises:
        ValueError: the baseline has too few budgets for the estimator.
    """
    if len(baseline.tokens) < MIN_BUDGETS[estimator]:
        raise ValueError(
            f"Estimator '{estimator}' needs the baseline at {MIN_BUDGETS[estimator]} budgets or "
            f"more, but got {len(baseline.tokens)}. Confirm the baseline in further cells."
        )
    needed, bound, extrapolated = _POINT[estimator](baseline, optimizer.mean)
    rate = 1.0 if timing is None else np.median(timing.baseline) / np.median(timing.optimizer)
    low = high = None
    if noise is not None:
        rng = np.random.default_rng(seed)
        draws = _token_replicates(baseline, optimizer, noise, estimator, replicates, rng)
        rates = np.ones(replicates) if timing is None else _rate_replicates(timing, replicates, rng)
        low, high = _interval(draws, rates, baseline, optimizer)
    return Speedup(
        value=float(needed / optimizer.tokens * rate),
        low=low,
        high=high,
        estimator=estimator,
        extrapolated=extrapolated,
        bound=bound,
    )


def _interval(
    draws: Floats, rates: Floats, baseline: BaselineLosses, optimizer: OptimizerLoss
) -> tuple[float, float]:
    """Percentiles of tokens × rates; a replicate beyond the budgets only counts as beyond.

    So an end of the interval that falls among such replicates moves to the end of the budgets where
    that is the cautious side: "more than 2×" must not become "infinitely fast, for certain".
    """
    # outwards to an actual replicate: between a number and infinity there is no average
    low = float(np.quantile(draws * rates, (1 - LEVEL) / 2, method="lower"))
    high = float(np.quantile(draws * rates, (1 + LEVEL) / 2, method="higher"))
    if np.isinf(low):
        at_most = np.where(np.isinf(draws), baseline.tokens[-1] / optimizer.tokens, draws)
        low = float(np.quantile(at_most * rates, (1 - LEVEL) / 2, method="lower"))
    if high == 0:
        at_least = np.where(draws == 0, baseline.tokens[0] / optimizer.tokens, draws)
        high = float(np.quantile(at_least * rates, (1 + LEVEL) / 2, method="higher"))
    return low, high


def _interpolated_point(baseline: BaselineLosses, loss: float) -> tuple[float, Bound, bool]:
    curve = MonotoneCurve.through(baseline.tokens, baseline.means, baseline.counts)
    found = curve.invert(loss)
    return found.tokens, found.bound, False


def _fitted_point(baseline: BaselineLosses, loss: float) -> tuple[float, Bound, bool]:
    """At or below the irreducible loss only the largest measured budget is a safe statement."""
    needed = _fitted_curve(baseline.tokens, baseline.means).invert(loss)
    if not np.isfinite(needed):
        return baseline.tokens[-1], ">", True
    return needed, "", not baseline.tokens[0] <= needed <= baseline.tokens[-1]


@functools.lru_cache(maxsize=64)
def _fitted_curve(tokens: tuple[float, ...], means: tuple[float, ...]) -> LossCurveFit:
    """All optimizers of a size are compared with the same curve."""
    return fit_loss_curve(tokens, means)


_POINT: dict[CurveEstimator, Callable[[BaselineLosses, float], tuple[float, Bound, bool]]] = {
    "interpolate": _interpolated_point,
    "paper": _fitted_point,
}


def _token_replicates(
    baseline: BaselineLosses,
    optimizer: OptimizerLoss,
    noise: SeedNoise,
    estimator: CurveEstimator,
    replicates: int,
    rng: np.random.Generator,
) -> Floats:
    """Speed-ups in tokens (R,) under redrawn noise."""
    tokens, counts = np.asarray(baseline.tokens), np.asarray(baseline.counts, dtype=float)
    by_seed = (*baseline.known_seeds, optimizer.by_seed)
    moves = noise_of_means((*baseline.counts, optimizer.count), by_seed, noise).draw(
        replicates, rng
    )
    if estimator == "paper":
        moves = moves + _model_moves(baseline, optimizer, noise, replicates, rng)
    losses = np.asarray(baseline.means) + moves[:, :-1]
    targets = optimizer.mean + moves[:, -1]
    if estimator == "paper":
        return invert_fits(tokens, losses, targets) / optimizer.tokens
    return invert_interpolations(tokens, losses, counts, targets) / optimizer.tokens


def _model_moves(
    baseline: BaselineLosses,
    optimizer: OptimizerLoss,
    noise: SeedNoise,
    replicates: int,
    rng: np.random.Generator,
) -> Floats | float:
    """Errors (R, columns) of a power law that does not fit; 0 where it does or cannot be tested.

    Independent t's of the size that `joint_fit` finds for a cell, with its degrees of freedom.
    """
    if len(baseline.tokens) < MIN_BUDGETS_MISFIT:
        return 0.0
    columns = zip(
        ["baseline"] * len(baseline.tokens) + ["optimizer"],
        (*baseline.tokens, optimizer.tokens),
        (*baseline.means, optimizer.mean),
        (*baseline.counts, optimizer.count),
        (*baseline.known_seeds, optimizer.by_seed),
        strict=True,
    )
    cells = [
        CellLoss(optimizer=name, params=1.0, tokens=tokens, mean=mean, count=count, by_seed=by_seed)
        for name, tokens, mean, count, by_seed in columns
    ]
    # only the fit itself is of interest here, not its intervals
    goodness = fit_joint(cells, noise, baseline="baseline", replicates=0).goodness
    if goodness is None or goodness.model_error == 0:
        return 0.0
    errors = independent_noise(goodness.model_error, goodness.dof, (1,) * len(cells))
    return errors.draw(replicates, rng)


def _rate_replicates(timing: Timing, replicates: int, rng: np.random.Generator) -> Floats:
    """Ratios of median seconds per token (R,) under resampled runs.

    Nothing is assumed of the shape of timing noise. The price: with three runs, where timing noise
    dominates, 95 % intervals were measured to cover 90 %; with six, 97 %.
    """
    if timing.paired:
        rounds = len(timing.baseline)
        drawn = rng.integers(rounds, size=(replicates, rounds))
        baseline, optimizer = np.asarray(timing.baseline), np.asarray(timing.optimizer)
        return np.median(baseline[drawn], axis=1) / np.median(optimizer[drawn], axis=1)
    medians = [
        np.median(rng.choice(np.asarray(times), (replicates, len(times))), axis=1)
        for times in (timing.baseline, timing.optimizer)
    ]
    return medians[0] / medians[1]
