"""How the recommendation from a study of one's own differs from the published one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optbench.recommend.recommendation import OptimizerRecommendation, Recommendation
from optbench.space import Value

BATCH_TOKENS, WARMUP_SHARE = "batch_tokens", "warmup_share"
_OTHER_UNITS = ("batch_size", "warmup_steps", "warmup_frac")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueDifference:
    """A hyperparameter that both name, with different values.

    Args:
        axis: its name; batches are compared in tokens and warm-ups as shares of the steps.
        own: value.
        published: value.
        factor: own over published; None where one of them is no positive number.
    """

    axis: str
    own: Value
    published: Value
    factor: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerDifference:
    """One optimizer that both have.

    Args:
        speedup_factor: own speed-up over the published one; None if one of them has none.
        intervals_overlap: of the two speed-ups; None without both.
        values: what differs, in the order of the own configuration.
    """

    optimizer: str
    speedup_factor: float | None
    intervals_overlap: bool | None
    values: tuple[ValueDifference, ...]


def compare(own: Recommendation, published: Recommendation) -> tuple[OptimizerDifference, ...]:
    """Each optimizer of both, in the order of one's own."""
    pairs = ((mine, published.find(mine.optimizer)) for mine in own.optimizers)
    return tuple(_compare(mine, theirs) for mine, theirs in pairs if theirs is not None)


def _compare(mine: OptimizerRecommendation, theirs: OptimizerRecommendation) -> OptimizerDifference:
    own, published = _values(mine), _values(theirs)
    a, b = mine.speedup, theirs.speedup
    overlap = None
    if a and b and None not in (a.low, a.high, b.low, b.high):
        overlap = (a.low or 0) <= (b.high or 0) and (b.low or 0) <= (a.high or 0)
    return OptimizerDifference(
        optimizer=mine.optimizer,
        speedup_factor=a.value / b.value if a and b else None,
        intervals_overlap=overlap,
        values=tuple(
            ValueDifference(
                axis=axis,
                own=value,
                published=published[axis],
                factor=_factor(value, published[axis]),
            )
            for axis, value in own.items()
            if axis in published and not _same(value, published[axis])
        ),
    )


def _values(found: OptimizerRecommendation) -> dict[str, Value]:
    named = {h.axis: h.value for h in found.hyperparameters if h.axis not in _OTHER_UNITS}
    plan = found.plan
    return {**named, BATCH_TOKENS: plan.batch_tokens, WARMUP_SHARE: round(plan.warmup_share, 4)}


def _factor(own: Value, published: Value) -> float | None:
    if isinstance(own, (str, bool)) or isinstance(published, (str, bool)):
        return None
    return own / published if own > 0 and published > 0 else None


def _same(a: Value, b: Value) -> bool:
    if isinstance(a, (str, bool)) or isinstance(b, (str, bool)):
        return a == b
    return math.isclose(a, b, rel_tol=1e-6)
