"""One session with single runs: one is trained and kept, or the optimizers are timed in turn."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from optbench.checkpoints.root import CheckpointRoot
from optbench.cli.printing import print_text
from optbench.config import ConfigError, RunConfig
from optbench.data.shards import corpus_dir, default_cache_dir
from optbench.execution import DEFAULT_EXECUTION, Execution
from optbench.optimizers import OPTIMIZERS
from optbench.space import Value
from optbench.store.store import RunRecord, RunStore, check_folder
from optbench.study.config import run_problems
from optbench.study.preflight import check_corpus, prepared_corpus
from optbench.study.single_run import single_run_config
from optbench.training.bench import OptimizerCost, measure_optimizer
from optbench.training.run import device_problems, run, use_one_thread
from optbench.training.trainer import Progress as RunProgress


def train_one(
    config: RunConfig,
    directory: Path,
    console: Console,
    *,
    keep_weights: bool = False,
    execution: Execution = DEFAULT_EXECUTION,
    checkpoints: str | None = None,
) -> RunRecord:
    """Train one run with a progress bar and keep its record; a run already there is not repeated.

    Args:
        keep_weights: keep the final weights too. A run that is there without them is trained
            again for them; its record stays as it is.
        execution: how the device is used.
        checkpoints: where the run keeps its own, a folder or an fsspec URL; None = a folder in
            ``directory``.

    Raises:
        CheckpointError: no checkpoint can be kept there.
        ConfigError: the configuration cannot be run.
        WeightsError: the weights cannot be written where they belong.
    """
    if problems := run_problems(config) + device_problems(execution, config.batch_size):
        raise ConfigError(problems)
    check_folder(directory)
    place = CheckpointRoot.of(directory, checkpoints)
    manifest = prepared_corpus(config.data.corpus, config.model.vocab_size, console)
    check_corpus(manifest, [config], console)
    config = config.with_fingerprint(config.data.fingerprint or manifest.fingerprint)
    with RunStore.open(directory, functools.partial(print_text, console)) as store:
        weights = _place_for_weights(directory, config.run_id) if keep_weights else None
        known = store.finished(config.run_id)
        lacks_weights = weights is not None and not weights.exists()
        goes_on = lacks_weights and not (known and known.status == "diverged")
        place.discard_finished(store, besides={config.run_id} if goes_on else set())
        if known:
            console.print(_known_run(known, directory, lacks_weights), highlight=False)
            if not goes_on:
                return known
        use_one_thread()
        corpus = corpus_dir(manifest.corpus, manifest.vocab_size, default_cache_dir())
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console
        ) as bar:
            task = bar.add_task(f"{config.optimizer.name}", total=config.num_steps)

            def show(at: RunProgress) -> None:
                description = f"step {at.step} of {at.num_steps}, training loss {at.train_loss:.3f}"
                bar.update(task, completed=at.step, description=description)

            record = run(config, corpus, show, weights, execution, place.root)
        if known is None:
            store.append(record)
        elif record.status == "completed":
            console.print(_repetition(known, record), highlight=False)
        place.discard(record)
    return record


def _place_for_weights(directory: Path, run_id: str) -> Path:
    """Where they will be, in a folder that is there and can be written to."""
    from optbench.training.weights import make_folder, weights_file  # most runs keep nothing

    path = weights_file(directory, run_id)
    make_folder(path)
    return path


def _known_run(known: RunRecord, directory: Path, lacks_weights: bool) -> str:
    """The message about a run that is asked for again."""
    there = f"Run {known.run_id} is in {directory} already"
    if not lacks_weights:
        return f"{there}."
    if known.status == "diverged":
        return f"{there}; it diverged, so it has no final weights."
    return f"{there}, but without its weights: it is trained again for them, its record stays."


def _repetition(known: RunRecord, repeated: RunRecord) -> str:
    """Whether training again gave the same, which only the same software and processor promise."""
    if known.test_loss == repeated.test_loss:
        return f"The weights are kept; the test loss is that of the record, {known.test_loss:.4f}."
    return (
        f"The weights are kept, but they are not quite those of the record: their test loss is "
        f"{repeated.test_loss:.6f}, the record's is {known.test_loss:.6f}. Other software or "
        f"another processor rounds differently."
    )


def bench_optimizers(
    size: str, batch_size: int, optimizers: Sequence[str], console: Console
) -> list[OptimizerCost]:
    """Measure optimizers one after another, each within training steps of a model of this size.

    Raises:
        ConfigError: unknown optimizer or size.
    """
    names = list(optimizers) or list(OPTIMIZERS)
    settings: dict[str, Value] = {"batch_size": batch_size}
    configs = [
        single_run_config(name, size=size, ratio=None, settings=settings, seed=0) for name in names
    ]
    use_one_thread()
    costs: list[OptimizerCost] = []
    with Progress(TextColumn("{task.description}"), BarColumn(), console=console) as bar:
        task = bar.add_task("", total=len(configs))
        for config in configs:
            bar.update(task, description=f"{config.optimizer.name:<10}")
            costs.append(measure_optimizer(config))
            bar.advance(task)
    return costs
