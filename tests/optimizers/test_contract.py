"""What every optimizer of the benchmark promises, checked on every entry of ``OPTIMIZERS``."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optbench.config import Role
from optbench.optimizers import OPTIMIZERS, BaseOptimizer
from optbench.optimizers.engine import buckets
from optbench.optimizers.hyperparameters import OneOf
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


def clones(params: list[nn.Parameter]) -> list[Tensor]:
    return [param.detach().clone() for param in params]


def saved_and_loaded(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Through a file, read without pickled code."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def in_groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """One group per role, of parameters in the order of ``SHAPES``."""
    return [
        {"params": [params[0], params[2]], "role": "matrix"},
        {"params": [params[1]], "role": "head"},
        {"params": [params[3]], "role": "embedding", "weight_decay": 0.0},
        {"params": [params[4]], "role": "norm", "weight_decay": 0.0},
    ]


# Hyperparameters -----------------------------------------------------------------------------


# Settings under which a hyperparameter acts on small matrices within a few steps.
EARLY: dict[tuple[str, str], dict[str, Any]] = {
    ("Kron", "min_update_probability"): {"min_update_probability": 1.0, "flat_steps": 0},
    ("Kron", "flat_steps"): {"flat_steps": 0},
    ("Kron", "max_size_triangular"): {"max_size_triangular": 5},
    ("Soap", "max_precond_dim"): {"max_precond_dim": 5},
    # Ten over the width of ten is the radius of the embedding.
    ("Scion", "embedding_rule"): {"radius_head": 20.0},
}


def changed(build: type[BaseOptimizer], name: str, settings: Mapping[str, Any]) -> Any:
    value = {**build.default_hyperparameters(), **settings}[name]
    if isinstance(value, str):
        constraint = build.bounds[name]
        assert isinstance(constraint, OneOf)
        return next(choice for choice in constraint.choices if choice != value)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else (value / 2 or 0.25)


@pytest.mark.parametrize(
    ("build", "name"),
    [(cls, name) for cls in OPTIMIZERS.values() for name in cls.default_hyperparameters()],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_hyperparameter_changes_the_trajectory(build: Build, name: str):
    before = EARLY.get((build.__name__, name), {})
    after = {**before, name: changed(build, name, before)}

    def effect(arrange: Callable[..., Any], scale: float) -> float:
        plain, other = parameters(), parameters()
        walk(build(arrange(plain), **before), plain, 12, scale=scale)
        walk(build(arrange(other), **after), other, 12, scale=scale)
        return distance(plain, other)

    # Tiny gradients too, so that eps matters; roles, for what acts on one of them alone.
    cases = itertools.product((list, in_groups), (1.0, 1e-9, 1e-16))
    assert any(effect(*case) > 0 for case in cases)


@every_optimizer
def test_hyperparameters_are_keyword_only_and_without_catch_all(build: Build):
    _, params, *rest = inspect.signature(build.__init__).parameters.values()
    assert params.name == "params"
    assert {p.kind for p in rest} == {inspect.Parameter.KEYWORD_ONLY}
    assert all(p.default is not p.empty for p in rest)


@every_optimizer
def test_an_unknown_keyword_is_refused(build: Build):
    with pytest.raises(TypeError, match="unexpected keyword argument 'wieght_decay'"):
        build(parameters(), wieght_decay=0.3)


@every_optimizer
def test_the_space_holds_the_default_of_constructor_keywords(build: type[BaseOptimizer]):
    defaults = build.default_hyperparameters()
    assert build.space
    for name, axis in build.space.items():
        assert defaults[name] in axis.values


@every_optimizer
def test_the_start_of_the_search_is_valid(build: type[BaseOptimizer]):
    assert build.invalid_reason({}) is None


@every_optimizer
def test_every_candidate_alone_is_accepted_by_the_constructor(build: Build):
    for name, axis in build.space.items():
        for value in axis.values:
            build(parameters(), **{name: value})


OUT_OF_RANGE = [
    ("lr", -0.1, r"`lr` must be at least 0 and be finite, but got lr=-0.1\."),
    ("lr", float("nan"), r"but got lr=nan\."),
    ("lr", "0.1", r"`lr` must be of type float, but got lr='0.1' of type str\."),
    ("weight_decay", -1.0, r"`weight_decay` must be at least 0"),
    ("eps", -1e-8, r"`eps` must be at least 0"),
    ("beta1", 1.0, r"`beta1` must be at least 0 and be less than 1, but got beta1=1.0\."),
    ("beta2", -0.5, r"`beta2` must be at least 0 and be less than 1"),
    ("momentum", 1.5, r"`momentum` must be at least 0 and be less than 1"),
    ("aux_lr_ratio", -1.0, r"`aux_lr_ratio` must be at least 0"),
    ("ns_steps", 0, r"`ns_steps` must be at least 1"),
    ("ns_steps", 2.5, r"`ns_steps` must be of type int"),
    ("nesterov", 1, r"`nesterov` must be of type bool"),
]


@pytest.mark.parametrize(
    ("build", "name", "value", "message"),
    [
        (cls, *case)
        for cls in OPTIMIZERS.values()
        for case in OUT_OF_RANGE
        if case[0] in cls.default_hyperparameters()
    ],
)
def test_values_out_of_range_are_refused(build: Build, name: str, value: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build(parameters(), **{name: value})
    with pytest.raises(ValueError, match=message):
        build([{"params": parameters(), name: value}])
    assert re.search(message, build.invalid_reason({name: value}))


# The update ----------------------------------------------------------------------------------


@every_optimizer
def test_a_zero_gradient_only_decays(build: Build):
    optimizer = build(params := parameters(), lr=0.25, weight_decay=0.5)
    for param in params:
        param.data = param.data.mul(1024).round()  # exact under four products by eighths
    start = clones(params)
    walk(optimizer, params, 4, scale=0.0)
    for group in optimizer.param_groups:
        for param in group["params"]:
            factor = 1 - optimizer.lr_of(group, param.shape) * 0.5
            expected = next(s for s, p in zip(start, params, strict=True) if p is param)
            for _ in range(4):
                expected = expected * factor
            assert torch.equal(param.detach(), expected)


@every_optimizer
def test_nothing_moves_at_learning_rate_zero(build: Build):
    params = parameters()
    optimizer, start = build(params, lr=0.0), clones(params)
    walk(optimizer, params, 3)
    assert distance(params, start) == 0
    assert any(value.abs().max() > 0 for _, _, value in state_tensors(optimizer))


@every_optimizer
@pytest.mark.parametrize("arrange", [list, in_groups], ids=["plain", "roles"])
def test_batched_is_parameter_by_parameter(
    build: Build, arrange: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    # Small limits, so that flat pieces cut through parameters and stacks are split.
    monkeypatch.setattr(buckets, "FLAT_PIECE_CPU", 13)
    monkeypatch.setattr(buckets, "STACK_LIMIT_CPU", 50)
    shapes = (*SHAPES, (4, 10), (10, 4), (4, 10), (5,), (), (0,), (3, 2, 2))
    together, alone = parameters(shapes), parameters(shapes)
    extra = slice(len(SHAPES), None)
    for params, batched in ((together, True), (alone, False)):
        optimizer = build(arrange(params[: len(SHAPES)]))
        optimizer.add_param_group({"params": params[extra]})
        optimizer.batched = batched
        walk(optimizer, params, 10)
    assert distance(together, alone) < 1e-12


@every_optimizer
def test_groups_with_settings_of_their_own_are_like_separate_optimizers(build: Build):
    settings = [
        {},
        {"lr": 0.5},
        {"weight_decay": 0.0},
        {name: changed(build, name, {}) for name in build.default_hyperparameters()},
    ]
    together, apart = ([parameters() for _ in settings] for _ in range(2))
    pairs = list(zip(together, settings, strict=True))
    optimizer = build([{"params": params, **own} for params, own in pairs])
    flat = [param for params in together for param in params]
    for step in range(1, 6):
        for index, param in enumerate(flat):
            param.grad = gradient(index % len(SHAPES), step, tuple(param.shape))
        optimizer.step()
    for params, own in zip(apart, settings, strict=True):
        walk(build(params, **own), params, 5)
    assert max(distance(a, b) for a, b in zip(together, apart, strict=True)) < 1e-12


@every_optimizer
def test_goes_down_on_a_quadratic(build: Build):
    params = parameters()
    optimizer = build(params, lr=0.02, weight_decay=0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([param.square().sum() for param in params]).sum()
        loss.backward()
        return loss

    losses: list[float] = []
    for _ in range(50):
        losses.append(float(optimizer.step(closure).detach()))
        supply_curvature(optimizer)
    assert losses[-1] < 0.7 * losses[0]


# Gradients -----------------------------------------------------------------------------------


@every_optimizer
def test_parameters_without_gradient_are_untouched(build: Build):
    params = parameters()
    start = clones(params)
    optimizer = build(params)
    params[0].grad = gradient(0, 1, SHAPES[0])
    optimizer.step()
    assert distance(params[:1], start[:1]) > 0
    assert distance(params[1:], start[1:]) == 0
    assert set(optimizer.state) == {params[0]}


@every_optimizer
def test_gradients_that_come_and_go_leave_each_parameter_its_own_count(build: Build):
    schedule = {0: (1, 2, 3, 4, 5), 1: (2, 4, 5), 2: (1, 2, 5), 3: (3, 4, 5), 4: (2, 3)}
    params, expected = parameters(), parameters()
    optimizer = build(params)
    for step in range(1, 6):
        for index, param in enumerate(params):
            present = step in schedule[index]
            param.grad = gradient(index, step, SHAPES[index]) if present else None
        optimizer.step()
    for index, steps in schedule.items():
        alone = build([expected[index]])
        for step in steps:
            expected[index].grad = gradient(index, step, SHAPES[index])
            alone.step()
    assert distance(params, expected) < 1e-12
    counts = [optimizer.state[param]["step"] for param in params]
    assert counts == [len(steps) for steps in schedule.values()]


@every_optimizer
def test_state_of_a_parameter_that_lost_its_gradient_pins_no_shared_memory(build: Build):
    params = parameters()
    optimizer = build(params)
    walk(optimizer, params, 1)
    params[1].grad = None
    optimizer.step()
    for param, _, value in state_tensors(optimizer):
        if param is params[1]:
            assert value.untyped_storage().nbytes() == value.numel() * value.element_size()


@every_optimizer
def test_strides_do_not_matter(build: Build):
    plain, strided = parameters(), parameters()
    for param in strided:
        if param.ndim == 2:
            param.data = param.data.mT.contiguous().mT
    optimizer, other = build(plain), build(strided)
    for step in range(1, 4):
        for index, shape in enumerate(SHAPES):
            grad = gradient(index, step, shape)
            plain[index].grad = grad
            wide = torch.empty(*shape[:-1], 2 * shape[-1], dtype=grad.dtype)
            strided[index].grad = wide[..., ::2].copy_(grad)
        optimizer.step()
        other.step()
    assert not strided[1].is_contiguous()
    assert distance(plain, strided) < 1e-12


@every_optimizer
@pytest.mark.parametrize("shapes", [SHAPES, ((6, 6),), ((5,),)], ids=["many", "matrix", "vector"])
def test_gradients_are_neither_changed_nor_kept(build: Build, shapes: tuple[Any, ...]):
    params = parameters(shapes)
    optimizer = build(params)
    for step in range(1, 4):
        walk(optimizer, params, range(step, step + 1))
        for index, param in enumerate(params):
            assert torch.equal(param.grad, gradient(index, step, shapes[index]))
    gradients = {param.grad.untyped_storage().data_ptr() for param in params}
    for _, _, value in state_tensors(optimizer):
        assert value.untyped_storage().data_ptr() not in gradients


@every_optimizer
def test_reused_gradient_buffers_give_the_trajectory_of_fresh_ones(build: Build):
    fresh, reused = parameters(), parameters()
    walk(build(fresh), fresh, 5)
    optimizer = build(reused)
    for param in reused:
        param.grad = torch.zeros_like(param)
    for step in range(1, 6):
        optimizer.zero_grad(set_to_none=False)
        for index, param in enumerate(reused):
            param.grad.add_(gradient(index, step, SHAPES[index]))
        optimizer.step()
    assert distance(fresh, reused) == 0


@every_optimizer
def test_a_nan_stays_in_its_parameter(build: Build):
    params = parameters()
    optimizer = build(params)
    walk(optimizer, params, 1)
    params[1].grad[0, 0] = torch.nan
    optimizer.step()
    assert params[1].isnan().any()
    assert not any(param.isnan().any() for i, param in enumerate(params) if i != 1)


@every_optimizer
def test_a_sparse_gradient_is_refused(build: Build):
    embedding = nn.Embedding(7, 3, sparse=True)
    optimizer = build(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"shape \(7, 3\) has one of layout torch.sparse_coo"):
        optimizer.step()


# Parameters ----------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes_are_kept_and_state_is_at_least_float32(build: Build, dtype: torch.dtype):
    params = parameters(dtype=dtype)
    optimizer = build(params)
    walk(optimizer, params, 2)
    assert {param.dtype for param in params} == {dtype}
    expected = torch.promote_types(dtype, torch.float32)
    assert {value.dtype for _, _, value in state_tensors(optimizer)} == {expected}


@every_optimizer
def test_bfloat16_parameters_are_rounded_once_per_step(build: Build):
    rounded = parameters(dtype=torch.bfloat16)
    exact = [nn.Parameter(param.detach().float()) for param in rounded]
    optimizer, other = build(rounded), build(exact)
    for index, (param, wide) in enumerate(zip(rounded, exact, strict=True)):
        param.grad = gradient(index, 1, SHAPES[index]).bfloat16()
        wide.grad = param.grad.float()
    optimizer.step()
    other.step()
    for param, wide in zip(rounded, exact, strict=True):
        # At most one unit in the last place, where float32 rounding falls on a tie.
        torch.testing.assert_close(param.float(), wide, rtol=2**-8, atol=0)
        assert (param == wide.bfloat16()).float().mean() > 0.95


@every_optimizer
def test_mixed_dtypes_are_stepped_each_in_its_own(build: Build):
    mixed = parameters()
    for param in mixed[::2]:
        param.data = param.data.float()
    walk(build(mixed), mixed, 3)
    expected = parameters()
    walk(build(expected), expected, 3)
    assert distance(mixed[1::2], expected[1::2]) < 1e-12
    assert 0 < distance(mixed[::2], expected[::2]) < 1e-4


@every_optimizer
def test_replaced_data_are_followed(build: Build):
    params, expected = parameters(), parameters()
    optimizer = build(params)
    walk(optimizer, params, 2)
    for param in params:
        param.data = param.data.clone()
    walk(optimizer, params, range(3, 5))
    walk(build(expected), expected, 4)
    assert distance(params, expected) == 0


@every_optimizer
def test_complex_parameters_are_refused(build: Build):
    param = nn.Parameter(torch.zeros(3, 2, dtype=torch.complex64))
    with pytest.raises(TypeError, match=r"shape \(3, 2\) has dtype torch.complex64"):
        build([param])


@every_optimizer
def test_no_parameters_are_refused_but_an_empty_group_is_not(build: Build):
    with pytest.raises(ValueError, match="empty parameter list"):
        build([])
    params, expected = parameters(), parameters()
    walk(build([{"params": []}, {"params": params}]), params, 2)
    walk(build(expected), expected, 2)
    assert distance(params, expected) == 0


@every_optimizer
def test_a_step_without_any_gradient_does_nothing(build: Build):
    params = parameters()
    build(params).step()
    assert distance(params, parameters()) == 0


@every_optimizer
def test_named_parameters_are_accepted(build: Build):
    params, expected = parameters(), parameters()
    walk(build([(f"p{i}", param) for i, param in enumerate(params)]), params, 2)
    walk(build(expected), expected, 2)
    assert distance(params, expected) == 0


# Groups and schedules ------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("arrange", [list, in_groups], ids=["plain", "roles"])
def test_a_schedule_reaches_every_parameter(build: Build, arrange: Callable[..., Any]):
    params, expected = parameters(), parameters()
    optimizer = build(arrange(params), lr=0.25)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 2.0**-step)
    for step in range(1, 4):
        walk(optimizer, params, range(step, step + 1))
        schedule.step()
    other = build(arrange(expected), lr=0.25)
    for step in range(1, 4):
        for group in other.param_groups:
            group["lr"] = 0.25 * 2.0 ** -(step - 1)
        walk(other, expected, range(step, step + 1))
    assert distance(params, expected) == 0
    before = clones(params)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    walk(optimizer, params, range(4, 5))
    assert distance(params, before) == 0


@every_optimizer
def test_a_learning_rate_may_be_a_tensor(build: Build):
    params, expected = parameters(), parameters()
    walk(build(params, lr=torch.tensor(0.25)), params, 2)
    walk(build(expected, lr=0.25), expected, 2)
    assert distance(params, expected) == 0


@every_optimizer
def test_a_group_added_later_starts_afresh(build: Build):
    params, expected = parameters(), parameters()
    optimizer = build(params[:2])
    walk(optimizer, params[:2], 3)
    optimizer.add_param_group({"params": params[2:], "lr": 0.01})
    walk(optimizer, params, range(4, 7))
    walk(build(expected[:2]), expected[:2], 6)
    late = build(expected[2:], lr=0.01)
    for step in range(4, 7):
        for index in range(2, len(SHAPES)):
            expected[index].grad = gradient(index, step, SHAPES[index])
        late.step()
    assert distance(params, expected) < 1e-12


@every_optimizer
def test_a_refused_group_leaves_the_optimizer_as_it_was(build: Build):
    params = parameters()
    optimizer = build(params[:2])
    count = len(optimizer.param_groups)
    with pytest.raises(TypeError, match="Unknown key of a parameter group 'wd'"):
        optimizer.add_param_group({"params": params[2:], "wd": 0.1})
    with pytest.raises(ValueError, match=r"Unknown role 'matrices'\. Did you mean 'matrix'\?"):
        optimizer.add_param_group({"params": params[2:], "role": "matrices"})
    with pytest.raises(ValueError, match=r"role 'matrix' must have two dimensions or more"):
        optimizer.add_param_group({"params": params[4:], "role": "matrix"})
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        optimizer.add_param_group({"params": params[:1]})
    assert len(optimizer.param_groups) == count


@every_optimizer
def test_every_role_has_a_rule(build: Build):
    for role in Role:
        optimizer = build([{"params": parameters(((4, 4),)), "role": role.value}])
        rule = optimizer.rule_of(optimizer.param_groups[0], (4, 4))
        assert rule is (build if role in build.roles else build.auxiliary)


# State ---------------------------------------------------------------------------------------


@every_optimizer
def test_state_takes_the_documented_memory(build: Build):
    documentation = sys.modules[build.__module__].__doc__ or ""
    pattern = r"^Cost: (\d+) bytes per parameter(?: and (\d+) per row)?"
    documented = re.search(pattern, documentation, re.MULTILINE)
    assert documented
    params = parameters(((8, 8), (8, 8)), torch.float32)
    optimizer = build(params)
    walk(optimizer, params, 2)
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for _, _, value in state_tensors(optimizer)
    }
    per_parameter, per_row = int(documented[1]), int(documented[2] or 0)
    assert sum(storages.values()) == per_parameter * 2 * 64 + per_row * 2 * 8


@every_optimizer
def test_two_runs_are_bitwise_equal(build: Build):
    first, second = parameters(), parameters()
    walk(build(first), first, 5)
    walk(build(second), second, 5)
    assert distance(first, second) == 0


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_resume_is_bitwise(build: Build, dtype: torch.dtype):
    through, first = parameters(dtype=dtype), parameters(dtype=dtype)
    unbroken = build(in_groups(through))
    walk(unbroken, through, 6)
    begun = build(in_groups(first))
    walk(begun, first, 3)
    second = [nn.Parameter(param.detach().clone()) for param in first]
    resumed = build(in_groups(second), lr=1.0)
    resumed.load_state_dict(saved_and_loaded(begun.state_dict()))
    walk(resumed, second, range(4, 7))
    assert distance(through, second) == 0
    pairs = zip(state_tensors(unbroken), state_tensors(resumed), strict=True)
    assert all(torch.equal(a[2], b[2]) and a[2].dtype == b[2].dtype for a, b in pairs)


@every_optimizer
def test_a_loaded_state_shares_nothing_with_its_source(build: Build):
    params, others = parameters(), parameters()
    optimizer, loaded = build(params), build(others)
    walk(optimizer, params, 2)
    loaded.load_state_dict(optimizer.state_dict())
    before = [value.clone() for _, _, value in state_tensors(loaded)]
    walk(optimizer, params, range(3, 4))
    assert all(torch.equal(a, b[2]) for a, b in zip(before, state_tensors(loaded), strict=True))


@every_optimizer
def test_a_copy_goes_its_own_way(build: Build):
    params, expected = parameters(), parameters()
    optimizer = build(params)
    walk(optimizer, params, 2)
    copied_params, copied = copy.deepcopy((params, optimizer))
    walk(copied, copied_params, range(3, 5), scale=2.0)
    walk(optimizer, params, range(3, 5))
    walk(build(expected), expected, 4)
    assert distance(params, expected) == 0
    assert distance(params, copied_params) > 0


@every_optimizer
def test_state_edited_from_outside_is_used(build: Build):
    params, expected = parameters(), parameters()
    optimizer = build(params)
    walk(optimizer, params, 2)
    optimizer.state.clear()
    for param, start in zip(params, parameters(), strict=True):
        param.data.copy_(start.data)
    walk(optimizer, params, 3)
    walk(build(expected), expected, 3)
    assert distance(params, expected) == 0


@every_optimizer
def test_a_checkpoint_of_another_optimizer_is_refused(build: Build):
    params = parameters()
    optimizer = build(params)
    walk(optimizer, params, 1)
    groups = len(optimizer.param_groups)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    split = [params[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(groups)]
    foreign = torch.optim.SGD([{"params": part} for part in split])
    with pytest.raises(KeyError, match=f"written by another optimizer than {build.__name__}"):
        optimizer.load_state_dict(foreign.state_dict())


@every_optimizer
@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_a_damaged_state_is_refused(build: Build, damage: str):
    params = parameters()
    optimizer = build(params)
    walk(optimizer, params, 1)
    entry = optimizer.state[params[0]]
    name = next(name for name, value in entry.items() if isinstance(value, Tensor))
    if damage == "missing":
        del entry[name]
        expected = pytest.raises(KeyError, match=rf"shape \(6, 6\) lacks '{name}'")
    else:
        entry[name] = torch.zeros(7)
        expected = pytest.raises(ValueError, match=rf"'{name}' .* but got \(7,\)")
    with expected:
        optimizer.step()
