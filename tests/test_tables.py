"""Files that users write: a value of any kind in the place of any other is refused by its path."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.config import ConfigError, RunConfig
from optbench.data.recipe_file import read_recipe
from optbench.space import Value
from optbench.store.store import RunRecord, StoreError
from optbench.study.file import read_study
from optbench.study.single_run import run_config_of_file
from optbench.study.tables import StudyTables
from optbench.tables import line_of, sound_part, table_problems
from optbench.typed_data import builder, fits
from tests.builders import TINY_CONFIG, document, record_of

STUDY: dict[str, Any] = {
    "name": "tiny",
    "title": "A study",
    "corpus": "nano",
    "baseline": "adamw",
    "cell": {"size": "mine", "ratio": 1.0},
    "baseline_curve": {"size": "d32", "ratios": [0.5], "cells": ["d32 4x"], "retune": ["lr"]},
    "phases": {
        "tune": ["d32 2x", "d48 1x"],
        "retune": ["d48 2x"],
        "predict": ["d64 1x"],
        "noise": ["d48 1x"],
    },
    "models": {
        "mine": {
            "num_layers": 2,
            "d_model": 32,
            "d_ff": 128,
            "num_heads": 2,
            "vocab_size": 1024,
            "seq_len": 64,
            "rope_theta": 10_000.0,
        }
    },
    "run": {
        "batch_size": 16,
        "clip_norm": 1.0,
        "clip_scope": "all",
        "precision": "float32",
        "attention_scope": "document",
        "warmup_frac": 0.1,
        "warmup_steps": 0,
        "decay_frac": 0.9,
        "decay_shape": "cosine",
        "final_frac": 0.0,
        "eval_tokens": 65_536,
        "test_tokens": 262_144,
        "num_evals": 4,
    },
    "protocol": {
        "tuning_seed": 0,
        "noise_seeds": 4,
        "confirm_seeds": 6,
        "tie_floor": 0.003,
        "tie_sigmas": 1.0,
        "max_runs": 40,
        "grow_grids": True,
    },
    "optimizers": {
        "adamw": {"start": {"lr": 0.01}, "space": {"lr": [0.005, 0.01, 0.02]}},
        "muon": {
            "preset": "authors",
            "cells": ["d32 2x"],
            "run": {"decay_shape": "linear", "batch_size": 8},
            "start": {"lr": 0.016, "nesterov": True, "ns_steps": 5, "ns_dtype": "auto"},
            "space": {"lr": [0.008, 0.016], "momentum": [0.9, 0.95], "batch_size": [8, 16]},
        },
    },
    "sinks": {
        "tensorboard": {"close_timeout_s": 10.0},
        "wandb": {"project": "p", "entity": "e", "mode": "offline"},
        "trackio": {"project": "p", "space_id": ""},
    },
    "execution": {"devices_per_run": 1, "checkpoint_interval": 5, "compile": False},
}
RECIPE: dict[str, Any] = {
    "name": "mine",
    "vocab_size": 512,
    "tokens": 0,
    "shard_tokens": 1000,
    "validation_share": 0.02,
    "test_share": 0.02,
    "end_of_document": "",
    "sources": [
        {
            "name": "web",
            "weight": 3.8,
            "files": ["a.txt"],
            "format": "text",
            "field": "text",
            "separator": "",
            "documents": 0,
            "tokens": 0,
            "side_by_side": 8,
        },
        {"name": "code", "hub": {"dataset": "a/b", "revision": "main", "files": ["*.gz"]}},
    ],
}
RUN = {**TINY_CONFIG.to_dict(), "clip_scope": "all", "precision": "float32"}
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=100)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), 10**30]),
    st.floats(),
    st.sampled_from(["", "no", "true", "16", "1.5", "adamw", "d32 2x", "a/b", "../x", "nan"]),
    TEXT,
    st.dates(),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2)
)


def leaves(data: Any, path: str = "") -> Iterator[str]:
    """The path of every table, list and value."""
    pairs = data.items() if isinstance(data, dict) else ()
    for key, value in pairs:
        inner = f"{path}.{key}" if path else key
        yield inner
        yield from leaves(value, inner)
    for i, value in enumerate(data if isinstance(data, list) else ()):
        yield f"{path}[{i}]"
        yield from leaves(value, f"{path}[{i}]")


def steps(path: str) -> list[str | int]:
    parts = path.replace("[", ".[").split(".")
    return [int(part[1:-1]) if part.startswith("[") else part for part in parts]


def changed(data: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    found: Any = copy.deepcopy(dict(data))
    *way, last = steps(path)
    inner = found
    for step in way:
        inner = inner[step]
    inner[last] = value
    return found


def is_named(path: str, problems: list[str]) -> bool:
    """Whether a problem names a path, the value around it, or something within it."""
    ways = [path[:end] for end in range(1, len(path) + 1) if f"{path}."[end] in ".["]
    return any(way in problem for way in ways for problem in problems)


def test_the_examples_are_right() -> None:
    assert read_study(document(STUDY)).name == "tiny"
    assert read_recipe(document(RECIPE), Path()).name == "mine"
    assert RunConfig.from_dict(RUN) == TINY_CONFIG


def problems_of(read: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a file is read as, or its problems."""
    try:
        return read(), []
    except ConfigError as error:
        return None, error.problems


@settings(max_examples=300)
@given(st.sampled_from(list(leaves(STUDY))), VALUES)
def test_any_value_in_a_study_is_refused_by_its_path_or_taken_as_it_is(
    path: str, value: Any
) -> None:
    text = document(changed(STUDY, path, value))
    study, problems = problems_of(lambda: read_study(text, file="s.toml"))
    if study is None:
        # What is right by itself may be refused for what it says of other tables.
        assert is_named(path, problems) or fits(StudyTables)(tomllib.loads(text)), problems
        assert all(problem.startswith("s.toml") for problem in problems)
        assert all(len(problem) < 1500 for problem in problems)
        return
    table, _, key = path.partition(".")
    if table in ("run", "protocol") and key:
        taken = getattr(getattr(study, table), key)
        assert (taken, isinstance(taken, bool)) == (value, isinstance(value, bool))
    assert fits(StudyTables)(tomllib.loads(text))


@settings(max_examples=200)
@given(st.sampled_from(list(leaves(RECIPE))), VALUES)
def test_any_value_in_a_recipe_is_refused_by_its_path_or_taken_as_it_is(
    path: str, value: Any
) -> None:
    text = document(changed(RECIPE, path, value))
    recipe, problems = problems_of(lambda: read_recipe(text, Path(), "r.toml"))
    if recipe is None:
        assert is_named(path, problems), (path, problems)
    elif path in ("tokens", "shard_tokens", "vocab_size", "end_of_document", "name"):
        assert (getattr(recipe, path), type(getattr(recipe, path))) == (value, type(value))


@settings(max_examples=200)
@given(st.sampled_from(list(leaves(RUN))), st.none() | VALUES)
def test_any_value_in_a_run_is_refused_by_its_path_or_taken_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, path: str, value: Any
) -> None:
    file = tmp_path_factory.getbasetemp() / "run.json"
    file.write_text(json.dumps(changed(RUN, path, value), default=str))
    config, problems = problems_of(lambda: run_config_of_file(file, None, {}, None))
    if config is None:
        assert is_named(path, problems), (path, problems)
        return
    written = json.loads(file.read_text())
    assert fits(RunConfig)(written)
    assert dataclasses.asdict(config) == dataclasses.asdict(TINY_CONFIG) | {
        key: dataclasses.asdict(TINY_CONFIG)[key] | item if isinstance(item, dict) else item
        for key, item in written.items()
    }


RECORD = json.loads(record_of(TINY_CONFIG, loss=3.0).to_json())


@settings(max_examples=300)
@given(
    st.sampled_from([int, float, bool, str, Value, dict[str, int], tuple[float, ...]]),
    st.none() | VALUES,
)
def test_the_cheap_check_and_the_sentences_agree_on_a_value(kind: Any, value: Any) -> None:
    assert fits(kind)(value) == (not table_problems(kind, value))


@settings(max_examples=300)
@given(st.data(), st.sampled_from([(RunConfig, RUN), (StudyTables, STUDY)]))
def test_the_cheap_check_and_the_sentences_agree_on_tables(
    data: st.DataObject, kind: tuple[Any, dict[str, Any]]
) -> None:
    path = data.draw(st.sampled_from(list(leaves(kind[1]))))
    raw = changed(kind[1], path, data.draw(VALUES))
    problems = table_problems(kind[0], raw)
    assert fits(kind[0])(raw) == (not problems)
    if problems:
        sound_part(kind[0], raw, {problem.path for problem in problems})
    else:
        assert sound_part(kind[0], raw, ()) == builder(kind[0])(raw)


@given(
    st.sampled_from(list(leaves(RECORD))),
    st.none() | VALUES,
)
def test_a_record_that_was_edited_is_read_as_it_is_or_refused(path: str, value: Any) -> None:
    raw = changed(RECORD, path, value)
    try:
        record = RunRecord.from_dict(raw)
        config = record.run_config
    except StoreError:
        return
    assert config == RunConfig.from_dict(raw["config"])
    assert isinstance(record.num_tokens, int)
    assert record.val_loss is None or math.isfinite(record.val_loss)


LINES = """# A comment.
name = "x" # [run]
text = \"\"\"
[run]
batch_size = 3
\"\"\"

[[sources]]
name = "a"

# of the second
[[sources]]
name = "b"
files = [
  "one",  # x = 1
  "two",
]
hub = { dataset = "d", files = ["f"] }

[models."1.2b"]
d_ff = 3
[run]

batch_size = 16
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("name", 2),
        ("text", 3),
        ("run.batch_size", 24),
        ("run.missing", 22),
        ("sources[0].name", 9),
        ("sources[1].name", 13),
        ("sources[1]", 12),
        ("sources[1].files[1]", 14),
        ("sources[1].hub.dataset", 18),
        ("models.1.2b.d_ff", 21),
        ("nothing", None),
    ],
)
def test_the_line_of_a_path_is_that_on_which_its_value_begins(path: str, line: int | None) -> None:
    assert line_of(LINES, path, tomllib.loads) == line
