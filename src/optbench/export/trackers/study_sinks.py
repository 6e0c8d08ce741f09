"""StudySinks: the sinks of a study during one session."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from optbench.export.trackers.feed import Feed, FeedSource, Limits
from optbench.export.trackers.settings import SinkSettings
from optbench.export.trackers.shown_run import shown_run
from optbench.ladder import Cell
from optbench.store.store import RunRecord

INTERRUPTED_S = 1.0  # somebody waits at the keyboard; the rest is written next time


class StudySinks:
    """Gives every sink what it does not have yet, then each run when it is stored.

    Args:
        chosen: settings of the sinks; none is fine.
        study: name of the study.
        cells: of the study, for the names of runs.
        directory: of the store.
        records: the store's.
        finished: ids of those that a sink is to have.
        notify: prints a line for the user; called from several threads.
    """

    def __init__(
        self,
        chosen: Sequence[SinkSettings],
        *,
        study: str,
        cells: Sequence[Cell],
        directory: Path,
        records: Mapping[str, RunRecord],
        finished: Sequence[str],
        notify: Callable[[str], None],
        limits: Limits | None = None,
    ) -> None:
        self._closed = False
        show = functools.partial(shown_run, cells=cells)
        source = FeedSource(study, directory, show, records, finished)
        self._feeds = [
            (settings, Feed(settings, source, notify, limits or Limits())) for settings in chosen
        ]

    @property
    def pids(self) -> list[int]:
        """Of the sinks' processes."""
        return [feed.pid for _, feed in self._feeds if feed.pid is not None]

    def take(self, record: RunRecord) -> None:
        """Hand a finished run to every sink; returns at once and raises nothing."""
        for _, feed in self._feeds:
            feed.offer(record)

    def close(self, at_most_s: float = float("inf")) -> None:
        """Give each sink its time to write the rest, end it, and report what was not delivered."""
        if self._closed:
            return
        self._closed = True
        start = time.monotonic()
        try:
            for _, feed in self._feeds:
                feed.end()
            for settings, feed in self._feeds:
                feed.finish(start + min(settings.close_timeout_s, at_most_s))
        finally:
            for _, feed in self._feeds:
                feed.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        self.close(INTERRUPTED_S if interrupted else float("inf"))
