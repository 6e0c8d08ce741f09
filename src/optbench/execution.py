"""Execution: how a run is executed on its device, which is no part of what the run is.

Nothing here changes the mathematics of a run: micro-batches add up to the same gradient, recomputed
activations are the same numbers, a compiled block computes the same functions. Sums are rounded in
another order at most, as on another processor. So these settings are not in
:class:`~optbench.config.RunConfig` and not in a run's identity; the record has what was used.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from optbench.config import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Settings of the device's time and memory.

    Args:
        micro_batch_size: sequences that go forward and backward at once; None is the whole batch,
            or what fits where ``memory_bytes`` is given or the device is a GPU.
        memory_bytes: what a run may take of its device; None is what is free on a GPU.
        activation_checkpointing: keep of each block only its input and compute the rest again.
        compiled: fuse each block by torch.compile.
        checkpoint_interval: minutes between two checkpoints of a run, where it has a folder for
            them; None keeps none by time.
        checkpoint_steps: steps between two; None keeps none by steps.
        devices: how many of this machine execute a run together; the sizes above are of each.

    Raises:
        ConfigError: sizes, steps or devices below one, both sizes given, or minutes that are no
            time.
    """

    micro_batch_size: int | None = None
    memory_bytes: int | None = None
    activation_checkpointing: bool = False
    compiled: bool = False
    checkpoint_interval: float | None = 10.0
    checkpoint_steps: int | None = None
    devices: int = 1

    def __post_init__(self) -> None:
        sizes = {"micro_batch_size": self.micro_batch_size, "memory_bytes": self.memory_bytes}
        numbers = {**sizes, "checkpoint_steps": self.checkpoint_steps}
        given = {name: size for name, size in numbers.items() if size is not None}
        problems = [
            f"{n} must be at least 1, but got {size}." for n, size in given.items() if size < 1
        ]
        if None not in sizes.values():
            problems.append("Give micro_batch_size or the memory that it follows from, not both.")
        minutes = self.checkpoint_interval
        if minutes is not None and not 0 < minutes < math.inf:
            problems.append(f"checkpoint_interval must be above 0 and finite, but got {minutes:g}.")
        if self.devices < 1:
            problems.append(f"devices must be at least 1, but got {self.devices}.")
        if problems:
            raise ConfigError(problems)

    def record(self, micro_batch_size: int, **how: Any) -> dict[str, Any]:
        """What a record has: the settings, with the micro-batch that was used in the end.

        Args:
            how: further facts on how a run went.
        """
        return {**dataclasses.asdict(self), "micro_batch_size": micro_batch_size, **how}


DEFAULT_EXECUTION = Execution()
