"""Elastic: one job on several processes of this machine, started together and restarted together.

torch's elastic agent does it, which is what torchrun runs. It works from within a worker process of
an executor, because the ranks are plain commands: ``python -m <module> <folder> <parent>``. What
they get and what they answer lies as JSON in a folder that is gone afterwards::

    job.json          what to do, the same for all ranks
    progress.jsonl    what the first rank reports on the way
    answer.json       the outcome, or why no restart can help
    rank-<r>.<n>.log  what a rank wrote in the attempt after n restarts

A rank that dies takes the others along, and all are started again, a few times. The ranks end with
the process that started them, also if that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from optbench.config import UserError
from optbench.files.durable import replacing

Json: TypeAlias = Mapping[str, Any]

MAX_RESTARTS = 3
POLL_S = 0.2
TAIL_CHARACTERS = 8000  # of what a dead rank wrote last
# The agent would open the logs itself, but never closes those of ranks that end well.
_LOGGED = 'exec "$@" >"$0/rank-$RANK.$TORCHELASTIC_RESTART_COUNT.log" 2>&1'
_JOB, _PROGRESS, _ANSWER = "job.json", "progress.jsonl", "answer.json"


class RanksError(UserError):
    """A job that the ranks could not finish; the message ends with what the first to die wrote."""


def run_ranks(
    module: str,
    job: Json,
    size: int,
    on_report: Callable[[Any], None] = lambda _: None,
    *,
    max_restarts: int = MAX_RESTARTS,
) -> dict[str, Any]:
    """Run ``python -m module`` as ``size`` ranks, and return the answer of the first.

    Args:
        module: calls :func:`as_rank`.
        job: the ranks' input.
        size: processes.
        on_report: gets every report, in order, from a thread of its own.
        max_restarts: how often the ranks are started again after one of them died.

    Raises:
        RanksError: a rank died once more than that, or refused the job.
    """
    # Importing the agent takes a while, and most runs need none.
    from torch.distributed.elastic.multiprocessing import SignalException

    try:
        with tempfile.TemporaryDirectory(
            prefix="optbench-ranks-", ignore_cleanup_errors=True
        ) as name:
            folder = Path(name)
            _write(folder / _JOB, job)
            with _following(folder / _PROGRESS, on_report):
                _launch(module, folder, size, max_restarts)
            answer = json.loads((folder / _ANSWER).read_text())
    except SignalException as error:
        # The ranks have ended; now what the signal would have done to this process.
        os.kill(os.getpid(), error.sigval)
        raise
    if "refusal" in answer:
        raise RanksError(answer["refusal"])
    return answer["answer"]


def _launch(module: str, folder: Path, size: int, max_restarts: int) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id="optbench",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port, so that several jobs do not collide
        local_addr="localhost",
        max_restarts=max_restarts,
        signals_to_handle="SIGTERM",
        logs_specs=DefaultLogsSpecs(os.devnull),
    )
    command = (sys.executable, "-m", module, str(folder), str(os.getpid()))
    try:
        with _own_signals():
            elastic_launch(config, "/bin/sh")("-c", _LOGGED, str(folder), *command)
    except ChildFailedError as error:
        if not (folder / _ANSWER).exists():
            raise RanksError(_last_words(error, folder, max_restarts)) from None


@contextlib.contextmanager
def _own_signals() -> Generator[None]:
    """Put back what the agent leaves behind in this process: a handler and a variable."""
    variable = "TORCHELASTIC_SIGNALS_TO_HANDLE"
    kept = os.environ.get(variable)
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, handler)
        if kept is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = kept


def _last_words(error: Any, folder: Path, max_restarts: int) -> str:
    """Who died first in the last attempt, of what, and the end of what it wrote."""
    rank, failure = error.get_first_failure()
    cause = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"code {failure.exitcode}"
    log = folder / f"rank-{rank}.{max_restarts}.log"
    wrote = log.read_text(errors="replace")[-TAIL_CHARACTERS:] if log.exists() else ""
    again = f" after {max_restarts} restarts" if max_restarts else ""
    return f"Rank {rank} of the run ended with {cause}{again}.\n{wrote}".strip()


# The first rank's reports ------------------------------------------------------------------------


@contextlib.contextmanager
def _following(path: Path, on_report: Callable[[Any], None]) -> Generator[None]:
    """Pass on what is appended to a file meanwhile; an error in that is raised at the end."""
    follower = _Follower(path, on_report)
    thread = threading.Thread(target=follower.follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        follower.ended.set()
        thread.join()
    if follower.error is not None:
        raise follower.error


@dataclass(slots=True)
class _Follower:
    path: Path
    on_report: Callable[[Any], None]
    ended: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    _read: int = 0

    def follow(self) -> None:
        """Until the end, and what came until then."""
        try:
            while not self.ended.wait(POLL_S):
                self._pass_on()
            self._pass_on()
        except Exception as error:  # it belongs to the caller
            self.error = error

    def _pass_on(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                report = json.loads(line)
            except ValueError:  # a rank that was killed, or a full disk, left the line torn
                continue
            self.on_report(report)


# The ranks' side ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RankJob:
    """The input of a rank, and where it answers.

    Args:
        job: what was given to :func:`run_ranks`.
        restarts: how often the ranks have been started again.
    """

    job: dict[str, Any]
    restarts: int
    folder: Path

    def report(self, what: Json) -> None:
        """Report progress to the process that waits; for the first rank.

        A report that cannot be written, for a full disk, is lost and ends nothing.
        """
        with contextlib.suppress(OSError), (self.folder / _PROGRESS).open("ab") as file:
            file.write(json.dumps(what).encode() + b"\n")

    def answer(self, answer: Json) -> None:
        """Leave the job's result; for the first rank."""
        _write(self.folder / _ANSWER, {"answer": answer})


def as_rank(work: Callable[[RankJob], None]) -> None:
    """Body of a rank's process: execute the job of the folder that the command names.

    A :class:`UserError` ends the job for good, any other error ends this attempt.
    """
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()
    if (folder / _ANSWER).exists():  # and yet the ranks were started again: nothing is left to do
        return
    restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if restarts and (folder / _PROGRESS).exists() and os.environ["RANK"] == "0":
        with (folder / _PROGRESS).open("ab") as file:
            file.write(b"\n")  # ends a line that was torn
    try:
        work(RankJob(json.loads((folder / _JOB).read_text()), restarts, folder))
    except Exception as error:
        if isinstance(error, UserError):
            _write(folder / _ANSWER, {"refusal": str(error)})
        traceback.print_exc()
        sys.stderr.flush()
        # At once: an orderly end could wait for messages from ranks that are gone.
        os._exit(1)


def _end_with(parent: int, folder: Path) -> None:
    """End this process, and the folder that nobody else clears then, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _write(path: Path, content: Json) -> None:
    with replacing(path, flush=False) as draft:
        draft.write_text(json.dumps(content))
