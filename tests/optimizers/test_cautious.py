from __future__ import annotations

import pytest
import torch
from torch import nn

from optbench.optimizers import AdamW, Cautious
from tests.optimizers.comparison import ROLES, by_role, largest_error
from tests.optimizers.reference_cautious import ReferenceCautious
from tests.optimizers.trajectories import ROUNDING, SHAPES, distance, gradient, parameters, walk

COMMON = {"lr": 0.02, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


def reference(params: list[nn.Parameter], scaling: str) -> ReferenceCautious:
    starts = [param.detach().numpy() for param in params]
    return ReferenceCautious(starts, roles=ROLES, scaling=scaling, **COMMON)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("options", "scaling"),
    [({}, "clamp"), (dict(Cautious.paper), "mean_plus_eps")],
    ids=["authors", "study"],
)
def test_trajectory_is_that_of_the_reference(
    options: dict[str, object], scaling: str, batched: bool
):
    params = parameters()
    optimizer = Cautious(by_role(params), **COMMON, **options)
    optimizer.batched = batched
    assert largest_error(optimizer, reference(params, scaling), params) < 1e-12


def test_agreement_everywhere_gives_adamw(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(AdamW, "fused", None)  # the kernel rounds differently
    ours, theirs = parameters(), parameters()
    optimizers = [(Cautious(ours, **COMMON), ours), (AdamW(theirs, **COMMON), theirs)]
    for step in range(1, 6):
        for optimizer, params in optimizers:
            for index, param in enumerate(params):
                signs = gradient(index, 1, SHAPES[index]).sign()
                param.grad = signs * gradient(index, step, SHAPES[index]).abs()
            optimizer.step()
    assert distance(ours, theirs) < ROUNDING


@pytest.mark.parametrize("clamp_mask", [True, False])
def test_a_gradient_against_the_momentum_moves_nothing(clamp_mask: bool):
    params = parameters()
    optimizer = Cautious(params, lr=0.25, weight_decay=0.0, clamp_mask=clamp_mask)
    walk(optimizer, params, range(1, 2))
    before = [param.detach().clone() for param in params]
    walk(optimizer, params, range(1, 2), scale=-1e-3)
    assert distance(params, before) == 0


def test_what_agrees_is_moved_further_by_the_share_of_what_does_not():
    param = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = Cautious([param], lr=1.0, beta1=0.5, beta2=0.0, eps=0.0, weight_decay=0.0)
    param.grad = torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    optimizer.step()
    before = param.detach().clone()
    param.grad = torch.tensor([1.0, -0.25, -0.25, 0.25], dtype=torch.float64)
    optimizer.step()
    # One of four agrees; its m̂ is 1 and its v̂ is 1, so it moves by 1 / (1/4).
    torch.testing.assert_close(param.detach() - before, -4.0 * torch.eye(4)[0].double())


@pytest.mark.parametrize(("clamp_mask", "factor"), [(True, 1000.0), (False, 4096.0)])
def test_the_floor_bounds_the_step_of_a_lone_element(clamp_mask: bool, factor: float):
    param = nn.Parameter(torch.zeros(64, 64))
    param.grad = torch.zeros(64, 64)
    param.grad[3, 5] = 2.0
    Cautious([param], lr=1.0, weight_decay=0.0, clamp_mask=clamp_mask).step()
    assert float(param.detach()[3, 5]) == pytest.approx(-factor, rel=1e-5)
    assert int(param.count_nonzero()) == 1


@pytest.mark.parametrize("clamp_mask", [True, False])
def test_without_eps_nothing_is_divided_by_zero(clamp_mask: bool):
    param = nn.Parameter(torch.ones(3, 2))
    optimizer = Cautious([param], lr=0.5, eps=0.0, weight_decay=0.0, clamp_mask=clamp_mask)
    for sign in (1.0, -1e-3):
        param.grad = torch.full((3, 2), sign)
        optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3, 2), 0.5))


def test_the_mean_is_that_of_each_tensor():
    shape = (4, 10)
    together, alone = parameters((shape, shape)), parameters((shape, shape))
    walk(Cautious(together), together, 6)
    optimizers = [Cautious([param]) for param in alone]
    for step in range(1, 7):
        for index, (param, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
            param.grad = gradient(index, step, shape)
            optimizer.step()
    assert distance(together, alone) < 1e-14


def test_tiny_gradients_agree_as_large_ones_do():
    # In float32 the square of 1e-30 is zero; the sign of the product must not be.
    param = nn.Parameter(torch.zeros(2, 2))
    param.grad = torch.full((2, 2), 1e-30)
    Cautious([param], lr=1.0, eps=1e-25, weight_decay=0.0).step()
    assert bool((param < 0).all())


def test_rows_without_gradient_stand_still():
    embedding = nn.Parameter(torch.ones(3, 2))
    optimizer = Cautious([embedding], beta1=0.98, beta2=0.9, weight_decay=0.0)
    embedding.grad = torch.ones(3, 2)
    optimizer.step()
    before = embedding.detach().clone()
    for _ in range(3):
        embedding.grad = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
        optimizer.step()
    assert torch.equal(embedding[1:], before[1:])
    assert bool((embedding[0] < before[0]).all())
