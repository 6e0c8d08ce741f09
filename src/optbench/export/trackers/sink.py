"""Sink: what TensorBoard, W&B and trackio have in common."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Protocol

from optbench.config import UserError
from optbench.export.trackers.shown_run import ShownRun


class SinkError(UserError):
    """A sink that cannot be used."""


class Sink(Protocol):
    """Called in the sink's own process, where it may take its time and raise what it likes."""

    def open(self, study: str, folder: Path) -> None:
        """Get ready: import the library, log in.

        Args:
            study: name of the study.
            folder: where its files belong; it exists.
        """
        ...

    def write(self, run: ShownRun) -> None:
        """Write a run; it is kept once this returns.

        An earlier session may have left a part of it, which is replaced.
        """
        ...

    def close(self) -> None:
        """Finish what goes on in the background; nothing is called after this."""
        ...


def library(name: str) -> ModuleType:
    """Import an optional library.

    Raises:
        SinkError: it is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise SinkError(f"not installed (pip install {name})")
    return importlib.import_module(name)
