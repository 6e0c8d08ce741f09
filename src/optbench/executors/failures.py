"""Failures: runs that were abandoned, where their errors are, and the message about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optbench.config import RunConfig
from optbench.store.store import RunStore

LOG_FOLDER = "failed"
LAST_LINES = 3
MAX_SHOWN = 10


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A run that was abandoned.

    Args:
        what: how it ended, such as ``failed 2 times``.
        error: the whole traceback of the last attempt.
        log: the file that holds it.
    """

    config: RunConfig
    what: str
    error: str
    log: Path

    @property
    def sentence(self) -> str:
        """The run and how it ended."""
        optimizer = self.config.optimizer
        return (
            f"Run {self.config.run_id} ({optimizer.name}, {dict(optimizer.hyperparameters)}) "
            f"{self.what}."
        )


def note_failure(store: RunStore, config: RunConfig, what: str, error: str) -> RunFailure:
    """Write the whole error beside the records.

    Raises:
        StoreError: the disk refuses it.
    """
    failure = RunFailure(config, what, error, store.directory / LOG_FOLDER / f"{config.run_id}.log")
    text = f"{failure.sentence}\n\n{config.canonical_json()}\n\n{error.strip()}\n"
    store.keep_text(f"{LOG_FOLDER}/{failure.log.name}", text)
    return failure


def last_lines(error: str, count: int = LAST_LINES) -> list[str]:
    """The end of a traceback, where the error itself stands."""
    return [line for line in error.splitlines() if line.strip()][-count:]


def describe(failures: Sequence[RunFailure]) -> str:
    """Every run that was abandoned, with the end of its error and where the rest is."""
    lines: list[str] = []
    for failure in failures[:MAX_SHOWN]:
        lines.append(f"{failure.sentence} Its log: {failure.log}")
        lines += [f"    {line}" for line in last_lines(failure.error)]
    if (more := len(failures) - MAX_SHOWN) > 0:
        lines.append(f"And {more} more, whose logs are in {failures[0].log.parent}.")
    return "\n".join(lines)
