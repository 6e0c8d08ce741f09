from __future__ import annotations

import pytest
import torch

from optbench.optimizers import AdamW
from tests.optimizers import reference
from tests.optimizers.trajectories import SHAPES, arrays, distance, parameters, walk

STEPS = 30
SETTINGS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.1}


def test_trajectory_is_that_of_the_paper():
    params = parameters()
    walk(AdamW(params, **SETTINGS), params, STEPS)
    for index, shape in enumerate(SHAPES):
        start, gradients = arrays(index, shape, STEPS)
        expected = reference.adamw(start, gradients, **SETTINGS)
        assert abs(params[index].detach().numpy() - expected).max() < 1e-14


@pytest.mark.parametrize("eps", [1e-8, 1e-1])
def test_trajectory_is_that_of_torch(eps: float):
    ours, theirs = parameters(), parameters()
    walk(AdamW(ours, **{**SETTINGS, "eps": eps}), ours, STEPS)
    other = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.98), eps=eps, weight_decay=0.1)
    walk(other, theirs, STEPS)
    assert distance(ours, theirs) < 1e-14


def test_state_has_the_names_and_shapes_of_torch():
    ours, theirs = parameters(), parameters()
    optimizer, other = AdamW(ours), torch.optim.AdamW(theirs)
    walk(optimizer, ours, 2)
    walk(other, theirs, 2)
    expected = other.state_dict()["state"]
    for index, entry in optimizer.state_dict()["state"].items():
        assert entry.keys() == expected[index].keys()
        assert entry["step"] == int(expected[index]["step"]) == 2
        assert entry["exp_avg"].shape == expected[index]["exp_avg"].shape


def test_tiny_gradients_give_full_steps_without_eps():
    param = torch.nn.Parameter(torch.zeros(3))
    param.grad = torch.full((3,), 1e-12)
    AdamW([param], lr=0.5, eps=1e-20).step()
    torch.testing.assert_close(param.detach(), torch.full((3,), -0.5))


@pytest.mark.parametrize("batched", [True, False])
def test_the_fused_kernel_is_the_rule_in_plain_operations(
    batched: bool, monkeypatch: pytest.MonkeyPatch
):
    fused, plain = parameters(), parameters()
    settings = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.25}
    walk(AdamW(fused, **settings), fused, 30)
    assert AdamW.fused is not None
    monkeypatch.setattr(AdamW, "fused", None)
    optimizer = AdamW(plain, **settings)
    optimizer.batched = batched
    walk(optimizer, plain, 30)
    assert 0 <= distance(fused, plain) < 1e-14


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the graph breaks, which do no harm
def test_a_compiled_step_is_the_plain_step():
    """torch.compile fails on torch's fused kernel, so it leaves the step as it is."""
    compiled, plain = parameters(), parameters()
    optimizer = AdamW(compiled, **SETTINGS)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for grads in (plain, compiled):
        for param in grads:
            param.grad = param.detach() ** 2
    for _ in range(2):
        step()
    reference_optimizer = AdamW(plain, **SETTINGS)
    for _ in range(2):
        reference_optimizer.step()
    assert distance(compiled, plain) == 0
