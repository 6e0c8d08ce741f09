"""How good recommendations are: each published size left out in turn, predicted from the others.

How many times a predicted value is off the best one, and what it costs. The cost of a wrong value
is read from the held-out cell's tuning table, which has the loss of the winner with that one value
changed. The best of them costs nothing, and that need not be the winner, so that no cost is
negative. A value between two entries is interpolated in ln h (of one minus h for betas); one next
to a diverged entry counts as the nearer of the two. One past the end of the table is priced as the
end, which is too little, and counted; one that no table reaches otherwise has no price, and is
counted too. The *regret* of a cell is the sum over its searched hyperparameters, as if they did not
interact; with a diverged value it is infinite.

A size left out is left out for all optimizers, and so from the shared trends as well. How good
predicted losses and rankings are is measured in `speedup_accuracy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from optbench.ladder import TOKENS_PER_PARAM
from optbench.published import COMPLEMENTS, PublishedCell, PublishedResults
from optbench.recommend.hyperparameter_transfer import transfer
from optbench.recommend.sources import PUBLISHED_SEQ_LEN
from optbench.recommend.tuned_cells import TunedCell, published_tuning, tidy_eps
from optbench.space import Configuration, Value

Rule: TypeAlias = Callable[[Sequence[TunedCell], TunedCell], Configuration]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisOutcome:
    """One predicted hyperparameter of a held-out cell.

    Args:
        axis: its name.
        factor: predicted over best, or its inverse, at least 1 (of one minus both for betas); None
            for words, truth values and zeros.
        regret: what the prediction costs, nats; infinite if it diverges, None without a price.
        is_outside: the table ends before the prediction, which costs as much or more.
    """

    axis: str
    factor: float | None
    regret: float | None
    is_outside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutcome:
    """A held-out cell: its searched hyperparameters that the rule predicts."""

    optimizer: str
    size: str
    ratio: float
    axes: tuple[AxisOutcome, ...]
    has_table: bool

    @property
    def regret(self) -> float:
        """The sum over the priced ones, nats."""
        return math.fsum(axis.regret for axis in self.axes if axis.regret is not None)


def hold_out_sizes(
    results: PublishedResults, rule: Rule, optimizers: Sequence[str] = ()
) -> tuple[CellOutcome, ...]:
    """Predict every tuned cell from the cells of all other sizes.

    Args:
        results: as published.
        rule: what gives a configuration, of which the searched hyperparameters are judged.
        optimizers: only these; empty = all.
    """
    tuned = [(cell, published_tuning(cell, {})) for cell in results.cells if cell.grid]
    outcomes: list[CellOutcome] = []
    for cell, held_out in tuned:
        if optimizers and cell.optimizer not in optimizers:
            continue
        others = [other for _, other in tuned if other.size != held_out.size]
        outcomes.append(_judge(cell, held_out, rule(others, held_out)))
    return tuple(outcomes)


def _judge(cell: PublishedCell, held_out: TunedCell, predicted: Configuration) -> CellOutcome:
    prices = _prices(cell)
    return CellOutcome(
        optimizer=held_out.optimizer,
        size=held_out.size,
        ratio=held_out.ratio,
        axes=tuple(
            _outcome(axis, prices.get(axis, {}), held_out.winner[axis], predicted[axis])
            for axis in held_out.near_best
            if axis in predicted
        ),
        has_table=bool(cell.trials) and cell.table_loss is not None,
    )


def _outcome(axis: str, table: Mapping[Value, float], best: Value, value: Value) -> AxisOutcome:
    regret, is_outside = price(axis, table, best, value)
    return AxisOutcome(
        axis=axis, factor=_factor(axis, value, best), regret=regret, is_outside=is_outside
    )


def _prices(cell: PublishedCell) -> dict[str, dict[Value, float]]:
    """By hyperparameter, the loss of each value less the winner's; infinite if it diverged."""
    found: dict[str, dict[Value, float]] = {}
    for trial in cell.trials if cell.table_loss is not None else ():
        own = found.setdefault(trial.axis, {})
        value = tidy_eps(trial.axis, trial.value)
        if trial.diverged:
            own[value] = math.inf
        elif trial.loss is not None and cell.table_loss is not None:
            own[value] = trial.loss - cell.table_loss
    return found


def price(
    axis: str, table: Mapping[Value, float], winner: Value, value: Value
) -> tuple[float | None, bool]:
    """What a value costs more than the best one, nats, and whether it lies outside of the table.

    Args:
        axis: the hyperparameter.
        table: loss by value less the winner's, without the winner; empty if none was published.
        winner: what the tuning chose; the best one unless an entry of the table is negative.
        value: to be priced; None is returned where nothing prices it.
    """
    losses = {**table, winner: 0.0}
    least = min(losses.values())
    prices = {known: loss - least for known, loss in losses.items()}
    assert min(prices.values()) == 0  # else a negative cost would make up for another
    if value in prices:
        return prices[value], False
    place = _log(axis, value)
    known = sorted((x, p) for v, p in prices.items() if (x := _log(axis, v)) is not None)
    if place is None or not table or not known:
        return None, False
    if not known[0][0] <= place <= known[-1][0]:
        return known[0 if place < known[0][0] else -1][1], True
    right = next(i for i, (x, _) in enumerate(known) if x >= place)
    (a, low), (b, high) = known[max(right - 1, 0)], known[right]
    if math.isinf(low) or math.isinf(high):
        return (low if place - a <= b - place else high), False
    return (low + (high - low) * (place - a) / (b - a) if b > a else low), False


def _log(axis: str, value: Value) -> float | None:
    if isinstance(value, (str, bool)):
        return None
    number = 1 - value if axis in COMPLEMENTS else float(value)
    return math.log(number) if number > 0 else None


def _factor(axis: str, predicted: Value, best: Value) -> float | None:
    a, b = _log(axis, predicted), _log(axis, best)
    return None if a is None or b is None else math.exp(abs(a - b))


# Rules --------------------------------------------------------------------------------------------


def recommended(cells: Sequence[TunedCell], held_out: TunedCell) -> Configuration:
    """The rule of `hyperparameter_transfer`."""
    found = transfer(cells, held_out.optimizer, held_out.num_params, held_out.ratio)
    return {h.axis: h.value for h in found}


def copied(cells: Sequence[TunedCell], held_out: TunedCell) -> Configuration:
    """The winner of the nearest size, at the nearest ratio."""
    own = [cell for cell in cells if cell.optimizer == held_out.optimizer]
    return min(own, key=lambda cell: cell.distance(held_out.num_params, held_out.ratio)).winner


def step_law(cells: Sequence[TunedCell], held_out: TunedCell) -> Configuration:
    """AdamW's rate and batch by arXiv 2503.04715: 1.79·N^(−0.713)·D^0.307 and 0.58·D^0.571 tokens.

    Not fitted to these results, so it does not read ``cells``.
    """
    del cells
    tokens = TOKENS_PER_PARAM * held_out.ratio * held_out.num_params
    return {
        "lr": 1.79 * held_out.num_params**-0.713 * tokens**0.307,
        "batch_size": 0.58 * tokens**0.571 / PUBLISHED_SEQ_LEN,
    }


def always(configurations: Mapping[str, Configuration]) -> Rule:
    """The same configuration everywhere, such as a constructor's defaults."""

    def rule(cells: Sequence[TunedCell], held_out: TunedCell) -> Configuration:
        del cells
        own = configurations[held_out.optimizer]
        return {axis: own[axis] for axis in held_out.winner if axis in own}

    return rule


def only(axes: Sequence[str], rule: Rule) -> Rule:
    """A rule, judged by some hyperparameters alone."""

    def limited(cells: Sequence[TunedCell], held_out: TunedCell) -> Configuration:
        return {axis: value for axis, value in rule(cells, held_out).items() if axis in axes}

    return limited


# Summaries ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RegretSummary:
    """The regrets of a rule, nats, over the cells with a tuning table.

    Args:
        cells: how many.
        median: of the regrets.
        p90: the least that 90 % of them do not exceed.
        diverged: cells with an infinite regret.
        values: that were predicted in them.
        unpriced: of these, without a price.
        outside: of these, past the end of a table, so that their price is too low.
        lr_factor: median of the learning rates' factors, over all tuned cells.
        lr_factor_p90: 90 % of them do not exceed it.
    """

    cells: int
    median: float
    p90: float
    diverged: int
    values: int
    unpriced: int
    outside: int
    lr_factor: float
    lr_factor_p90: float


def summarise_regrets(outcomes: Sequence[CellOutcome]) -> RegretSummary:
    """Medians and 90th percentiles; at least one outcome has a table and a learning rate."""
    judged = [outcome for outcome in outcomes if outcome.has_table]
    regrets = [outcome.regret for outcome in judged]
    axes = [axis for outcome in judged for axis in outcome.axes]
    factors = [f for outcome in outcomes if (f := _lr_factor(outcome)) is not None]
    return RegretSummary(
        cells=len(judged),
        median=quantile(regrets, 0.5),
        p90=quantile(regrets, 0.9),
        diverged=sum(map(math.isinf, regrets)),
        values=len(axes),
        unpriced=sum(axis.regret is None for axis in axes),
        outside=sum(axis.is_outside for axis in axes),
        lr_factor=quantile(factors, 0.5),
        lr_factor_p90=quantile(factors, 0.9),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that a share of them does not exceed: infinite ones do not spread."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def _lr_factor(outcome: CellOutcome) -> float | None:
    return next((axis.factor for axis in outcome.axes if axis.axis == "lr"), None)


def factors_by_axis(outcomes: Sequence[CellOutcome]) -> dict[str, tuple[int, float, float]]:
    """Of each hyperparameter: how often predicted, the median and the 90 % factor."""
    found: dict[str, list[float]] = {}
    for axis in (axis for outcome in outcomes for axis in outcome.axes):
        if axis.factor is not None:
            found.setdefault(axis.axis, []).append(axis.factor)
    return {
        axis: (len(factors), quantile(factors, 0.5), quantile(factors, 0.9))
        for axis, factors in found.items()
    }
