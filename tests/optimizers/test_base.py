from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from optbench.optimizers import OPTIMIZERS, AdamW, Lion, Muon, optimizer_class
from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.engine import buckets
from tests.optimizers.trajectories import ROUNDING, distance, gradient, parameters, walk


class Recorder(BaseOptimizer):
    """Plain gradient descent that notes the shapes it is called with."""

    calls: list[tuple[int, ...]]

    def __init__(self, params: object, *, lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @staticmethod
    def init_state(like: Tensor, group: dict) -> dict[str, Tensor]:
        return {}

    @staticmethod
    def update(grad: Tensor, state: dict, step: int, group: dict) -> Tensor:
        Recorder.calls.append(tuple(grad.shape))
        return grad


class FlatRecorder(Recorder):
    elementwise = True


@pytest.fixture(autouse=True)
def _no_calls_yet():
    Recorder.calls = []


SHAPES = ((2, 3), (2, 3), (3, 2), (5,))


def test_equal_shapes_are_stepped_as_one_stack():
    params = parameters(SHAPES)
    walk(Recorder(params), params, 1)
    assert sorted(Recorder.calls) == [(1, 3, 2), (1, 5), (2, 2, 3)]


def test_an_elementwise_method_sees_one_vector_over_all_groups():
    params = parameters(SHAPES)
    optimizer = FlatRecorder([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}])
    walk(optimizer, params, 1)
    assert Recorder.calls == [(23,)]


def test_the_plain_form_sees_one_parameter_at_a_time():
    params = parameters(SHAPES)
    optimizer = FlatRecorder(params)
    optimizer.batched = False
    walk(optimizer, params, 1)
    assert Recorder.calls == [(1, *shape) for shape in SHAPES]


def test_large_vectors_are_worked_off_in_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(buckets, "FLAT_PIECE_CPU", 10)
    params, expected = parameters(SHAPES), parameters(SHAPES)
    walk(FlatRecorder(params), params, 1)
    assert Recorder.calls == [(10,), (10,), (3,)]
    walk(Recorder(expected), expected, 1)
    assert distance(params, expected) < ROUNDING


def test_a_changed_switch_takes_effect_at_the_next_step():
    params = parameters(SHAPES)
    optimizer = FlatRecorder(params)
    walk(optimizer, params, 1)
    optimizer.batched = False
    walk(optimizer, params, range(2, 3))
    assert Recorder.calls == [(23,), *((1, *shape) for shape in SHAPES)]


def test_a_step_count_set_from_outside_is_used():
    params = parameters(((5,),))
    optimizer = AdamW(params, beta1=0.5)
    walk(optimizer, params, 2)
    optimizer.state[params[0]]["step"] = 41
    before = params[0].detach().clone()
    params[0].grad.zero_()
    optimizer.step()
    entry = optimizer.state[params[0]]
    assert entry["step"] == 42
    direction = entry["exp_avg"] / (1 - 0.5**42) / (entry["exp_avg_sq"] / (1 - 0.98**42)).sqrt()
    expected = before * (1 - 0.008 * 0.1) - 0.008 * direction
    torch.testing.assert_close(params[0].detach(), expected, rtol=0, atol=1e-10)


def test_a_hyperparameter_may_change_between_steps():
    changing, expected = parameters(), parameters()
    optimizer = Lion([{"params": changing[:2]}, {"params": changing[2:]}])
    walk(optimizer, changing, 2)
    optimizer.param_groups[1]["beta1"] = 0.5
    walk(optimizer, changing, range(3, 5))
    apart = [Lion(expected[:2]), Lion(expected[2:])]
    for step in range(1, 5):
        apart[1].param_groups[0]["beta1"] = 0.9 if step < 3 else 0.5
        for index, param in enumerate(expected):
            param.grad = gradient(index, step, tuple(param.shape))
        for optimizer in apart:
            optimizer.step()
    assert distance(changing, expected) < ROUNDING


def test_a_sharded_parameter_is_refused():
    shard = nn.Parameter(TwoTensor(torch.zeros(2, 2), torch.zeros(2, 2)))
    with pytest.raises(TypeError, match=r"one of shape \(2, 2\) is a TwoTensor"):
        AdamW([shard])


@pytest.mark.parametrize(("cls", "name"), [(AdamW, "beta1"), (Muon, "beta1")])
def test_a_search_avoids_steps_that_grow_without_gradients(cls: type[BaseOptimizer], name: str):
    reason = cls.invalid_reason({"beta1": 0.98, "beta2": 0.95})
    assert reason == (
        "`beta1 <= sqrt(beta2)` must hold, but got beta1=0.98, beta2=0.95. Lower beta1 or raise "
        "beta2."
    )
    assert cls.invalid_reason({"beta1": 0.95, "beta2": 0.95}) is None
    cls([torch.zeros(2, 2, requires_grad=True)], beta1=0.98, beta2=0.95)


def test_without_second_moment_any_betas_are_searched():
    assert Lion.invalid_reason({"beta1": 0.98, "beta2": 0.95}) is None


def test_a_search_of_an_unknown_hyperparameter_is_refused():
    expected = "Unknown hyperparameter 'beta_1'. Did you mean 'beta1'? Available: lr, beta1"
    assert (AdamW.invalid_reason({"beta_1": 0.9}) or "").startswith(expected)


def test_stale_elements_grow_exactly_when_the_rule_says_so():
    def last_step(beta1: float, beta2: float) -> float:
        param = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = AdamW([param], lr=1.0, beta1=beta1, beta2=beta2, eps=0.0, weight_decay=0.0)
        moved = 0.0
        for step in range(60):
            before = float(param.detach())
            param.grad = torch.full_like(param, float(step < 20))
            optimizer.step()
            moved = abs(float(param.detach()) - before)
        return moved

    assert last_step(0.98, 0.9) > 1 > last_step(0.9, 0.98)


def test_names_lead_to_classes():
    assert all(optimizer_class(name) is cls for name, cls in OPTIMIZERS.items())
    with pytest.raises(ValueError, match=r"Unknown optimizer 'moun'\. Did you mean 'muon'\?"):
        optimizer_class("moun")


def test_the_package_imports_nothing_but_torch_and_the_vocabulary():
    code = (
        "import sys, optbench.optimizers as o; assert 'torch' not in sys.modules\n"
        "[*o.OPTIMIZERS.values(), o.parameter_groups]\n"
        "own = {m for m in sys.modules if m.startswith('optbench.')}\n"
        "print(*sorted(m for m in own if not m.startswith('optbench.optimizers')))\n"
        "print(*sorted({'scipy', 'tokenizers', 'rich', 'click'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == [
        "optbench.config optbench.errors optbench.schedule optbench.space optbench.typed_data",
        "",
    ]


def test_hooks_of_loading_see_and_may_change_the_state():
    params, others = parameters(dtype=torch.bfloat16), parameters(dtype=torch.bfloat16)
    optimizer, loaded = AdamW(params), AdamW(others)
    walk(optimizer, params, 2)
    seen: list[torch.dtype] = []

    def halve(_: torch.optim.Optimizer, state_dict: dict) -> dict:
        state = {i: {**e, "exp_avg": e["exp_avg"] / 2} for i, e in state_dict["state"].items()}
        return {**state_dict, "state": state}

    def look(hooked: torch.optim.Optimizer) -> None:
        seen.extend(entry["exp_avg"].dtype for entry in hooked.state.values())

    loaded.register_load_state_dict_pre_hook(halve)
    loaded.register_load_state_dict_post_hook(look)
    loaded.load_state_dict(optimizer.state_dict())
    assert seen == [torch.float32] * len(params)
    for param, other in zip(params, others, strict=True):
        half = optimizer.state[param]["exp_avg"] / 2
        assert torch.equal(loaded.state[other]["exp_avg"], half)
