"""Speed-ups at sizes and budgets that were not measured, from the joint fit of those that were.

Within a family, matrix-based or not, ln e of every optimizer has the same slope in ln N and a level
of its own, fitted to the speed-ups by size of `joint_fit`. A common slope was closer at sizes left
out than slopes of their own (see `accuracy`). The speed-up is taken to be the same
at all ratios, as in the joint fit.

The 95 % interval adds up the error of the level, that of the slope times the distance in ln N, so
it grows away from the sizes measured, the scatter of the sizes about the line that their own
intervals do not explain, and the scatter of single cells about the joint fit, which has in it that
speed-ups do depend on the ratio somewhat. Optimizers share the baseline's losses, so the error of a
common slope is not taken to be smaller than that of one optimizer's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from optbench.analysis.claims.families import kind_of
from optbench.recommend.tuned_cells import NEGLIGIBLE_EXTRAPOLATION
from optbench.statistics.efficiency import Efficiency
from optbench.statistics.joint_fit import JointFit, JointParameters

Floats: TypeAlias = NDArray[np.float64]
_Z = 1.959964  # of a normal 95 % interval
_LEAST_SD = 1e-6  # of an efficiency's logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its 95 % interval; no interval where nothing is known of the noise."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedupTrend:
    """ln e = level + slope·(ln N − centre), with standard errors.

    Args:
        optimizer: whose.
        level: at ``centre``.
        centre: ln N.
        slope: of the family; 0 where one size alone was measured.
        level_sd: None if nothing is known of the noise.
        slope_sd: likewise, and None with one size, which determines nothing at other sizes.
        scatter: of sizes about the line, beyond what their intervals explain.
    """

    optimizer: str
    level: float
    centre: float
    slope: float
    level_sd: float | None
    slope_sd: float | None
    scatter: float

    def at(self, num_params: float, cell_sd: float = 0.0) -> Interval:
        """The speed-up at a size; ``cell_sd`` of ln e is the scatter of single cells."""
        away = math.log(num_params) - self.centre
        log = self.level + self.slope * away
        is_there = abs(away) <= math.log(NEGLIGIBLE_EXTRAPOLATION)
        if self.level_sd is None or (self.slope_sd is None and not is_there):
            return Interval(value=math.exp(log), low=None, high=None)
        half = _Z * math.hypot(self.level_sd, (self.slope_sd or 0.0) * away, self.scatter, cell_sd)
        return Interval(value=math.exp(log), low=math.exp(log - half), high=math.exp(log + half))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedupModel:
    """Speed-ups and loss differences anywhere.

    Args:
        trends: by optimizer.
        parameters: of the baseline's losses; None without a fit.
        cell_sd: scatter of a cell's loss about the joint fit, in nats.
        reason: why there is no fit, in a sentence.
    """

    trends: Mapping[str, SpeedupTrend]
    parameters: JointParameters | None
    cell_sd: float
    reason: str = ""

    def at(
        self,
        optimizer: str,
        num_params: float,
        tokens: float,
        *,
        nearest: tuple[float, float] | None = None,
    ) -> tuple[Interval, Interval] | None:
        """Speed-up, and loss minus the baseline's in nats; None if the fit does not determine it.

        Args:
            optimizer: whose.
            num_params: N.
            tokens: D.
            nearest: N and D of the nearest place within what was measured. The smaller a budget,
                the less a cell's scatter is in terms of tokens; outside, that is no knowledge.
        """
        if self.parameters is None or optimizer not in self.trends:
            return None
        places = {(num_params, tokens), nearest or (num_params, tokens)}
        falling = min(reducible_loss(self.parameters, *place) for place in places)
        cell_sd = self.cell_sd / (self.parameters.token_exponent * falling)
        speedup = self.trends[optimizer].at(num_params, cell_sd)
        return speedup, loss_difference(speedup, self.parameters, num_params, tokens)


def speedup_model(fit: JointFit) -> SpeedupModel:
    """The model of a joint fit; a fit without sizes gives no trends."""
    dof = fit.goodness.dof if fit.goodness else 0
    squares = sum(residual**2 for residual in fit.residuals)
    return SpeedupModel(
        trends=speedup_trends(fit),
        parameters=fit.parameters,
        cell_sd=math.sqrt(squares / dof) if dof else 0.0,
        reason=fit.reason,
    )


def speedup_trends(fit: JointFit) -> dict[str, SpeedupTrend]:
    """A trend for each optimizer but the baseline; empty without a fit by size."""
    found: dict[str, list[Efficiency]] = {}
    for efficiency in fit.efficiencies:
        if efficiency.params is not None and not efficiency.bound:
            found.setdefault(efficiency.optimizer, []).append(efficiency)
    trends: dict[str, SpeedupTrend] = {}
    for kind in dict.fromkeys(map(kind_of, found)):
        members = {name: points for name, points in found.items() if kind_of(name) == kind}
        trends.update(_family_trends(members, fit))
    return trends


@dataclass(frozen=True, slots=True)
class _Points:
    """ln N, ln e and their standard deviations (K,)."""

    sizes: Floats
    logs: Floats
    sds: Floats

    @property
    def weights(self) -> Floats:
        return 1 / self.sds**2

    def centred(self) -> tuple[Floats, Floats]:
        return (
            self.sizes - np.average(self.sizes, weights=self.weights),
            self.logs - np.average(self.logs, weights=self.weights),
        )


def _points(efficiencies: Sequence[Efficiency]) -> _Points:
    return _Points(
        np.log([float(e.params or 1) for e in efficiencies]),
        np.log([e.value for e in efficiencies]),
        np.array([_sd(e) for e in efficiencies]),
    )


def _sd(efficiency: Efficiency) -> float:
    """Of its logarithm; 1 where there is no interval, so that all weigh the same."""
    low, high = efficiency.low, efficiency.high
    if low is None or high is None:
        return 1.0
    if not (low > 0 and math.isfinite(high)):
        return 1e3
    return max(math.log(high / low) / (2 * _Z), _LEAST_SD)


def _family_trends(
    members: Mapping[str, Sequence[Efficiency]], fit: JointFit
) -> dict[str, SpeedupTrend]:
    points = {name: _points(found) for name, found in members.items()}
    has_noise = all(e.low is not None for found in members.values() for e in found)
    along = sum(float(p.weights @ p.centred()[0] ** 2) for p in points.values())
    across = sum(float((p.weights * p.centred()[0]) @ p.centred()[1]) for p in points.values())
    slope = across / along if along > 0 else 0.0
    slope_sd = _slope_sd(fit, members) if has_noise and along > 0 else None
    excess = _excess(points, slope) if has_noise else 0.0
    return {
        name: SpeedupTrend(
            optimizer=name,
            level=float(np.average(p.logs, weights=p.weights)),
            centre=float(np.average(p.sizes, weights=p.weights)),
            slope=slope,
            level_sd=float(1 / math.sqrt(p.weights.sum())) if has_noise else None,
            slope_sd=slope_sd,
            scatter=excess,
        )
        for name, p in points.items()
    }


def _slope_sd(fit: JointFit, members: Mapping[str, Sequence[Efficiency]]) -> float | None:
    """The median over the family of the standard errors of own slopes."""
    own = [
        (trend.high - trend.low) / (2 * _Z)
        for trend in fit.trends
        if trend.optimizer in members and trend.low is not None and trend.high is not None
        if math.isfinite(trend.high - trend.low)
    ]
    return statistics.median(own) if own else None


def _excess(points: Mapping[str, _Points], slope: float) -> float:
    """√ of the mean squared residual less the mean variance, 0 if that is negative."""
    residuals: list[float] = []
    variances: list[float] = []
    dof = -1
    for p in points.values():
        sizes, logs = p.centred()
        residuals.extend((logs - slope * sizes).tolist())
        variances.extend((p.sds**2).tolist())
        dof += len(logs) - 1
    if dof < 1:
        return 0.0
    squares = sum(residual**2 for residual in residuals) / dof
    return math.sqrt(max(0.0, squares - statistics.fmean(variances)))


def loss_difference(
    speedup: Interval, parameters: JointParameters, num_params: float, tokens: float
) -> Interval:
    """Loss minus the baseline's after the same tokens, nats per token; negative is better.

    The baseline's falling part at the size is interpolated in ln N, and goes on past the sizes of
    the fit by the slope over all of them.
    """
    falling = reducible_loss(parameters, num_params, tokens)

    def difference(efficiency: float) -> float:
        return falling * math.expm1(-parameters.token_exponent * math.log(efficiency))

    low, high = speedup.low, speedup.high
    return Interval(
        value=difference(speedup.value),
        low=None if high is None else difference(high),
        high=None if low is None else difference(low),
    )


def reducible_loss(parameters: JointParameters, num_params: float, tokens: float) -> float:
    """B·D^(−b) of the baseline at any size, nats per token."""
    sizes = sorted(parameters.token_coefficients)
    logs = np.log(sizes)
    coefficients = np.log([parameters.token_coefficients[size] for size in sizes])
    place = math.log(num_params)
    inside = min(max(place, float(logs[0])), float(logs[-1]))
    slope = (coefficients[-1] - coefficients[0]) / (logs[-1] - logs[0]) if len(sizes) > 1 else 0.0
    log = float(np.interp(inside, logs, coefficients)) + float(slope) * (place - inside)
    falling = (tokens / parameters.unit_tokens) ** -parameters.token_exponent
    return math.exp(log) * falling
