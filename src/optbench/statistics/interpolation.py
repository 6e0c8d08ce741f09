"""Monotone interpolation of loss over log tokens, and its inverse, without extrapolation.

A loss curve falls. Where noise makes two neighbouring means rise, both are replaced by their
weighted mean (isotonic projection, pool-adjacent-violators); a PCHIP (Fritsch and Carlson, 1980)
goes through the projected points and falls with them. Outside of the measured budgets the inverse
is a bound, not a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Floats: TypeAlias = NDArray[np.float64]
Bound: TypeAlias = Literal["", "<", ">"]
Comparison: TypeAlias = Callable[[Floats], NDArray[np.bool_]]
_BISECTIONS = 50  # halves the range of log D until rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """The tokens at which a curve reaches a loss.

    Args:
        tokens: the answer, or the end of the measured range that bounds it.
        bound: ">" more than ``tokens`` are needed, "<" fewer are, "" exactly as many.
    """

    tokens: float
    bound: Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class MonotoneCurve:
    """A falling curve through measured mean losses; build it with :meth:`through`.

    Args:
        tokens: increasing budgets.
        losses: projected mean losses, which never rise.
    """

    tokens: tuple[float, ...]
    losses: tuple[float, ...]

    @classmethod
    def through(
        cls, tokens: Sequence[float], losses: Sequence[float], counts: Sequence[int] | None = None
    ) -> MonotoneCurve:
        """Project and order the points.

        Args:
            tokens: at least two different budgets.
            losses: mean loss at each, nats per token.
            counts: seeds behind each mean, its weight in the projection; equal without.

        Raises:
            ValueError: fewer than two budgets, or one given twice, or lengths that differ.
        """
        weights = [1] * len(losses) if counts is None else counts
        if not len(tokens) == len(losses) == len(weights):
            raise ValueError(
                f"Budgets, losses and counts must match one to one, but got {len(tokens)}, "
                f"{len(losses)} and {len(weights)}."
            )
        if len(set(tokens)) < 2 or len(set(tokens)) < len(tokens):
            raise ValueError(
                f"Interpolation needs at least two budgets, each once, but got {list(tokens)}. "
                f"Train the baseline at another budget."
            )
        order = np.argsort(np.asarray(tokens, dtype=float))
        y = np.asarray(losses, dtype=float)[order]
        projected = falling_projection(y[None], np.asarray(weights, dtype=float)[order])[0]
        return cls(
            tokens=tuple(np.asarray(tokens, dtype=float)[order].tolist()),
            losses=tuple(projected.tolist()),
        )

    def predict(self, tokens: float) -> float:
        """Loss at a budget within the measured range.

        Raises:
            ValueError: the budget lies outside of it.
        """
        if not self.tokens[0] <= tokens <= self.tokens[-1]:
            raise ValueError(
                f"The curve is known from {self.tokens[0]:g} to {self.tokens[-1]:g} tokens and is "
                f"not extrapolated, but got {tokens:g}."
            )
        return float(PchipInterpolator(np.log(self.tokens), self.losses)(np.log(tokens)))

    def invert(self, loss: float) -> Inversion:
        """The tokens at which the curve reaches ``loss``, or a bound on them."""
        if loss < self.losses[-1]:
            return Inversion(tokens=self.tokens[-1], bound=">")
        if loss > self.losses[0]:
            return Inversion(tokens=self.tokens[0], bound="<")
        knots, values = np.log(self.tokens), np.asarray(self.losses)[None]
        found = _invert_projected(knots, values, np.array([loss]))
        return Inversion(tokens=float(np.exp(found[0])), bound="")


def falling_projection(losses: Floats, weights: Floats) -> Floats:
    """Nearest falling sequence in weighted least squares, for every row at once.

    Uses the min–max form of isotonic regression, x_i = min over j ≤ i of max over k ≥ i of the
    mean of block j…k (Robertson, Wright and Dykstra, 1988, §1.4, mirrored for a falling order).

    Args:
        losses: (R, K).
        weights: (K,), positive.
    """
    size = losses.shape[1]
    total = np.concatenate(
        [np.zeros((len(losses), 1)), np.cumsum(losses * weights, axis=1)], axis=1
    )
    weight = np.concatenate([[0.0], np.cumsum(weights)])
    start, end = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    valid = start <= end
    span = np.where(valid, weight[end + 1] - weight[start], 1.0)
    means = (total[:, end + 1] - total[:, start]) / span
    means = np.where(valid, means, -np.inf)
    # over k ≥ i: the largest block mean to the right, then over j ≤ i: the smallest of those
    best_end = np.maximum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
    best_end = np.where(valid, best_end, np.inf)
    return best_end.min(axis=1)


def invert_interpolations(
    tokens: Floats, losses: Floats, counts: Floats, targets: Floats
) -> Floats:
    """Project and interpolate R curves on the same budgets and invert each at its own target.

    Args:
        tokens: increasing budgets (K,).
        losses: (R, K).
        counts: seeds behind each mean (K,).
        targets: (R,).

    Returns:
        Tokens (R,); infinite below a curve's last loss, 0 above its first.
    """
    projected = falling_projection(losses, counts)
    inside = (targets >= projected[:, -1]) & (targets <= projected[:, 0])
    within = np.where(inside, targets, projected[:, 0])
    found = np.exp(_invert_projected(np.log(tokens), projected, within))
    return np.where(inside, found, np.where(targets < projected[:, -1], np.inf, 0.0))


def _invert_projected(knots: Floats, losses: Floats, targets: Floats) -> Floats:
    """Log tokens (R,) at which falling curves (R, K) over ``knots`` (K,) take ``targets`` (R,).

    Where a curve is flat at its target the middle of the flat piece is returned.
    """
    pieces = PchipInterpolator(knots, losses, axis=1).c  # (4, K − 1, R)
    first = _bisect(pieces, knots, lambda losses: losses <= targets)
    is_flat = (losses[:, :-1] == losses[:, 1:]) & (losses[:, 1:] == targets[:, None])
    if not is_flat.any():
        return first
    return 0.5 * (first + _bisect(pieces, knots, lambda losses: losses < targets))


def _bisect(
    pieces: Floats, knots: Floats, is_below: Callable[[Floats], NDArray[np.bool_]]
) -> Floats:
    """Where falling curves first satisfy ``is_below``."""
    rows = np.arange(pieces.shape[2])
    left, right = np.full(len(rows), knots[0]), np.full(len(rows), knots[-1])
    for _ in range(_BISECTIONS):
        middle = 0.5 * (left + right)
        piece = np.clip(np.searchsorted(knots, middle, side="right") - 1, 0, len(knots) - 2)
        c, h = pieces[:, piece, rows], middle - knots[piece]
        below = is_below(((c[0] * h + c[1]) * h + c[2]) * h + c[3])
        left, right = np.where(below, left, middle), np.where(below, middle, right)
    return 0.5 * (left + right)
