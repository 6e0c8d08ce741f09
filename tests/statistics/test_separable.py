from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from optbench.statistics.separable import (
    MAX_EXPONENT,
    MIN_EXPONENT,
    SeparableFits,
    SeparableModel,
    complement,
    fit_all,
)

RATIOS = np.array([1.0, 2.0, 4.0, 8.0])


def grid_of_cells(groups: int, sizes: tuple[float, ...], weight: float = 1.0) -> SeparableModel:
    cells = [(g, n, n * r) for g in range(groups) for n in sizes for r in RATIOS]
    group, params, tokens = (np.array(column) for column in zip(*cells, strict=True))
    return SeparableModel(tokens, params, group, np.full(len(cells), weight))


def losses_of(
    model: SeparableModel, coefficients: np.ndarray, b: float = 0.4, a: float = 0.35
) -> np.ndarray:
    floor = 2.5 + (0.6 * model.params**-a if model.num_sizes > 1 else 0.0)
    return floor + coefficients[model.group] * model.tokens**-b


@settings(max_examples=25, deadline=None)
@given(b=st.floats(0.1, 2.0), a=st.floats(0.1, 1.5), scale=st.floats(0.2, 2.0))
def test_exact_losses_of_three_sizes_give_all_parameters_back(
    b: float, a: float, scale: float
) -> None:
    model = grid_of_cells(3, (1.0, 2.25, 9.0))
    coefficients = scale * np.array([1.0, 0.9, 1.1])
    fit = fit_all(model, losses_of(model, coefficients, b, a)[None])
    assert np.exp(fit.log_exponents[0]) == pytest.approx([b, a], rel=1e-5)
    assert fit.floor_terms[0] == pytest.approx([2.5, 0.6], rel=1e-4)
    assert fit.coefficients[0] == pytest.approx(coefficients, rel=1e-5)
    assert fit.squares[0] < 1e-15


@pytest.mark.parametrize("sizes", [(1.0,), (1.0, 4.0), (1.0, 2.25, 9.0)])
def test_noisy_fits_are_those_of_a_general_solver(sizes: tuple[float, ...]) -> None:
    model = grid_of_cells(2, sizes, weight=100.0)
    rng = np.random.default_rng(0)
    exact = losses_of(model, np.array([0.8, 0.7]))
    losses = exact + 0.01 * rng.standard_normal((8, len(exact)))
    fits = fit_all(model, losses)

    def predict(p: np.ndarray) -> np.ndarray:
        floor = p[0] + (p[4] * model.params ** -np.exp(p[5]) if len(sizes) == 3 else 0.0)
        if len(sizes) == 2:
            floor = np.where(model.params == 1.0, p[0], p[4])
        return floor + p[1:3][model.group] * model.tokens ** -np.exp(p[3])

    start = [2.5, 0.8, 0.7, np.log(0.4), 0.6 if len(sizes) == 3 else 2.9, np.log(0.35)]
    for row, squares, b in zip(losses, fits.squares, fits.log_exponents[:, 0], strict=True):
        found = least_squares(
            lambda p, row=row: 100.0 * (predict(p) - row), start, x_scale="jac", method="trf",
            xtol=1e-14, ftol=1e-14, gtol=1e-14,
        )  # fmt: skip
        assert squares == pytest.approx(2 * found.cost, rel=1e-6)
        assert b == pytest.approx(found.x[3], abs=1e-3)


def test_every_set_of_losses_is_fitted_by_itself() -> None:
    model = grid_of_cells(2, (1.0, 2.0, 4.0))
    rng = np.random.default_rng(1)
    losses = losses_of(model, np.array([0.8, 0.7])) + 0.02 * rng.standard_normal((30, 24))
    together = fit_all(model, losses)
    alone = [fit_all(model, row[None]) for row in losses]
    assert together.squares == pytest.approx([fit.squares[0] for fit in alone], rel=1e-9)
    assert model.predict(together) == pytest.approx(
        np.concatenate([model.predict(fit) for fit in alone]), abs=1e-6
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_curves_without_a_power_law_end_at_the_bounds_of_the_exponent(sign: float) -> None:
    """Losses that are straight in ln D, or bend the other way, want b ≤ 0; a step wants b → ∞."""
    model = grid_of_cells(1, (1.0,))
    straight = 4.0 - sign * 0.1 * np.log(model.tokens) - 0.01 * np.log(model.tokens) ** 2 * sign
    step = np.where(model.tokens == 1.0, 4.0, 3.0)
    found = np.exp(fit_all(model, np.stack([straight, step])).log_exponents[:, 0])
    assert found == pytest.approx([MIN_EXPONENT, MAX_EXPONENT], rel=1e-6)


def test_a_cell_of_great_weight_is_met() -> None:
    model = grid_of_cells(1, (1.0,))
    weight = np.array([1.0, 1e4, 1.0, 1.0])
    losses = losses_of(model, np.array([0.8])) + np.array([0.0, 0.05, 0.0, 0.0])
    heavy = SeparableModel(model.tokens, model.params, model.group, weight)
    residuals = losses - heavy.predict(fit_all(heavy, losses[None]))[0]
    assert abs(residuals[1]) < 1e-7
    assert np.abs(residuals).max() > 1e-3


def test_complement_removes_every_small_change_of_the_parameters() -> None:
    model = grid_of_cells(2, (1.0, 2.0, 4.0), weight=3.0)
    fits = fit_all(model, losses_of(model, np.array([0.8, 0.7]))[None])
    projection = complement(model, fits)
    assert np.trace(projection) == pytest.approx(24 - model.num_parameters)
    assert projection @ projection == pytest.approx(projection)

    def moved(name: str, k: int, step: float) -> np.ndarray:
        values = {
            field: getattr(fits, field).copy()
            for field in ("log_exponents", "floor_terms", "coefficients")
        }
        values[name][0, k] += step
        return model.weight * model.predict(SeparableFits(**values, squares=fits.squares))[0]

    counts = {"log_exponents": 2, "floor_terms": 2, "coefficients": 2}
    for name, count in counts.items():
        for k in range(count):
            slope = (moved(name, k, 1e-5) - moved(name, k, -1e-5)) / 2e-5
            assert np.abs(projection @ slope).max() < 1e-7 < np.abs(slope).max()
