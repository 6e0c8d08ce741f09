"""ExecutorChoice: where a study's jobs are carried out, and the executor that comes of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from optbench.executors import Executor, InlineExecutor, ProcessExecutor
from optbench.run import use_one_thread

ExecutorKind: TypeAlias = Literal["process", "ray", "inline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorChoice:
    """What the command line says of it; nothing here changes what a run is.

    Args:
        workers: jobs at a time; None is one for each core, or what Ray's machines have room for.
        cores: that this process may use.
        address: of a Ray cluster; None starts a Ray on this machine.
        cpus_per_run: that Ray keeps for a run; None is one for each of the run's devices.
        gpus_per_run: likewise, where there are any; a fraction shares one.
    """

    kind: ExecutorKind = "process"
    workers: int | None = None
    cores: int = 1
    address: str | None = None
    cpus_per_run: float | None = None
    gpus_per_run: float | None = None

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
        if self.kind == "inline":
            use_one_thread()
            return InlineExecutor()
        if self.kind == "process":
            return ProcessExecutor(self.workers or self.cores, initialize=use_one_thread)
        from optbench.ray_executor import RayExecutor  # Ray need not be installed

        return RayExecutor(
            self.workers,
            initialize=use_one_thread,
            address=self.address,
            devices=devices,
            cpus_per_run=self.cpus_per_run,
            gpus_per_run=self.gpus_per_run,
            local_cpus=self.cores,
        )
