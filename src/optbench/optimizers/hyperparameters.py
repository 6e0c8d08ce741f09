"""Hyperparameter checks: the type a value must have and the range or choices it must lie in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor


class Constraint(Protocol):
    """What a hyperparameter's value must satisfy."""

    def problem(self, name: str, value: Any) -> str | None:
        """Why ``value`` is refused, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Bound:
    """Values a hyperparameter may take: low ≤ value < high."""

    low: float
    high: float = math.inf

    def problem(self, name: str, value: float) -> str | None:
        """Why ``value`` is refused, or None."""
        if self.low <= value < self.high:  # false for NaN
            return None
        upper = "be finite" if self.high == math.inf else f"be less than {self.high:g}"
        return f"`{name}` must be at least {self.low:g} and {upper}, but got {name}={value}."


@dataclass(frozen=True, slots=True)
class OneOf:
    """The strings a hyperparameter may be."""

    choices: tuple[str, ...]

    def problem(self, name: str, value: str) -> str | None:
        """Why ``value`` is refused, or None."""
        if value in self.choices:
            return None
        choices = " or ".join(repr(choice) for choice in self.choices)
        return f"`{name}` must be {choices}, but got {name}={value!r}."


NON_NEGATIVE = Bound(0.0)
FRACTION = Bound(0.0, 1.0)
POSITIVE_INTEGER = Bound(1)

# The ranges of torch.optim, for the names that several methods share.
SHARED_BOUNDS: Mapping[str, Constraint] = MappingProxyType(
    {
        "lr": NON_NEGATIVE,
        "weight_decay": NON_NEGATIVE,
        "eps": NON_NEGATIVE,
        "aux_lr_ratio": NON_NEGATIVE,
        "beta1": FRACTION,
        "beta2": FRACTION,
        "momentum": FRACTION,
        "ns_steps": POSITIVE_INTEGER,
    }
)


def hyperparameter_problem(
    values: Mapping[str, Any], defaults: Mapping[str, Any], bounds: Mapping[str, Constraint]
) -> str | None:
    """The first hyperparameter of wrong type or out of range, as a sentence, or None.

    Args:
        values: to be checked; names that are not in ``defaults`` are not looked at.
        defaults: the constructor's defaults, which fix the types.
        bounds: ranges and choices; a hyperparameter without one may have any value of its type.
    """
    for name, default in defaults.items():
        if name not in values:
            continue
        value: Any = values[name]
        if isinstance(value, Tensor) and value.numel() == 1:  # torch allows tensors, such as lr
            value = value.item()
        if not _has_type_of(default, value):
            return (
                f"`{name}` must be of type {type(default).__name__}, but got {name}={value!r} of "
                f"type {type(value).__name__}."
            )
        problem = bounds[name].problem(name, value) if name in bounds else None
        if problem:
            return problem
    return None


def _has_type_of(default: Any, value: Any) -> bool:
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, Real)
    return isinstance(value, Integral if isinstance(default, int) else type(default))
