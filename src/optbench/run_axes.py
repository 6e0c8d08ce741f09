"""Axes of a search that belong to the run and not to its optimizer, and the settings they become.

A study names shares of a run's steps and a run has whole numbers of them, so several shares give
the same run. Both directions are here, and here only: :func:`warmup_steps_of` and
:func:`decay_steps_of` make steps of what was named, :func:`axis_values` names every axis of a run
such that the names give that run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from optbench.config import RunConfig
from optbench.space import Axis, Configuration, Value, choices, geometric

# A study may search these for every optimizer.
RUN_AXES: dict[str, Axis] = {
    "batch_size": geometric(8, 16, 32, low=1),
    "clip_norm": choices(0.0, 1.0, 2.0),
    "warmup_frac": geometric(0.05, 0.1, 0.2, low=0.01, high=0.5),
    "warmup_steps": geometric(500, 1000, 2000, 4000, low=1),
    "decay_frac": choices(0.2, 0.4, 0.6, 0.8, 1.0),
}
WARMUPS = ("warmup_steps", "warmup_frac")  # two names of one setting
_NOTHING: Mapping[str, Iterable[Value]] = MappingProxyType({})
_MOST_DIGITS = 17  # of a decimal; every double is distinguished by them


def overlaid(settings: Configuration, named: Configuration) -> dict[str, Value]:
    """Settings with a candidate's values over them; a warm-up named either way replaces both."""
    replaced = WARMUPS if any(name in named for name in WARMUPS) else ()
    kept = {name: value for name, value in settings.items() if name not in replaced}
    return {**kept, **named}


def warmup_steps_of(values: Configuration, num_steps: int) -> int:
    """Steps of the warm-up: those named, or where none are or 0 the named share; else none."""
    named = int(values.get("warmup_steps", 0))
    return named or round(float(values.get("warmup_frac", 0.0)) * num_steps)


def decay_steps_of(values: Configuration, num_steps: int, warmup_steps: int) -> int:
    """Steps of the decay, cut to what the warm-up leaves; without a named share all of those.

    Rounding both shares may take one step too many. A warm-up longer than the run leaves none.
    """
    room = max(0, num_steps - warmup_steps)
    return min(round(float(values.get("decay_frac", 1.0)) * num_steps), room)


def axis_values(
    config: RunConfig, likely: Mapping[str, Iterable[Value]] = _NOTHING
) -> dict[str, Value]:
    """The value of every axis of a run: those above, and the hyperparameters of its optimizer.

    Args:
        config: the run.
        likely: by axis, values that its share may have been named as. The first that gives the
            run's steps is taken; without one, the shortest decimal that does.
    """
    steps, schedule = config.num_steps, config.schedule

    def decay(share: float) -> int:
        return decay_steps_of({"decay_frac": share}, steps, schedule.warmup_steps)

    return {
        "batch_size": config.batch_size,
        "clip_norm": config.clip_norm,
        "warmup_steps": schedule.warmup_steps,
        "warmup_frac": share_of(schedule.warmup_steps, steps, likely.get("warmup_frac", ())),
        "decay_frac": share_of(schedule.decay_steps, steps, likely.get("decay_frac", ()), decay),
        **config.optimizer.hyperparameters,
    }


def share_of(
    part: int,
    num_steps: int,
    likely: Iterable[Value] = (),
    steps_of: Callable[[float], int] | None = None,
) -> float:
    """A share that gives a number of steps: a likely one, else the shortest decimal.

    Args:
        part: the number of steps.
        num_steps: of the whole run.
        likely: shares that may have been meant.
        steps_of: how a share becomes steps where it is not by rounding alone.
    """
    if num_steps < 1:
        return 0.0

    def rounded(share: float) -> int:
        return round(share * num_steps)

    meant = [float(value) for value in likely if not isinstance(value, str)]
    for becomes in (rounded, steps_of or rounded):
        if found := [share for share in meant if becomes(share) == part]:
            return found[0]
    for digits in range(_MOST_DIGITS):
        share = round(part / num_steps, digits)
        # Of warm-up and decay, which are both rounded, the decay may have lost one step.
        one_lost = rounded(share) == part + 1 and steps_of is not None and steps_of(share) == part
        if rounded(share) == part or one_lost:
            return share
    return part / num_steps
