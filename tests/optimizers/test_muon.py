from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optbench.optimizers import AdamW, Muon
from tests.optimizers import reference
from tests.optimizers.trajectories import SHAPES, arrays, distance, parameters, walk

STEPS = 30
MATRIX = {"lr": 0.02, "momentum": 0.95, "nesterov": True, "ns_steps": 5, "weight_decay": 0.1}
AUXILIARY = {"beta1": 0.8, "beta2": 0.98, "eps": 1e-8}
MATRICES = tuple(shape for shape in SHAPES if len(shape) == 2)


@pytest.mark.parametrize("change", [{}, {"nesterov": False}, {"ns_steps": 3}, {"momentum": 0.0}])
def test_trajectory_is_that_of_the_post(change: dict[str, float]):
    params, settings = parameters(), {**MATRIX, **change}
    walk(Muon(params, aux_lr_ratio=0.25, **AUXILIARY, **settings), params, STEPS)
    for index, shape in enumerate(SHAPES):
        start, gradients = arrays(index, shape, STEPS)
        if len(shape) == 2:
            expected = reference.muon(start, gradients, **settings)
        else:
            auxiliary = {**AUXILIARY, "lr": 0.25 * 0.02, "weight_decay": 0.1}
            expected = reference.adamw(start, gradients, **auxiliary)
        assert abs(params[index].detach().numpy() - expected).max() < 1e-12


def test_trajectory_is_that_of_torch_without_its_bfloat16(monkeypatch: pytest.MonkeyPatch):
    ours, theirs = parameters(MATRICES), parameters(MATRICES)
    walk(Muon(ours, **MATRIX), ours, STEPS)
    other = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1)
    # torch then normalises its momentum in place unless Nesterov has made a copy, as it does here.
    monkeypatch.setattr(Tensor, "bfloat16", lambda self: self.clone())
    walk(other, theirs, STEPS)
    assert distance(ours, theirs) < 1e-12


def test_the_rest_is_stepped_by_adamw_at_its_own_rate():
    shapes = ((5,), (3,), ())
    ours, theirs = parameters(shapes), parameters(shapes)
    walk(Muon(ours, lr=0.02, aux_lr_ratio=0.5, **AUXILIARY), ours, 5)
    walk(AdamW(theirs, lr=0.01, **AUXILIARY), theirs, 5)
    assert distance(ours, theirs) == 0


def test_the_ratio_holds_when_one_rate_is_written_into_every_group():
    ours, theirs = parameters(((5,),)), parameters(((5,),))
    optimizer = Muon(ours, lr=1.0, aux_lr_ratio=0.5, **AUXILIARY)
    for group in optimizer.param_groups:
        group["lr"] = 0.02
    walk(optimizer, ours, 3)
    walk(AdamW(theirs, lr=0.01, **AUXILIARY), theirs, 3)
    assert distance(ours, theirs) == 0


def test_a_role_decides_over_the_shape():
    params = parameters(((4, 4), (4, 4)))
    groups = [
        {"params": params[:1], "role": "matrix"},
        {"params": params[1:], "role": "embedding"},
    ]
    optimizer = Muon(groups)
    walk(optimizer, params, 1)
    assert set(optimizer.state[params[0]]) == {"step", "momentum_buffer"}
    assert set(optimizer.state[params[1]]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_constant_gradient_scale_is_not_seen():
    plain, scaled = parameters(MATRICES), parameters(MATRICES)
    walk(Muon(plain), plain, 5)
    walk(Muon(scaled), scaled, 5, scale=1024.0)
    assert distance(plain, scaled) == 0


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256)])
def test_update_rms_depends_on_the_fan_in_alone(shape: tuple[int, int]):
    param = torch.nn.Parameter(torch.zeros(shape))
    param.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    Muon([param], lr=1.0, weight_decay=0.0).step()
    rms = float(param.detach().square().mean().sqrt())
    assert 0.85 <= rms * shape[1] ** 0.5 <= 1.0
