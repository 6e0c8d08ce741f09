"""What users of torch's own optimizers and schedulers expect of any optimizer."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from optbench.config import Role
from optbench.optimizers import OPTIMIZERS, AdamW, BaseOptimizer, Kron, Lion, Mars, Muon, Soap
from tests.optimizers.trajectories import (
    SHAPES,
    distance,
    every_optimizer,
    gradient,
    parameters,
    state_tensors,
    supply_curvature,
    walk,
)

Build = Callable[..., Any]


# Schedules that cycle the momentum -----------------------------------------------------------


def one_cycle(optimizer: BaseOptimizer, **options: Any) -> OneCycleLR:
    return OneCycleLR(optimizer, max_lr=0.01, total_steps=6, **options)


def cyclic(optimizer: BaseOptimizer, **options: Any) -> CyclicLR:
    return CyclicLR(optimizer, base_lr=0.001, max_lr=0.01, step_size_up=2, **options)


def momentum_of(build: type[BaseOptimizer]) -> str:
    """The hyperparameter that is the momentum of a method's own rule."""
    return "momentum" if "momentum" in build.default_hyperparameters() else "beta1"


@every_optimizer
@pytest.mark.parametrize("schedule", [one_cycle, cyclic])
def test_schedules_at_their_defaults_cycle_the_momentum(build: Build, schedule: Callable[..., Any]):
    params, expected, held = parameters(), parameters(), parameters()
    optimizer, other, constant = build(params), build(expected), build(held)
    scheduler, without = schedule(optimizer), schedule(constant, cycle_momentum=False)
    name, values = momentum_of(build), []
    for step in range(1, 6):
        (group,) = optimizer.param_groups
        values.append(group[name])
        other.param_groups[0]["lr"], other.param_groups[0][name] = group["lr"], group[name]
        for one, its_params in ((optimizer, params), (other, expected), (constant, held)):
            walk(one, its_params, range(step, step + 1))
        scheduler.step()
        without.step()
    assert len(set(values)) > 2
    assert distance(params, expected) == 0
    assert distance(params, held) > 0


@every_optimizer
def test_a_cycled_momentum_survives_a_checkpoint(build: Build):
    params, others = parameters(), parameters()
    optimizer, resumed = build(params), build(others)
    scheduler = one_cycle(optimizer)
    walk(optimizer, params, 1)
    scheduler.step()
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    (before,), (after,) = optimizer.param_groups, resumed.param_groups
    assert after[momentum_of(build)] == before[momentum_of(build)]
    one_cycle(resumed)
    assert "betas" not in dict(resumed.param_groups[0])
    build(resumed.param_groups)


def test_betas_are_a_view_of_our_names():
    (group,) = AdamW(parameters(), beta1=0.8, beta2=0.95).param_groups
    assert group["betas"] == (0.8, 0.95)
    group["betas"] = (0.7, 0.9)
    assert (group["beta1"], group["beta2"]) == (0.7, 0.9)
    assert "betas" not in list(group)
    (only,) = Kron(parameters(), beta1=0.8).param_groups
    assert only["betas"] == (0.8,)
    (none,) = Muon(parameters()).param_groups
    assert "betas" not in none
    with pytest.raises(KeyError, match="betas"):
        none["betas"]


# Parameters without elements -----------------------------------------------------------------

EMPTY = ((0, 3), (3, 0), (0, 0), (0,), (2, 0, 3), (0, 2, 3, 3))


@every_optimizer
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("role", [None, *Role])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_without_elements_are_stepped(
    build: Build, batched: bool, role: Role | None, dtype: torch.dtype
):
    shapes = [shape for shape in EMPTY if role != Role.MATRIX or len(shape) == 2]
    params, alone = parameters((*shapes, (4, 3)), dtype), parameters(((4, 3),), dtype)
    alone[0].data.copy_(params[-1].data)
    optimizer = build([{"params": params, "role": role}])
    expected = build([{"params": alone, "role": role}])
    optimizer.batched = batched
    for step in range(1, 13):
        for param in params:
            param.grad = torch.zeros_like(param)
        params[-1].grad = alone[0].grad = gradient(0, step, (4, 3)).to(dtype)
        for one in (optimizer, expected):
            one.step()
            supply_curvature(one)
    assert distance(params[-1:], alone) == 0
    assert all(optimizer.state[param]["step"] == 12 for param in params)
    assert all(value.isfinite().all() for _, _, value in state_tensors(optimizer))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    walk(optimizer, params, 1)


@every_optimizer
def test_nothing_but_parameters_without_elements_is_stepped(build: Build):
    optimizer = build(params := parameters(EMPTY))
    walk(optimizer, params, 2)
    if build is Mars:
        walk(build(params, clip_scope="global"), params, 2)


# Keywords ------------------------------------------------------------------------------------

FOREIGN: dict[str, tuple[Any, str]] = {
    "foreach": (True, "the fastest kernels are chosen for each parameter. Leave it out."),
    "fused": (None, "the fastest kernels are chosen for each parameter. Leave it out."),
    "capturable": (False, "steps cannot be part of a CUDA graph. Leave it out."),
    "differentiable": (False, "the step is not differentiable. Leave it out."),
    "maximize": (True, "negate the loss to maximize it."),
    "amsgrad": (True, "AMSGrad is another method"),
    "momentum": (0.9, "the momentum is `beta1`."),
    "dampening": (0.0, "the momentum is an average of gradients. Leave it out."),
    "eps": (1e-8, "the method has none. Leave it out."),
    "nesterov": (True, "the method has none. Leave it out."),
}


@every_optimizer
@pytest.mark.parametrize("name", FOREIGN)
def test_keywords_of_torch_are_answered_by_what_takes_their_place(build: Any, name: str):
    if name in build.default_hyperparameters():
        return
    value, remedy = FOREIGN[name]
    expected = f"{build.__name__} got an unexpected keyword argument '{name}': {remedy}"
    with pytest.raises(TypeError, match=re.escape(expected)):
        build(parameters(), **{name: value})
    with pytest.raises(TypeError, match=re.escape(f"Unknown key of a parameter group '{name}': ")):
        build([{"params": parameters(), name: value}])


@every_optimizer
def test_betas_are_translated(build: Any):
    own = build.default_hyperparameters()
    if "beta1" not in own:
        with pytest.raises(TypeError, match=r"'betas': the method has none\."):
            build(parameters(), betas=(0.9, 0.95))
        return
    has_second = "beta2" in own
    ours = "beta1=0.9, beta2=0.95 here." if has_second else "beta1=0.9 here; the method has no sec"
    with pytest.raises(TypeError, match=re.escape(f"betas=(0.9, 0.95) is {ours}")):
        build(parameters(), betas=(0.9, 0.95))
    with pytest.raises(TypeError, match=re.escape(f"'betas': betas=(0.9, 0.95) is {ours}")):
        build([{"params": parameters(), "betas": (0.9, 0.95)}])
    with pytest.raises(TypeError, match="'betas': give `beta1`"):
        build(parameters(), betas=None)


@every_optimizer
def test_all_unknown_keywords_are_named_at_once(build: Any):
    with pytest.raises(TypeError) as caught:
        build(parameters(), foreach=False, maximize=True, learning_rate=0.1, lr=0.1)
    assert all(f"'{name}'" in str(caught.value) for name in ("foreach", "maximize"))
    assert "'learning_rate': Unknown hyperparameter 'learning_rate'." in str(caught.value)


@every_optimizer
def test_a_rate_by_position_is_asked_for_by_name(build: Any):
    expected = f"by name, but got 0.001 without one. Write {build.__name__}(params, lr=…)."
    with pytest.raises(TypeError, match=re.escape(expected)):
        build(parameters(), 0.001)


# Checkpoints of other methods ----------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("writer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_checkpoint_of_another_method_is_refused_by_name(build: Any, writer: Any):
    params, others = parameters(), parameters()
    walk(written := writer(params), params, 1)
    optimizer = build(others)
    if build is writer:
        optimizer.load_state_dict(written.state_dict())
        return
    with pytest.raises(ValueError, match=f"made by {writer.__name__}, and {build.__name__} keeps"):
        optimizer.load_state_dict(written.state_dict())
    assert not optimizer.state
    walk(optimizer, others, 1)


@every_optimizer
def test_a_checkpoint_from_before_methods_were_named_is_loaded_if_it_fits(build: Any):
    params, others = parameters(), parameters()
    walk(optimizer := build(params), params, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        del group["method"]
    resumed = build(others)
    for param, other in zip(params, others, strict=True):
        other.data.copy_(param.data)
    resumed.load_state_dict(saved)
    walk(optimizer, params, range(3, 5))
    walk(resumed, others, range(3, 5))
    assert distance(params, others) == 0


def test_rotated_moments_of_a_checkpoint_without_a_name_are_refused():
    params = parameters()
    walk(soap := Soap(params), params, 1)
    saved = soap.state_dict()
    for group in saved["param_groups"]:
        del group["method"]
    with pytest.raises(ValueError, match=r"shape \(6, 6\) has basis_columns, .* but AdamW keeps "):
        AdamW(parameters()).load_state_dict(saved)


def test_a_checkpoint_of_torch_is_refused():
    params = parameters()
    walk(theirs := torch.optim.AdamW(params), params, 1)
    with pytest.raises(KeyError, match=r"lacks beta1, beta2, .* Those of torch\.optim are not"):
        AdamW(parameters()).load_state_dict(theirs.state_dict())


# torch.distributed.checkpoint ----------------------------------------------------------------


class Parameters(nn.Module):
    """The fixed parameters as a model, which is how torch's functions find their names."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.ParameterList(parameters(dtype=torch.float32))

    def walk(self, optimizer: torch.optim.Optimizer, steps: range) -> None:
        walk(optimizer, list(self.all), steps)


@pytest.mark.filterwarnings("ignore")  # torch's own of its storage of tensors
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("steps", [0, 1, 12])
@every_optimizer
def test_a_distributed_checkpoint_goes_on_from_the_template_of_a_fresh_optimizer(
    build: Build, steps: int, tmp_path: Path
):
    straight, model, resumed = Parameters(), Parameters(), Parameters()
    unbroken, optimizer, other = (build(m.parameters()) for m in (straight, model, resumed))
    straight.walk(unbroken, range(1, steps + 13))
    model.walk(optimizer, range(1, steps + 1))
    dcp.save({"o": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path / "saved")
    template = {"o": get_optimizer_state_dict(resumed, other)}
    dcp.load(template, checkpoint_id=tmp_path / "saved")
    set_optimizer_state_dict(resumed, other, template["o"])
    resumed.load_state_dict(model.state_dict())
    # The one that was asked for its state goes on as if it had not been.
    for values, one in ((model, optimizer), (resumed, other)):
        values.walk(one, range(steps + 1, steps + 13))
        assert distance(list(values.all), list(straight.all)) == 0
        for name, value in unbroken.state[straight.all[0]].items():
            if not isinstance(value, torch.Tensor):
                assert one.state[values.all[0]][name] == value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("writer", [Soap, Lion, torch.optim.AdamW])
def test_another_methods_state_is_refused_by_torchs_functions_too(writer: Build):
    written, model = Parameters(), Parameters()
    theirs, optimizer = writer(written.parameters()), AdamW(model.parameters())
    written.walk(theirs, range(1, 3))
    saved = get_optimizer_state_dict(written, theirs)
    with pytest.raises((ValueError, KeyError, RuntimeError)):
        set_optimizer_state_dict(model, optimizer, saved)


# Structural options --------------------------------------------------------------------------

STRUCTURAL = [(cls, name) for cls in OPTIMIZERS.values() for name in sorted(cls.structural)]


def other_value(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    choices = {"tensor": "element", "gnb": "hutchinson"}
    return choices[value] if isinstance(value, str) else value + 1


@pytest.mark.parametrize(("build", "name"), STRUCTURAL)
def test_what_the_state_depends_on_is_fixed_with_it(build: Any, name: str):
    params, expected = parameters(), parameters()
    optimizer = build(params)
    value = build.default_hyperparameters()[name]
    (group,) = optimizer.param_groups
    group[name] = other_value(value)
    group[name] = value  # nothing was made yet
    walk(optimizer, params, 2)
    group[name] = other_value(value)
    message = f"`{name}` of a parameter group was changed from {value!r} to {other_value(value)!r}"
    with pytest.raises(ValueError, match=re.escape(message) + ".* Set it back, or build a new"):
        walk(optimizer, params, range(3, 4))
    copied_params, copied = copy.deepcopy((params, optimizer))
    with pytest.raises(ValueError, match=re.escape(message)):
        walk(copied, copied_params, range(3, 4))
    group[name] = value
    walk(optimizer, params, range(3, 5))
    walk(build(expected), expected, 4)
    assert distance(params, expected) == 0


@every_optimizer
def test_a_role_is_fixed_with_the_state(build: Any):
    params = parameters(((4, 4),))
    optimizer = build(params)
    walk(optimizer, params, 1)
    optimizer.param_groups[0]["role"] = "head"
    with pytest.raises(ValueError, match="`role` of a parameter group was changed from None to"):
        walk(optimizer, params, range(2, 3))


@pytest.mark.parametrize(("build", "name"), STRUCTURAL)
def test_what_the_state_depends_on_comes_with_a_checkpoint(build: Any, name: str):
    value = other_value(build.default_hyperparameters()[name])
    if name == "head_dim":
        value = 2
    params, others = parameters(), parameters()
    walk(optimizer := build(params, **{name: value}), params, 2)
    resumed = build(others)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for param, other in zip(params, others, strict=True):
        other.data.copy_(param.data)
    walk(optimizer, params, range(3, 5))
    walk(resumed, others, range(3, 5))
    assert distance(params, others) == 0


# Copies --------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_keeps_how_steps_are_taken(build: Build, copied: Callable[[Any], Any]):
    params, expected = parameters(), parameters()
    optimizer = build(params)
    walk(optimizer, params, 1)
    optimizer.compiled, optimizer.batched = True, False
    other = copied(optimizer)
    assert (other.compiled, other.batched) == (True, False)
    other.compiled = False
    other.batched = True
    others = [param for group in other.param_groups for param in group["params"]]
    walk(other, others, range(2, 4))
    walk(build(expected), expected, 3)
    assert distance(others, expected) < 1e-12
    assert other.param_groups[0].get("role", "") is None
    OneCycleLR(other, max_lr=0.01, total_steps=5)


# Several processes ---------------------------------------------------------------------------


def test_a_common_norm_needs_to_know_of_which_parameters(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    params, expected = parameters(), parameters()
    optimizer = Mars(params, clip_scope="global")
    with pytest.raises(RuntimeError, match=r"of 2 processes each may hold some of them only"):
        walk(optimizer, params, 1)
    assert distance(params, expected) == 0
    optimizer.sum_over_owners = lambda own: own
    walk(optimizer, params, 2)
    walk(Mars(parameters()), expected, 2)
    monkeypatch.undo()
    expected = parameters()
    walk(Mars(expected, clip_scope="global"), expected, 2)
    assert distance(params, expected) == 0
    assert len(SHAPES) == len(params)
