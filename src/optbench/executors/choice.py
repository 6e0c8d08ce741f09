"""ExecutorChoice: where a study's jobs are executed, and the executor that comes of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from optbench.executors.registry import EXECUTORS

if TYPE_CHECKING:
    from optbench.executors.processes import Executor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorChoice:
    """The command line's options; nothing here changes what a run is.

    Args:
        kind: a name of :data:`~optbench.executors.registry.EXECUTORS`.
        workers: jobs at a time; None is as many as the cores give each of a run's devices one, or
            what Ray's machines have room for.
        cores: that this process may use.
        address: of a Ray cluster; None starts a Ray on this machine.
        cpus_per_run: that Ray keeps for a run; None is one for each of the run's devices.
        gpus_per_run: likewise, where there are any; a fraction shares one.
    """

    kind: str = "process"
    workers: int | None = None
    cores: int = 1
    address: str | None = None
    cpus_per_run: float | None = None
    gpus_per_run: float | None = None

    def device_problems(self, devices: int) -> list[str]:
        """Why runs of this many devices each cannot be executed there; empty if they can."""
        gpus = self.gpus_per_run
        # None of any is a run on CPUs, and a run of one device may share its GPU.
        if devices == 1 or not gpus or gpus >= devices:
            return []
        return [
            f"A run was to use {devices} devices, but only {gpus:g} GPUs were to be kept for it, "
            f"so that it would find too few. Give --gpus-per-run {devices}, or leave it out, or 0 "
            f"for runs on CPUs; or use fewer --devices-per-run."
        ]

    @contextmanager
    def opened(self, devices: int = 1) -> Generator[Executor]:
        """The executor, closed at the end of a ``with`` block; an exception kills its jobs.

        Args:
            devices: of each run.

        Raises:
            ClusterError: no workers can be had from Ray.
        """
        executor = self._executor(devices)
        try:
            yield executor
        except BaseException:
            executor.close(cancel=True)
            raise
        executor.close()

    def _executor(self, devices: int) -> Executor:
        from optbench.training.run import use_one_thread  # torch, which the command line defers

        module, name = EXECUTORS[self.kind].factory.split(":")
        factory = getattr(import_module(f"optbench.executors.{module}"), name)
        return factory(self, devices, use_one_thread)
