"""A Ray that is made up: machines and workers that a test has under its thumb, and no process."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from optbench.executors.ray_cluster import ClusterError, ResourceRequest, run_pickled

HERE = {"optbench": "1", "commit": None, "torch": "2"}


class GoneError(Exception):
    """A worker is gone."""


class CutOffError(GoneError):
    """A worker may be gone."""


@dataclass(eq=False)
class Call:
    """What the executor waits for: the reference and the future at once."""

    worker: Worker
    name: str
    answer: Callable[[], Any]
    done: Future[Any] = field(default_factory=Future)

    def future(self) -> Future[Any]:
        return self.done


@dataclass(eq=False)
class Method:
    worker: Worker
    name: str

    def remote(self, *arguments: Any) -> Call:
        return self.worker.cluster.called(self.worker, self.name, arguments)


@dataclass(eq=False)
class Worker:
    cluster: MadeUpCluster
    refused: Collection[str]
    home: str | None = None

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)


class MadeUpCluster:
    """In place of :class:`optbench.executors.ray_cluster.Cluster`; a worker takes a CPU.

    Attributes:
        held: calls of these names get no answer for now.
    """

    def __init__(self, *_: Any) -> None:
        self.known: dict[str, bool] = {}
        self.cpus: dict[str, int] = {}
        self.codes: dict[str, dict[str, str | None]] = {}
        self.held: set[str] = set()
        self.pending: list[Call] = []
        self.started = 0
        self.is_left = False
        self._numbers = itertools.count()
        self._lock = threading.RLock()

    def add(self, cpus: int, code: dict[str, str | None] = HERE) -> str:
        """A machine, which gets the workers that wait for one; returns its id."""
        node_id = f"machine{next(self._numbers)}"
        with self._lock:
            self.cpus[node_id], self.codes[node_id], self.known[node_id] = cpus, code, True
            waiting = [call for call in self.pending if call.worker.home is None]
            self.pending = [call for call in self.pending if call not in waiting]
            for call in waiting:
                self._place(call)
        return node_id

    def end_calls(self, error: type[GoneError] = GoneError) -> None:
        """End whatever is going on."""
        with self._lock:
            pending, self.pending = self.pending, []
        for call in pending:
            call.done.set_exception(error("gone"))

    def lose(self, node_id: str) -> None:
        self.known[node_id] = False

    def called(self, worker: Worker, name: str, arguments: tuple[Any, ...]) -> Call:
        answers = {
            "describe": lambda: {
                "node_id": worker.home,
                "host": worker.home,
                "log": "",
                "code": self.codes[str(worker.home)],
                "problem": "",
            },
            "initialize": lambda: None,
            "run": lambda: run_pickled(arguments[0]),
        }
        call = Call(worker, name, answers[name])
        with self._lock:
            self._place(call)
        return call

    def _place(self, call: Call) -> None:
        worker = call.worker
        if worker.home is None:
            fitting = [n for n, up in self.known.items() if up and n not in worker.refused]
            worker.home = fitting[0] if fitting else None
        if worker.home is not None and not self.known[worker.home]:
            call.done.set_exception(GoneError("gone"))
        elif worker.home is None or call.name in self.held:
            self.pending.append(call)
        else:
            call.done.set_result(call.answer())

    # What the executor asks for.

    def request(self, devices: int, cpus: float, gpus: float | None) -> ResourceRequest:
        return ResourceRequest(1, 0)

    def room(self, request: ResourceRequest, refused: Collection[str]) -> int:
        with self._lock:
            there = [name for name, up in self.known.items() if up and name not in refused]
            return sum(self.cpus[name] for name in there)

    def refuse_too_little(self, *_: Any) -> None: ...

    def machines(self) -> dict[str, bool]:
        return dict(self.known)

    def start_worker(self, request: ResourceRequest, refused: Collection[str]) -> Worker:
        if self.is_left:
            raise ClusterError("left")
        self.started += 1
        return Worker(self, refused)

    def end_worker(self, worker: Worker) -> None: ...

    def is_worker_failure(self, error: BaseException) -> bool:
        return isinstance(error, GoneError)

    def is_unreachable(self, error: BaseException) -> bool:
        return isinstance(error, CutOffError)

    def reason(self, error: BaseException) -> str:
        return str(error)

    def disconnect(self) -> None:
        self.is_left = True
