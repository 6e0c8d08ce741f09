from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from optbench.optimizers import Kron, kron
from optbench.optimizers.kronecker import update_noise
from tests.optimizers.comparison import ROLES, by_role, largest_error
from tests.optimizers.reference_kron import ReferenceKron, norm_lower_bound
from tests.optimizers.trajectories import (
    SHAPES,
    distance,
    gradient,
    parameters,
    state_tensors,
    walk,
)

COMMON = {"lr": 0.02, "beta1": 0.9, "weight_decay": 0.1, "preconditioner_lr": 0.2}
VOCABULARY = ("head", "embedding")


class NoisyReference:
    """The reference, fed with the noise that the optimizer draws."""

    def __init__(self, params: list[nn.Parameter], seed: int = 0, **form: Any) -> None:
        starts = [param.detach().numpy() for param in params]
        self.seed, self.inner = seed, ReferenceKron(starts, roles=ROLES, **COMMON, **form)
        for diagonal, role in zip(self.inner.diagonal, ROLES, strict=True):
            diagonal[0] |= role in VOCABULARY

    @property
    def params(self) -> list[NDArray]:
        return self.inner.params

    def step(self, grads: list[NDArray], lr: float | None = None) -> None:
        like = [torch.empty(g.shape, dtype=torch.float64) for g in grads]
        count = self.inner.updates + 1
        noise = [update_noise(x, self.seed, count).numpy() for x in like]
        self.inner.step(grads, lr=lr, noise=noise)


FORMS = {
    "whole": ({}, {}),
    "normalized": ({"normalize_grads": True}, {"normalize_grads": True}),
    "annealed": (
        {"flat_steps": 5, "min_update_probability": 0.4},
        {"flat_start": 5, "update_probability": 0.4},
    ),
    "diagonal": ({"max_size_triangular": 6}, {"diagonal_above": 6}),
    "blocks": ({"block_size": 4}, {"block_size": 4}),
    "seed": ({"seed": 7}, {"seed": 7}),
}


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_trajectory_is_that_of_the_authors(
    form: str, batched: bool, monkeypatch: pytest.MonkeyPatch
):
    ours, theirs = FORMS[form]
    # Edge blocks are filled up here and smaller there, and filling is part of the largest element.
    balance = 100 if form == "blocks" else 7
    monkeypatch.setattr(kron, "BALANCE_EVERY", balance)
    params = parameters()
    optimizer = Kron(by_role(params), **COMMON, **ours)
    optimizer.batched = batched
    other = NoisyReference(params, balance_every=balance, **theirs)
    assert largest_error(optimizer, other, params) < 1e-10
    assert other.inner.updates == (18 if form == "annealed" else 30)


def test_one_update_and_the_preconditioner_are_the_closed_form():
    """From triangular factors that are no multiples of the identity."""
    (param,) = parameters(((5, 3),))
    optimizer = Kron([param], lr=1.0, beta1=0.0, weight_decay=0.0, preconditioner_lr=0.3)
    walk(optimizer, [param], 6)
    q1, q2 = (optimizer.state[param][name].numpy().copy() for name in kron.FACTORS)
    assert np.abs(q1[np.triu_indices(5, 1)]).min() > 0
    before = param.detach().clone()
    walk(optimizer, [param], range(7, 8))

    m = gradient(0, 7, (5, 3)).numpy()
    v = update_noise(param.detach(), 0, 7).numpy()
    damped = m + math.sqrt(2.0**-23) * np.abs(m).mean() * v
    a = q1 @ damped @ q2.T
    b = np.linalg.inv(q1).T @ v @ np.linalg.inv(q2)
    new1 = q1 - 0.3 / norm_lower_bound(a @ a.T + b @ b.T) * np.triu(a @ a.T - b @ b.T) @ q1
    new2 = q2 - 0.3 / norm_lower_bound(a.T @ a + b.T @ b) * np.triu(a.T @ a - b.T @ b) @ q2
    u = new1.T @ new1 @ m @ new2.T @ new2
    u = u / max(1.0, np.sqrt(np.mean(u**2)) / 1.1)
    assert abs(optimizer.state[param]["factor_rows"].numpy() - new1).max() < 1e-11
    assert abs(optimizer.state[param]["factor_columns"].numpy() - new2).max() < 1e-11
    assert abs(param.detach().numpy() - (before.numpy() - u)).max() < 1e-11


# Noise and checkpoints -------------------------------------------------------------------------


def test_the_global_generator_is_left_alone():
    params = parameters()
    optimizer = Kron(params)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    walk(optimizer, params, 3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("stop", [3, 4, 5, 6, 7, 8])
def test_resume_around_an_update_is_bitwise(stop: int):
    """With flat_steps = 3 and a floor of 0.4, steps 1–4, 6, 8, 10, … update."""
    settings = {"flat_steps": 3, "min_update_probability": 0.4, "block_size": 4}
    through, first = (parameters(dtype=torch.float32) for _ in range(2))
    unbroken, begun = Kron(through, **settings), Kron(first, **settings)
    walk(unbroken, through, 12)
    walk(begun, first, stop)
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    second = [nn.Parameter(param.detach().clone()) for param in first]
    resumed = Kron(second, **settings)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    walk(resumed, second, range(stop + 1, 13))
    assert distance(through, second) == 0
    pairs = zip(state_tensors(unbroken), state_tensors(resumed), strict=True)
    assert all(torch.equal(a[2], b[2]) for a, b in pairs)


# What the factors do ---------------------------------------------------------------------------


def row_covariance(optimizer: Kron, param: nn.Parameter, gradients: list[Tensor]) -> Tensor:
    """Mean of U·Uᵀ, U = Q₁ᵀ·Q₁·G·Q₂ᵀ·Q₂, scaled to a trace equal to its size."""
    q1, q2 = (optimizer.state[param][name] for name in kron.FACTORS)
    transformed = [q1.mT @ q1 @ g @ q2.mT @ q2 for g in gradients]
    covariance = torch.stack([a @ a.mT for a in transformed]).mean(0)
    return covariance * len(covariance) / covariance.trace()


@pytest.mark.parametrize("rotated", [False, True])
def test_gradients_are_whitened_whatever_their_rotation(rotated: bool):
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    generator = torch.Generator().manual_seed(0)
    size = 6
    turn = torch.linalg.qr(normal(size, size)).Q if rotated else torch.eye(size).double()
    spread = turn @ torch.diag(torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5, 0.2]).double())
    gradients = [spread @ normal(size, 4) for _ in range(1200)]
    param = nn.Parameter(torch.zeros(size, 4, dtype=torch.float64))
    optimizer = Kron([param], lr=0.0, beta1=0.0, preconditioner_lr=0.05, flat_steps=2000)
    for grad in gradients:
        param.grad = grad
        optimizer.step()
    raw = torch.stack([g @ g.mT for g in gradients]).mean(0)
    assert torch.linalg.cond(raw) > 1000
    assert torch.linalg.cond(row_covariance(optimizer, param, gradients[-400:])) < 2.5


def test_every_hundredth_update_balances_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kron, "BALANCE_EVERY", 5)
    (param,) = parameters(((6, 4),))
    optimizer = Kron([param], preconditioner_lr=0.0)
    walk(optimizer, [param], 3)
    rows, columns = (optimizer.state[param][name] for name in kron.FACTORS)
    rows.mul_(100)
    walk(optimizer, [param], range(4, 5))
    assert (rows.max(), columns.max()) == (100, 1)
    walk(optimizer, [param], range(5, 6))
    assert (rows.max(), columns.max()) == (10, 10)


def test_factors_stay_upper_triangular():
    (param,) = parameters(((6, 6),))
    optimizer = Kron([param])
    walk(optimizer, [param], 10)
    for name in kron.FACTORS:
        factor = optimizer.state[param][name]
        assert torch.equal(factor, factor.triu())
        assert not torch.equal(factor, torch.diag(factor.diagonal()))


@pytest.mark.parametrize("batched", [True, False])
def test_a_matrix_of_blocks_shares_means_but_not_factors(batched: bool):
    """Four blocks of 3 × 3, each with the noise cut from that of the whole."""
    (param,) = parameters(((6, 6),))
    optimizer = Kron([param], block_size=3)
    optimizer.batched = batched
    walk(optimizer, [param], 3)
    factor = optimizer.state[param]["factor_rows"]
    assert factor.shape == (4, 3, 3)
    assert all(not torch.equal(factor[0], factor[i]) for i in (1, 2, 3))


@pytest.mark.parametrize(
    ("shape", "role", "rows", "columns"),
    [
        ((6, 4), "matrix", (6, 6), (4, 4)),
        ((20, 4), "matrix", (20,), (4, 4)),
        ((6, 4), "embedding", (6,), (4, 4)),
        ((6, 4), "head", (6,), (4, 4)),
        ((6, 20), "head", (6,), (20,)),
        ((1, 4), "matrix", (1,), (4, 4)),
        ((7,), "norm", (7,), None),
        ((), "norm", (1,), None),
        ((3, 2, 2), "norm", (3, 3), (4, 4)),
    ],
)
def test_factors_by_shape_and_role(
    shape: tuple[int, ...], role: str, rows: tuple[int, ...], columns: tuple[int, ...] | None
):
    params = parameters((shape,))
    group = {"params": params, "role": role}
    optimizer = Kron([group], max_size_triangular=10, preconditioner_init_scale=9.0, lr=0.0)
    walk(optimizer, params, 1)
    state = optimizer.state[params[0]]
    assert state["factor_rows"].shape == rows
    assert ("factor_columns" in state) == (columns is not None)
    if columns is not None:
        assert state["factor_columns"].shape == columns


def test_factors_start_at_the_root_of_the_scale():
    for shape, expected in (((3, 2), 3.0), ((4,), 9.0)):
        (param,) = parameters((shape,))
        like = torch.empty(1, *shape, dtype=torch.float64)
        group = Kron([param], preconditioner_init_scale=9.0).param_groups[0]
        for name in kron.FACTORS[: len(shape)]:
            factor = Kron.init_state(like, group)[name][0]
            diagonal = factor if factor.ndim == 1 else factor.diagonal()
            assert torch.equal(diagonal, torch.full_like(diagonal, expected))


@pytest.mark.parametrize("form", [{}, {"block_size": 4}])
@pytest.mark.parametrize("shape", [(8, 8), (64, 16), (12, 16)])
def test_state_takes_the_documented_memory(shape: tuple[int, int], form: dict[str, int]):
    (param,) = parameters((shape,), torch.float32)
    optimizer = Kron([param], **form)
    walk(optimizer, [param], 1)
    m, n = (4, 4) if form else shape
    nbytes = sum(value.nbytes for _, _, value in state_tensors(optimizer))
    assert nbytes == 4 * (1 + (m * m + n * n) / (m * n)) * param.numel()


# Degenerate inputs -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_without_gradient_does_no_harm(dtype: torch.dtype):
    param = nn.Parameter(torch.ones(4, 3, dtype=dtype))
    optimizer = Kron([param], lr=0.1, beta1=0.5, weight_decay=0.0, flat_steps=5000)
    for step in range(1, 31):
        param.grad = gradient(0, step, (4, 3)).to(dtype)
        optimizer.step()
    param.grad = torch.zeros_like(param)
    for _ in range(2000):
        optimizer.step()
    assert param.isfinite().all()
    before = param.detach().clone()
    for step in range(1, 60):
        param.grad = gradient(0, step, (4, 3)).to(dtype)
        optimizer.step()
    assert param.isfinite().all()
    assert not torch.equal(param, before)
    assert all(value.isfinite().all() for _, _, value in state_tensors(optimizer))


@pytest.mark.parametrize("form", [{}, {"block_size": 4}, {"normalize_grads": True}])
def test_zero_and_rank_one_gradients_stay_finite(form: dict[str, Any]):
    params = [nn.Parameter(torch.zeros(shape)) for shape in ((6, 6), (6, 10), (10, 6), (5,))]
    optimizer = Kron(params, **form)
    for step in range(1, 80):
        for i, param in enumerate(params):
            grad = torch.zeros_like(param) if i == 0 else torch.ones_like(param)
            param.grad = grad * (1 + 0.1 * (step % 3))
        optimizer.step()
    assert all(param.isfinite().all() for param in params)
    assert not params[0].any()
    assert all(param.abs().max() > 0 for param in params[1:])


def test_the_step_is_limited():
    (param,) = parameters(((6, 4),))
    optimizer = Kron([param], lr=1.0, weight_decay=0.0)
    for step in range(1, 40):
        before = param.detach().clone()
        walk(optimizer, [param], range(step, step + 1), scale=10.0 if step % 2 else 0.01)
        rms = float((param.detach() - before).square().mean().sqrt())
        assert rms <= 1.1 * (1 + 1e-12)


def test_shapes_of_the_fixed_start_cover_diagonal_and_triangular_factors():
    assert {len(shape) for shape in SHAPES} == {1, 2}
    assert set(VOCABULARY) < set(ROLES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("preconditioner_lr", 1.0, "`preconditioner_lr` must be at least 0 and be less than 1"),
        ("min_update_probability", 0.0, "`min_update_probability` must be at least 0.001"),
        ("preconditioner_init_scale", 0.0, "`preconditioner_init_scale` must be at least 1e-06"),
        ("flat_steps", -1, "`flat_steps` must be at least 0"),
        ("block_size", -1, "`block_size` must be at least 0"),
        ("seed", -1, "`seed` must be at least 0"),
    ],
)
def test_values_of_its_own_out_of_range_are_refused(name: str, value: Any, message: str):
    with pytest.raises(ValueError, match=message):
        Kron(parameters(), **{name: value})
