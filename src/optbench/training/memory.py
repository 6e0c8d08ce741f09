"""Memory of a training step on one device, counted in bytes, and the micro-batch that fits it.

There all the time are weights and gradients in float32 and the optimizer's state. On top comes the
largest of three: the loss at the end of a forward pass, with all that the blocks keep; the backward
pass of the last block, with what it computes again; and the update's workspace. Counted are
tensors, with fused attention and fused norms; what an allocator loses between them and what a
framework takes for itself is left to the rest of the device, 1 − :data:`USABLE`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from optbench.config import ConfigError, ModelConfig, Precision, RunConfig
from optbench.execution import Execution
from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.engine.buckets import STACK_LIMIT_ACCELERATOR, Group
from optbench.training.cross_entropy import chunk_size

USABLE = 0.9  # an assumption: the rest is fragments, the driver's and the libraries' own
_WIDE = 4  # bytes of a float32
_PRODUCT_BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2}
# Tensors as large as the largest piece of a model that an update holds besides the state: the
# gathered gradient, the direction and two of the method's own. An assumption.
_UPDATE_COPIES = 4


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes on one device.

    Args:
        weights: float32 parameters.
        gradients: float32.
        state: of the optimizer.
        copies: weights in the precision of the products, while the backward pass needs them.
        loss: the head's gradient, and logits of one chunk.
        at_loss: activations of one sequence at the end of its forward pass.
        at_backward: of one sequence in the backward pass of the last block.
        update: workspace of the optimizer's step.
    """

    weights: int
    gradients: int
    state: int
    copies: int
    loss: int
    at_loss: int
    at_backward: int
    update: int

    @property
    def kept(self) -> int:
        """What is there all the time."""
        return self.weights + self.gradients + self.state

    def peak(self, micro_batch_size: int) -> int:
        """The most that a step takes."""
        return self.kept + max(
            self.copies + self.loss + micro_batch_size * self.at_loss,
            self.copies + micro_batch_size * self.at_backward,
            self.update,
        )

    def micro_batch(self, batch_size: int, budget: int) -> int:
        """Sequences at a time that fit, the batch in as equal parts as they allow; 0 if none do."""
        if budget < self.peak(1):
            return 0
        room = budget - self.kept - self.copies
        most = min(batch_size, (room - self.loss) // self.at_loss, room // self.at_backward)
        parts = -(-batch_size // most)
        return -(-batch_size // parts)


def step_memory(
    model: ModelConfig,
    precision: Precision,
    *,
    activation_checkpointing: bool,
    state_bytes: int,
    device_type: str = "cuda",
) -> StepMemory:
    """The bytes of a step of a model whose optimizer keeps ``state_bytes``."""
    weights = _WIDE * model.num_params
    narrow = _PRODUCT_BYTES[precision] if precision != "float32" else 0
    blocks = 1 if activation_checkpointing else model.num_layers
    head = model.vocab_size * model.d_model
    matrices = model.num_nonembedding_params // model.num_layers
    at_loss, at_backward = _bytes_per_token(
        model,
        _PRODUCT_BYTES[precision],
        activation_checkpointing,
        norm_copies=2 if device_type == "cpu" else 1,
    )
    return StepMemory(
        weights=weights,
        gradients=weights,
        state=state_bytes,
        copies=narrow * (blocks * matrices + head),
        loss=_loss_bytes(model, narrow, chunk_size(device_type)),
        at_loss=model.seq_len * at_loss,
        at_backward=model.seq_len * at_backward,
        update=_UPDATE_COPIES * _WIDE * min(STACK_LIMIT_ACCELERATOR, model.num_params),
    )


def _bytes_per_token(
    model: ModelConfig, wide: int, activation_checkpointing: bool, *, norm_copies: int
) -> tuple[int, int]:
    """Activations of a token at the loss and in the backward pass of the last block.

    Of a block: two residual states (float32) with their root mean squares; six vectors of d (both
    norms' results, query, key, value, mixed values) and four of ff (gate, its silu, up, their
    product) in the precision of the products; a normaliser for each head. Recomputed blocks keep
    their input, and one of them is there in full while its backward pass runs.

    Args:
        wide: bytes of a number in the precision of the products.
        norm_copies: states that a norm keeps: its input, and where it is not fused, as on a CPU,
            the normalised state too.
    """
    d, ff, layers = model.d_model, model.d_ff, model.num_layers
    residual = _WIDE * d
    block = 2 * (norm_copies * residual + _WIDE) + wide * (6 * d + 4 * ff) + _WIDE * model.num_heads
    kept = layers * (residual if activation_checkpointing else block)
    ends = (
        norm_copies * residual + _WIDE + 2 * wide * d
    )  # the last norm, its result and the gradient of that
    gradients = 2 * residual + 3 * wide * ff
    return kept + ends, kept + gradients + (block if activation_checkpointing else 0)


def _loss_bytes(model: ModelConfig, narrow: int, chunk: int) -> int:
    """The head's gradient and, whichever is more, its scaled copy or the logits of a chunk.

    Args:
        narrow: bytes of a number of the products' own precision; 0 where that is float32.
    """
    head = model.vocab_size * model.d_model
    logits = chunk * model.vocab_size * 2 * _WIDE
    return _WIDE * head + max(_WIDE * head, logits + narrow * head)


def state_bytes(optimizer: BaseOptimizer) -> int:
    """Bytes of the state that an optimizer will keep, before it has taken a step."""
    return sum(
        count * state_bytes_of(optimizer, group, shape)
        for group, shape, count in alike_parameters(optimizer)
    )


def state_bytes_of(optimizer: BaseOptimizer, group: Group, shape: tuple[int, ...]) -> int:
    """Bytes of the state of one parameter."""
    return optimizer.rule_of(group, shape).state_bytes(shape, group)


def alike_parameters(optimizer: BaseOptimizer) -> list[tuple[Group, tuple[int, ...], int]]:
    """Group, shape and number of the parameters that are alike."""
    return [
        (group, shape, count)
        for group in optimizer.param_groups
        for shape, count in Counter(tuple(p.shape) for p in group["params"]).items()
    ]


def fitting_micro_batch(
    config: RunConfig, execution: Execution, optimizer: BaseOptimizer, device: torch.device
) -> int | None:
    """The micro-batch that was asked for, or what fits; None is the whole batch.

    Without a limit of its own, a run on a GPU takes what the GPU has; a CPU has no limit here.
    With several devices this is about one of them: its share of the batch, the optimizer's own
    part of the state.

    Raises:
        ConfigError: a single sequence does not fit the limit.
    """
    limit = execution.memory_bytes
    if execution.micro_batch is not None or (limit is None and device.type != "cuda"):
        return execution.micro_batch
    needed = step_memory(
        config.model,
        config.precision,
        activation_checkpointing=execution.activation_checkpointing,
        state_bytes=state_bytes(optimizer),
        device_type=device.type,
    )
    share = -(-config.batch_size // execution.devices_per_run)
    if limit is None:
        total = torch.cuda.get_device_properties(device).total_memory
        # An estimate: where nothing fits by it, the run is tried all the same.
        return max(1, needed.micro_batch(share, int(USABLE * total)))
    if size := needed.micro_batch(share, limit):
        return size
    raise ConfigError(
        [
            f"A step with one sequence of {config.model.seq_len} tokens at a time takes about "
            f"{needed.peak(1) / 1e9:.2f} GB, but the limit is {limit / 1e9:.2f} GB. Raise it, "
            f"or checkpoint activations (--activation-checkpointing)."
        ]
    )
