"""SinkProcess: a sink in a process of its own, asked one thing at a time; both ends of the wire.

The process is a plain ``python -m`` and not one of `multiprocessing`: it imports neither the main
module nor torch, has no terminal and no standard input (so nothing can ask for a login), and leads
a session of its own, which Ctrl-C does not reach and which is killed as a whole. Messages are JSON:
``{"do": "open" | "write" | "close", ...}``, each answered by ``{"error": ""}`` or what went wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

from optbench.config import UserError
from optbench.export.trackers.settings import SinkSettings
from optbench.export.trackers.shown_run import ShownRun
from optbench.export.trackers.sink import Sink

NICENESS = 10  # a run goes first
MAX_REASON = 300
KILLED_S = 5.0


class LostError(Exception):
    """The process does not answer, or has ended."""


class SinkProcess:
    """The driver's end.

    Args:
        settings: of the sink.
        study: its name.
        folder: of the sink; it is made.
        log: file to which the process's standard error is appended.

    Raises:
        OSError: the folder or the process cannot be made.
    """

    def __init__(self, settings: SinkSettings, study: str, folder: Path, log: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        kind = type(settings)
        self._opening = {
            "settings": f"{kind.__module__}:{kind.__qualname__}",
            "values": dataclasses.asdict(settings),
            "study": study,
            "folder": str(folder),
        }
        self._killing = threading.Lock()
        self._wire, theirs = Pipe()
        with theirs, log.open("ab") as stderr:
            paths = [path or os.getcwd() for path in sys.path]
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "optbench.export.trackers.sink_process",
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={
                    **settings.environment(os.environ, folder.resolve()),
                    "PYTHONPATH": os.pathsep.join(paths),
                },
            )

    @property
    def pid(self) -> int:
        """Of the process, and of its session."""
        return self._process.pid

    def open(self, timeout_s: float) -> str:
        """Open the sink; returns what went wrong, or "".

        Raises:
            LostError: see `LostError`; so do the others.
        """
        return self._ask({"do": "open", **self._opening}, timeout_s)

    def write(self, run: ShownRun, timeout_s: float) -> str:
        """Write a run; returns what went wrong, or ""."""
        return self._ask({"do": "write", "run": dataclasses.asdict(run)}, timeout_s)

    def close(self, timeout_s: float) -> str:
        """Close the sink; returns what went wrong, or ""."""
        return self._ask({"do": "close"}, timeout_s)

    def _ask(self, message: Mapping[str, Any], timeout_s: float) -> str:
        try:
            self._wire.send_bytes(json.dumps(message).encode())
            if not self._wire.poll(timeout_s):
                raise LostError(f"it has not answered for {timeout_s:g} s")
            return json.loads(self._wire.recv_bytes())["error"]
        except (EOFError, OSError):
            raise LostError("its process ended") from None

    def kill(self) -> None:
        """End the process and what it started, whatever it is doing; it may be dead already."""
        with self._killing:
            if self._process.returncode is not None:
                return  # reaped, and its number may be another process's by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            # One that waits for a dead network disk cannot be killed, and is not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILLED_S)

    def release(self) -> None:
        """Close the wire; for the one who asks, when all is asked."""
        self._wire.close()


def main(descriptor: int) -> NoReturn:
    """The sink's end: answers until it is killed, or until the driver is gone."""
    os.set_inheritable(descriptor, False)
    os.nice(NICENESS)
    wire = Connection(descriptor)
    messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(wire, messages), daemon=True).start()
    serving = _Serving()
    while True:
        message = messages.get()
        try:
            serving.obey(message)
            error = ""
        except UserError as problem:
            error = str(problem)
        except BaseException as problem:  # a library may even call sys.exit
            traceback.print_exc()
            error = _reason(problem)
        wire.send_bytes(json.dumps({"error": error}).encode())


def _listen(wire: Connection, messages: SimpleQueue[dict[str, Any]]) -> None:
    """Pass messages on; when the driver has gone, end this session at once, whatever it does."""
    while True:
        try:
            messages.put(json.loads(wire.recv_bytes()))
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)


def _reason(problem: BaseException) -> str:
    """One line."""
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text}".removesuffix(": ")[:MAX_REASON]


class _Serving:
    """The opened sink."""

    def __init__(self) -> None:
        self._sink: Sink | None = None

    def obey(self, message: Mapping[str, Any]) -> None:
        """Do what a message asks for; raises what the sink raises."""
        if message["do"] == "open":
            module, _, name = message["settings"].partition(":")
            kind = getattr(importlib.import_module(module), name)
            settings: SinkSettings = kind(**message["values"])
            self._sink = settings.sink()
            self._sink.open(message["study"], Path(message["folder"]))
            return
        assert self._sink is not None, "a sink is opened before anything else"
        if message["do"] == "write":
            run: dict[str, Any] = message["run"]
            self._sink.write(ShownRun(**run))
        else:
            self._sink.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
