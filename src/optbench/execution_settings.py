"""ExecutionSettings: what a user says of how runs are carried out, as options or in a study file.

An option is called like its field, with dashes: ``--devices-per-run`` is ``devices_per_run`` in the
table ``[execution]``. An option goes before the table, and what neither says has the default of
:class:`~optbench.execution.Execution`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from optbench.config import ConfigError, build_dataclass
from optbench.execution import PLAIN, Execution

_KINDS = {  # what the text of an annotation allows, and how a user would say it
    "int | None": (int, "a whole number"),
    "float | None": ((int, float), "a number"),
    "bool | None": (bool, "true or false"),
    "str | None": (str, "text"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSettings:
    """See the module; None where nothing is said.

    Args:
        micro_batch: sequences that go forward and backward at once.
        memory_gb: choose the micro-batch for this much memory, in units of 10⁹ bytes.
        checkpointing: compute activations again instead of keeping them.
        compile: fuse the blocks by torch.compile.
        checkpoint_minutes: between two checkpoints of a run; 0 is never.
        checkpoints: where the runs keep them, a folder or an fsspec URL; None is a folder beside
            the records.
        devices_per_run: devices of one machine that carry out a run together.
    """

    micro_batch: int | None = None
    memory_gb: float | None = None
    checkpointing: bool | None = None
    compile: bool | None = None
    checkpoint_minutes: float | None = None
    checkpoints: str | None = None
    devices_per_run: int | None = None

    def over(self, table: ExecutionSettings) -> ExecutionSettings:
        """These, and those of the table where these say nothing."""
        said = {n: v for n, v in dataclasses.asdict(self).items() if v is not None}
        if "micro_batch" in said or "memory_gb" in said:  # one of them follows from the other
            table = dataclasses.replace(table, micro_batch=None, memory_gb=None)
        return dataclasses.replace(table, **said)

    def execution(self) -> Execution:
        """The execution they ask for.

        Raises:
            ConfigError: as :class:`~optbench.execution.Execution`.
        """
        minutes = self.checkpoint_minutes
        return Execution(
            micro_batch_size=self.micro_batch,
            memory_bytes=None if self.memory_gb is None else round(self.memory_gb * 1e9),
            checkpointing=bool(self.checkpointing),
            compiled=bool(self.compile),
            checkpoint_minutes=PLAIN.checkpoint_minutes if minutes is None else minutes or None,
            devices=PLAIN.devices if self.devices_per_run is None else self.devices_per_run,
        )


UNSAID = ExecutionSettings()


def read_execution(raw: object) -> tuple[ExecutionSettings, list[str]]:
    """The settings of a study file and all problems of their table.

    Args:
        raw: the table ``execution``.
    """
    try:
        settings: ExecutionSettings = build_dataclass(ExecutionSettings, raw, path="execution")
    except ConfigError as error:
        return UNSAID, error.problems
    if problems := _problems(settings):
        return UNSAID, problems
    try:
        settings.execution()
    except ConfigError as error:
        return UNSAID, [f"[execution]: {problem}" for problem in error.problems]
    return settings, []


def _problems(settings: ExecutionSettings) -> list[str]:
    problems: list[str] = []
    for field in dataclasses.fields(settings):
        value: Any = getattr(settings, field.name)
        kind, wanted = _KINDS[str(field.type)]
        is_bool = isinstance(value, bool)
        if value is not None and (not isinstance(value, kind) or is_bool != (kind is bool)):
            problems.append(f"execution.{field.name} must be {wanted}, but got {value!r}.")
    return problems
