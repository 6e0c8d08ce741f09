"""Search spaces: the candidate values of each hyperparameter, and how a grid grows past its edge.

An optimizer declares its space beside its constructor; a study file may narrow or widen it. An
:class:`Axis` knows three ways to grow by one step: *geometric* (lr, eps, batch size), *complement*
(betas and momenta: 1 − β halved or doubled) and *fixed* (choices that have no "next" value).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeAlias

from optbench.errors import shortened

Value: TypeAlias = float | int | bool | str
Configuration: TypeAlias = Mapping[str, Value]
_MOST_CHOICES = 100
Growth: TypeAlias = Literal["geometric", "complement", "fixed"]


@dataclass(frozen=True, slots=True)
class Axis:
    """The candidates of one hyperparameter.

    Args:
        values: at least one candidate, no two equal; those of an axis that grows are finite
            numbers in increasing order.
        growth: how the next value past either end is made.
        low: no extension goes below this value.
        high: no extension goes above this value.

    Raises:
        ValueError: no values, equal values, and on an axis that grows: something else than finite
            numbers, values out of order or values outside ``[low, high]``.
    """

    values: tuple[Value, ...]
    growth: Growth = "fixed"
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("An axis needs at least one candidate value, but got none.")
        if self.growth == "fixed":
            if len(set(self.values)) < len(self.values):
                raise ValueError(f"Candidates must differ, but got {list(self.values)}.")
            return
        if not all(_is_finite_number(v) for v in self.values):
            raise ValueError(
                f"Candidates of a {self.growth} axis must be finite numbers, but got "
                f"{list(self.values)}."
            )
        numbers = [float(v) for v in self.values]
        if any(b <= a for a, b in pairwise(numbers)):
            raise ValueError(f"Candidates must increase strictly, but got {list(self.values)}.")
        if numbers[0] < self.low or numbers[-1] > self.high:
            raise ValueError(
                f"Candidates must lie in [{self.low:g}, {self.high:g}], but got "
                f"{list(self.values)}."
            )

    def extended(self, value: Value) -> Axis | None:
        """The axis grown by one step past ``value`` if that is one of its ends, else None.

        None is also returned at a declared bound and for a fixed axis. A single candidate is both
        ends: it grows upwards if it can, else downwards; a geometric one by a factor of 2.
        """
        if self.growth == "fixed":
            return None
        if value == self.values[-1] and (above := self._next(upwards=True)) is not None:
            return replace(self, values=(*self.values, above))
        if value == self.values[0] and (below := self._next(upwards=False)) is not None:
            return replace(self, values=(below, *self.values))
        return None

    def _next(self, *, upwards: bool) -> float | int | None:
        """The value one step past an end, or None if no value within the bounds is left there."""
        numbers = [float(v) for v in self.values]
        end = numbers[-1] if upwards else numbers[0]
        if self.growth == "complement":
            new = _rounded(1 - (1 - end) * (0.5 if upwards else 2.0))
        else:
            new = self._next_geometric(numbers, upwards=upwards)
        beyond = new > end if upwards else new < end
        if not beyond or not math.isfinite(new) or not self.low <= new <= self.high:
            return None
        return new

    def _next_geometric(self, numbers: list[float], *, upwards: bool) -> float | int:
        """The end times the ratio of the last two candidates; NaN where zero forbids a ratio."""
        if len(numbers) == 1:
            end, ratio = numbers[0], 2.0 if upwards else 0.5
        else:
            end, inner = numbers[-1:-3:-1] if upwards else numbers[:2]
            ratio = end / inner if inner > 0 else math.nan
        whole = ratio > 0 and all(isinstance(v, int) for v in self.values)
        grown = round(end * ratio) if whole else _rounded(end * ratio)
        # Whole numbers shrink down to 1: what comes below it rounds to zero.
        return grown if grown > 0 else math.nan


def _is_finite_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _rounded(value: float) -> float:
    """Nine significant digits, so that 0.1 · 2 / 2 does not become a new candidate."""
    return float(f"{value:.9g}")


def geometric(*values: float, low: float = 0.0, high: float = math.inf) -> Axis:
    """Candidates whose neighbours differ by a factor, such as learning rates."""
    return Axis(values, "geometric", low, high)


def complement(*values: float, low: float = 0.0, high: float = 0.9999) -> Axis:
    """Candidates whose distance to one matters, such as betas: an edge halves or doubles 1 − β."""
    return Axis(values, "complement", low, high)


def choices(*values: Value) -> Axis:
    """Candidates without a next value."""
    return Axis(values)


class SearchSpace(Mapping[str, Axis]):
    """Hyperparameter name → :class:`Axis`, in the order in which a descent visits them.

    The names are keywords of the optimizer's constructor (or of the run: ``batch_size``,
    ``warmup_frac``, ``clip_norm``, ``decay_frac``).
    """

    def __init__(self, axes: Mapping[str, Axis] | None = None, /, **named: Axis) -> None:
        self._axes = {**(axes or {}), **named}

    def __getitem__(self, name: str) -> Axis:
        return self._axes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)

    def __repr__(self) -> str:
        return f"SearchSpace({', '.join(f'{k}={list(a.values)}' for k, a in self.items())})"


def did_you_mean(name: str, known: Iterable[str], *, what: str) -> str:
    """The sentence for an unknown name: what was given, the nearest choice, and all choices.

    Names come from files, whose keys can be whole documents and thousands: neither is printed.
    """
    name, known = shortened(name), [shortened(one) for one in known]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" Did you mean '{nearest[0]}'?" if nearest else ""
    more = f" and {len(known) - _MOST_CHOICES} more" if len(known) > _MOST_CHOICES else ""
    return f"Unknown {what} '{name}'.{guess} Available: {', '.join(known[:_MOST_CHOICES])}{more}."
