"""Weights & Biases: a W&B run for each run, offline as files or online.

The W&B run has our run id: ``wandb sync`` or an online session adds to the same run and never makes
a second one. Console, code, git state and machine statistics are not captured: they would be those
of the sink's process.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from optbench.export.trackers.settings import Mode
from optbench.export.trackers.shown_run import ShownRun
from optbench.export.trackers.sink import library


class WandbSink:
    """See `Sink`; the arguments are those of `WandbSettings`."""

    def __init__(self, project: str, entity: str, mode: Mode) -> None:
        self._project = project
        self._entity = entity
        self._mode: Mode = mode

    def open(self, study: str, folder: Path) -> None:
        """See `Sink`.

        Raises:
            wandb.errors.UsageError: online without an API key; this process has no terminal where
                it could be asked for.
        """
        self._wandb = library("wandb")
        self._project = self._project or study
        self._folder = folder
        if self._mode == "online":
            self._wandb.login(verify=False)

    def write(self, run: ShownRun) -> None:
        """See `Sink`."""
        for leftover in self._folder.glob(f"offline-run-*-{run.run_id}"):
            shutil.rmtree(leftover)
        started = self._wandb.init(
            project=self._project,
            entity=self._entity or None,
            mode=self._mode,
            dir=str(self._folder.parent),  # to which it adds "wandb"
            id=run.run_id,
            resume="allow" if self._mode == "online" else None,
            name=run.name,
            group=run.group,
            tags=run.tags,
            config=run.config,
            settings=self._wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                silent=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        for step, values in run.points:
            started.log(values, step=step)
        started.summary["status"] = run.config["status"]
        started.finish()

    def close(self) -> None:
        """See `Sink`."""
        self._wandb.teardown()
