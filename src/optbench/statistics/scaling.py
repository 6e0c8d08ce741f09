"""The power law of loss over tokens, L(D) = α·D^(−B) + β: fitted, predicted, inverted.

The study's estimator (arXiv 2509.02046): per model size, unweighted least squares over the
baseline's tuned losses, started at [L_first − L_last, 0.5, L_last]. Tokens are counted in units of
the smallest budget, so α is the reducible loss there. `fit_loss_curve` fits one curve,
`invert_fits` thousands of curves on the same budgets at once, for the bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Floats: TypeAlias = NDArray[np.float64]

MIN_EXPONENT, MAX_EXPONENT = 0.01, 3.0
_NUM_EXPONENTS = 120  # neighbours 5 % apart; a parabola between them leaves less than 1e-3 in D


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurveFit:
    """L(D) = coefficient·(D/unit_tokens)^(−exponent) + irreducible_loss.

    Args:
        coefficient: α in nats, at ``unit_tokens``.
        exponent: B.
        irreducible_loss: β in nats.
        unit_tokens: the smallest budget of the fit.
        residuals: measured minus fitted loss, in nats, in the order of the losses given.
    """

    coefficient: float
    exponent: float
    irreducible_loss: float
    unit_tokens: float
    residuals: tuple[float, ...]

    def predict(self, tokens: float) -> float:
        """Loss in nats per token after training on ``tokens``."""
        ratio = tokens / self.unit_tokens
        return float(self.coefficient * ratio**-self.exponent + self.irreducible_loss)

    def invert(self, loss: float) -> float:
        """Tokens at which the curve reaches ``loss``; infinite at or below the irreducible loss."""
        reducible = loss - self.irreducible_loss
        if reducible <= 0 or self.coefficient <= 0:
            return float("inf")
        return float(self.unit_tokens * (reducible / self.coefficient) ** (-1 / self.exponent))


def fit_loss_curve(
    tokens: Sequence[float], losses: Sequence[float], stderr: Sequence[float] | None = None
) -> LossCurveFit:
    """Fit the power law by least squares within α > 0, 0.01 ≤ B ≤ 3 and 0 ≤ β ≤ min(losses).

    Args:
        tokens: at least three different budgets.
        losses: nats per token, one for each budget.
        stderr: standard errors to weight by; equal weights (the study's choice) without.

    Raises:
        ValueError: fewer than three budgets, lengths that differ, or values that are not finite.
    """
    d, y = np.asarray(tokens, dtype=float), np.asarray(losses, dtype=float)
    w = np.ones_like(y) if stderr is None else 1 / np.asarray(stderr, dtype=float)
    _check_points(d, y, w)
    unit = float(d.min())
    x = d / unit

    def residuals(params: Floats) -> Floats:
        return w * (params[0] * x ** -params[1] + params[2] - y)

    order = np.argsort(x)
    first, last = float(y[order[0]]), float(y[order[-1]])
    upper = float(y.min())
    # The study's start, and the best of a grid: where the losses are noisy, the first can end in a
    # local minimum that the bootstrap's replicates, which search the grid, would not share.
    starts = ([first - last, 0.5, last], _grid_fit(x, y[None], w).row(0))
    fits = [_least_squares(residuals, start, upper) for start in starts]
    coefficient, exponent, irreducible = min(fits, key=lambda p: float(np.sum(residuals(p) ** 2)))
    fitted = coefficient * x**-exponent + irreducible
    return LossCurveFit(
        coefficient=float(coefficient),
        exponent=float(exponent),
        irreducible_loss=float(irreducible),
        unit_tokens=unit,
        residuals=tuple((y - fitted).tolist()),
    )


def _check_points(d: Floats, y: Floats, w: Floats) -> None:
    if not d.shape == y.shape == w.shape or d.ndim != 1:
        raise ValueError(
            f"Budgets, losses and errors must match one to one, but got {d.size} budgets, "
            f"{y.size} losses and {w.size} errors."
        )
    if len(np.unique(d)) < 3:
        raise ValueError(
            f"The curve α·D^(−B) + β needs at least three different budgets, but got "
            f"{sorted(set(d.tolist()))}. Train the baseline at more budgets, or use the estimator "
            f"'interpolate', which needs two."
        )
    if not (np.isfinite(y).all() and np.isfinite(w).all() and (d > 0).all()):
        raise ValueError(f"Budgets must be positive and losses finite, but got {d} and {y}.")


def _least_squares(
    residuals: Callable[[Floats], Floats], start: Sequence[float], upper: float
) -> Floats:
    low = np.array([1e-12, MIN_EXPONENT, 0.0])
    high = np.array([np.inf, MAX_EXPONENT, upper])
    inside = np.clip(np.asarray(start, dtype=float), low, high)
    return least_squares(
        residuals, inside, bounds=(low, high), xtol=1e-15, ftol=1e-15, gtol=1e-15
    ).x


@dataclass(frozen=True, slots=True)
class _GridFit:
    """Parameters of R curves, each array of shape (R,)."""

    coefficient: Floats
    exponent: Floats
    irreducible: Floats

    def row(self, index: int) -> list[float]:
        """The parameters of one curve: coefficient, exponent, irreducible loss."""
        return [float(a[index]) for a in (self.coefficient, self.exponent, self.irreducible)]


def _linear_fit(basis: Floats, y: Floats, w: Floats) -> tuple[Floats, Floats]:
    """For a fixed exponent the fit is linear; the bounds of β and α are met exactly.

    The sum of squares is convex, so the best β within its bounds is the free one, clipped.

    Args:
        basis: D^(−B) (R, K).
        y: losses (R, K).
        w: 1/stderr (K,).

    Returns:
        α and β, each of shape (R,).
    """
    weight = w**2 / np.sum(w**2)
    mean_x, mean_y = (basis * weight).sum(-1), (y * weight).sum(-1)
    dx = basis - mean_x[..., None]
    slope = (weight * dx * (y - mean_y[..., None])).sum(-1) / (weight * dx**2).sum(-1)
    irreducible = np.clip(mean_y - slope * mean_x, 0.0, y.min(-1))
    excess = y - irreducible[..., None]
    coefficient = (weight * basis * excess).sum(-1) / (weight * basis**2).sum(-1)
    return np.maximum(coefficient, 0.0), irreducible


def _profile(basis: Floats, y: Floats, w: Floats) -> Floats:
    """Weighted sums of squares (R, E) of the fits of `_linear_fit`, at every exponent.

    Written as matrix products of small sums, which is what makes thousands of curves cheap. The
    losses are counted from their mean, so that the sums lose no digits that the fits need.

    Args:
        basis: D^(−B) (E, K).
        y: losses (R, K).
        w: 1/stderr (K,).
    """
    weight = w**2 / np.sum(w**2)
    level = (y @ weight)[:, None]
    centred = y - level
    mean_x, squared_x = basis @ weight, basis**2 @ weight
    dx = basis - mean_x[:, None]
    slope = centred @ (weight * dx).T / (dx**2 @ weight)
    floor = np.clip(-slope * mean_x, -level, centred.min(axis=1, keepdims=True))
    cross = centred @ (weight * basis).T
    coefficient = np.maximum((cross - floor * mean_x) / squared_x, 0.0)
    fitted = coefficient * (coefficient * squared_x + 2 * (floor * mean_x - cross)) + floor**2
    return (centred**2 @ weight)[:, None] + fitted


def _grid_fit(x: Floats, losses: Floats, w: Floats) -> _GridFit:
    """Profile the sum of squares over the exponent: global, and the same work for every curve.

    Args:
        x: budgets in units of the smallest (K,).
        losses: one row for each curve (R, K).
        w: 1/stderr (K,).
    """
    grid = np.linspace(np.log(MIN_EXPONENT), np.log(MAX_EXPONENT), _NUM_EXPONENTS)
    error = _profile(x ** -np.exp(grid)[:, None], losses, w)
    best = error.argmin(axis=1)
    inner = np.clip(best, 1, len(grid) - 2)
    rows = np.arange(len(losses))
    left, middle, right = (error[rows, inner + k] for k in (-1, 0, 1))
    curvature = left - 2 * middle + right
    shift = 0.5 * (left - right) / np.where(curvature > 0, curvature, np.inf)
    step = grid[1] - grid[0]
    refined = np.where(best == inner, grid[inner] + np.clip(shift, -1, 1) * step, grid[best])
    exponent = np.exp(refined)
    coefficient, irreducible = _linear_fit(x ** -exponent[:, None], losses, w)
    return _GridFit(coefficient, exponent, irreducible)


def invert_fits(tokens: Floats, losses: Floats, targets: Floats) -> Floats:
    """Fit R curves, equal weights, and invert each at its own target.

    Args:
        tokens: budgets (K,), at least three different ones.
        losses: (R, K).
        targets: (R,).

    Returns:
        Tokens (R,); infinite where the target is at or below the irreducible loss.
    """
    unit = tokens.min()
    fit = _grid_fit(tokens / unit, losses, np.ones_like(tokens))
    reducible = targets - fit.irreducible
    reachable = (reducible > 0) & (fit.coefficient > 0)
    ratio = np.where(reachable, reducible, 1.0) / np.where(reachable, fit.coefficient, 1.0)
    # A nearly flat curve sends the inverse past the largest float; that is "never" too.
    with np.errstate(over="ignore"):
        found = unit * ratio ** (-1 / fit.exponent)
    return np.where(reachable, found, np.inf)
