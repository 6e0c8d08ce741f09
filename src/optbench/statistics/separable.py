"""Least squares of E + A·N^(−a) + B_g·D^(−b), groups g of cells, for many sets of losses at once.

For given exponents the model is linear, so only the exponents are searched (variable projection,
Golub and Pereyra, 1973): the best point of a grid, then Gauss–Newton on the projected residuals
with Kaufman's (1975) simplification. The grid makes the search global, and every set of losses is
searched alike, so replicates of a bootstrap find the minima that a fit of each alone would find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

MIN_EXPONENT, MAX_EXPONENT = 0.01, 3.0
# Two sizes have two floors, whatever the exponent; one of the usual magnitude keeps A readable.
ASSUMED_SIZE_EXPONENT = 0.3
_GRID_TOKENS, _GRID_SIZES = 36, 12
_ITERATIONS = 30
_SHORTEN = 0.25  # a step that makes things worse
_LONGEST_STEP = 0.5  # of the logarithm of an exponent, about three points of the grid
_TOLERANCE = 1e-8  # of the logarithm of an exponent
_CHUNK_ELEMENTS = 4_000_000  # of the largest array, 32 MB


@dataclass(frozen=True, slots=True, eq=False)
class SeparableModel:
    """The cells of a fit.

    Args:
        tokens: in units of the smallest budget (C,).
        params: in units of the smallest size (C,).
        group: 0 … G − 1, which B a cell has (C,).
        weight: 1/stderr up to a common factor (C,).
    """

    tokens: Floats
    params: Floats
    group: Indices
    weight: Floats

    @property
    def num_sizes(self) -> int:
        """Different model sizes."""
        return len(np.unique(self.params))

    @property
    def num_exponents(self) -> int:
        """1, b, or 2 where three sizes or more identify a as well."""
        return 2 if self.num_sizes >= 3 else 1

    @property
    def num_parameters(self) -> int:
        """Linear ones and exponents."""
        return self.num_floor_terms + int(self.group.max()) + 1 + self.num_exponents

    @property
    def num_floor_terms(self) -> int:
        """1, E alone, or 2, E and A; the coefficients before those of the groups."""
        return 1 if self.num_sizes == 1 else 2

    def columns(self, log_exponents: Floats) -> Floats:
        """Weighted basis (…, C, K) of the linear parameters at ln b, or (ln b, ln a)."""
        b, a = self._exponents(log_exponents)
        floor = [np.ones((*b.shape, len(self.tokens)))]
        if self.num_floor_terms == 2:
            floor.append(self.params ** -a[..., None])
        one_hot = self.group[:, None] == np.arange(self.group.max() + 1)
        falling = (self.tokens ** -b[..., None])[..., None] * one_hot
        return self.weight[:, None] * np.concatenate([np.stack(floor, axis=-1), falling], axis=-1)

    def slopes(self, log_exponents: Floats, linear: Floats) -> Floats:
        """Derivatives (…, C, 1 or 2) of the weighted model by ln b, or (ln b, ln a)."""
        b, a = self._exponents(log_exponents)
        coefficient = linear[..., self.num_floor_terms :][..., self.group]
        falling = self.tokens ** -b[..., None] * coefficient
        found = [-b[..., None] * np.log(self.tokens) * falling]
        if self.num_exponents == 2:
            floor = self.params ** -a[..., None] * linear[..., 1, None]
            found.append(-a[..., None] * np.log(self.params) * floor)
        return self.weight[:, None] * np.stack(found, axis=-1)

    def predict(self, fits: SeparableFits) -> Floats:
        """Losses (R, C)."""
        linear = np.concatenate([fits.floor_terms, fits.coefficients], axis=-1)
        return (self.columns(fits.log_exponents) @ linear[..., None])[..., 0] / self.weight

    def _exponents(self, log_exponents: Floats) -> tuple[Floats, Floats]:
        b = np.exp(log_exponents[..., 0])
        if self.num_exponents == 2:
            return b, np.exp(log_exponents[..., 1])
        return b, np.full_like(b, ASSUMED_SIZE_EXPONENT)


@dataclass(frozen=True, slots=True, eq=False)
class SeparableFits:
    """R fits.

    Args:
        log_exponents: ln b, or (ln b, ln a) (R, 1 or 2).
        floor_terms: E, and A with more than one size (R, 1 or 2).
        coefficients: B of every group (R, G).
        squares: weighted sum of squared residuals (R,).
    """

    log_exponents: Floats
    floor_terms: Floats
    coefficients: Floats
    squares: Floats


def fit_all(model: SeparableModel, losses: Floats) -> SeparableFits:
    """Fit R sets of losses (R, C), each by itself."""
    size = max(1, _CHUNK_ELEMENTS // (len(model.tokens) * model.num_parameters))
    chunks = [_fit_chunk(model, losses[k : k + size]) for k in range(0, len(losses), size)]
    linear = np.concatenate([chunk.linear for chunk in chunks])
    return SeparableFits(
        log_exponents=np.concatenate([chunk.log_exponents for chunk in chunks]),
        floor_terms=linear[:, : model.num_floor_terms],
        coefficients=linear[:, model.num_floor_terms :],
        squares=np.concatenate([chunk.squares for chunk in chunks]),
    )


@dataclass(slots=True, eq=False)
class _Search:
    """R searches under way: where they are, what is best there, and the step from there."""

    log_exponents: Floats
    linear: Floats
    squares: Floats
    step: Floats

    def advance(self, rows: Indices, model: SeparableModel, y: Floats) -> Floats:
        """Try the step of some rows and take it where it is no worse; its length for each."""
        here = self.log_exponents[rows]
        there = np.clip(here + self.step[rows], np.log(MIN_EXPONENT), np.log(MAX_EXPONENT))
        linear, squares, step = _project(model, there, y[rows])
        is_better = squares <= self.squares[rows]
        taken = rows[is_better]
        self.log_exponents[taken], self.linear[taken] = there[is_better], linear[is_better]
        self.squares[taken], self.step[taken] = squares[is_better], step[is_better]
        self.step[rows[~is_better]] *= _SHORTEN
        return np.abs(there - here).max(axis=1)


def _fit_chunk(model: SeparableModel, losses: Floats) -> _Search:
    y = losses * model.weight
    start = _best_of_grid(model, y)
    search = _Search(start, *_project(model, start, y))
    rows = np.arange(len(y))
    for _ in range(_ITERATIONS):
        length = search.advance(rows, model, y)
        rows = rows[length > _TOLERANCE]
        if not len(rows):
            break
    return search


def _best_of_grid(model: SeparableModel, y: Floats) -> Floats:
    """Where on the grid, in ln exponents (R, 1 or 2), every row of weighted losses fits best."""
    ends = np.log(MIN_EXPONENT), np.log(MAX_EXPONENT)
    axes = [np.linspace(*ends, _GRID_TOKENS), np.linspace(*ends, _GRID_SIZES)]
    mesh = np.meshgrid(*axes[: model.num_exponents], indexing="ij")
    grid = np.stack([axis.ravel() for axis in mesh], axis=-1)
    basis = np.linalg.qr(model.columns(grid)).Q
    # the constant lies in every basis; without it the explained part loses no digits
    level = (y @ model.weight) / (model.weight @ model.weight)
    centred = y - level[:, None] * model.weight
    explained = [np.sum((centred @ q) ** 2, axis=1) for q in basis]
    return grid[np.argmax(explained, axis=0)]


def _project(model: SeparableModel, at: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Linear parameters (R, K), sum of squares (R,), Gauss–Newton step (R, 1 or 2)."""
    q, r = np.linalg.qr(model.columns(at))
    inner = (y[:, None, :] @ q)[:, 0]
    linear = np.asarray(np.linalg.solve(r, inner[..., None])[..., 0], dtype=float)
    residual = y - (q @ inner[..., None])[..., 0]
    slopes = model.slopes(at, linear)
    slopes -= q @ (q.swapaxes(1, 2) @ slopes)
    normal = slopes.swapaxes(1, 2) @ slopes
    gradient = slopes.swapaxes(1, 2) @ residual[..., None]
    # a flat curve has no slope by its exponent; the least ridge turns 0/0 into no step
    ridge = 1e-12 * np.trace(normal, axis1=1, axis2=2) + 1e-300
    normal += ridge[:, None, None] * np.eye(model.num_exponents)
    step = np.linalg.solve(normal, gradient)[..., 0]
    return linear, np.sum(residual**2, axis=1), np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)


def complement(model: SeparableModel, fits: SeparableFits) -> Floats:
    """Projection (C, C) of weighted losses on what no small change of the first fit explains."""
    columns = model.columns(fits.log_exponents[0])
    linear = np.concatenate([fits.floor_terms[0], fits.coefficients[0]])
    q = np.linalg.qr(np.concatenate([columns, model.slopes(fits.log_exponents[0], linear)], -1)).Q
    return np.eye(len(model.tokens)) - q @ q.T
