"""What a run takes on a device you do not have, from counted FLOPs and bytes."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch

from optbench.config import ModelConfig, RunConfig
from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.engine.flop_count import FlopCount
from optbench.study.planning.devices import Device
from optbench.training.memory import (
    USABLE,
    StepMemory,
    alike_parameters,
    state_bytes,
    state_bytes_of,
    step_memory,
)
from optbench.training.model import Llama
from optbench.training.run import build_optimizer

# Share of the float32 peak that QR and triangular solves of sides of some hundreds reach: they are
# chains of small products. An assumption, not a measurement.
FACTOR_USE = 0.01
FLOAT_BYTES = 4
FORWARD_SHARE = 1 / 3  # of the FLOPs of forward and backward pass


@dataclass(frozen=True, slots=True)
class RunCost:
    """Seconds of a run on one device.

    Args:
        train_s: forward and backward passes of the steps.
        update_s: the optimizer: its memory traffic, matrix products and further passes.
        eval_s: validation and test.
    """

    train_s: float
    update_s: float
    eval_s: float

    @property
    def total_s(self) -> float:
        """The whole run."""
        return self.train_s + self.update_s + self.eval_s


def run_cost(config: RunConfig, device: Device, mfu: float) -> RunCost:
    """Seconds of a run whose training reaches ``mfu`` of the device's bfloat16 peak.

    The optimizer's matrix products reach the same share of the peak of their own precision, and
    what it keeps is read and written once per step at the full rate of the memory.
    """
    optimizer = build_optimizer(config, meta_model(config.model))
    parameters = alike_parameters(optimizer)
    num_steps = config.num_steps
    work = sum(
        (
            optimizer.rule_of(group, shape).update_flops(shape, group, num_steps) * count
            for group, shape, count in parameters
        ),
        FlopCount(),
    )
    pass_s = config.train_flops / num_steps / (device.bf16_flops * mfu)
    passes = type(optimizer).extra_passes(optimizer.param_groups[0], num_steps)
    update_s = (
        passes * pass_s
        + num_steps * step_bytes(optimizer) / device.bytes_per_s
        + work.bf16_flops / (device.bf16_flops * mfu)
        + work.fp32_flops / (device.fp32_flops * mfu)
        + work.factor_flops / (device.fp32_flops * FACTOR_USE)
    )
    evaluated = config.num_evals * config.eval_tokens + config.test_tokens
    eval_s = evaluated / config.tokens_per_step * pass_s * FORWARD_SHARE
    return RunCost(num_steps * pass_s, update_s, eval_s)


def step_bytes(optimizer: BaseOptimizer) -> int:
    """Bytes that an update moves at least: parameter and state read and written, gradient read."""
    total = 0
    for group, shape, count in alike_parameters(optimizer):
        numbers = math.prod(shape)
        total += count * (3 * FLOAT_BYTES * numbers + 2 * state_bytes_of(optimizer, group, shape))
    return total


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """Memory of one optimizer's steps at one size, on one device.

    Args:
        batch_size: sequences in a step.
        plain: bytes as the blocks keep their activations.
        plain_micro_batch: sequences at a time that fit; 0 if none do.
        checkpointed: bytes where activations are computed again.
        checkpointed_micro_batch: sequences at a time that fit then.
    """

    size: str
    optimizer: str
    batch_size: int
    plain: StepMemory
    plain_micro_batch: int
    checkpointed: StepMemory
    checkpointed_micro_batch: int


def memory_row(config: RunConfig, size: str, device: Device) -> MemoryRow:
    """What the steps of a run take of a device's memory, and how large a micro-batch fits."""
    kept = state_bytes(build_optimizer(config, meta_model(config.model)))
    budget = int(USABLE * device.memory_bytes)
    plain, checkpointed = (
        step_memory(
            config.model, config.precision, activation_checkpointing=again, state_bytes=kept
        )
        for again in (False, True)
    )
    batch_size = config.batch_size
    return MemoryRow(
        size=size,
        optimizer=config.optimizer.name,
        batch_size=batch_size,
        plain=plain,
        plain_micro_batch=plain.micro_batch(batch_size, budget),
        checkpointed=checkpointed,
        checkpointed_micro_batch=checkpointed.micro_batch(batch_size, budget),
    )


@functools.lru_cache(maxsize=8)
def meta_model(config: ModelConfig) -> Llama:
    """A model that has shapes and no memory."""
    with torch.device("meta"):
        return Llama(config, seed=0)
