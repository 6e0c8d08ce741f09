"""Jobs for executors; workers import this module, so it imports little."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from optbench.config import RunConfig
from optbench.store.store import RunRecord
from tests.builders import record_of

initialized = 0


def nothing() -> None:
    """An initializer for executors that need none."""


def count_initialization() -> None:
    global initialized
    initialized += 1


def initializations() -> tuple[int, int]:
    return os.getpid(), initialized


def fail_to_initialize() -> NoReturn:
    sys.exit(7)


def square(x: int) -> int:
    return x * x


def refuse(text: str) -> NoReturn:
    raise ValueError(text)


def sleep_and_return(seconds: float, value: int) -> int:
    time.sleep(seconds)
    return value


def die_once(attempts: Path) -> int:
    """Kill the own process on the first attempt; returns the number of the attempt."""
    with attempts.open("a") as file:
        file.write("x")
    if attempts.stat().st_size == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempts.stat().st_size


def die(attempts: Path) -> NoReturn:
    """Kill the own process on every attempt."""
    with attempts.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def wait_for(path: Path, started: Path) -> int:
    """Note that an attempt has started, and return the own pid once ``path`` exists."""
    with started.open("a") as file:
        file.write("x")
    deadline = time.monotonic() + 30
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has not come")
        time.sleep(0.005)
    return os.getpid()


def begin_and_end(folder: Path, name: str, seconds: float) -> tuple[str, str]:
    """Note the beginning and the end of an attempt; returns the name and the Ray node's id."""
    _note(folder / f"begun {name}")
    time.sleep(seconds)
    return name, _note(folder / f"ended {name}")


def begin_wait_and_end(folder: Path, name: str) -> tuple[str, str]:
    """The same, but the end comes when there is a file ``go`` in the folder."""
    wait_for(folder / "go", folder / f"started {name}")
    return begin_and_end(folder, name, 0.0)


def _note(path: Path) -> str:
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    with path.open("a") as file:
        file.write(f"{node_id}\n")
    return node_id


def visible_gpus() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def meet(own: Path, other: Path) -> int:
    own.touch()
    return wait_for(other, own)


def unsendable() -> object:
    return lambda: None


class AwkwardError(Exception):
    """An exception that cannot be built from its arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def refuse_awkwardly() -> NoReturn:
    raise AwkwardError("a", "b")


def leave() -> NoReturn:
    sys.exit("goodbye")


def train_or_die(config: RunConfig) -> RunRecord:
    """Pretend to train; lr 2 kills its worker once and lr 13 always."""
    lr = config.optimizer.hyperparameters["lr"]
    deaths = Path(os.environ["OPTBENCH_TEST_FOLDER"]) / f"deaths of {lr:g}"
    if lr == 13 or (lr == 2 and not deaths.exists()):
        die(deaths)
    return record_of(config)
