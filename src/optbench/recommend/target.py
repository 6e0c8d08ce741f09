"""Where a recommendation is asked for: a place (N, D), and how far it is from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optbench.config import UserError
from optbench.ladder import TOKENS_PER_PARAM
from optbench.recommend.hyperparameter_transfer import extrapolation_factor
from optbench.recommend.tuned_cells import NEGLIGIBLE_EXTRAPOLATION
from optbench.units import format_count


class RecommendationError(UserError, ValueError):
    """What cannot be recommended, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
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
class ExtrapolationFactors:
    """How many times a place lies outside of what was measured; 1 within."""

    size: float
    ratio: float

    @property
    def flag(self) -> str:
        """``interpolated``, or ``extrapolated 1.42x in size, 2x in ratio``."""
        parts = [
            f"{factor:.3g}x in {name}"
            for factor, name in ((self.size, "size"), (self.ratio, "ratio"))
            if factor > NEGLIGIBLE_EXTRAPOLATION
        ]
        return f"extrapolated {', '.join(parts)}" if parts else "interpolated"

    @classmethod
    def of(cls, place: Target, measured: Sequence[tuple[float, float]]) -> ExtrapolationFactors:
        """From the N and r of what was measured."""
        return cls(
            size=extrapolation_factor(place.params, [num_params for num_params, _ in measured]),
            ratio=extrapolation_factor(place.ratio, [ratio for _, ratio in measured]),
        )

    @classmethod
    def worst(cls, factors: Sequence[ExtrapolationFactors]) -> ExtrapolationFactors:
        """The farthest in size and the farthest in ratio."""
        return cls(size=max(r.size for r in factors), ratio=max(r.ratio for r in factors))
