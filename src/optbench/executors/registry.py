"""The registry of executors: one line each, imported when it is chosen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutorEntry:
    """Where an executor is made, and which options of the command line it takes.

    Args:
        factory: ``module:function`` in this package. The function is called with the
            :class:`~optbench.executors.choice.ExecutorChoice`, the devices of a run, and what each
            worker calls first; it returns an :class:`~optbench.executors.processes.Executor`.
        options: fields of the choice that may be given; without ``workers`` it has one worker.
    """

    factory: str
    options: tuple[str, ...] = ()


_OF_RAY = ("workers", "address", "cpus_per_run", "gpus_per_run")
# By their names on the command line.
EXECUTORS: dict[str, ExecutorEntry] = {
    "process": ExecutorEntry("processes:process_executor", ("workers",)),
    "ray": ExecutorEntry("ray_executor:ray_executor", _OF_RAY),
    "inline": ExecutorEntry("processes:inline_executor"),
}
