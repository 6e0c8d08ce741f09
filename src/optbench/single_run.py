"""A single run from what was typed: the nano study's settings, but for what is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from optbench.config import ConfigError, RunConfig
from optbench.data.prepared import choose_vocabulary
from optbench.data.shards import default_cache_dir
from optbench.ladder import SIZES, Cell
from optbench.run_axes import RUN_AXES
from optbench.space import Value, did_you_mean
from optbench.study_config import StudyConfig, run_problems
from optbench.study_file import find_study, read_study

# Settings of a single run besides its axes; a small corpus has less held-out text than nano.
HELD_OUT_TOKENS = ("eval_tokens", "test_tokens")


def single_run_config(
    optimizer: str,
    *,
    size: str | None,
    ratio: float | None,
    settings: Mapping[str, Value],
    seed: int,
    corpus: str | None = None,
) -> RunConfig:
    """A run with the nano study's settings, but for what is given.

    Args:
        corpus: a prepared one; the model has its vocabulary.

    Raises:
        ConfigError: unknown optimizer, size or setting, or an impossible combination.
        DataError: the corpus is not prepared.
    """
    study = read_study(find_study("nano"))
    if size is not None and size not in SIZES:
        raise ConfigError([did_you_mean(size, SIZES, what="model size")])
    tuned = study.tuned_cell
    cell = Cell(
        size or tuned.size,
        SIZES[size] if size else tuned.model,
        tuned.ratio if ratio is None else ratio,
    )
    if corpus is not None:
        study, cell = _on_corpus(study, cell, corpus)
    start = study.start_point(optimizer)
    known = [*dict.fromkeys((*start, *RUN_AXES, *HELD_OUT_TOKENS))]
    if unknown := [name for name in settings if name not in known]:
        raise ConfigError([did_you_mean(name, known, what="setting") for name in unknown])
    held_out = {name: _whole(name, settings[name]) for name in HELD_OUT_TOKENS if name in settings}
    chosen = {**start, **{k: v for k, v in settings.items() if k not in held_out}}
    config = study.run_config(optimizer, cell, chosen, seed=seed, fingerprint="")
    config = dataclasses.replace(config, **held_out)
    if problems := run_problems(config):
        raise ConfigError(problems)
    return config


def _on_corpus(study: StudyConfig, cell: Cell, corpus: str) -> tuple[StudyConfig, Cell]:
    """The study and the cell on another corpus: only the vocabulary of the model changes."""
    name, size = choose_vocabulary(corpus, cell.model.vocab_size, default_cache_dir())
    model = dataclasses.replace(cell.model, vocab_size=size)
    return dataclasses.replace(study, corpus=name), dataclasses.replace(cell, model=model)


def _whole(name: str, value: Value) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ConfigError([f"{name} must be a whole number of tokens, but got {value!r}."])
