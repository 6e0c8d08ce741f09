"""The bytes of a recommendation against the state that the optimizers really keep."""

import pytest
import torch

from optbench.config import ModelConfig, OptimizerConfig, Role
from optbench.optimizers import OPTIMIZERS
from optbench.recommend.state_memory import state_bytes_per_param
from optbench.training.model import Llama
from optbench.training.run import build_optimizer
from tests.builders import config_with

WIDTH = 64
MODEL = ModelConfig(
    num_layers=1, d_model=WIDTH, d_ff=4 * WIDTH, num_heads=2, vocab_size=8, seq_len=8
)


def measured_bytes_per_param(optimizer: str, hyperparameters: dict[str, float | int]) -> float:
    """Of the hidden matrices, from the elements of every tensor in their state."""
    given = {**OPTIMIZERS[optimizer].default_hyperparameters(), **hyperparameters}
    config = config_with(
        model=MODEL, optimizer=OptimizerConfig(name=optimizer, hyperparameters=given)
    )
    model = Llama(MODEL, seed=0)
    built = build_optimizer(config, model)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    built.step()
    roles = model.roles()
    hidden = [p for name, p in model.named_parameters() if roles[name] == Role.MATRIX]
    tensors = [t for p in hidden for t in built.state[p].values() if isinstance(t, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors) / sum(p.numel() for p in hidden)


@pytest.mark.parametrize(
    ("optimizer", "block_size"),
    [(name, 0) for name in OPTIMIZERS] + [("kron", 32), ("soap", 32)],
)
def test_the_bytes_are_those_that_the_optimizers_keep(optimizer: str, block_size: int) -> None:
    given: dict[str, float | int] = {"block_size": block_size} if block_size else {}
    found = measured_bytes_per_param(optimizer, given)
    told = state_bytes_per_param(optimizer, given)
    # Adam-mini's rows and the counters of steps, 1/16 of a matrix of this width at most.
    assert told == pytest.approx(found, rel=0.06)


def test_an_unknown_optimizer_has_no_memory() -> None:
    assert state_bytes_per_param("mine", {}) is None
