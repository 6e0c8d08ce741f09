"""The weights of a study's winners: which runs keep them, what they take, which lack them.

All confirmation runs keep their final weights: they are the runs that a report quotes, and the
scores of a task over their seeds are surer than those of one. Tuning runs keep nothing. Neither
changes what a run is.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from optbench.config import ModelConfig, RunConfig
from optbench.store.store import RunRecord
from optbench.study.planning.planned_runs import PlannedRuns
from optbench.study.sweep import Job
from optbench.training.weights import (
    WeightsError,
    how_to_keep,
    kept_runs,
    make_folder,
    weights_file,
)

_MOST_NAMED = 3


class Training(Protocol):
    """:func:`optbench.training.run.run`, with its corpus and its execution already given."""

    def __call__(self, config: RunConfig, *, weights_path: Path | None) -> RunRecord:
        """Train a run, and keep its weights if a path is given."""
        ...


def keeping_weights(train: Training, store: Path, seeds: range) -> Job:
    """``train`` as the job of a sweep that keeps the weights of runs on these seeds in a store."""
    return functools.partial(_train_and_keep, train, store.resolve(), seeds)


def _train_and_keep(train: Training, store: Path, seeds: range, config: RunConfig) -> RunRecord:
    keeps = config.seed in seeds
    return train(config, weights_path=weights_file(store, config.run_id) if keeps else None)


def prepare_to_keep(store: Path, planned: Sequence[PlannedRuns]) -> str:
    """Make the folder; returns how many weights will be kept there and what they take.

    Raises:
        WeightsError: the folder cannot be written, or the disk has no room for them.
    """
    make_folder(weights_file(store, "any"))
    confirmed = [kind for kind in planned if kind.phase == "confirm"]
    runs = sum(kind.expected for kind in confirmed)
    needed = sum(kind.expected * bytes_of(kind.example.model) for kind in confirmed)
    left = needed - sum(weights_file(store, run).stat().st_size for run in kept_runs(store))
    free = shutil.disk_usage(store).free
    what = f"the weights of {runs:,} confirmation runs take {_size(needed)} in all"
    if left > free:
        raise WeightsError(
            f"With --keep-weights, {what}, but {store} has {_size(free)} free. Free some space, "
            f"choose another --out, or leave --keep-weights out."
        )
    return f"Keeping weights in {weights_file(store, 'any').parent}: {what}."


def bytes_of(model: ModelConfig) -> int:
    """What the float32 weights of a model take, their header and tokenizer left out."""
    return 4 * model.num_params


def without_weights(records: Iterable[RunRecord], store: Path, seeds: range) -> tuple[str, ...]:
    """The confirmation runs of a store that were completed without their weights, by id."""
    kept = set(kept_runs(store))
    return tuple(
        record.run_id
        for record in records
        if record.status == "completed"
        and record.config["seed"] in seeds
        and record.run_id not in kept
    )


def missing_weights_message(lacking: Sequence[str], store: Path) -> str:
    """Which runs were trained before their weights were asked for, and how to get them."""
    some = ", ".join(run[:10] for run in lacking[:_MOST_NAMED])
    more = ", …" if len(lacking) > _MOST_NAMED else ""
    return (
        f"{len(lacking)} confirmation runs ended without weights before ({some}{more}) and are not "
        f"trained again. For the weights of one: {how_to_keep('RUN', store)}"
    )


def kept_weights_message(winners: dict[str, RunConfig], store: Path) -> str:
    """Where the weights are, with a run of every winner that has them."""
    kept = set(kept_runs(store))
    named = [
        f"{name} {config.run_id[:10]}" for name, config in winners.items() if config.run_id in kept
    ]
    if not named:
        return "No confirmation run in the tuned cell has kept its weights yet."
    return (
        f"Weights of {len(kept)} runs are in {weights_file(store, 'any').parent}, of the winners "
        f"for example {', '.join(named)}: 'optbench evaluate RUN --store {store}' scores one, "
        f"'optbench export' makes a Hugging Face folder of it."
    )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
