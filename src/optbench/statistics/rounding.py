"""Predictions made usable: whole numbers, powers of two or candidates within an axis's bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from optbench.space import Axis, Value
from optbench.statistics.scaling_laws import Prediction

Rounding: TypeAlias = Literal["as is", "integer", "power of two", "candidate"]

_SAME = 1e-9  # relative; a value this close to an end is at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapped:
    """A value to train with.

    Args:
        value: rounded and within bounds.
        clamped: whether the prediction lay outside of what the axis allows: beyond its bounds, or,
            where candidates are asked for, more than half a step past the last of them.
        predicted: the value before both.
    """

    value: Value
    clamped: bool
    predicted: Value


def snap(prediction: Prediction, axis: Axis, rounding: Rounding = "as is") -> Snapped:
    """Clamp a prediction to the bounds of an axis and round it.

    Nearness is that of the axis: of ln h where it grows geometrically, of ln(1 − h) for a
    complement, of h where its candidates have no next value; of two equally near candidates the
    lower is taken. Powers of two are whole and rounded in ln h. Words and truth values must be
    candidates.

    Raises:
        ValueError: a word that is no candidate, a rounding of words, a power of two of a number
            that is not positive, no whole number or power of two within the bounds, or a
            prediction that is not finite.
    """
    value = prediction.value
    if isinstance(value, (str, bool)):
        return _snap_word(value, axis, rounding)
    if not math.isfinite(value):
        raise ValueError(f"A prediction of {value} cannot be rounded. Fit a simpler law.")
    if rounding == "candidate":
        return _nearest(float(value), axis)
    low, high = axis.low, axis.high
    inside = min(max(float(value), low), high)
    rounded: float | int = inside
    if rounding != "as is":
        rounded = _rounded(inside, low, high, rounding)
    clamped = not math.isclose(inside, value, rel_tol=_SAME, abs_tol=0.0)
    return Snapped(value=rounded, clamped=clamped, predicted=value)


def _snap_word(value: Value, axis: Axis, rounding: Rounding) -> Snapped:
    known = [candidate for candidate in axis.values if type(candidate) is type(value)]
    if value not in known or rounding in ("integer", "power of two"):
        raise ValueError(
            f"A prediction of {value!r} can only be one of the candidates {list(axis.values)}, and "
            f"is not rounded to '{rounding}'. Choose 'as is', and name it as a candidate."
        )
    return Snapped(value=value, clamped=False, predicted=value)


def _rounded(value: float, low: float, high: float, rounding: Rounding) -> int:
    """The nearest whole number or power of two that the bounds allow."""
    if rounding == "integer":
        first, nearest, last = _ceil(low), round(value), _floor(high)
    else:
        if value <= 0:
            raise ValueError(f"No power of two is near {value:g}. Choose another rounding.")
        # Powers below 1 are not whole; nothing that doubles is counted in them.
        first = max(0, _ceil(math.log2(low))) if low > 0 else 0
        nearest, last = round(math.log2(value)), _floor(math.log2(high)) if high > 0 else -1
    if first > last:
        raise ValueError(f"No {rounding} lies within the bounds [{low:g}, {high:g}].")
    exact = int(min(max(nearest, first), last))
    return exact if rounding == "integer" else 2**exact


def _ceil(number: float) -> float:
    return math.ceil(number) if math.isfinite(number) else number


def _floor(number: float) -> float:
    return math.floor(number) if math.isfinite(number) else number


def _nearest(value: float, axis: Axis) -> Snapped:
    numbers = sorted(
        (c for c in axis.values if not isinstance(c, (str, bool))),
        key=float,
    )
    if not numbers:
        raise ValueError(f"No candidate is near {value:g}: {list(axis.values)} are not numbers.")
    nearest = min(numbers, key=lambda candidate: _distance(value, float(candidate), axis))
    return Snapped(value=nearest, clamped=_is_beyond(value, numbers, axis), predicted=value)


def _is_beyond(value: float, numbers: list[float | int], axis: Axis) -> bool:
    """Whether a grid that went on would have another candidate nearer."""
    ends = [float(numbers[0]), float(numbers[-1])]
    inner = [float(numbers[min(1, len(numbers) - 1)]), float(numbers[max(-2, -len(numbers))])]
    outside = value < ends[0] or value > ends[1]
    if not outside or any(math.isclose(value, end, rel_tol=_SAME) for end in ends):
        return False
    side = int(value > ends[1])
    step = _distance(ends[side], inner[side], axis)
    return _distance(value, ends[side], axis) > step / 2


def _distance(a: float, b: float, axis: Axis) -> float:
    """How far two values of an axis are apart, in the measure in which it grows."""
    if a == b:
        return 0.0
    if axis.growth == "complement":
        a, b = 1 - a, 1 - b
    if axis.growth == "fixed":
        return abs(a - b)
    return abs(math.log(a / b)) if a > 0 and b > 0 else math.inf
