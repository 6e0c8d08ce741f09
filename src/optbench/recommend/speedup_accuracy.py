"""How good predicted losses and rankings are: each published size left out, one after the other.

*Loss differences* to AdamW: their error in nats, and how often the interval holds the measured one,
which has the noise of two single runs. *Rankings*: the rank correlation, and what is lost by taking
the optimizer that was predicted to be the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from optbench.analysis.claims.families import ADAMW
from optbench.published import PublishedCell, PublishedResults
from optbench.recommend.sources import fit_published
from optbench.recommend.speedup_transfer import SpeedupModel, speedup_model


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedDifference:
    """Loss minus AdamW's in a held-out cell, nats.

    Args:
        measured: as published.
        predicted: from the other sizes.
        low: lower end of its 95 % interval.
        high: upper end.
        copied: the difference at the nearest other size, at the nearest ratio.
    """

    optimizer: str
    size: str
    ratio: float
    measured: float
    predicted: float
    low: float
    high: float
    copied: float


def hold_out_differences(
    results: PublishedResults, *, replicates: int = 300
) -> tuple[PredictedDifference, ...]:
    """Predict all differences at each size from the losses of the other sizes."""
    found: list[PredictedDifference] = []
    for size in dict.fromkeys(cell.size for cell in results.cells):
        rest = [cell for cell in results.cells if cell.size != size]
        model = speedup_model(fit_published(rest, replicates=replicates))
        held_out = [c for c in results.cells if c.size == size and c.optimizer != ADAMW]
        found.extend(_difference(results, rest, model, cell) for cell in held_out)
    return tuple(found)


def _difference(
    results: PublishedResults,
    rest: Sequence[PublishedCell],
    model: SpeedupModel,
    cell: PublishedCell,
) -> PredictedDifference:
    params = float(cell.cell.model.num_nonembedding_params)
    at = model.at(cell.optimizer, params, float(cell.cell.num_tokens))
    assert at is not None  # every optimizer is in two sizes or more
    predicted = at[1]
    assert predicted.low is not None  # the fit has a scatter
    assert predicted.high is not None
    own = [other for other in rest if other.optimizer == cell.optimizer]
    nearest = min(own, key=lambda other: _distance(other, params, cell.ratio))
    return PredictedDifference(
        optimizer=cell.optimizer,
        size=cell.size,
        ratio=cell.ratio,
        measured=_measured(results, cell),
        predicted=predicted.value,
        low=predicted.low,
        high=predicted.high,
        copied=_measured(results, nearest),
    )


def _distance(cell: PublishedCell, params: float, ratio: float) -> tuple[float, float]:
    size = cell.cell.model.num_nonembedding_params
    return abs(math.log(size / params)), abs(math.log(cell.ratio / ratio))


def _measured(results: PublishedResults, cell: PublishedCell) -> float:
    baseline = results.find(ADAMW, cell.size, cell.ratio)
    assert baseline is not None  # AdamW is in every published cell
    return cell.loss - baseline.loss


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingSummary:
    """Predicted orders of the optimizers, AdamW among them, against the measured ones.

    Args:
        cells: sizes and ratios, each with four optimizers or more.
        mean_error: of the loss differences, nats.
        rank_correlation: Spearman's, the mean over cells.
        best_found: share of the cells where the predicted best optimizer is the best.
        choice_regret: loss of the predicted best less that of the best, the mean, nats.
    """

    cells: int
    mean_error: float
    rank_correlation: float
    best_found: float
    choice_regret: float


def summarise_rankings(
    differences: Sequence[PredictedDifference], guess: Callable[[PredictedDifference], float]
) -> RankingSummary:
    """Judge ``guess``, such as the predicted or the copied difference."""
    places = dict.fromkeys((d.size, d.ratio) for d in differences)
    correlations: list[float] = []
    regrets: list[float] = []
    for place in places:
        found = [d for d in differences if (d.size, d.ratio) == place]
        measured = np.array([0.0, *(d.measured for d in found)])
        guessed = np.array([0.0, *(guess(d) for d in found)])
        ranks = stats.rankdata(measured), stats.rankdata(guessed)
        correlations.append(float(np.corrcoef(ranks[0], ranks[1])[0, 1]))
        regrets.append(float(measured[guessed.argmin()] - measured.min()))
    return RankingSummary(
        cells=len(places),
        mean_error=float(np.mean([abs(guess(d) - d.measured) for d in differences])),
        rank_correlation=float(np.mean(correlations)),
        best_found=float(np.mean([regret == 0 for regret in regrets])),
        choice_regret=float(np.mean(regrets)),
    )


def coverage(differences: Sequence[PredictedDifference]) -> float:
    """Share of the intervals that hold the measured difference."""
    return float(np.mean([d.low <= d.measured <= d.high for d in differences]))
