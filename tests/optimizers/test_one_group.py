"""One group in, one group out: every optimizer keeps the groups that it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optbench.optimizers import BaseOptimizer, Mars, Muon, Scion, describe_groups
from tests.optimizers.trajectories import distance, every_optimizer, parameters, walk

Build = Callable[..., BaseOptimizer]
routing = pytest.mark.parametrize("build", [Muon, Scion, Mars])
SHAPES = ((4, 10), (5,), (10, 4), (), (4, 10), (3,))


def layers(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Groups of a matrix and a vector each, as one makes them of layers."""
    return [{"params": params[start : start + 2]} for start in range(0, len(params), 2)]


def ids(groups: list[dict[str, Any]]) -> list[list[int]]:
    return [[id(param) for param in group["params"]] for group in groups]


@every_optimizer
def test_the_groups_are_those_that_were_given(build: Build):
    params = parameters(SHAPES)
    assert ids(build(layers(params)).param_groups) == ids(layers(params))
    assert ids(build(params).param_groups) == [[id(param) for param in params]]
    optimizer = build(params[:1])
    optimizer.add_param_group({"params": params[1:]})
    assert ids(optimizer.param_groups) == [[id(params[0])], [id(param) for param in params[1:]]]


@every_optimizer
def test_a_schedule_has_one_function_for_each_group(build: Build):
    params, expected = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = build(layers(params), lr=0.25), build(layers(expected), lr=0.25)
    factors: list[Callable[[int], float]] = [lambda step: 1.0, lambda step: 0.5, lambda step: 0.0]
    torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    for group, factor in zip(other.param_groups, (1.0, 0.5, 0.0), strict=True):
        group["lr"] *= factor
    walk(optimizer, params, 3)
    walk(other, expected, 3)
    assert distance(params, expected) == 0


@every_optimizer
def test_a_rate_written_into_a_group_reaches_its_parameters_and_no_others(build: Build):
    params = parameters(SHAPES)
    start = [param.detach().clone() for param in params]
    optimizer = build(layers(params))
    optimizer.param_groups[1]["lr"] = 0.0
    walk(optimizer, params, 3)
    moved = [
        not torch.equal(param.detach(), value) for param, value in zip(params, start, strict=True)
    ]
    assert moved == [True, True, False, False, True, True]


@routing
def test_parts_of_a_group_are_stepped_as_groups_with_roles(build: Build):
    params, expected = parameters(SHAPES), parameters(SHAPES)
    matrices, others = ([p for p in expected if (p.ndim == 2) is own] for own in (True, False))
    roles = [{"params": matrices, "role": "matrix"}, {"params": others, "role": "norm"}]
    options = {"lr": 0.02, "aux_lr_ratio": 0.25}
    walk(build(params, **options), params, 4)
    walk(build(roles, **options), expected, 4)
    assert distance(params, expected) == 0


def test_the_parts_of_a_group_are_described_each_in_a_line():
    params = parameters(SHAPES)
    optimizer = Muon([*layers(params)[:1], {"params": params[2:]}], lr=0.02, aux_lr_ratio=0.5)
    optimizer.add_param_group({"params": []})
    assert describe_groups(optimizer).splitlines() == [
        "role  rule   tensors  elements  lr    weight_decay",
        "-     Muon   1        40        0.02  0.1",
        "-     AdamW  1        5         0.01  0.1",
        "-     Muon   2        80        0.02  0.1",
        "-     AdamW  2        4         0.01  0.1",
        "-     Muon   0        0         0.02  0.1",
    ]


@routing
def test_a_checkpoint_with_split_groups_is_refused_with_the_groups_that_load_it(build: Build):
    params, split = parameters(SHAPES), parameters(SHAPES)
    matrices, others = ([p for p in split if (p.ndim == 2) is own] for own in (True, False))
    groups = [{"params": matrices, "role": "matrix"}, {"params": others, "role": "norm"}]
    before = build(groups)
    walk(before, split, 2)
    saved = before.state_dict()
    optimizer = build(params)
    with pytest.raises(
        ValueError,
        match=r"has 2 parameter groups with the roles matrix, norm, but this optimizer has 1, some "
        r"without a role\. .* \{'params': matrices, 'role': 'matrix'\}, ",
    ):
        optimizer.load_state_dict(saved)
    assert not optimizer.state
    build(groups).load_state_dict(saved)


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")
@every_optimizer
def test_zero_redundancy_optimizer_takes_every_method(build: Build):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    params, expected = parameters(SHAPES), parameters(SHAPES)
    optimizer: Any = ZeroRedundancyOptimizer(params, optimizer_class=build, lr=0.01)  # type: ignore[arg-type]
    plain = build(expected, lr=0.01)
    for step in range(1, 4):
        for one, values in ((optimizer, params), (plain, expected)):
            _step(one, values, step)
    assert distance(params, expected) == 0
    optimizer.param_groups[0]["lr"] = 0.0
    before = [param.detach().clone() for param in params]
    _step(optimizer, params, 4)
    assert distance(params, before) == 0


def _step(optimizer: Any, params: list[nn.Parameter], step: int) -> None:
    for param in params:
        param.grad = (torch.ones_like(param) * step).cumsum(-1) if param.ndim else param.detach()
    optimizer.step()
