"""Tensors of more than two dimensions: filters of convolutions and stacked experts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optbench.optimizers import (
    OPTIMIZERS,
    AdamMini,
    Kron,
    Mars,
    Muon,
    Scion,
    Soap,
    describe_groups,
    infer_roles,
    parameter_groups,
)
from optbench.training.distributed.process_group import ProcessGroup
from optbench.training.distributed.sharded_optimizer import sharded
from tests.optimizers.trajectories import (
    Shape,
    distance,
    gradient,
    parameters,
    supply_curvature,
    walk,
)

Build = Callable[..., Any]

STEPS = 5
FILTERS: tuple[Shape, ...] = ((6, 2, 3, 3), (4, 9, 1, 1), (20, 2, 2, 2), (3, 2, 2, 2, 2))
ROLES = pytest.mark.parametrize("role", [None, "matrix"])
BATCHED = pytest.mark.parametrize("batched", [True, False])


def walked(
    build: Build,
    shapes: tuple[Shape, ...],
    as_shapes: tuple[Shape, ...],
    batched: bool = True,
    **group: Any,
) -> list[torch.Tensor]:
    """Parameters after some steps, given as tensors of one shape, on the numbers of another."""
    params = [
        nn.Parameter(param.detach().reshape(shape))
        for param, shape in zip(parameters(as_shapes), shapes, strict=True)
    ]
    optimizer = build([{"params": params, **group}])
    optimizer.batched = batched
    for step in range(1, STEPS + 1):
        for index, param in enumerate(params):
            param.grad = gradient(index, step, as_shapes[index]).reshape(param.shape)
        optimizer.step()
        supply_curvature(optimizer)
    return [param.detach().reshape(shape) for param, shape in zip(params, as_shapes, strict=True)]


def flat(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    return tuple((shape[0], math.prod(shape[1:])) for shape in shapes)


@ROLES
@BATCHED
@pytest.mark.parametrize("build", [Muon, Kron, Soap, AdamMini])
def test_filters_are_one_matrix(build: Build, role: str | None, batched: bool):
    flattened = walked(build, flat(FILTERS), FILTERS, batched, role=role)
    assert distance(walked(build, FILTERS, FILTERS, batched, role=role), flattened) < 1e-12
    named = walked(build, FILTERS, FILTERS, batched, role=role, matrix_layout="filters")
    assert distance(named, flattened) < 1e-12


@pytest.mark.parametrize("build", [Muon, Kron, Soap, AdamMini])
def test_filters_of_one_dimension_are_one_matrix_where_the_group_says_so(build: Build):
    shapes: tuple[Shape, ...] = ((6, 2, 3), (4, 9, 1))
    flattened = walked(build, flat(shapes), shapes)
    assert distance(walked(build, shapes, shapes, matrix_layout="filters"), flattened) < 1e-12


@ROLES
@BATCHED
def test_filters_of_scion_have_the_norm_of_the_authors_convolution(role: str | None, batched: bool):
    options = {"weight_decay": 0.0, "lr": 0.1, "role": role}
    for shape in ((6, 2, 3, 3), (6, 2, 3)):
        start = parameters((shape,))[0].detach()
        step = walked(Scion, (shape,), (shape,), batched, **options)[0] - start
        flattened = walked(Scion, flat((shape,)), (shape,), batched, **options)[0] - start
        # √(out/in)/k for the k places of the kernel; the matrix (out, in·k) has √(out/(in·k)).
        torch.testing.assert_close(step, flattened / math.sqrt(math.prod(shape[2:])))


EXPERTS = pytest.mark.parametrize(
    ("build", "options"),
    [
        (Muon, {}),
        (Scion, {}),
        (AdamMini, {}),
        (AdamMini, {"head_dim": 2}),
        (Kron, {}),
        (Kron, {"normalize_grads": True}),
        (Kron, {"block_size": 3}),
        (Soap, {}),
        (Soap, {"block_size": 3}),
    ],
)


@EXPERTS
@ROLES
@BATCHED
@pytest.mark.parametrize("shape", [(3, 4, 10), (3, 10, 4), (2, 3, 4, 4)])
def test_experts_are_matrices_of_their_own(
    build: Build, options: dict[str, Any], role: str | None, batched: bool, shape: Shape
):
    group = {"role": role, **options}
    found = walked(build, (shape,), (shape,), batched, matrix_layout="experts", **group)[0]
    start, gradients = (parameters((shape,))[0].detach().flatten(0, -3) for _ in range(2))
    params = [nn.Parameter(matrix.clone()) for matrix in start]
    optimizer = build([{"params": params, **group}])
    for step in range(1, STEPS + 1):
        gradients = gradient(0, step, shape).flatten(0, -3)
        for param, grad in zip(params, gradients, strict=True):
            param.grad = grad
        optimizer.step()
    assert distance(list(found.flatten(0, -3)), params) < 1e-12


def test_three_dimensions_are_experts_to_muon_and_filters_to_the_others():
    shapes: tuple[Shape, ...] = ((3, 4, 10),)
    for build in (Muon, Scion, Kron, Soap, AdamMini):
        default = "experts" if build is Muon else "filters"
        expected = walked(build, shapes, shapes, matrix_layout=default)
        assert distance(walked(build, shapes, shapes), expected) == 0


def test_mars_leaves_more_than_two_dimensions_to_adamw_as_its_authors_do():
    optimizer = Mars(parameters(((3, 4, 10), (4, 4))))
    lines = describe_groups(optimizer).splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["AdamW", "Mars"]


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (32, 16, 3), (4, 32, 16), (8, 4, 3, 3, 3)])
@pytest.mark.parametrize("role", [None, "matrix", "norm"])
def test_steps_are_no_longer_than_those_of_a_matrix(build: Build, shape: Shape, role: str | None):
    def step_of(shape: Shape, role: str | None) -> float:
        params = parameters((shape,))
        optimizer = build([{"params": params, "role": role}], weight_decay=0.0)
        walk(optimizer, params, 3)
        return float((params[0].detach() - parameters((shape,))[0].detach()).square().mean().sqrt())

    # The largest step of a matrix of these numbers, whichever sides are its columns.
    flattened = step_of((shape[0], math.prod(shape[1:])), "matrix")
    one_of_several = step_of((math.prod(shape[:-1]), shape[-1]), "matrix")
    limit = max(flattened, one_of_several)
    if build is Muon and role == "norm":
        limit = 0.2 * 3 * 0.016 * 1.1  # AdamW's
    assert step_of(shape, role) < 1.5 * limit


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_layout_is_checked_and_fixed(build: Build):
    with pytest.raises(ValueError, match=r"Unknown matrix_layout 'filter'\. Did you"):
        build([{"params": parameters(((3, 4, 5),)), "matrix_layout": "filter"}])
    params = parameters(((3, 4, 5),))
    walk(optimizer := build(params), params, 1)
    optimizer.param_groups[0]["matrix_layout"] = "experts"
    with pytest.raises(ValueError, match="`matrix_layout` of a parameter group was changed"):
        walk(optimizer, params, range(2, 3))


def test_convolutions_of_a_model_are_grouped_as_filters():
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2), nn.Linear(4, 4))
    roles = infer_roles(model)
    assert [roles[f"{index}.weight"].value for index in range(3)] == ["matrix"] * 3
    optimizer = Muon(parameter_groups(model))
    layouts = [group.get("matrix_layout") for group in optimizer.param_groups]
    assert layouts == [None, None, "filters"]
    (conv, transposed) = optimizer.param_groups[2]["params"]
    assert (conv is model[0].weight, transposed is model[1].weight) == (True, True)
    walk(optimizer, list(model.parameters()), 2)
    assert set(optimizer.state[conv]) == {"step", "momentum_buffer"}


@pytest.mark.slow
# PyTorch 2.13 uses what it deprecates when it loads its compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("layout", ["filters", "experts"])
def test_compiled_steps_take_a_layout_too(layout: str):
    plain, fast = parameters(((3, 4, 10),)), parameters(((3, 4, 10),))
    for params in (plain, fast):
        optimizer = AdamMini([{"params": params, "matrix_layout": layout}], head_dim=1)
        if params is fast:
            optimizer.compile()
        walk(optimizer, params, STEPS)
    assert distance(plain, fast) < 1e-12
    assert len(optimizer.state[fast[0]]["exp_avg_sq"]) == (12 if layout == "experts" else 3)


@pytest.mark.parametrize("build", [Muon, Scion, AdamMini, Kron, Soap])
def test_ranks_share_filters_and_experts_by_what_they_keep(build: Build):
    shapes: tuple[Shape, ...] = ((3, 4, 10), (6, 2, 3, 3), (4, 4))
    params, alone = parameters(shapes), parameters(shapes)
    groups = [{"params": params[:1], "matrix_layout": "experts"}, {"params": params[1:]}]
    parts = [sharded(build, groups, ProcessGroup(rank, 2)) for rank in range(2)]
    for part in parts:
        part._optimizer_step_post_hooks.clear()  # nothing is sent: both are in this process
    for step in range(1, STEPS + 1):
        for index, param in enumerate(params):
            param.grad = gradient(index, step, shapes[index])
        for part in parts:
            part.step()
    whole = build([{"params": alone[:1], "matrix_layout": "experts"}, {"params": alone[1:]}])
    walk(whole, alone, STEPS)
    assert distance(params, alone) < 1e-12


def test_the_work_of_filters_and_experts_is_counted():
    group = Muon(parameters(((4, 4),))).param_groups[0]
    one = Muon.update_flops((4, 18), group, 10)
    assert Muon.update_flops((4, 2, 3, 3), group, 10) == one
    assert Muon.update_flops((5, 4, 18), group, 10) == one * 5
    (group,) = Scion(
        [{"params": parameters(((5, 4, 18),)), "matrix_layout": "experts"}]
    ).param_groups
    assert Scion.update_flops((5, 4, 18), group, 10) == Scion.update_flops((4, 18), group, 10) * 5
