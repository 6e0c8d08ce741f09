"""ExecutionSettings: what a user says of how runs are carried out, as options or in a study file.

An option is called like its field, with dashes: ``--devices-per-run`` is ``devices_per_run`` in the
table ``[execution]``. An option overrides the table, and what neither says has the default of
:class:`~optbench.execution.Execution`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from optbench.config import ConfigError
from optbench.execution import PLAIN, Execution

BYTES_PER_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSettings:
    """See the module; None where nothing is said.

    Args:
        micro_batch: sequences that go forward and backward at once.
        memory_gb: choose the micro-batch for this much memory, in units of 10⁹ bytes.
        checkpointing: compute activations again instead of keeping them.
        compile: fuse the blocks by torch.compile.
        checkpoint_minutes: between two checkpoints of a run; 0 is never.
        devices_per_run: devices of one machine that carry out a run together.
    """

    micro_batch: int | None = None
    memory_gb: float | None = None
    checkpointing: bool | None = None
    compile: bool | None = None
    checkpoint_minutes: float | None = None
    devices_per_run: int | None = None

    def over(self, table: ExecutionSettings) -> ExecutionSettings:
        """These, and those of the table where these say nothing."""
        said = {n: v for n, v in dataclasses.asdict(self).items() if v is not None}
        if "micro_batch" in said or "memory_gb" in said:  # one of them follows from the other
            table = dataclasses.replace(table, micro_batch=None, memory_gb=None)
        return dataclasses.replace(table, **said)

    def problems(self) -> list[str]:
        """What cannot be carried out, each beginning with the name of a setting."""
        counts = {"micro_batch": self.micro_batch, "devices_per_run": self.devices_per_run}
        found = [
            f"{name} must be at least 1, but got {count}."
            for name, count in counts.items()
            if count is not None and count < 1
        ]
        memory, minutes = self.memory_gb, self.checkpoint_minutes
        if memory is not None and not 1 <= memory * BYTES_PER_GB < math.inf:
            found.append(f"memory_gb must be above 0 and finite, but got {memory:g}.")
        if minutes is not None and not 0 <= minutes < math.inf:
            found.append(f"checkpoint_minutes must be at least 0 and finite, but got {minutes:g}.")
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
        minutes = self.checkpoint_minutes
        return Execution(
            micro_batch_size=self.micro_batch,
            memory_bytes=None if self.memory_gb is None else round(self.memory_gb * BYTES_PER_GB),
            checkpointing=bool(self.checkpointing),
            compiled=bool(self.compile),
            checkpoint_minutes=PLAIN.checkpoint_minutes if minutes is None else minutes or None,
            devices=PLAIN.devices if self.devices_per_run is None else self.devices_per_run,
        )


UNSAID = ExecutionSettings()
