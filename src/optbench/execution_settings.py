"""ExecutionSettings: how runs are executed, from options or a study file.

An option is called like its field, with dashes: ``--devices-per-run`` is ``devices_per_run`` in the
table ``[execution]``. An option overrides the table, and what neither gives has the default of
:class:`~optbench.execution.Execution`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from optbench.config import ConfigError
from optbench.execution import DEFAULT_EXECUTION, Execution

BYTES_PER_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSettings:
    """See the module; None where neither gives a value.

    Args:
        micro_batch: sequences that go forward and backward at once.
        memory_gb: choose the micro-batch for this much memory, in units of 10⁹ bytes.
        activation_checkpointing: keep of each block only its input and compute the rest again.
        compile: fuse the blocks by torch.compile.
        checkpoint_interval: minutes between two checkpoints of a run; 0 is none.
        devices_per_run: devices of one machine that execute a run together.
    """

    micro_batch: int | None = None
    memory_gb: float | None = None
    activation_checkpointing: bool | None = field(
        default=None, metadata={"before": "checkpointing"}
    )
    compile: bool | None = None
    checkpoint_interval: float | None = field(
        default=None, metadata={"before": "checkpoint_minutes"}
    )
    devices_per_run: int | None = None

    def over(self, table: ExecutionSettings) -> ExecutionSettings:
        """These, and those of the table where these are None."""
        given = {n: v for n, v in dataclasses.asdict(self).items() if v is not None}
        if "micro_batch" in given or "memory_gb" in given:  # one of them follows from the other
            table = dataclasses.replace(table, micro_batch=None, memory_gb=None)
        return dataclasses.replace(table, **given)

    def problems(self) -> list[str]:
        """What cannot be executed, each beginning with the name of a setting."""
        counts = {"micro_batch": self.micro_batch, "devices_per_run": self.devices_per_run}
        found = [
            f"{name} must be at least 1, but got {count}."
            for name, count in counts.items()
            if count is not None and count < 1
        ]
        memory, minutes = self.memory_gb, self.checkpoint_interval
        if memory is not None and not 1 <= memory * BYTES_PER_GB < math.inf:
            found.append(f"memory_gb must be above 0 and finite, but got {memory:g}.")
        if minutes is not None and not 0 <= minutes < math.inf:
            found.append(f"checkpoint_interval must be at least 0 and finite, but got {minutes:g}.")
        if None not in (self.micro_batch, memory):
            found.append("micro_batch and memory_gb must not both be given.")
        return found

    def execution(self) -> Execution:
        """The execution they ask for.

        Raises:
            ConfigError: they have problems.
        """
        if problems := self.problems():
            raise ConfigError(problems)
        minutes = self.checkpoint_interval
        return Execution(
            micro_batch_size=self.micro_batch,
            memory_bytes=None if self.memory_gb is None else round(self.memory_gb * BYTES_PER_GB),
            activation_checkpointing=bool(self.activation_checkpointing),
            compiled=bool(self.compile),
            checkpoint_interval=DEFAULT_EXECUTION.checkpoint_interval
            if minutes is None
            else minutes or None,
            devices=DEFAULT_EXECUTION.devices
            if self.devices_per_run is None
            else self.devices_per_run,
        )


UNSET = ExecutionSettings()
