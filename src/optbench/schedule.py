"""Learning-rate schedules: pure functions of the step that return a factor of the peak rate.

One family for every optimizer: linear warm-up from 0, an optional plateau at 1, then a decay to
``final_frac``. Steps count from 0, so with a warm-up the first update has rate 0 exactly (as in the
study, optimizers.md §1.4), and the last update of a run of T steps has factor f(T − 1).
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

DecayShape: TypeAlias = Literal["cosine", "linear"]
DECAY_SHAPES: tuple[DecayShape, ...] = ("cosine", "linear")


def lr_factor(
    step: int,
    *,
    num_steps: int,
    warmup_steps: int,
    decay_steps: int,
    shape: DecayShape,
    final_frac: float = 0.0,
) -> float:
    """The factor of the peak learning rate at ``step`` (0-based) of a run of ``num_steps``.

    0 → 1 over ``warmup_steps``, then 1, then down to ``final_frac`` over the last ``decay_steps``,
    by half a cosine or a straight line.

    Raises:
        ValueError: the warm-up and the decay together are longer than the run.
    """
    if warmup_steps + decay_steps > num_steps:
        raise ValueError(
            f"`warmup_steps + decay_steps <= num_steps` must hold, but got {warmup_steps=}, "
            f"{decay_steps=}, {num_steps=}. Shorten the warm-up or the decay."
        )
    if step < warmup_steps:
        return step / warmup_steps
    decay_start = num_steps - decay_steps
    if step < decay_start:
        return 1.0
    progress = min(1.0, (step - decay_start) / max(1, decay_steps))
    remaining = 1 - progress if shape == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return final_frac + (1 - final_frac) * remaining
