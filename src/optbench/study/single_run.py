"""A single run from what was typed: the nano study's settings, but for what is given."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optbench.config import ConfigError, RunConfig
from optbench.data.prepared import choose_vocabulary
from optbench.data.shards import default_cache_dir
from optbench.files.json_lines import strict_json
from optbench.files.text_files import read_user_text
from optbench.ladder import SIZES, Cell
from optbench.optimizers import OPTIMIZERS
from optbench.run_axes import RUN_AXES
from optbench.space import Value, did_you_mean
from optbench.study.config import StudyConfig, run_problems, run_setting_problems
from optbench.study.file import MAX_RATIO, find_study, read_study
from optbench.study.tables import hyperparameter_table, some_run_settings, start_table
from optbench.tables import located, table_problems

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
    held_out: dict[str, Any] = {k: v for k, v in settings.items() if k in HELD_OUT_TOKENS}
    named = {name: value for name, value in settings.items() if name not in held_out}
    known = [*dict.fromkeys((*start, *RUN_AXES, *HELD_OUT_TOKENS))]
    problems = [did_you_mean(name, known, what="setting") for name in settings if name not in known]
    problems += table_problems(
        start_table(optimizer), {k: v for k, v in named.items() if k in known}
    )
    problems += table_problems(some_run_settings(), held_out)
    if not 0 < cell.ratio <= MAX_RATIO:
        problems.append(f"The ratio must lie in (0, {MAX_RATIO}], but got {cell.ratio}.")
    if problems := problems or [*run_setting_problems(settings).values()]:
        raise ConfigError(problems)
    config = study.run_config(optimizer, cell, {**start, **named}, seed=seed, fingerprint="")
    config = dataclasses.replace(config, **held_out)
    if problems := run_problems(config):
        raise ConfigError(problems)
    return config


def run_config_of_file(
    path: Path, optimizer: str | None, settings: Mapping[str, Value], seed: int | None
) -> RunConfig:
    """The run that a file describes, but for what is given.

    Args:
        path: TOML or JSON, as ``optbench show --config`` prints it.

    Raises:
        ConfigError: everything that is wrong with the file.
    """
    text = read_user_text(path)
    is_json = path.suffix == ".json"
    try:
        raw = strict_json(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path} cannot be parsed: {error}."]) from None
    problems = table_problems(RunConfig, _with_given(raw, optimizer, settings, seed))
    if not problems and (name := raw["optimizer"]["name"]) in OPTIMIZERS:
        own = raw["optimizer"].get("hyperparameters", {})
        problems = table_problems(hyperparameter_table(name), own, "optimizer.hyperparameters")
    if problems:
        raise ConfigError(located(problems, str(path), text, None if is_json else tomllib.loads))
    return RunConfig.from_dict(raw)


def _with_given(
    raw: Any, optimizer: str | None, settings: Mapping[str, Value], seed: int | None
) -> Any:
    """The tables of a run with what was given over them, as far as they are tables."""
    if not isinstance(raw, dict):
        return raw
    if seed is not None:
        raw["seed"] = seed
    if isinstance(table := raw.setdefault("optimizer", {}), dict):
        if optimizer is not None:
            table["name"] = optimizer
        if isinstance(own := table.setdefault("hyperparameters", {}), dict):
            own.update(settings)
    return raw


def _on_corpus(study: StudyConfig, cell: Cell, corpus: str) -> tuple[StudyConfig, Cell]:
    """The study and the cell on another corpus: only the vocabulary of the model changes."""
    name, size = choose_vocabulary(corpus, cell.model.vocab_size, default_cache_dir())
    model = dataclasses.replace(cell.model, vocab_size=size)
    return dataclasses.replace(study, corpus=name), dataclasses.replace(cell, model=model)
