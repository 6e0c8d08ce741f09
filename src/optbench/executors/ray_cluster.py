"""Cluster: the connection to Ray, its machines and the workers on them; the only import of Ray."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import pickle
import socket
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench.config import UserError
from optbench.executors.processes import answer_of, unsendable

# What workers send is small: a record, a table of times.
OBJECT_STORE_BYTES = 128 * 2**20
LOG_LINES = 20
WATCH_S = 0.5
KNOCK_S = 10.0

log = logging.getLogger(__name__)


class ClusterError(UserError):
    """A cluster that cannot be reached or cannot execute runs."""


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What a worker takes of its machine.

    Raises:
        ValueError: less than nothing, or nothing at all.
    """

    cpus: float
    gpus: float

    def __post_init__(self) -> None:
        if min(self.cpus, self.gpus) < 0 or not self.cpus + self.gpus > 0:
            raise ValueError(
                f"A run needs CPUs or GPUs, but got {self.cpus:g} CPUs and {self.gpus:g} GPUs."
            )

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many times a machine has it."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        # Thirds of a GPU add up to one.
        return min(
            math.floor(resources.get(name, 0.0) / request + 1e-6)
            for name, request in wanted.items()
            if request
        )

    def __str__(self) -> str:
        parts = [(self.cpus, "CPU"), (self.gpus, "GPU")]
        return " and ".join(f"{n:g} {name}{'s' * (n != 1)}" for n, name in parts if n)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Where a worker lives.

    Args:
        log: the file with what it writes to standard error; empty where that is unknown.
        code: the versions there, as :func:`optbench.store.installed.versions`.
        problem: why optbench cannot be used there, or empty.
    """

    node_id: str
    host: str
    log: str
    code: dict[str, str | None]
    problem: str

    def log_text(self) -> str:
        """The end of what the worker wrote, or where that is."""
        path = Path(self.log)
        if not self.log:
            return ""
        if self.host != socket.gethostname() or not path.exists():
            return f" What it wrote is in {self.log} on {self.host}."
        with contextlib.suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
            # Ray marks whose output it is by lines such as `:job_id:01000000`.
            lines = [line for line in text.splitlines() if not line.startswith(":")][-LOG_LINES:]
            return f" What it wrote is in {self.log}:\n" + "\n".join(lines) if lines else ""
        return ""


class Cluster:
    """A connection to Ray.

    Args:
        address: as for ``RayExecutor``.
        local_cpus: that a Ray started here declares; None is every core.

    Raises:
        ClusterError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, address: str | None, local_cpus: int | None) -> None:
        # Of the machines, only those that start a Ray read it: nothing is sent anywhere.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise ClusterError(
                "Ray is not installed. Install it: pip install 'optbench[ray]'"
            ) from None
        self._ray: Any = ray
        self._left = False
        self._owned = not ray.is_initialized()
        self._local = address is None and self._owned
        if self._owned:
            self._connect(address, local_cpus)
        self._worker_class: Any = ray.remote(_worker_class())

    def _connect(self, address: str | None, local_cpus: int | None) -> None:
        if address is not None and address.startswith("ray://"):
            raise ClusterError(
                f"The driver has to run on a machine of the cluster, not behind a Ray client "
                f"({address}). Start it there with --address auto, as `ray job submit` does."
            )
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            self._ray.init(
                "local",
                num_cpus=local_cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
            return
        try:
            _knock(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
            self._ray.init(address, **quiet)
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            reason = str(error).strip(" .\t")
            raise ClusterError(
                f"The Ray cluster at '{address}' cannot be joined: {reason}. `ray start --head` "
                f"starts one (docs/cluster.md); without --address, a Ray starts on this machine."
            ) from None

    def request(self, devices: int, cpus: float, gpus: float | None) -> ResourceRequest:
        """What each worker takes; GPUs by default where a machine has any."""
        if gpus is None:
            gpus = devices if any(node.get("GPU") for node in self._nodes().values()) else 0
        return ResourceRequest(cpus, gpus)

    def room(self, request: ResourceRequest, refused: Collection[str]) -> int:
        """Workers that the machines of now can hold, used or not."""
        return sum(
            request.fits(resources)
            for node_id, resources in self._nodes().items()
            if node_id not in refused
        )

    def refuse_too_little(
        self, request: ResourceRequest, room: int, num_workers: int | None
    ) -> None:
        """Check that workers can be had; those of a cluster may still be on their way.

        Raises:
            ClusterError: none, or fewer than were asked for where no more can join.
        """
        machines = "; ".join(
            f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs"
            for node in self._nodes().values()
        )
        if num_workers is None and not room:
            raise ClusterError(
                f"No machine has {request} for a run. The machines have: {machines}. Ask for less "
                f"with --cpus-per-run and --gpus-per-run, or give --workers to wait for machines."
            )
        if self._local and num_workers is not None and num_workers > room:
            raise ClusterError(
                f"{num_workers} runs at a time, each with {request}, do not fit on this machine "
                f"({machines}). Give fewer --workers, or a part of a GPU with --gpus-per-run."
            )
        if not room:
            log.warning("No machine of the cluster has %s yet. Waiting for one.", request)

    def machines(self) -> dict[str, bool]:
        """Every machine that Ray knows of, by its id, and whether it is there."""
        return {node["NodeID"]: node["Alive"] for node in self._ray.nodes()}

    def start_worker(self, request: ResourceRequest, refused: Collection[str]) -> Any:
        """Ask for a worker on any machine that has room, or will have.

        Raises:
            ClusterError: the cluster was left; Ray would start another one by itself.
        """
        if self._left:
            raise ClusterError("The Ray cluster was left. Make a new executor.")
        options: dict[str, Any] = {"num_cpus": request.cpus, "num_gpus": request.gpus}
        if refused:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(refused)})"}
        return self._worker_class.options(max_restarts=0, max_task_retries=0, **options).remote()

    def end_worker(self, worker: Any) -> None:
        """Kill a worker, whatever it is doing; one that is gone already is fine."""
        if self._left:
            return  # its owner is gone, so it ends; Ray would start another cluster for this
        with contextlib.suppress(Exception):
            self._ray.kill(worker)

    def is_worker_failure(self, error: BaseException) -> bool:
        """Whether a call failed because its worker or its answer is gone."""
        kinds = self._ray.exceptions
        return isinstance(error, kinds.RayError) and not isinstance(error, kinds.RayTaskError)

    def is_unreachable(self, error: BaseException) -> bool:
        """Whether Ray does not know if the worker lives: its machine is cut off."""
        return isinstance(error, self._ray.exceptions.ActorUnavailableError)

    def reason(self, error: BaseException) -> str:
        """Ray's reason for a worker's end, without its advice on Ray."""
        lines = str(error).strip().splitlines() or [repr(error)]
        return lines[-1].partition(" Some common causes")[0].strip(" .\t")

    def disconnect(self) -> None:
        """Leave the cluster; a Ray that was started here ends."""
        self._left = True
        if self._owned:
            self._owned = False
            self._ray.shutdown()

    def _nodes(self) -> dict[str, dict[str, float]]:
        """Resources of the machines that are there, by their ids."""
        return {n["NodeID"]: n["Resources"] for n in self._ray.nodes() if n["Alive"]}


def _knock(address: str) -> None:
    """Find out in seconds that nobody answers: Ray would try for minutes.

    Raises:
        OSError: nobody does.
        ValueError: this is no address.
    """
    if address == "auto":
        return  # Ray looks for its processes
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("an address is host:port, or auto")
    socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def end_with_parent() -> None:
    """End this process soon after the one that started it has ended, whatever it is doing then.

    An idle worker ends by itself when Ray's process on its machine is gone, but a busy one would
    finish its job first, which somebody else has been given by then.
    """

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(
        target=watch, args=(os.getppid(),), name="end with parent", daemon=True
    ).start()


def run_pickled(payload: bytes) -> bytes:
    """Body of a worker: a pickled job → its pickled answer."""
    answer = answer_of(lambda: pickle.loads(payload))
    try:
        return pickle.dumps(answer)
    except Exception as error:  # a result that cannot be pickled
        return pickle.dumps(unsendable(error))


def _worker_class() -> type:
    """The actor's class; as a local one it travels by value, also to where optbench is not."""

    class Worker:
        def describe(self) -> dict[str, Any]:
            """Fields of :class:`WorkerInfo`."""
            import ray

            try:
                log = os.readlink("/proc/self/fd/2")
            except OSError:
                log = ""
            code, problem = {}, ""
            try:
                code = importlib.import_module("optbench.store.installed").versions()
            except ImportError as error:
                problem = (
                    f"optbench cannot be imported there ({error}). Install it on every machine."
                )
            return {
                "node_id": ray.get_runtime_context().get_node_id(),
                "host": socket.gethostname(),
                "log": log,
                "code": code,
                "problem": problem,
            }

        def initialize(self, initialize: bytes) -> None:
            importlib.import_module("optbench.executors.ray_cluster").end_with_parent()
            pickle.loads(initialize)()

        def run(self, payload: bytes) -> bytes:
            return importlib.import_module("optbench.executors.ray_cluster").run_pickled(payload)

    return Worker
