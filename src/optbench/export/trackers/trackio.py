"""trackio: a run of its local database for each run, or of a Hugging Face Space.

A run is named ``<name> <run id>``. trackio cannot replace a run: one that was being written when
the process ended is there twice afterwards, the first time with a part of its points.
"""

from __future__ import annotations

from pathlib import Path

from optbench.export.trackers.shown_run import ShownRun
from optbench.export.trackers.sink import library


class TrackioSink:
    """See `Sink`; the arguments are those of `TrackioSettings`."""

    def __init__(self, project: str, space_id: str) -> None:
        self._project = project
        self._space_id = space_id

    def open(self, study: str, folder: Path) -> None:
        """See `Sink`; the folder is in the environment, where trackio looks for it."""
        del folder
        self._trackio = library("trackio")
        self._project = self._project or study

    def write(self, run: ShownRun) -> None:
        """See `Sink`."""
        self._trackio.init(
            project=self._project,
            name=f"{run.name} {run.run_id}",
            group=run.group,
            space_id=self._space_id or None,
            config={**run.config, "tags": run.tags},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        for step, values in run.points:
            self._trackio.log(values, step=step)
        self._trackio.finish()

    def close(self) -> None:
        """See `Sink`; every run is finished already."""
