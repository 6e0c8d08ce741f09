from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from optbench.optimizers import NAdamW, nadamw
from tests.optimizers import reference
from tests.optimizers.trajectories import SHAPES, arrays, distance, parameters, walk

STEPS = 30
SETTINGS = {"lr": 0.01, "beta1": 0.95, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.1}


@pytest.fixture
def _float64_default() -> Iterator[None]:
    """Makes torch's NAdam keep its product of momenta in float64 too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def torch_nadam(params: list[torch.nn.Parameter], momentum_decay: float) -> torch.optim.NAdam:
    return torch.optim.NAdam(
        params,
        lr=0.01,
        betas=(0.95, 0.98),
        eps=1e-8,
        weight_decay=0.1,
        momentum_decay=momentum_decay,
        decoupled_weight_decay=True,
    )


def test_trajectory_is_that_of_the_paper():
    params = parameters()
    walk(NAdamW(params, **SETTINGS), params, STEPS)
    for index, shape in enumerate(SHAPES):
        start, gradients = arrays(index, shape, STEPS)
        expected = reference.nadamw(start, gradients, **SETTINGS)
        assert abs(params[index].detach().numpy() - expected).max() < 1e-14


@pytest.mark.usefixtures("_float64_default")
def test_trajectory_is_that_of_torch_with_constant_momentum():
    ours, theirs = parameters(), parameters()
    walk(NAdamW(ours, **SETTINGS), ours, STEPS)
    walk(torch_nadam(theirs, momentum_decay=1e6), theirs, STEPS)
    assert distance(ours, theirs) < 1e-13


def test_momentum_does_not_rise_as_in_torchs_default():
    ours, theirs = parameters(), parameters()
    walk(NAdamW(ours, **SETTINGS), ours, STEPS)
    walk(torch_nadam(theirs, momentum_decay=4e-3), theirs, STEPS)
    assert distance(ours, theirs) > 1e-3


@pytest.mark.parametrize("beta1", [0.95, 0.0])  # at 0 nothing of the step lies along m
@pytest.mark.parametrize("piece", [7, 2**16])
def test_the_fused_kernel_is_the_rule_in_plain_operations(
    beta1: float, piece: int, monkeypatch: pytest.MonkeyPatch
):
    fused, plain = parameters(), parameters()
    settings = {**SETTINGS, "lr": 0.1, "beta1": beta1, "eps": 1e-3, "weight_decay": 0.25}
    monkeypatch.setattr(nadamw, "FLAT_PIECE_CPU", piece)
    walk(NAdamW(fused, **settings), fused, STEPS)
    assert NAdamW.fused is not None
    monkeypatch.setattr(NAdamW, "fused", None)
    walk(NAdamW(plain, **settings), plain, STEPS)
    assert 0 <= distance(fused, plain) < 1e-14
