"""The claim that speed-ups shrink as the model grows, by the joint fit or cell by cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.claim import Claim, Verdict, listed
from optbench.analysis.claims.speedups import cell_speedups
from optbench.statistics.efficiency import SizeTrend
from optbench.statistics.joint_fit import JointFit
from optbench.statistics.noise import LEVEL
from optbench.units import (
    format_count,
    format_ends,
    format_signed,
    format_signed_ends,
)

# Of d ln e / d ln N: a speed-up that loses less than this in a nine times larger model is steady.
STEADY_TREND = math.log(1.05) / math.log(9)
_Z = float(stats.norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedSpeedup:
    """ln of a speed-up at a size, with its standard error."""

    optimizer: str
    params: float
    log: float
    stderr: float


def speedups_shrink_with_size(
    baseline: str, cells: Sequence[CellSummary], joint: JointFit
) -> Claim:
    """4: the mean slope of ln e over ln N of the optimizers that are faster than the baseline.

    Which are faster is judged by their mean over the sizes, whose error is independent of the
    slope. All slopes err with the same baseline, so the interval of their mean has the mean
    half-width, as if they erred alike.
    """
    trends, points = list(joint.trends), _joint_points(joint)
    source = "the joint fit"
    if not trends:
        points = _cell_points(cells)
        trends, source = _cell_trends(points), "the cells' own speed-ups"
    faster = [t for t in trends if _is_faster([p for p in points if p.optimizer == t.optimizer])]
    known = [t for t in faster if t.low is not None]
    verdict: Verdict = "inconclusive"
    evidence: list[str] = []
    if known:
        value, low, high = _mean_trend(known)
        if high < 0:
            verdict = "holds"
        elif low > -STEADY_TREND:
            verdict = "does not hold"
        evidence = [
            f"By {source}, the speed-up of {listed(t.optimizer for t in known)} over {baseline} "
            f"changes on average by the factor {9**value:.2f} {format_ends(9**low, 9**high)} when "
            f"the model becomes nine times larger."
        ]
        evidence += [_trend_text(t, points) for t in known]
    needs: tuple[str, ...] = ()
    if verdict == "inconclusive":
        needs = (_needs_for_trend(baseline, trends, known),)
    return Claim(
        number=4,
        statement="The speed-up shrinks as the model grows.",
        verdict=verdict,
        evidence=tuple(evidence),
        cells=tuple(cell.cell.label for cell in cells) if evidence else (),
        needs=needs,
    )


def _mean_trend(trends: Sequence[SizeTrend]) -> tuple[float, float, float]:
    """Value and ends."""
    low = [t.low for t in trends if t.low is not None]
    high = [t.high for t in trends if t.high is not None]
    return float(np.mean([t.value for t in trends])), float(np.mean(low)), float(np.mean(high))


def _needs_for_trend(baseline: str, trends: Sequence[SizeTrend], known: Sequence[SizeTrend]) -> str:
    if not trends:
        return f"Two sizes or more, with {baseline} and another optimizer at two budgets of each."
    if not known:
        return f"An optimizer that is faster than {baseline} over the sizes, beyond the noise."
    return "More sizes, further apart, or more seeds: the interval of the factor contains 1."


def _trend_text(trend: SizeTrend, points: Sequence[SizedSpeedup]) -> str:
    assert trend.low is not None
    assert trend.high is not None
    own = sorted((p for p in points if p.optimizer == trend.optimizer), key=lambda p: p.params)
    sizes = ", ".join(f"{math.exp(p.log):.2f}× at {format_count(p.params)}" for p in own)
    slope, ends = format_signed(trend.value, 3), format_signed_ends(trend.low, trend.high, 3)
    return f"{trend.optimizer}: {sizes} parameters; d ln e / d ln N = {slope} {ends}."


def _joint_points(joint: JointFit) -> list[SizedSpeedup]:
    return [
        point
        for e in joint.efficiencies
        if e.params is not None
        if (point := _point(e.optimizer, e.params, e.value, e.low, e.high, bound=e.bound))
    ]


def _cell_points(cells: Sequence[CellSummary]) -> list[SizedSpeedup]:
    return [
        point
        for s in cell_speedups(cells)
        if (
            point := _point(
                s.row.optimizer,
                s.cell.cell.num_nonembedding_params,
                s.tokens.value,
                s.tokens.low,
                s.tokens.high,
                bound=s.tokens.bound,
            )
        )
    ]


def _point(
    optimizer: str,
    params: float,
    value: float,
    low: float | None,
    high: float | None,
    *,
    bound: str,
) -> SizedSpeedup | None:
    """None where there is a bound only, or an end that is none."""
    if bound or not low or high is None or math.isinf(high):
        return None
    stderr = math.log(high / low) / (2 * _Z)
    return SizedSpeedup(optimizer=optimizer, params=params, log=math.log(value), stderr=stderr)


def _cell_trends(points: Sequence[SizedSpeedup]) -> list[SizeTrend]:
    """Weighted least squares over the cells of each optimizer, errors taken as independent."""
    found: list[SizeTrend] = []
    for optimizer in dict.fromkeys(p.optimizer for p in points):
        own = [p for p in points if p.optimizer == optimizer]
        if len({p.params for p in own}) < 2:
            continue
        sizes, logs = np.log([p.params for p in own]), np.array([p.log for p in own])
        weight = np.array([p.stderr for p in own]) ** -2.0
        centred = sizes - np.average(sizes, weights=weight)
        squares = float(np.sum(weight * centred**2))
        value, half = float(np.sum(weight * centred * logs)) / squares, _Z / squares**0.5
        found.append(
            SizeTrend(optimizer=optimizer, value=value, low=value - half, high=value + half)
        )
    return found


def _is_faster(points: Sequence[SizedSpeedup]) -> bool:
    """The mean of ln e over the sizes is above 0, as if all sizes erred alike."""
    if not points:
        return False
    mean = float(np.mean([p.log for p in points]))
    return mean > _Z * float(np.mean([p.stderr for p in points]))
