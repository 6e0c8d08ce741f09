"""Feed: takes finished runs to one sink, so that whoever hands them over never waits for it."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from optbench.export.trackers.settings import SinkSettings
from optbench.export.trackers.shown_run import ShownRun
from optbench.export.trackers.sink_process import LostError, SinkProcess
from optbench.store.store import RunRecord

LOG_NAME = "sinks.log"
KILLED_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a sink is granted.

    Args:
        answer_s: seconds that it may take to open, and for each run; then it is killed.
        max_waiting: runs that wait for it in memory; others go past it.
    """

    answer_s: float = 120.0
    max_waiting: int = 1000


@dataclass(frozen=True, slots=True)
class FeedSource:
    """What a sink is filled from.

    Args:
        study: its name.
        directory: of the store.
        show: makes what is shown of a record.
        records: of the store; each is parsed when it is asked for.
        finished: ids of runs that have ended already.
    """

    study: str
    directory: Path
    show: Callable[[RunRecord], ShownRun]
    records: Mapping[str, RunRecord]
    finished: Sequence[str]


class Feed:
    """A sink's process, a thread that waits for it and the runs that wait for both.

    The thread does everything that may take time. A sink that cannot be opened, ends or does not
    answer is abandoned for this session; what it did not get is missing in ``written.txt`` and is
    handed to it first next time.

    Args:
        settings: of the sink.
        source: of the runs.
        notify: prints a line for the user; called in the thread.
    """

    def __init__(
        self,
        settings: SinkSettings,
        source: FeedSource,
        notify: Callable[[str], None],
        limits: Limits,
    ) -> None:
        self._settings = settings
        self._source = source
        self._notify = notify
        self._limits = limits
        self._log_file = source.directory / LOG_NAME
        folder = source.directory / "sinks" / settings.name
        self._written_file = folder / "written.txt"
        self._queue: SimpleQueue[RunRecord | None] = SimpleQueue()
        self._reason = ""  # of the last problem
        self._disabled = False
        self._overflowed = False
        self._expired = False
        self._written: set[str] = set()
        self._process: SinkProcess | None = None
        try:
            self._written = _read_written(self._written_file)
            self._process = SinkProcess(settings, source.study, folder, self._log_file)
        except OSError as error:
            self._disable(f"it could not be started: {error}")
        self._missed = [run_id for run_id in source.finished if run_id not in self._written]
        self._offered = len(self._missed)
        self._delivered = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the sink's process, if it could be started."""
        return self._process.pid if self._process else None

    def offer(self, record: RunRecord) -> None:
        """Hand a finished run over; returns at once, whether there is room for it or not."""
        self._offered += 1
        if self._disabled:
            return
        if self._queue.qsize() < self._limits.max_waiting:
            self._queue.put(record)
        elif not self._overflowed:
            self._overflowed = True
            waiting = self._limits.max_waiting
            self._report_problem(
                f"it is slower than the study: {waiting} runs wait for it and others pass it by"
            )

    def end(self) -> None:
        """Announce that no more runs will come."""
        self._queue.put(None)

    def finish(self, until: float) -> None:
        """Wait for what is left, end the process, and report what was not written.

        Args:
            until: a time of `time.monotonic`; the sink is ended then, whatever it is doing.
        """
        seconds = max(0.0, until - time.monotonic())
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._expired = True
            self.kill()
            self._thread.join(KILLED_S)
            waited = round(seconds, 1)
            self._report_problem(
                f"it was ended {waited:g} s after the last run, and had not finished"
            )
        if missing := self._offered - self._delivered:
            self._notify_and_log(
                f"{self._settings.title}: {missing} of {self._offered} runs were not written. Last "
                f"problem: {self._reason}. The study lacks nothing, and the same command tries "
                f"them again."
            )

    def kill(self) -> None:
        """End the process now; it may have ended before."""
        if self._process is not None:
            self._process.kill()

    def _work(self) -> None:
        """Body of the thread."""
        process = self._process
        if process is None:
            return
        try:
            if problem := process.open(self._limits.answer_s):
                self._disable(problem)
                return
            for record in self._records():
                self._deliver(record, process)
            if problem := process.close(self._limits.answer_s):
                self._report_problem(f"it could not be closed: {problem}")
        except LostError as error:
            if not self._expired:
                self._disable(str(error))
        except Exception as error:  # such as a full disk; nothing may reach the study
            self._disable(f"{type(error).__name__}: {error}")
        finally:
            process.kill()
            process.release()

    def _records(self) -> Iterator[RunRecord]:
        """What was missed before, then what comes, to the end."""
        for run_id in self._missed:
            yield self._source.records[run_id]
        while (record := self._queue.get()) is not None:
            yield record

    def _deliver(self, record: RunRecord, process: SinkProcess) -> None:
        if record.run_id not in self._written:
            problem = process.write(self._source.show(record), self._limits.answer_s)
            if problem:
                self._report_problem(f"run {record.run_id} could not be written: {problem}")
                return
            with self._written_file.open("a", encoding="utf-8") as file:
                file.write(f"{record.run_id}\n")
            self._written.add(record.run_id)
        self._delivered += 1

    def _disable(self, reason: str) -> None:
        self._disabled = True
        self._report_problem(reason, "the study goes on without it")

    def _report_problem(self, reason: str, consequence: str = "the study goes on") -> None:
        """Report the first problem of a sink at once, and keep every one in the log."""
        first, self._reason = not self._reason, reason
        line = f"{self._settings.title}: {reason}; {consequence}."
        if first:
            self._notify_and_log(line)
        else:
            self._log(line)

    def _notify_and_log(self, line: str) -> None:
        self._notify(line)
        self._log(line)

    def _log(self, line: str) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        # Where the disk is full it has been printed at least.
        with contextlib.suppress(OSError), self._log_file.open("a", encoding="utf-8") as file:
            file.write(f"{now} {line}\n")


def _read_written(path: Path) -> set[str]:
    """The ids in a file; a line torn by a crash is ended before another one follows."""
    if not path.exists():
        return set()
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    return set(text.split())
