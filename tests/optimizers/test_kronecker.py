from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from optbench.optimizers import kronecker
from optbench.optimizers.kronecker import Factors, update_noise
from tests.optimizers.reference_kron import norm_lower_bound

# Square, and so tall and so wide that the order of products changes.
SHAPES = ((7, 7), (9, 5), (13, 3), (3, 13))
KINDS = tuple(itertools.product(("triangular", "diagonal"), repeat=2))


@pytest.fixture(autouse=True)
def narrow_panels(monkeypatch: pytest.MonkeyPatch):
    """Small matrices go through several panels too, of unequal widths."""
    monkeypatch.setattr(kronecker, "NARROWEST_PANEL", 2)
    monkeypatch.setattr(kronecker, "MOST_PANELS", 3)


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def factor(kind: str, size: int) -> Tensor:
    """Two factors, triangular or diagonal."""
    if kind == "diagonal":
        return normal(1, 2, size).abs() + 0.5
    return normal(2, 2, size, size).triu() + 3 * torch.eye(size, dtype=torch.float64)


def dense(factors: Tensor) -> Tensor:
    return torch.diag_embed(factors) if factors.ndim == 2 else factors


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_full_matrices(shape: tuple[int, int], kinds: tuple[str, str]):
    factors = Factors(factor(kinds[0], shape[0]), factor(kinds[1], shape[1]))
    assert factors.columns is not None
    q1, q2, x = dense(factors.rows), dense(factors.columns), normal(3, 2, *shape)

    def near(actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-10)

    near(factors.transform(x), q1 @ x @ q2.mT)
    near(factors.precondition(x), q1.mT @ q1 @ x @ q2.mT @ q2)
    near(q1.mT @ factors.solve(x) @ q2, x)


@pytest.mark.parametrize("kind", ["triangular", "diagonal"])
def test_vectors_have_one_factor(kind: str):
    factors, x = Factors(factor(kind, 6), None), normal(4, 2, 6, 1)
    q1 = dense(factors.rows)
    torch.testing.assert_close(factors.transform(x), q1 @ x)
    torch.testing.assert_close(factors.precondition(x), q1.mT @ q1 @ x)
    torch.testing.assert_close(q1.mT @ factors.solve(x), x)
    before = factors.rows.clone()
    factors.balance()
    assert torch.equal(factors.rows, before)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_fit_is_the_closed_form(shape: tuple[int, int], kinds: tuple[str, str]):
    def moved(q: np.ndarray, aa: np.ndarray, bb: np.ndarray, rate: float, kind: str) -> np.ndarray:
        if kind == "diagonal":
            step = np.diag(np.diag(aa - bb)) / np.max(np.diag(aa + bb))
        else:
            step = np.triu(aa - bb) / norm_lower_bound(aa + bb)
        return q - rate * step @ q

    factors = Factors(factor(kinds[0], shape[0]), factor(kinds[1], shape[1]))
    assert factors.columns is not None
    a, b, rates = normal(5, 2, *shape), normal(6, 2, *shape), torch.tensor([0.1, 0.4]).double()
    before = [
        (dense(factors.rows)[i].numpy().copy(), dense(factors.columns)[i].numpy().copy())
        for i in (0, 1)
    ]
    factors.fit(a, b, rates)
    for i, (q1, q2) in enumerate(before):
        x, y, rate = a[i].numpy(), b[i].numpy(), float(rates[i])
        q1, q2 = (
            moved(q1, x @ x.T, y @ y.T, rate, kinds[0]),
            moved(q2, x.T @ x, y.T @ y, rate, kinds[1]),
        )
        assert abs(dense(factors.rows)[i].numpy() - q1).max() < 1e-12
        assert abs(dense(factors.columns)[i].numpy() - q2).max() < 1e-12


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_balanced_factors_have_equal_largest_elements_and_the_same_product(kinds: tuple[str, str]):
    factors = Factors(100 * factor(kinds[0], 6), factor(kinds[1], 4))
    x = normal(7, 2, 6, 4)
    before = factors.transform(x)
    factors.balance()
    assert factors.columns is not None
    largest = [q.abs().flatten(1).amax(1) for q in (factors.rows, factors.columns)]
    torch.testing.assert_close(largest[0], largest[1])
    torch.testing.assert_close(factors.transform(x), before)


def test_noise_depends_on_seed_and_count_alone():
    like = torch.empty(5, 7)
    first = update_noise(like, 3, 11)
    torch.manual_seed(0)
    assert torch.equal(first, update_noise(like, 3, 11))
    assert torch.equal(first.double(), update_noise(like.double(), 3, 11))
    for other in (update_noise(like, 4, 11), update_noise(like, 3, 12)):
        assert abs(float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1])) < (
            0.5
        )
