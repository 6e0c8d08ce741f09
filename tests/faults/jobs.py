"""What the drivers of these tests have their workers do: real runs, counted; no measurements."""

from __future__ import annotations

import datetime
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optbench.config import RunConfig
from optbench.store.store import RunRecord
from optbench.training.bench import StepCost
from optbench.training.run import run

JUMPS_S = (0.0, 3e8, -3e8, 7200.0, -7200.0)


def counted_run(config: RunConfig, **rest: Any) -> RunRecord:
    """A run that says when it begins and when it has come to its end.

    None begins while there is the file OPTBENCH_TEST_HOLD. Of the optimizer OPTBENCH_TEST_BREAKS
    none comes to its end: the folder of its corpus holds none.
    """
    prepare_process()
    while (hold := os.environ.get("OPTBENCH_TEST_HOLD")) and Path(hold).exists():
        time.sleep(0.02)
    note("begin", config.run_id)
    if config.optimizer.name == os.environ.get("OPTBENCH_TEST_BREAKS"):
        return run(config, **{**rest, "corpus_directory": Path(__file__).parent})
    record = run(config, **rest)
    note("end", config.run_id)
    return record


def note(event: str, run_id: str) -> None:
    """A line that survives whatever comes next."""
    with Path(os.environ["OPTBENCH_TEST_EVENTS"]).open("a") as file:
        file.write(f"{event} {run_id} {os.getpid()}\n")


def no_step_cost(config: RunConfig) -> StepCost:
    return StepCost(step_s=0.01, eval_s_per_token=1e-6)


def no_comparison(configs: Sequence[RunConfig]) -> list[list[float]]:
    return [[1e-5 * (1 + place), 1e-5 * (1 + place)] for place in range(len(configs))]


def no_matmul() -> float:
    return 1e12


def prepare_process() -> None:
    """Make this process's clock jump years back and forth, if the test says so."""
    if os.environ.get("OPTBENCH_TEST_CLOCK") == "jumps" and not hasattr(time, "jumps"):
        time.jumps = True  # type: ignore[attr-defined]
        jumping(itertools.cycle(JUMPS_S).__next__)


def jumping(jump_s: Callable[[], float]) -> None:
    """Have everything that asks for the time of day be told another one every time."""
    plain, plain_datetime = time.time, datetime.datetime

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return plain_datetime.now(tz) + datetime.timedelta(seconds=jump_s())

    time.time = lambda: plain() + jump_s()
    datetime.datetime = Jumping  # type: ignore[misc]
