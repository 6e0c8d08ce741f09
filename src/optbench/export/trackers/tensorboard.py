"""TensorBoard: an event file for each run, with its curves and its hyperparameters.

The files are written by TensorBoard's own writer, as torch's `SummaryWriter` does; values are
float32 there. Their folders are ``<optimizer>/<run id>``, so that the run selector can filter by
optimizer. Steps are given times as if all had taken as long.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from optbench.export.trackers.shown_run import ShownRun
from optbench.export.trackers.sink import library


class TensorBoardSink:
    """See `Sink`."""

    def open(self, study: str, folder: Path) -> None:
        """See `Sink`."""
        del study
        library("tensorboard")
        self._folder = folder

    def write(self, run: ShownRun) -> None:
        """See `Sink`."""
        # The classes of these two are made when they are imported.
        from tensorboard.compat.proto.event_pb2 import (
            Event,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboard.compat.proto.summary_pb2 import (
            Summary,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = self._folder / run.group / run.run_id
        shutil.rmtree(folder, ignore_errors=True)
        writer = EventFileWriter(str(folder))
        try:
            hparams = hparams_pb(run.config, trial_id=run.run_id, start_time_secs=run.started_s)
            writer.add_event(Event(wall_time=run.started_s, summary=hparams))
            for step, values in run.points:
                summary = Summary(
                    value=[Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
                )
                writer.add_event(Event(wall_time=run.time_of(step), step=step, summary=summary))
        finally:
            writer.close()

    def close(self) -> None:
        """See `Sink`; every run's file is closed already."""
