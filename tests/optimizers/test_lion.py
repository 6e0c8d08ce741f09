from __future__ import annotations

import torch
from lion_pytorch import Lion as PublishedLion

from optbench.optimizers import Lion
from tests.optimizers import reference
from tests.optimizers.trajectories import SHAPES, arrays, distance, parameters, walk

STEPS = 30
SETTINGS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1}


def test_trajectory_is_that_of_the_paper():
    params = parameters()
    walk(Lion(params, **SETTINGS), params, STEPS)
    for index, shape in enumerate(SHAPES):
        start, gradients = arrays(index, shape, STEPS)
        expected = reference.lion(start, gradients, **SETTINGS)
        assert abs(params[index].detach().numpy() - expected).max() < 1e-14


def test_trajectory_is_that_of_a_published_package():
    ours, theirs = parameters(), parameters()
    walk(Lion(ours, **SETTINGS), ours, STEPS)
    walk(PublishedLion(theirs, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1), theirs, STEPS)
    assert distance(ours, theirs) < 1e-14


def test_every_element_with_a_gradient_moves_by_lr():
    param = torch.nn.Parameter(torch.zeros(4))
    param.grad = torch.tensor([3.0, -1e-30, 0.0, 2e20])
    Lion([param], lr=0.125, weight_decay=0.0).step()
    assert param.tolist() == [-0.125, 0.125, 0.0, -0.125]


def test_a_constant_gradient_scale_is_not_seen():
    plain, scaled = parameters(), parameters()
    walk(Lion(plain), plain, 10)
    walk(Lion(scaled), scaled, 10, scale=1024.0)
    assert distance(plain, scaled) == 0
