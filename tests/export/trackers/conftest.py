from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from optbench.export.trackers.feed import Limits
from optbench.export.trackers.settings import SinkSettings
from optbench.export.trackers.study_sinks import StudySinks
from optbench.ladder import Cell
from optbench.store.store import RunRecord
from tests.builders import TINY_MODEL, config_with_lr, record_of

ROOT = Path(__file__).parents[3]
CELL = Cell("tiny", TINY_MODEL, 640 / (20 * TINY_MODEL.num_nonembedding_params))
TIMEOUT_S = 60.0


def records_of(*lrs: float) -> list[RunRecord]:
    return [record_of(config_with_lr(lr)) for lr in lrs]


@dataclass
class SessionOptions:
    """Opens sinks on a folder as a study does, and keeps what is told."""

    directory: Path
    told: list[str] = field(default_factory=list)
    opened: list[StudySinks] = field(default_factory=list)

    def open(
        self,
        *chosen: SinkSettings,
        records: Sequence[RunRecord] = (),
        limits: Limits | None = None,
    ) -> StudySinks:
        sinks = StudySinks(
            chosen,
            study="tiny study",
            cells=[CELL],
            directory=self.directory,
            records={record.run_id: record for record in records},
            finished=[record.run_id for record in records],
            notify=self.told.append,
            limits=limits,
        )
        self.opened.append(sinks)
        return sinks

    def folder(self, name: str) -> Path:
        return self.directory / "sinks" / name

    def lines(self, sink: str, name: str) -> list[str]:
        path = self.folder(sink) / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def log(self) -> str:
        path = self.directory / "sinks.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def sitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionOptions]:
    monkeypatch.syspath_prepend(ROOT)  # the sinks' processes import what the driver can import
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("OPTBENCH_TEST_FOLDER", str(tmp_path / "store"))
    sitting = SessionOptions(tmp_path / "store")
    yield sitting
    for sinks in sitting.opened:
        sinks.close(0.0)
