"""Annealing: the steps at which preconditioners are updated while that becomes ever rarer."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache

RATE = 0.001  # by which the probability of an update falls per step


def updates_until(step: int, min_probability: float, flat_steps: int) -> int:
    """How many of the steps 1 … ``step`` update.

    A counter grows by one at each step; where it reaches 1/p there is an update and it starts again
    at zero, with p = exp(−0.001·(step − 1 − flat_steps)) between ``min_probability`` and 1. The
    count is found without walking through the steps, so that it needs no state.
    """
    if step <= flat_steps + 1:
        return step
    annealed = _annealed_updates(min_probability, flat_steps)
    count = bisect_right(annealed, step)
    # After the last entry 1/p stays what it is.
    late = (step - annealed[-1]) // math.ceil(1 / min(1.0, min_probability))
    return flat_steps + count + max(0, late)


@lru_cache(maxsize=64)
def _annealed_updates(min_probability: float, flat_steps: int) -> tuple[int, ...]:
    """The steps that update from the last flat one on, until the probability stops falling."""
    updates = [flat_steps + 1]
    length = max(0, math.ceil(-math.log(min_probability) / RATE))
    for late in range(1, length + 1):
        step = flat_steps + 1 + late
        probability = max(math.exp(-RATE * late), min(1.0, min_probability))
        if step - updates[-1] >= 1 / probability:
            updates.append(step)
    return tuple(updates)
