"""The baseline's losses over token budgets: what every other optimizer is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optbench.analysis.confirmation import Replicates
from optbench.statistics.interpolation import MonotoneCurve
from optbench.statistics.noise import MeanLoss, SeedNoise, mean_loss
from optbench.statistics.scaling import LossCurveFit, fit_loss_curve
from optbench.statistics.speedup import MIN_BUDGETS, BaselineLosses
from optbench.store.journal_entries import CellEntry, TimingEntry

_CURVE_SAMPLES = 61


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What every optimizer in a cell is compared with.

    Args:
        name: the baseline optimizer.
        confirmed: its held-out seeds in that cell.
        losses: its loss curve: all budgets at the size of the cell.
        noise: the seed noise, pooled over the size.
        timing: step times of the winners in that cell side by side, once they were measured.
    """

    name: str
    confirmed: Replicates | None
    losses: BaselineLosses
    noise: SeedNoise | None
    timing: TimingEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselinePoint:
    """The baseline confirmed in one cell."""

    confirmed: Replicates
    mean: MeanLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineCurve:
    """The baseline's loss over tokens.

    Args:
        points: measured, by budget.
        fit: the power law of estimator ``paper``; None with fewer than three budgets.
        sample_tokens: budgets at which the two curves below are drawn.
        interpolated: loss of estimator ``interpolate`` there; empty with fewer than two budgets.
        fitted: loss of the power law there; empty without one.
    """

    points: tuple[BaselinePoint, ...]
    fit: LossCurveFit | None
    sample_tokens: tuple[float, ...]
    interpolated: tuple[float, ...]
    fitted: tuple[float, ...]


def build_reference(
    name: str,
    cell: CellEntry,
    curve_points: Sequence[Replicates],
    noise: SeedNoise | None,
    timing: TimingEntry | None = None,
) -> Reference:
    """Collect what a cell is compared with.

    Args:
        name: the baseline.
        cell: in which others are compared with it.
        curve_points: its held-out seeds in all cells of the size, by budget.
        noise: pooled over the size.
        timing: of any cell; used in its own.
    """
    in_cell = [c for c in curve_points if c.cell.key == cell.key]
    return Reference(
        name=name,
        confirmed=in_cell[0] if in_cell else None,
        losses=curve_losses(curve_points),
        noise=noise,
        timing=timing if timing is not None and timing.cell.key == cell.key else None,
    )


def curve_losses(points: Sequence[Replicates]) -> BaselineLosses:
    """Mean losses by budget; a cell in which every seed diverged is no point of the curve."""
    measured = [point for point in points if point.losses]
    return BaselineLosses(
        tokens=tuple(float(point.cell.num_tokens) for point in measured),
        means=tuple(float(np.mean(point.losses)) for point in measured),
        counts=tuple(len(point.losses) for point in measured),
        by_seed=tuple(point.by_seed for point in measured),
    )


def draw_curve(points: Sequence[Replicates], noise: SeedNoise | None) -> BaselineCurve:
    """The points of a size, by budget, and the curves that the estimators put through them."""
    losses = curve_losses(points)
    measured = tuple(
        BaselinePoint(confirmed=point, mean=mean_loss(point.losses, noise))
        for point in points
        if point.losses
    )
    if len(losses.tokens) < 2:
        return BaselineCurve(
            points=measured, fit=None, sample_tokens=(), interpolated=(), fitted=()
        )
    # the last point is set exactly: rounding of exp(log(D)) must not leave the measured range
    samples = [*np.geomspace(losses.tokens[0], losses.tokens[-1], _CURVE_SAMPLES).tolist()]
    samples[0], samples[-1] = losses.tokens[0], losses.tokens[-1]
    curve = MonotoneCurve.through(losses.tokens, losses.means, losses.counts)
    has_fit = len(losses.tokens) >= MIN_BUDGETS["paper"]
    fit = fit_loss_curve(losses.tokens, losses.means) if has_fit else None
    return BaselineCurve(
        points=measured,
        fit=fit,
        sample_tokens=tuple(samples),
        interpolated=tuple(curve.predict(tokens) for tokens in samples),
        fitted=tuple(fit.predict(tokens) for tokens in samples) if fit else (),
    )
