from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from optbench.optimizers.linalg import (
    NEWTON_SCHULZ_COEFFICIENTS,
    eigenbasis,
    full_float32,
    newton_schulz,
    spectral_norm_lower_bound,
)
from tests.optimizers import reference, reference_scion

# Of five steps in float64: what a product of ten terms is rounded by (ten times 2e-16), grown by
# the slope 3.4445 of each later step at small singular values (140 in four).
ROUNDING = 3e-13


def gaussian(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_singular_values_of_a_large_gaussian_lie_around_one():
    values = torch.linalg.svdvals(newton_schulz(gaussian(512, 512, dtype=torch.float32)))
    assert values.min() > 0
    assert values.max() < 1.21
    assert abs(values.mean() - 0.92) < 0.01


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5)])
@pytest.mark.parametrize("steps", [1, 5])
def test_only_the_singular_values_change(shape: tuple[int, int], steps: int):
    expected = reference.newton_schulz(gaussian(*shape).numpy(), steps)
    assert abs(newton_schulz(gaussian(*shape), steps=steps).numpy() - expected).max() < ROUNDING


def test_a_stack_is_treated_matrix_by_matrix():
    stack = gaussian(2, 3, 4, 7)
    result = newton_schulz(stack)
    assert result.shape == stack.shape
    for i in range(2):
        for j in range(3):
            alone = newton_schulz(stack[i, j])
            torch.testing.assert_close(result[i, j], alone, rtol=0, atol=ROUNDING)


def test_a_tall_matrix_is_the_transpose_of_a_wide_one():
    tall = gaussian(9, 4)
    found, wanted = newton_schulz(tall), newton_schulz(tall.mT).mT
    torch.testing.assert_close(found, wanted, rtol=0, atol=ROUNDING)


def test_scale_is_not_seen():
    matrix = gaussian(5, 7)
    assert torch.equal(newton_schulz(matrix), newton_schulz(matrix * 2.0**40))


@pytest.mark.parametrize(("steps", "slope"), [(5, 8.7), (10, 86.0)])
@pytest.mark.parametrize("norm", [1.0, 1e-3, 1e-6, 1e-7])
def test_a_floor_on_the_norm_differs_from_a_summand_by_the_stated_bound(
    norm: float, steps: int, slope: float
):
    matrix = torch.diag(torch.linspace(0.02, 1, 200, dtype=torch.float64).exp())[:, :150]
    matrix *= norm / matrix.norm()
    by_the_authors = reference_scion.newton_schulz(matrix.numpy(), steps, 1e-7)
    apart = abs(newton_schulz(matrix, steps=steps).numpy() - by_the_authors)
    bound = slope * math.log(1 + 1e-7 / norm)
    assert np.linalg.norm(apart, 2) <= bound


def test_the_slopes_of_that_bound_are_those_of_the_iteration():
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    start = np.exp(np.linspace(-20, 0, 200_001))
    for steps, slope in ((5, 8.7), (10, 86.0)):
        x, derivative = start, np.ones_like(start)
        for _ in range(steps):
            derivative = derivative * (a + 3 * b * x**2 + 5 * c * x**4)
            x = a * x + b * x**3 + c * x**5
        assert 0.98 * slope < abs(start * derivative).max() < slope


def test_zero_stays_zero():
    assert torch.equal(newton_schulz(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_the_argument_is_left_as_it_was():
    matrix = gaussian(5, 7)
    newton_schulz(matrix)
    assert torch.equal(matrix, gaussian(5, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_bfloat16_only_on_request(dtype: torch.dtype):
    matrix = gaussian(16, 24, dtype=dtype)
    exact, rough = newton_schulz(matrix), newton_schulz(matrix, compute_dtype=torch.bfloat16)
    assert exact.dtype == rough.dtype == dtype
    assert torch.equal(rough, rough.bfloat16().to(dtype))
    assert not torch.equal(exact, exact.bfloat16().to(dtype))
    assert 0 < (exact - rough).abs().max() < 0.05


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"Matrices are needed, but got a tensor of shape \(3,\)"):
        newton_schulz(torch.zeros(3))


def test_eigenvectors_come_with_the_largest_value_first():
    gaussians = torch.stack([gaussian(6, 6), 3 * gaussian(6, 6).mT])
    matrices = gaussians @ gaussians.mT
    basis = eigenbasis(matrices)
    diagonal = basis.mT @ matrices @ basis
    values = diagonal.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(diagonal, torch.diag_embed(values), rtol=0, atol=1e-11)
    assert torch.equal(values, values.sort(dim=-1, descending=True).values)


def test_one_bad_matrix_of_a_stack_leaves_the_others_their_eigenvectors():
    good = gaussian(5, 5) @ gaussian(5, 5).mT
    bad = torch.full_like(good, torch.nan)
    basis = eigenbasis(torch.stack([good, bad, 2 * good]))
    assert basis[1].isnan().all()
    torch.testing.assert_close(basis[0], eigenbasis(good[None])[0])
    torch.testing.assert_close(basis[2].abs(), basis[0].abs())


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_bound_lies_between_the_longest_column_and_the_spectral_norm(rank: int):
    factors = torch.stack([gaussian(8, rank), 1e-9 * gaussian(8, rank)])
    matrices = factors @ factors.mT
    bound = spectral_norm_lower_bound(matrices.clone())
    longest = matrices.square().sum(-1).amax(-1).sqrt()
    norm = torch.linalg.matrix_norm(matrices, 2)
    assert (longest * (1 - 1e-12) <= bound).all()
    assert (bound <= norm * (1 + 1e-12)).all()


def test_the_bound_of_zero_is_zero_and_large_elements_do_not_overflow():
    matrices = torch.stack([torch.zeros(3, 3), torch.full((3, 3), 1e30)])
    torch.testing.assert_close(
        spectral_norm_lower_bound(matrices), torch.tensor([0.0, 3e30]), rtol=1e-6, atol=0
    )


def test_full_precision_ends_with_its_block_even_by_an_error():
    def fail_inside() -> None:
        with full_float32():
            assert backend.fp32_precision == "ieee"
            raise RuntimeError("inside")

    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError, match="inside"):
            fail_inside()
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before
