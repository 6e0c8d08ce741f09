"""A sink that writes down what it gets, until it misbehaves; its process imports this module."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from optbench.export.trackers.settings import SinkSettings
from optbench.export.trackers.shown_run import ShownRun
from optbench.export.trackers.sink import Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultySettings(SinkSettings):
    """Where and how it misbehaves.

    Args:
        stage: "import", "open", "write" (its third run) or "close"; "" is nowhere.
        how: "hang", "raise", "exit" (what a library may call), "die" or "stop" (as by a signal).
    """

    name: ClassVar[str] = "faulty"
    title: ClassVar[str] = "Faulty"

    stage: str = ""
    how: str = ""

    def sink(self) -> Sink:
        if self.stage == "import":
            misbehave(self.how, Path(os.environ["OPTBENCH_TEST_FOLDER"]))
        return FaultySink(self)


class FaultySink:
    def __init__(self, settings: FaultySettings) -> None:
        self._settings = settings
        self._writes = 0

    def open(self, study: str, folder: Path) -> None:
        self._folder = folder
        self._at("open")
        (folder / "study.txt").write_text(study)

    def write(self, run: ShownRun) -> None:
        self._writes += 1
        if self._writes == 3:
            self._at("write")
        with (self._folder / "got.txt").open("a") as file:
            file.write(f"{run.run_id}\n")

    def close(self) -> None:
        self._at("close")
        (self._folder / "closed.txt").touch()

    def _at(self, stage: str) -> None:
        if stage == self._settings.stage:
            misbehave(self._settings.how, self._folder)


def misbehave(how: str, folder: Path) -> None:
    sys.stdout.write("a library talks\n")
    sys.stderr.write("a library complains\n")
    (folder / "misbehaving.txt").touch()
    if how == "raise":
        raise OSError(28, "No space left on\nthe device")
    if how == "exit":
        sys.exit(3)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)
