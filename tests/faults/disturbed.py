"""A study of a few seconds, disturbed and started again until it is done; and what is left of it.

A victim is a function that names the process to kill, or None while there is none; another kind of
process is another such function.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from optbench.analysis.summary import summarise
from optbench.report.summary_json import summary_as_dict
from optbench.store.store import RunStore

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0  # a busy machine
DONE, GIVEN_UP, REFUSED = 0, 1, 2
EVENTS = "OPTBENCH_TEST_EVENTS"
TWO_RANKS = ("--devices-per-run", "2", "--checkpoint-interval", "0.001")
TEXT = """
name = "tiny"
baseline = "adamw"
[cell]
size = "d32"
ratio = 0.02
[run]
batch_size = 8
eval_tokens = 2048
test_tokens = 2048
num_evals = 1
[protocol]
noise_seeds = 2
confirm_seeds = 2
max_runs = 6
[optimizers.adamw]
start = { lr = 0.008 }
space = { lr = [0.004, 0.008, 0.016] }
[optimizers.lion]
start = { lr = 0.001 }
space = { lr = [0.0005, 0.001, 0.002] }
"""
# Other times of the same runs: of no interest here.
TIMES = {"budget", "environments", "seconds", "seconds_per_token", "s_per_token", "core_s"}


@dataclass(frozen=True, slots=True)
class Event:
    """A line of `jobs.note`."""

    what: str
    run_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class TinyStudy:
    """A study in a folder of its own.

    Args:
        workers: runs at a time.
        options: of ``optbench run``, besides.
    """

    folder: Path
    workers: int = 1
    options: tuple[str, ...] = ()

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def file(self) -> Path:
        """The study file, written."""
        path = self.folder / "study.toml"
        path.write_text(TEXT)
        return path

    def start(self, faults: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """A driver; what it starts can be told from others by a variable."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.driver", "run", str(self.file()), "--out",
             str(self.store), "--workers", str(self.workers), *self.options],
            cwd=ROOT,
            env={**os.environ, EVENTS: str(self.events_file), **(faults or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )  # fmt: skip

    @property
    def events_file(self) -> Path:
        return self.folder / "events"

    def events(self) -> list[Event]:
        """Everything that runs said, in order."""
        if not self.events_file.exists():
            return []
        lines = [line.split(" ") for line in self.events_file.read_text().splitlines()]
        return [Event(what, run_id, int(pid)) for what, run_id, pid in lines]

    def stored(self) -> list[str]:
        """The run of every complete line of the records."""
        runs = self.store / "runs.jsonl"
        lines = runs.read_text().split("\n")[:-1] if runs.exists() else []
        return [json.loads(line)["run_id"] for line in lines]

    def kept(self) -> set[str]:
        """Every run that need not be trained any more."""
        return {*self.stored(), *(path.stem for path in self.store.glob("ended/*.json"))}


Victim: TypeAlias = Callable[[subprocess.Popen[str], TinyStudy], int | None]


def the_driver(driver: subprocess.Popen[str], study: TinyStudy) -> int | None:
    return driver.pid


def a_worker(driver: subprocess.Popen[str], study: TinyStudy) -> int | None:
    """The one that began a run last, if it still lives: its number may be another's by now."""
    for last in study.events()[-1:]:
        if last.what == "begin" and last.pid in processes_of(study):
            return last.pid
    return None


def a_rank(driver: subprocess.Popen[str], study: TinyStudy) -> int | None:
    """One of the processes that execute a run together; not their worker, not their agent."""
    ranks = [pid for pid in processes_of(study) if "rank_process" in _command_of(pid)]
    return max(ranks, default=None)


def _command_of(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


@dataclass(slots=True)
class Disturbance:
    """What was done to a study.

    Args:
        lives: drivers started.
        killed: processes.
        unstored: runs that had come to their end and were kept nowhere when a process was killed.
        again: runs that began although their record was there.
        left: processes of dead drivers that did not end.
        output: of the last driver.
    """

    killed: list[int] = field(default_factory=list)
    lives: int = 0
    unstored: Counter[str] = field(default_factory=Counter)
    again: list[str] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    output: str = ""


def disturb(
    study: TinyStudy, victim: Victim, moments: int, seed: int, run_s: float = 0.4
) -> Disturbance:
    """Kill a study's victim at random moments, so many times at most, and let it come to its end.

    A moment is a random number of events after the driver's start or the last kill, and a random
    part of a run's time, `run_s`, behind that; one in ten is before anything has begun.
    """
    rng, done = random.Random(seed), Disturbance()
    code: int | None = None
    while code != DONE:
        kept = study.kept()
        seen = len(study.events())
        driver = study.start()
        done.lives += 1
        while len(done.killed) < moments and _wait_for_moment(study, driver, rng, run_s):
            if (pid := victim(driver, study)) is not None and _kills(pid):
                done.killed.append(pid)
            if pid == driver.pid:
                break
        done.output, _ = driver.communicate(timeout=PATIENCE_S)
        code = driver.returncode
        assert code in (DONE, GIVEN_UP, -9), done.output
        done.left += _left_by(study)
        begun = [event.run_id for event in study.events()[seen:] if event.what == "begin"]
        done.again += [run_id for run_id in begun if run_id in kept]
        if code == -9:
            ended = {event.run_id for event in study.events()[seen:] if event.what == "end"}
            done.unstored.update(ended - study.kept())
    done.unstored.update(_lost_answers(study.events(), done.killed))
    return done


def _kills(pid: int) -> bool:
    """Whether there was such a process; it may just have ended."""
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return False
    return True


def _lost_answers(events: list[Event], killed: list[int]) -> list[str]:
    """Runs that a killed worker had ended, and that had to be trained again nevertheless."""
    return [
        event.run_id
        for place, event in enumerate(events)
        if event.what == "end" and event.pid in killed
        if any(e.what == "begin" and e.run_id == event.run_id for e in events[place:])
    ]


def _wait_for_moment(
    study: TinyStudy, driver: subprocess.Popen[str], rng: random.Random, run_s: float
) -> bool:
    """Whether the moment came before the driver's end."""
    if rng.random() < 0.1:
        return _sleeps(driver, rng.uniform(0.0, 4.0))
    events = len(study.events()) + rng.randint(1, 5)
    deadline = time.monotonic() + PATIENCE_S
    while len(study.events()) < events:
        if driver.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return _sleeps(driver, rng.uniform(0.0, run_s))


def _sleeps(driver: subprocess.Popen[str], seconds: float) -> bool:
    time.sleep(seconds)
    return driver.poll() is None


def _left_by(study: TinyStudy) -> list[int]:
    """Processes whose driver has ended, after they had time to notice."""
    deadline = time.monotonic() + 30
    while (left := processes_of(study)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def processes_of(study: TinyStudy) -> list[int]:
    """All that its drivers started, in whatever session: their variables are passed on."""
    mark = f"{EVENTS}={study.events_file}\0".encode()
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if mark in (process / "environ").read_bytes():  # nothing is left in a zombie's
                found.append(int(process.name))
    return found


def outcome(study: TinyStudy) -> dict[str, Any]:
    """Everything that a study found and decided, without times."""
    store = RunStore.read(study.store)
    losses = {
        run_id: (record.status, record.val_loss, record.test_loss, record.train_curve)
        for run_id, record in sorted(store.records.items())
    }
    decisions = [e for e in store.journal if e["kind"] in ("noise", "tuning", "confirmation")]
    return {
        "losses": losses,
        # Tasks take turns as their runs end, so their entries may come in another order.
        "decisions": sorted(json.dumps(entry, sort_keys=True) for entry in decisions),
        "table": _without_times(summary_as_dict(summarise(store))),
    }


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value
