"""Counted memory against the tensors that a real step makes, and micro-batches that fit."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optbench.config import ConfigError, ModelConfig, OptimizerConfig, Precision
from optbench.execution import Execution
from optbench.ladder import PAPER_SIZES
from optbench.optimizers import OPTIMIZERS
from optbench.training.memory import StepMemory, fitting_micro_batch, state_bytes, step_memory
from optbench.training.model import Llama
from optbench.training.run import build_optimizer, optimizer_state_bytes
from tests.builders import TINY_CONFIG, config_with

CPU = torch.device("cpu")
DEEP = ModelConfig(num_layers=6, d_model=64, d_ff=256, num_heads=4, vocab_size=512, seq_len=128)
WIDE = ModelConfig(num_layers=4, d_model=128, d_ff=512, num_heads=2, vocab_size=2048, seq_len=64)


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made by operations have at a time, but for known ones."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    entry = StorageWeakRef(storage), storage.nbytes()
                    self._live.setdefault(storage._cdata, entry)
        self._live = {key: e for key, e in self._live.items() if not e[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return made


@pytest.mark.parametrize("config", [DEEP, WIDE])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_counted_bytes_are_those_of_a_step(
    config: ModelConfig, precision: Precision, activation_checkpointing: bool
) -> None:
    """A later micro-batch of a step, with gradients there already: within a fifth."""
    rows = 8
    model = Llama(
        config, seed=0, precision=precision, activation_checkpointing=activation_checkpointing
    )
    tokens = torch.zeros(rows, config.seq_len + 1, dtype=torch.long)
    known = [tokens, *model.buffers(), *model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
        known.append(parameter.grad)
    with LiveBytes(known) as live:
        model.loss(tokens).backward()
    counted = step_memory(
        config,
        precision,
        activation_checkpointing=activation_checkpointing,
        state_bytes=0,
        device_type="cpu",
    )
    passes = dataclasses.replace(counted, update=0)
    assert passes.peak(rows) - passes.kept == pytest.approx(live.peak, rel=0.2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_saved_tensors_are_the_counted_activations(precision: Precision) -> None:
    model = Llama(DEEP, seed=0, precision=precision)
    tokens = torch.zeros(4, DEEP.seq_len, dtype=torch.long)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.hidden_states(tokens)
    assert hidden.requires_grad
    counted = step_memory(
        DEEP, precision, activation_checkpointing=False, state_bytes=0, device_type="cpu"
    )
    blocks = counted.copies + 4 * counted.at_loss
    assert sum(sizes.values()) == pytest.approx(blocks, rel=0.1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_state_is_known_before_the_first_step(optimizer: str) -> None:
    hyperparameters = OPTIMIZERS[optimizer].default_hyperparameters()
    config = config_with(optimizer=OptimizerConfig(name=optimizer, hyperparameters=hyperparameters))
    model = Llama(config.model, seed=0)
    built = build_optimizer(config, model)
    told = state_bytes(built)
    model.loss(torch.zeros(1, 9, dtype=torch.long)).backward()
    built.step()
    assert told == optimizer_state_bytes(built)


def test_weights_gradients_and_state_are_those_of_the_largest_size() -> None:
    """AdamW in float32: 16 bytes a parameter; per token of a block 52 d and little else."""
    model = PAPER_SIZES["1.2b"]
    memory = step_memory(
        model, "bfloat16", activation_checkpointing=False, state_bytes=8 * model.num_params
    )
    assert memory.kept == 16 * model.num_params
    blocks = 32 * 4096 * 52 * 1536
    assert memory.at_loss == pytest.approx(blocks, rel=0.02)
    again = step_memory(model, "bfloat16", activation_checkpointing=True, state_bytes=0)
    assert again.at_loss == pytest.approx(32 * 4096 * 4 * 1536, rel=0.1)
    logits = 4096 * model.vocab_size * 4
    assert memory.loss < 2 * logits + 8 * model.vocab_size * model.d_model


MEMORY = StepMemory(
    weights=100, gradients=100, state=200, copies=50, loss=30, at_loss=10, at_backward=12, update=60
)


@pytest.mark.parametrize(
    ("batch_size", "budget", "expected"),
    [
        (8, 489, 0),  # 400 + 50 + 30 + 10 is the least
        (8, 490, 1),
        (8, 510, 3),  # (510 − 480) / 10
        (8, 540, 4),  # 6 fit, and two parts of 4 need as many passes
        (8, 10_000, 8),
        (7, 519, 3),
        (7, 520, 4),
    ],
)
def test_the_micro_batch_fits_and_no_larger_one_takes_fewer_passes(
    batch_size: int, budget: int, expected: int
) -> None:
    found = MEMORY.micro_batch(batch_size, budget)
    assert found == expected
    if found:
        assert MEMORY.peak(found) <= budget
        passes = -(-batch_size // found)
        fewer = -(-batch_size // (passes - 1)) if passes > 1 else None
        assert fewer is None or MEMORY.peak(fewer) > budget


def test_the_peak_is_that_of_the_largest_phase() -> None:
    assert MEMORY.peak(1) == 490
    assert MEMORY.peak(20) == 400 + 50 + 20 * 12  # the loss's own 30 are gone by then
    assert dataclasses.replace(MEMORY, update=1000).peak(1) == 1400


def test_a_limit_becomes_a_micro_batch() -> None:
    optimizer = build_optimizer(TINY_CONFIG, Llama(TINY_CONFIG.model, seed=0))
    memory = step_memory(
        TINY_CONFIG.model,
        "float32",
        activation_checkpointing=False,
        state_bytes=state_bytes(optimizer),
        device_type="cpu",
    )
    chosen = [
        fitting_micro_batch(TINY_CONFIG, Execution(memory_gb=limit / 1e9), optimizer, CPU)
        for limit in (memory.peak(1), memory.peak(2), memory.peak(4))
    ]
    assert chosen == [1, 2, 4]
    assert fitting_micro_batch(TINY_CONFIG, Execution(micro_batch=3), optimizer, CPU) == 3
    assert fitting_micro_batch(TINY_CONFIG, Execution(), optimizer, CPU) is None
    with pytest.raises(ConfigError, match=r"one sequence of 16 tokens .* the limit is 0\.00 GB"):
        fitting_micro_batch(TINY_CONFIG, Execution(memory_gb=1e-6), optimizer, CPU)
