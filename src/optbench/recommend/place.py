"""Where a recommendation is asked for: a place (N, D), and how far it is from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optbench.config import UserError
from optbench.ladder import TOKENS_PER_PARAM
from optbench.recommend.hyperparameter_transfer import beyond
from optbench.recommend.tuned_cells import NEGLIGIBLE_FACTOR
from optbench.units import format_count


class RecommendationError(UserError, ValueError):
    """What cannot be recommended, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A model size and a budget.

    Args:
        params: N, non-embedding parameters.
        tokens: D.
    """

    params: float
    tokens: float

    @property
    def ratio(self) -> float:
        """Chinchilla's r = D / (20·N)."""
        return self.tokens / (TOKENS_PER_PARAM * self.params)

    @property
    def label(self) -> str:
        """Such as ``760M parameters, 60B tokens``."""
        return f"{format_count(self.params)} parameters, {format_count(self.tokens)} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How many times a place lies outside of what was measured; 1 within."""

    size: float
    ratio: float

    @property
    def flag(self) -> str:
        """``interpolated``, or ``extrapolated 1.42x in size, 2x in ratio``."""
        parts = [
            f"{factor:.3g}x in {name}"
            for factor, name in ((self.size, "size"), (self.ratio, "ratio"))
            if factor > NEGLIGIBLE_FACTOR
        ]
        return f"extrapolated {', '.join(parts)}" if parts else "interpolated"

    @classmethod
    def of(cls, place: Place, measured: Sequence[tuple[float, float]]) -> Reach:
        """From the N and r of what was measured."""
        return cls(
            size=beyond(place.params, [num_params for num_params, _ in measured]),
            ratio=beyond(place.ratio, [ratio for _, ratio in measured]),
        )

    @classmethod
    def worst(cls, reaches: Sequence[Reach]) -> Reach:
        """The farthest in size and the farthest in ratio."""
        return cls(size=max(r.size for r in reaches), ratio=max(r.ratio for r in reaches))
