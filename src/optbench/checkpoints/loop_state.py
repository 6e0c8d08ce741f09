"""LoopState: what the training loop knows between two steps, and the Checkpointer that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """What the training loop itself knows between two steps.

    Args:
        steps_taken: which is also the position in the data: batches are addressed by step.
        train_curve: (step, loss) pairs.
        val_curve: (step, loss) pairs.
        first_micro_batch_size: that with which the run began; None is the whole batch.
        micro_batch_size: that in use, smaller where memory had run out.
        step_times: seconds of each step, float64 (steps_taken,).
        optimizer_times: seconds of each ``optimizer.step()``, float64 (steps_taken,).
        recent_losses: since the last point of the training curve, (steps,).
    """

    steps_taken: int
    train_curve: Sequence[tuple[int, float]]
    val_curve: Sequence[tuple[int, float]]
    first_micro_batch_size: int | None
    micro_batch_size: int | None
    step_times: Tensor
    optimizer_times: Tensor
    recent_losses: Tensor


class Checkpointer(Protocol):
    """Keeps the state of a run between two steps, and gives back what an earlier part kept."""

    def resume(self, model: nn.Module, optimizer: Optimizer) -> LoopState | None:
        """Load what was kept last into model and optimizer; None if there is nothing."""
        ...

    def should_save(self, steps_taken: int) -> bool:
        """Whether to save now; asked after every step."""
        ...

    def save(self, model: nn.Module, optimizer: Optimizer, loop: LoopState) -> None:
        """Keep a copy of the state."""
        ...
