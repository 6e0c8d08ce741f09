"""The baseline's losses over token budgets: what every other optimizer is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optbench.analysis.confirmation import Confirmed, read_confirmation
from optbench.analysis.interpolation import MonotoneCurve
from optbench.analysis.journal import Journal, StudyEntry, TimingEntry
from optbench.analysis.noise import MeanLoss, SeedNoise, mean_loss
from optbench.analysis.scaling import LossCurveFit, fit_loss_curve
from optbench.analysis.speedup import MIN_BUDGETS, BaselineLosses
from optbench.store import RunRecord

_CURVE_SAMPLES = 61


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What every optimizer is compared with.

    Args:
        name: the baseline optimizer.
        confirmed: its fresh seeds in the tuned cell.
        losses: its loss curve, the tuned cell among the budgets.
        noise: the pooled seed noise.
        timing: step times of all winners side by side, once they were measured.
    """

    name: str
    confirmed: Confirmed | None
    losses: BaselineLosses
    noise: SeedNoise | None
    timing: TimingEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselinePoint:
    """The baseline confirmed in one cell."""

    confirmed: Confirmed
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


def confirmed_baseline(journal: Journal, records: Mapping[str, RunRecord]) -> list[Confirmed]:
    """The baseline's fresh seeds in every cell that has them, by budget."""
    entries = [
        journal.confirmation(cell, journal.study.baseline) for cell in journal.study.curve_cells
    ]
    return [read_confirmation(entry, records) for entry in entries if entry is not None]


def build_reference(
    study: StudyEntry,
    curve_points: Sequence[Confirmed],
    noise: SeedNoise | None,
    timing: TimingEntry | None = None,
) -> Reference:
    """Mean losses by budget; a cell in which every seed diverged is no point of the curve."""
    measured = [point for point in curve_points if point.losses]
    in_tuned_cell = [c for c in curve_points if c.cell.key == study.tuned_cell.key]
    return Reference(
        name=study.baseline,
        confirmed=in_tuned_cell[0] if in_tuned_cell else None,
        losses=BaselineLosses(
            tokens=tuple(float(point.cell.num_tokens) for point in measured),
            means=tuple(float(np.mean(point.losses)) for point in measured),
            counts=tuple(len(point.losses) for point in measured),
            by_seed=tuple(point.by_seed for point in measured),
        ),
        noise=noise,
        timing=timing,
    )


def draw_curve(points: Sequence[Confirmed], reference: Reference) -> BaselineCurve:
    """The points and the curves that the estimators put through them."""
    losses = reference.losses
    measured = tuple(
        BaselinePoint(confirmed=point, mean=mean_loss(point.losses, reference.noise))
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
