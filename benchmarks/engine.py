"""Time what the engine costs beside training: queueing, storing, opening a store, real runs.

    python benchmarks/engine.py                                # this tree
    python benchmarks/engine.py --against ../before --rounds 5 # and another, turn by turn

Every measurement is a process of its own, whose peak memory is its own too; trees take turns, so
what the machine does besides slows both alike. Records are those of the nano study under other run
ids. The job of the measurements without training answers at once with such a record, so what a run
takes is what it costs here. `--ray` adds the executor on Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optbench.config import OptimizerConfig, RunConfig, run_id_of
from optbench.executors.processes import Executor, InlineExecutor, ProcessExecutor
from optbench.store.store import RunRecord, RunStore
from optbench.study.sweep import Sweep, Task

ROOT = Path(__file__).parents[1]
LINES = ROOT / "results" / "nano" / "runs.jsonl"
MEBIBYTE = 2**20


class Silent:
    """An observer that shows nothing."""

    def queued(self, configs: Sequence[RunConfig]) -> None:  # noqa: D102
        pass

    def finished(self, record: RunRecord, *, from_store: bool) -> None:  # noqa: D102
        pass

    def failed(self, config: RunConfig, error: str, *, given_up: bool) -> None:  # noqa: D102
        raise AssertionError(error)

    def tick(self) -> None:  # noqa: D102
        pass


@functools.cache
def template() -> RunRecord:
    with LINES.open() as file:
        return RunRecord.from_dict(json.loads(file.readline()))


def config_number(number: int) -> RunConfig:
    """A run of the nano study with a learning rate of its own."""
    plain = template().run_config
    values = {**plain.optimizer.hyperparameters, "lr": 1e-3 + 1e-9 * number}
    return dataclasses.replace(
        plain, optimizer=OptimizerConfig(name=plain.optimizer.name, hyperparameters=values)
    )


def no_training(config: RunConfig) -> RunRecord:
    return dataclasses.replace(template(), run_id=config.run_id, config=config.to_dict())


def nothing() -> None:
    pass


def executor_of(kind: str, workers: int) -> Executor:
    if kind == "inline":
        return InlineExecutor()
    if kind == "processes":
        return ProcessExecutor(workers, initialize=nothing)
    from optbench.executors.ray_executor import RayExecutor  # only where it is asked for

    return RayExecutor(workers, initialize=nothing)


def run(
    executor: Executor,
    job: Callable[[RunConfig], RunRecord],
    configs: list[RunConfig],
    folder: Path,
) -> float:
    """Seconds from queueing runs in one request to the last record on the disk."""

    def task(wanted: list[RunConfig]) -> Task:
        yield wanted

    with RunStore.open(folder) as store:
        sweep = Sweep(store, executor, job, Silent())
        # Workers start with their first job.
        sweep.run([task([config_number(-1 - i) for i in range(executor.num_workers)])])
        started, used = time.perf_counter(), time.process_time()
        sweep.run([task(configs)])
        return {
            "ms_per_run": 1e3 * (time.perf_counter() - started) / len(configs),
            "driver_cpu_ms_per_run": 1e3 * (time.process_time() - used) / len(configs),
        }


def measure_queue(kind: str, workers: int, runs: int) -> dict[str, float]:
    """Queue runs that train nothing."""
    executor = executor_of(kind, workers)
    configs = [config_number(number) for number in range(runs)]
    with tempfile.TemporaryDirectory() as folder:
        found = run(executor, no_training, configs, Path(folder))
    executor.close()
    return found


def measure_open(folder: str) -> dict[str, float]:
    """Open a store, and look at every record of it."""
    before = peak_mib()
    started, used = time.perf_counter(), time.process_time()
    with RunStore.open(Path(folder)) as store:
        opened, opened_cpu = time.perf_counter() - started, time.process_time() - used
        opened_mib = peak_mib() - before
        started = time.perf_counter()
        losses = [record.val_loss for record in store.records.values()]
    return {
        "records": len(losses),
        "open_s": opened,
        "open_cpu_s": opened_cpu,
        "open_mib": opened_mib,
        "look_at_all_s": time.perf_counter() - started,
    }


def measure_training(workers: int, runs: int) -> dict[str, float]:
    """Real runs, as short as they get."""
    from optbench.data.shards import corpus_dir, default_cache_dir
    from optbench.study.single_run import single_run_config
    from optbench.training.run import run, use_one_thread

    corpus = corpus_dir("nano", 1024, default_cache_dir())
    plain = single_run_config("adamw", size="d32", ratio=0.05, settings={"batch_size": 8}, seed=0)
    plain = dataclasses.replace(plain, eval_tokens=4096, test_tokens=4096, num_evals=1)
    configs = [dataclasses.replace(plain, seed=1 + seed) for seed in range(runs)]
    executor = ProcessExecutor(workers, initialize=use_one_thread)
    job = functools.partial(run, corpus_directory=corpus.resolve())
    with tempfile.TemporaryDirectory() as folder:
        # torch is imported and the corpus opened by a first run of each worker
        for future in [executor.submit(job, dataclasses.replace(plain, seed=10**6 + i))
                       for i in range(workers)]:  # fmt: skip
            assert future.result().status == "completed", future.result().error
        with RunStore.open(Path(folder)) as store:

            def task() -> Task:
                yield configs

            started = time.perf_counter()
            Sweep(store, executor, job, Silent()).run([task()])
            seconds = time.perf_counter() - started
            trained = sum(record.wall_s for record in store.records.values())
    executor.close()
    return {
        "runs_per_hour": 3600 * runs / seconds,
        "ms_beside_training": 1e3 * (workers * seconds - trained) / runs,
        "training_s_per_run": trained / runs,
    }


MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    "queue": measure_queue,
    "open": measure_open,
    "training": measure_training,
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEBIBYTE


def in_a_process(tree: Path, name: str, *arguments: Any) -> dict[str, float]:
    """A measurement with the sources of a tree."""
    # As a module, not as a script: Ray's workers import what they are given by its name.
    folders = os.pathsep.join([str(tree / "src"), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", "import engine; engine.main()", "--child", name,
         json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def write_store(folder: Path, records: int) -> None:
    """Lines of the nano study again and again, each of a run with a seed of its own."""
    lines = [json.loads(line) for line in LINES.read_text().splitlines()]
    with (folder / "runs.jsonl").open("w") as file:
        for number in range(records):
            line = lines[number % len(lines)]
            config = {**line["config"], "seed": number}
            line = {**line, "run_id": run_id_of(config), "config": config}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def wanted(given: argparse.Namespace, store: Path) -> list[tuple[str, str, list[Any]]]:
    """Label, measurement and arguments of everything."""
    kinds = [("inline", 1), ("processes", 1), ("processes", 2)]
    kinds += [("ray", 1), ("ray", 2)] if given.ray else []
    rows: list[tuple[str, str, list[Any]]] = [
        (f"{given.queued} runs, {kind} {workers}", "queue", [kind, workers, given.queued])
        for kind, workers in kinds
    ]
    rows.append((f"store of {given.records}", "open", [str(store)]))
    rows += [
        (f"{given.trained} real runs, {workers} workers", "training", [workers, given.trained])
        for workers in (1, 2)
        if given.trained
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="Another source tree, such as a worktree.")
    parser.add_argument("--queued", type=int, default=10_000, help="Runs without training.")
    parser.add_argument("--records", type=int, default=100_000, help="In the store.")
    parser.add_argument("--trained", type=int, default=40, help="Real runs; 0 for none.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="Measurements whose label begins like this.")
    parser.add_argument("--ray", action="store_true", help="The executor on Ray as well.")
    parser.add_argument("--out", type=Path, help="Write the rows as JSON.")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        found = MEASUREMENTS[given.child[0]](*json.loads(given.child[1]))
        print(json.dumps({**found, "peak_mib": peak_mib()}))
        return
    trees = {"ours": ROOT, **({"against": given.against} if given.against else {})}
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder), given.records)
        rows = [
            row(label, trees, given.rounds, name, arguments)
            for label, name, arguments in wanted(given, Path(folder))
            if label.startswith(given.only or "")
        ]
    if given.out:
        from optbench.training.run import environment

        given.out.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=2))


def row(
    label: str, trees: dict[str, Path], rounds: int, name: str, arguments: list[Any]
) -> dict[str, Any]:
    """One measurement in every tree, turn by turn; of each figure the median, and all rounds."""
    found: dict[str, list[dict[str, float]]] = {tree: [] for tree in trees}
    for _ in range(rounds):
        for tree, path in trees.items():
            found[tree].append(in_a_process(path, name, *arguments))
    medians = {
        tree: {key: statistics.median(one[key] for one in each) for key in each[0]}
        for tree, each in found.items()
    }
    for tree, figures in medians.items():
        text = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"{label:<28} {tree:<8} {text}", flush=True)
    return {"label": label, "medians": medians, "rounds": found}


if __name__ == "__main__":
    main()
