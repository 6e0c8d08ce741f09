"""Execution: how a run is executed on its device, which is no part of what the run is.

Nothing here changes the mathematics of a run: micro-batches add up to the same gradient, recomputed
activations are the same numbers, a compiled block computes the same functions. Sums are rounded in
another order at most, as on another processor. So these settings are not in
:class:`~optbench.config.RunConfig` and not in a run's identity; the record has what was used.

A field is a key of the table ``[execution]`` of a study file and, with dashes, an option of the
command line: ``devices_per_run`` is ``--devices-per-run``. Its metadata has the option's help, the
name that it had before, ``above_zero`` where the option does not take 0, and ``internal`` where the
field is neither a key nor an option.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optbench.errors import ConfigError

BYTES_PER_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Settings of the device's time and memory.

    Args:
        micro_batch: sequences that go forward and backward at once; None is the whole batch, or
            what fits where ``memory_gb`` is given or the device is a GPU.
        memory_gb: what a run may take of its device, in units of 10⁹ bytes; None is what is free
            on a GPU.
        activation_checkpointing: keep of each block only its input and compute the rest again.
        compile: fuse each block by torch.compile.
        devices_per_run: how many of one machine execute a run together; the sizes above are of
            each.
        checkpoint_interval: minutes between two checkpoints of a run, where it has a folder for
            them; 0 keeps none by time.
        checkpoint_steps: steps between two; None keeps none by steps.

    Raises:
        ConfigError: counts below one, both sizes given, or a size or a time that cannot be.
    """

    micro_batch: int | None = field(
        default=None,
        metadata={
            "help": "Sequences forward and backward at once.  "
            "[default: the batch; on a GPU, what fits]"
        },
    )
    memory_gb: float | None = field(
        default=None,
        metadata={"help": "Choose the micro-batch for this much memory.", "above_zero": True},
    )
    activation_checkpointing: bool = field(
        default=False,
        metadata={
            "help": "Keep of each block only its input, and compute the rest again.",
            "before": "checkpointing",
        },
    )
    compile: bool = field(default=False, metadata={"help": "Fuse the blocks by torch.compile."})
    devices_per_run: int = field(
        default=1, metadata={"help": "Devices of this machine that execute a run together."}
    )
    checkpoint_interval: float = field(
        default=10.0,
        metadata={
            "help": "Minutes between two checkpoints of a run; 0 = none.",
            "before": "checkpoint_minutes",
        },
    )
    checkpoint_steps: int | None = field(default=None, metadata={"internal": True})

    def __post_init__(self) -> None:
        names = ("micro_batch", "devices_per_run", "checkpoint_steps")
        counts = {name: getattr(self, name) for name in names}
        problems = [
            f"{name} must be at least 1, but got {count}."
            for name, count in counts.items()
            if count is not None and count < 1
        ]
        memory, minutes = self.memory_gb, self.checkpoint_interval
        if memory is not None and not 1 <= memory * BYTES_PER_GB < math.inf:
            problems.append(f"memory_gb must be above 0 and finite, but got {memory:g}.")
        if not 0 <= minutes < math.inf:
            problems.append(
                f"checkpoint_interval must be at least 0 and finite, but got {minutes:g}."
            )
        if None not in (self.micro_batch, memory):
            problems.append("micro_batch and memory_gb must not both be given.")
        if problems:
            raise ConfigError(problems)

    @property
    def memory_bytes(self) -> int | None:
        """``memory_gb`` in bytes."""
        return None if self.memory_gb is None else round(self.memory_gb * BYTES_PER_GB)

    def overlaid(self, given: Mapping[str, Any]) -> Execution:
        """These settings with others, by name, in their place.

        A micro-batch replaces the memory from which it would follow, and the other way round.
        """
        if "micro_batch" in given or "memory_gb" in given:
            given = {"micro_batch": None, "memory_gb": None, **given}
        return dataclasses.replace(self, **given)

    def record(self, micro_batch: int, **how: Any) -> dict[str, Any]:
        """What a record has: the settings, with the micro-batch that was used in the end.

        The keys are those of the records that exist, some of which are earlier names of fields.

        Args:
            how: further facts on how a run went.
        """
        return {
            "micro_batch_size": micro_batch,
            "memory_bytes": self.memory_bytes,
            "checkpointing": self.activation_checkpointing,
            "compiled": self.compile,
            "checkpoint_minutes": self.checkpoint_interval or None,
            "checkpoint_steps": self.checkpoint_steps,
            "devices": self.devices_per_run,
            **how,
        }


DEFAULT_EXECUTION = Execution()
