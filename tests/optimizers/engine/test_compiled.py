"""Compiled steps against plain ones."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from optbench.optimizers import OPTIMIZERS, BaseOptimizer, CurvatureOptimizer
from tests.needs import needs_compiler
from tests.optimizers.trajectories import distance, gradient

pytestmark = [
    needs_compiler,
    # PyTorch 2.13 uses what it deprecates when it loads its compiler.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]

# More elements than are summed in one way, fewer, a vector, and no element at all.
SHAPES = ((70, 64), (8, 6), (6, 8), (16,), (0, 3))
OTHER_SHAPES = ((30, 200), (2, 4, 8), (4, 3), (3,))
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "nadamw": ("nadamw", {}),
    "lion": ("lion", {}),
    "sophia": ("sophia", {"curvature_interval": 3}),
    "sophia-h": ("sophia", {"curvature_interval": 3, "estimator": "hutchinson", "eps": 1e-7}),
    "cautious": ("cautious", {}),
    "cautious, unclamped": ("cautious", {"clamp_mask": False}),
    "mars": ("mars", {}),
    "adam_mini": ("adam_mini", {}),
    "adam_mini, heads": ("adam_mini", {"head_dim": 2, "norm_block": "element"}),
}
# The others take tens of seconds where nothing has been compiled before.
EACH_CASE = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case == "lion" else pytest.mark.slow) for case in CASES],
)


def parameters(
    shapes: tuple[tuple[int, ...], ...] = SHAPES, dtype: torch.dtype = torch.float64
) -> list[nn.Parameter]:
    return [nn.Parameter(gradient(i, 0, shape).to(dtype)) for i, shape in enumerate(shapes)]


def build(case: str, params: list[nn.Parameter]) -> BaseOptimizer:
    """Two groups, which differ in learning rate and weight decay."""
    name, options = CASES.get(case, (case, {}))
    groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 0.01, "weight_decay": 0.3}]
    return cast(Callable[..., BaseOptimizer], OPTIMIZERS[name])(groups, **options)


def walk(optimizer: BaseOptimizer, steps: range) -> None:
    """Steps on gradients of their own, by a schedule."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in steps:
        for index, param in enumerate(params):
            param.grad = gradient(index, step, tuple(param.shape)).to(param.dtype)
        optimizer.step()
        scheduler.step()
        if isinstance(optimizer, CurvatureOptimizer) and optimizer.curvature_due():
            optimizer.update_curvature(batch_tokens=2)


def relative_error(values: list[nn.Parameter], expected: list[nn.Parameter]) -> float:
    largest = max(float(value.detach().abs().max()) for value in expected if value.numel())
    return distance(values, expected) / largest


def graphs() -> int:
    """How many functions torch.compile has compiled in this process."""
    return counters["stats"]["unique_graphs"]


@pytest.fixture
def compiles_no_more() -> Iterator[None]:
    """Fails where torch.compile meets what it has not compiled yet."""
    before = graphs()
    yield
    assert graphs() == before


@EACH_CASE
def test_compiled_steps_equal_plain_ones(case: str):
    plain, fast = parameters(), parameters()
    walk(expected := build(case, plain), range(1, 21))
    optimizer = build(case, fast)
    optimizer.compile()
    with torch.compiler.set_stance("fail_on_recompile"):
        walk(optimizer, range(1, 21))
    assert relative_error(fast, plain) < 1e-12
    for param, twin in zip(fast, plain, strict=True):
        assert optimizer.state[param].keys() == expected.state[twin].keys()
        for name, value in expected.state[twin].items():
            torch.testing.assert_close(optimizer.state[param][name], value, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@EACH_CASE
def test_a_gradient_that_is_not_finite_is_not_hidden(case: str, bad: float):
    values: list[list[nn.Parameter]] = []
    for compiled in (False, True):
        params = parameters()
        optimizer = build(case, params)
        if compiled:
            optimizer.compile()
        walk(optimizer, range(1, 3))
        params[1].grad = gradient(1, 3, (8, 6)).index_fill(1, torch.tensor([2]), bad)
        optimizer.step()
        values.append(params)
    for plain, fast in zip(*values, strict=True):
        assert torch.equal(plain.isnan(), fast.isnan())
    assert optimizer.state[params[1]]["exp_avg"].isfinite().logical_not().any()


@pytest.mark.slow
def test_neither_numbers_nor_shapes_compile_again():
    """Nor hyperparameters, a loaded state, another optimizer, parameters that come later."""
    for case in ("lion", "cautious", "adam_mini"):
        # Only in float32 are few elements summed in another way.
        build(case, parameters(dtype=torch.float32)).compile()
        optimizer = build(case, parameters(OTHER_SHAPES, torch.float32))
        before = graphs()
        optimizer.compile()
        with torch.compiler.set_stance("fail_on_recompile"):
            walk(optimizer, range(1, 3))
            for group in optimizer.param_groups:
                group["beta1"] = 0.5
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            later = parameters(((9, 9),), torch.float32)
            optimizer.add_param_group({"params": later, "weight_decay": 0.0})
            walk(optimizer, range(3, 5))
        assert graphs() == before


@pytest.mark.slow
def test_resume_is_bitwise():
    whole, parts = parameters(), parameters()
    straight, first = build("nadamw", whole), build("nadamw", parts)
    for optimizer in (straight, first):
        optimizer.compile()
        walk(optimizer, range(1, 4))
    second = build("nadamw", parts)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.compile()
    for optimizer in (straight, second):
        for group in optimizer.param_groups:
            group.pop("initial_lr", None)
        walk(optimizer, range(4, 7))
    assert distance(parts, whole) == 0


@pytest.mark.slow
def test_half_precision_parameters_are_rounded_once():
    plain, fast = (parameters(dtype=torch.bfloat16) for _ in range(2))
    walk(build("lion", plain), range(1, 6))
    optimizer = build("lion", fast)
    optimizer.compile()
    walk(optimizer, range(1, 6))
    assert all(optimizer.state[param]["exp_avg"].dtype == torch.float32 for param in fast)
    for param, expected in zip(fast, plain, strict=True):
        # One bit of bfloat16, where products in float32 were rounded differently before.
        torch.testing.assert_close(param, expected, rtol=2**-8, atol=0)
        assert (param != expected).sum() <= 0.01 * param.numel()


@pytest.mark.slow
def test_one_element_is_stepped_like_many():
    plain, fast = parameters(((), (1, 1))), parameters(((), (1, 1)))
    walk(build("lion", plain), range(1, 6))
    optimizer = build("lion", fast)
    optimizer.compile()
    walk(optimizer, range(1, 6))
    assert relative_error(fast, plain) < 1e-12


@pytest.mark.usefixtures("compiles_no_more")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_methods_without_kernel_are_stepped_as_before(name: str):
    plain, fast = (parameters(SHAPES[:4]) for _ in range(2))
    walk(build(name, plain), range(1, 4))
    optimizer = build(name, fast)
    optimizer.compile()
    walk(optimizer, range(1, 4))
    assert distance(fast, plain) == 0


@pytest.mark.usefixtures("compiles_no_more")
def test_clipping_by_a_common_norm_is_stepped_as_before():
    plain, fast = parameters(), parameters()
    for params in (plain, fast):
        optimizer = OPTIMIZERS["mars"](params, clip_scope="global")
        if params is fast:
            optimizer.compile()
        walk(optimizer, range(1, 4))
    assert distance(fast, plain) == 0


@pytest.mark.usefixtures("compiles_no_more")
def test_parameters_out_of_order_in_memory_are_stepped_as_before():
    plain, fast = ([nn.Parameter(gradient(0, 0, (8, 6)).T)] for _ in range(2))
    assert not fast[0].is_contiguous()
    for params in (plain, fast):
        optimizer = OPTIMIZERS["lion"](params)
        if params is fast:
            optimizer.compile()
        walk(optimizer, range(1, 4))
    assert distance(fast, plain) == 0


def test_compiled_steps_show_in_the_version_of_a_parameter():
    """Otherwise a backward pass through values that the step has changed would go unnoticed."""
    param = nn.Parameter(gradient(0, 0, (8, 6)))
    optimizer = OPTIMIZERS["lion"]([param])
    optimizer.compile()
    loss = (param * param).sum()
    param.grad = gradient(0, 1, (8, 6))
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


WITHOUT_COMPILER = """
import torch
from optbench.optimizers import OPTIMIZERS
param = torch.nn.Parameter(torch.ones(8))
param.grad = torch.ones(8)
optimizer = OPTIMIZERS["lion"]([param])
try:
    optimizer.compile()
except RuntimeError as error:
    print(error)
assert not optimizer.compiled and not optimizer.state and bool((param == 1).all())
optimizer.step()
assert bool((param < 1).all())
"""


@pytest.mark.slow
def test_without_a_compiler_the_remedy_is_said_before_anything_changes(tmp_path: Any):
    # In a process of its own: torch remembers a compiler that it has found, and what it compiled.
    environment = {**os.environ, "CXX": str(tmp_path / "no-such-compiler")}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": str(tmp_path)}
    command = [sys.executable, "-c", WITHOUT_COMPILER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "need a C++ compiler that works" in done.stdout
    assert "Install g++ or clang++" in done.stdout
