"""Learning-rate schedules: pure functions of the step that return a factor of the peak rate.

One family for every optimizer: linear warm-up from 0, an optional plateau at 1, then a decay to
``final_frac``. Steps count from 0, so with a warm-up the first update has rate 0 exactly (as in the
study, optimizers.md §1.4), and the last update of a run of T steps has factor f(T − 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

# What remains of the decay after a share p of its steps: 1 at p = 0, 0 at p = 1.
DECAY_SHAPES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "cosine": lambda p: 0.5 * (1 + math.cos(math.pi * p)),
        "linear": lambda p: 1 - p,
    }
)
# Type checkers want literals written out; files and records are checked against the names above.
if TYPE_CHECKING:
    DecayShape: TypeAlias = str
else:
    DecayShape = Literal[*DECAY_SHAPES]


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
    along one of :data:`DECAY_SHAPES`.

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
    return final_frac + (1 - final_frac) * DECAY_SHAPES[shape](progress)
