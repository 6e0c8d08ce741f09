"""Which candidate of a search to try first: the chance that it beats the current best, per axis.

A guess that chooses the order of trials and nothing else; no loss is ever replaced by a prediction.
Along an axis that grows, the loss is believed to be a parabola in steps of the grid, whose
candidates are spaced geometrically: unknown minimum, unknown steepness. Every line of losses that
was measured along the axis reweighs a small grid of such parabolas, so an axis that proved steep,
or a direction that proved good, comes first. Choices without an order are judged by what they did
at earlier incumbents.

Weights are sums of a few hundred terms in plain floats, and chances are rounded before they are
compared: the order is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

from optbench.space import Axis, Configuration, Value

Origin: TypeAlias = Literal["here", "earlier", "other_cell"]
Run: TypeAlias = tuple[Configuration, float]
Held: TypeAlias = tuple[tuple[str, Value], ...]
Parabola: TypeAlias = tuple[float, float]  # place of the minimum, steepness in nats per step²

# Chosen on synthetic landscapes and published tuning tables (benchmarks/search_runs.py); the number
# of runs is flat around each of them.
OFFSETS = tuple(step / 2 for step in range(-8, 9))  # of a minimum from the current best, in steps
STEEPNESS = (0.3, 1.0, 3.0, 10.0, 30.0)  # in τ per step²
START_SPREAD = 3.0  # steps between a start point and the minimum, one standard deviation
DRIFT = 1.0  # steps between the minima of two neighbouring cells, one standard deviation
LEAST_SCALE = 1e-3  # nats; stands in for a smaller τ
NEWEST = 4  # lines of this descent that are looked at
NOISE = 0.5  # of a difference of two losses, in τ
CAP = 30.0  # differences beyond this, in τ, mean no more than that they are large
# Parabolas are wrong in proportion to the difference they explain, and more so where other values
# were held. In another cell the size of a difference is hardly informative of its sign here.
MISFIT: Mapping[Origin, float] = {"here": 0.3, "earlier": 0.3, "other_cell": 1.0}
# A run that diverged lowers the odds of all that lies beyond it.
AFTER_DIVERGENCE: Mapping[Origin, float] = {"here": 0.05, "earlier": 0.3, "other_cell": 1.0}
UNKNOWN_CHOICE = 0.2
DIVERGED_CHOICE = 0.01


@dataclass(frozen=True, slots=True)
class AxisLosses:
    """Losses along one axis with the other values held.

    Args:
        losses: value on the axis → loss in nats, infinite if the run diverged.
        origin: held are the current best's values, those of an earlier current best, or the runs
            are of another cell.
    """

    losses: Mapping[Value, float]
    origin: Origin


def lines_along(
    name: str, incumbent: Configuration, observed: Iterable[Run], known: Iterable[Run]
) -> list[AxisLosses]:
    """Everything known along an axis, oldest first, one line per choice of the other values.

    Args:
        name: the axis.
        incumbent: whether a line runs through it decides its origin.
        observed: configurations of this descent and their losses, as they were asked for.
        known: those of a neighbouring cell.
    """
    here = _fixed_values(incumbent, name)
    groups: dict[tuple[Origin, Held], dict[Value, float]] = {}
    for configuration, loss in known:
        line = groups.setdefault(("other_cell", _fixed_values(configuration, name)), {})
        line[configuration[name]] = loss
    for configuration, loss in observed:
        fixed = _fixed_values(configuration, name)
        line = groups.setdefault(("here" if fixed == here else "earlier", fixed), {})
        line[configuration[name]] = loss
    return [AxisLosses(losses, origin) for (origin, _), losses in groups.items() if len(losses) > 1]


def _fixed_values(configuration: Configuration, name: str) -> Held:
    return tuple(sorted(item for item in configuration.items() if item[0] != name))


@dataclass(frozen=True, slots=True)
class _Difference:
    """A measured loss at one place of the axis less that at a reference place."""

    place: int
    reference: int
    nats: float
    spread: float


def improvement_probability(
    axis: Axis, at: Value, start: Value, lines: Sequence[AxisLosses], tie_threshold: float
) -> dict[Value, float]:
    """Chance of every other candidate of an axis to be better than the current best by more than τ.

    Args:
        axis: the candidates, ``at`` and ``start`` among them.
        at: the current best's value.
        start: where the descent began.
        lines: what was measured along the axis, oldest first.
        tie_threshold: τ in nats.

    Returns:
        Value → chance in [0, 1], rounded to 6 digits.
    """
    scale = max(tie_threshold, LEAST_SCALE)
    others = [value for value in axis.values if value != at]
    if axis.growth == "fixed":
        found = {value: _probability_of_choice(value, at, lines, scale) for value in others}
    else:
        found = _probability_on_parabolas(axis, at, start, lines, scale)
    return {value: round(found[value], 6) for value in others}


def _probability_of_choice(
    value: Value, at: Value, lines: Sequence[AxisLosses], scale: float
) -> float:
    """By what the choice did at the latest current best that had both it and the present one."""
    both = [
        line.losses
        for line in lines
        if value in line.losses and math.isfinite(line.losses.get(at, math.inf))
    ]
    if not both:
        return UNKNOWN_CHOICE
    difference = both[-1][value] - both[-1][at]
    if math.isinf(difference):
        return DIVERGED_CHOICE
    spread = math.hypot(NOISE * scale, MISFIT["earlier"] * difference)
    return _below(-scale, difference, spread)


def _probability_on_parabolas(
    axis: Axis, at: Value, start: Value, lines: Sequence[AxisLosses], scale: float
) -> dict[Value, float]:
    places = {value: place for place, value in enumerate(axis.values)}
    here = places[at]
    belief = _belief(places, here, places[start], lines, scale)
    total = sum(belief.values())
    found: dict[Value, float] = {}
    for value, place in places.items():
        probability = 0.0
        for (minimum, steepness), weight in belief.items():
            difference = steepness * (place - here) * (place + here - 2 * minimum)
            spread = math.hypot(NOISE * scale, MISFIT["here"] * difference)
            probability += weight * _below(-scale, difference, spread)
        found[value] = probability / total * _after_divergence(places, here, place, lines)
    return found


def _belief(
    places: Mapping[Value, int], here: int, start: int, lines: Sequence[AxisLosses], scale: float
) -> dict[Parabola, float]:
    """Weights of the parabolas after all lines; those of another cell count before its drift."""
    belief = {
        (here + offset, steepness * scale): math.exp(
            -0.5 * ((here + offset - start) / START_SPREAD) ** 2
        )
        for offset, steepness in product(OFFSETS, STEEPNESS)
    }
    foreign = _differences(places, start, [x for x in lines if x.origin == "other_cell"], scale)
    if foreign:
        belief = _drifted(_reweighed(belief, foreign, scale))
    own = [line for line in lines if line.origin != "other_cell"][-NEWEST:]
    return _reweighed(belief, _differences(places, here, own, scale), scale)


def _differences(
    places: Mapping[Value, int], centre: int, lines: Sequence[AxisLosses], scale: float
) -> list[_Difference]:
    """Of each line: its finite losses less the one that lies nearest to the centre."""
    found: list[_Difference] = []
    for line in lines:
        finite = {
            places[value]: loss
            for value, loss in line.losses.items()
            if value in places and math.isfinite(loss)
        }
        if len(finite) < 2:
            continue
        reference = min(finite, key=lambda place: (abs(place - centre), place))
        for place in sorted(finite):
            if place != reference:
                nats = _capped(finite[place] - finite[reference], scale)
                spread = math.hypot(NOISE * scale, MISFIT[line.origin] * nats)
                found.append(_Difference(place, reference, nats, spread))
    return found


def _reweighed(
    belief: Mapping[Parabola, float], differences: Sequence[_Difference], scale: float
) -> dict[Parabola, float]:
    """Bayes' rule with Student's t of 3 degrees of freedom, which forgives what is no parabola."""
    weights = dict(belief)
    for d in differences:
        for (minimum, steepness), weight in weights.items():
            rise = steepness * (d.place - d.reference) * (d.place + d.reference - 2 * minimum)
            z = (_capped(rise, scale) - d.nats) / d.spread
            weights[minimum, steepness] = weight / (1.0 + z * z / 3.0) ** 2
        total = sum(weights.values())
        # The floor keeps a parabola that was ruled out from underflowing to zero for good.
        weights = {parabola: weight / total + 1e-12 for parabola, weight in weights.items()}
    return weights


def _drifted(belief: Mapping[Parabola, float]) -> dict[Parabola, float]:
    """The belief about a neighbouring cell's parabola: same steepness, the minimum has moved."""
    moved = dict.fromkeys(belief, 0.0)
    for (before, steepness), weight in belief.items():
        for after, same in moved:
            if same == steepness:
                step = (after - before) / DRIFT
                moved[after, steepness] += weight * math.exp(-0.5 * step**2)
    return moved


def _after_divergence(
    places: Mapping[Value, int], here: int, place: int, lines: Sequence[AxisLosses]
) -> float:
    """Factor for a place at or beyond one that diverged, seen from the current best."""
    factor = 1.0
    for line in lines:
        for value, loss in line.losses.items():
            if math.isinf(loss) and value in places:
                diverged = places[value]
                if here < diverged <= place or place <= diverged < here:
                    factor = min(factor, AFTER_DIVERGENCE[line.origin])
    return factor


def _capped(nats: float, scale: float) -> float:
    return max(-CAP * scale, min(CAP * scale, nats))


def _below(limit: float, mean: float, spread: float) -> float:
    """Chance of a normal variable to lie below a limit."""
    return 0.5 * math.erfc((mean - limit) / (spread * math.sqrt(2.0)))
