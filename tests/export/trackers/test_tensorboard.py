from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from optbench.export.trackers.settings import TensorBoardSettings
from optbench.export.trackers.shown_run import shown_run
from tests.export.trackers.conftest import CELL, SessionOptions, records_of


def read_back(folder: Path) -> EventAccumulator:
    assert len(list(folder.iterdir())) == 1
    return EventAccumulator(str(folder)).Reload()


def test_a_run_is_read_back_with_its_exact_values(sitting: SessionOptions) -> None:
    first, second = records_of(0.1, 0.2)
    with sitting.open(TensorBoardSettings(close_timeout_s=60), records=[first]) as sinks:
        sinks.take(second)
    assert sitting.told == []
    for record in (first, second):
        run = shown_run(record, [CELL])
        events = read_back(sitting.folder("tensorboard") / "adamw" / record.run_id)
        expected: dict[str, list[tuple[int, float, float]]] = {}
        for step, values in run.points:
            for tag, value in values.items():
                point = (step, float(np.float32(value)), run.time_of(step))
                expected.setdefault(tag, []).append(point)
        found = {
            tag: [(one.step, one.value, one.wall_time) for one in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
        assert found == expected
        assert len(found["train/loss"]) == 2
        metadata = events.SummaryMetadata("_hparams_/session_start_info")
        data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
        hparams = data.session_start_info.hparams
        assert math.isclose(hparams["lr"].number_value, run.config["lr"])  # type: ignore[arg-type]
        assert hparams["cell"].string_value == CELL.label


def test_what_an_ended_process_left_of_a_run_is_replaced(sitting: SessionOptions) -> None:
    (record,) = records_of(0.1)
    folder = sitting.folder("tensorboard") / "adamw" / record.run_id
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1.torn").write_bytes(b"\0\1\2")
    with sitting.open(TensorBoardSettings(close_timeout_s=60), records=[record]):
        pass
    assert len(read_back(folder).Scalars("train/loss")) == 2
