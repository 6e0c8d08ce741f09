"""Recipe files: a TOML file → a checked, frozen MixtureRecipe, or all of its problems at once.

The schema, with an example, is in ``docs/data.md``.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

from optbench.config import ConfigError
from optbench.data.mixture_recipe import (
    Format,
    HubDataset,
    MixtureRecipe,
    TextSource,
    whole_weights,
)
from optbench.files.text_files import read_user_text
from optbench.space import did_you_mean
from optbench.tables import Problem, located, shown, sound_part, table_problems

MAX_PERIOD = 100_000
MIN_VOCAB_SIZE = 257  # every byte, and the end of a document
MOST_DIGITS = 12  # of a weight, before or behind its point
NAME = re.compile(r"[a-z0-9][a-z0-9_.]*(-[a-z0-9_.]+)*")
HELD_OUT = ("validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """One of ``[[sources]]``, or the table of a held-out split (see `TextSource`)."""

    name: str = ""
    weight: Decimal | int = 1
    files: tuple[str, ...] = ()
    hub: HubDataset | None = None
    format: Format | None = None
    field: str = "text"
    separator: str = ""
    documents: int = 0
    tokens: int = 0
    side_by_side: int = 8

    def source(self, name: str) -> TextSource:
        """The source, under a name."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values |= {"name": name, "weight": Fraction(self.weight)}
        return TextSource(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeTables:
    """A whole recipe file (see `MixtureRecipe`)."""

    name: str = ""
    sources: tuple[SourceTable, ...]
    validation: SourceTable | None = None
    test: SourceTable | None = None
    tokenizer: str = ""
    vocab_size: int = 0
    end_of_document: str = ""
    tokens: int = 0
    validation_share: float = 0.02
    test_share: float = 0.02
    shard_tokens: int = 2**26


def shipped_recipes() -> dict[str, str]:
    """Text of every recipe that comes with the package, by name."""
    folder = resources.files("optbench.data") / "recipes"
    files = (file for file in folder.iterdir() if file.name.endswith(".toml"))
    return {f.name.removesuffix(".toml"): f.read_text(encoding="utf-8") for f in files}


def find_recipe(name_or_path: str) -> MixtureRecipe:
    """The recipe of a ``.toml`` file, or one that comes with the package.

    Raises:
        ConfigError: there is no such recipe, or it has problems.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise ConfigError([f"There is no recipe file {path}."])
        return read_recipe(read_user_text(path), path.parent, str(path))
    shipped = shipped_recipes()
    if name_or_path not in shipped:
        known = ["nano", *sorted(shipped)]
        raise ConfigError(
            [did_you_mean(name_or_path, known, what="recipe") + " Or give a .toml file."]
        )
    return read_recipe(shipped[name_or_path], Path())


def read_recipe(text: str, base: Path, file: str = "") -> MixtureRecipe:
    """Parse and check a recipe whose relative paths start at ``base``.

    Args:
        file: its name, which problems then begin with, together with their line.

    Raises:
        ConfigError: every problem found, each with the value received and the remedy.
    """
    # Weights are the decimals that were written, of which whole proportions are made.
    parse = functools.partial(tomllib.loads, parse_float=Decimal)
    try:
        raw = parse(text)
    except (ValueError, RecursionError) as error:
        of = f" {file}" if file else ""
        raise ConfigError([f"The recipe{of} is not valid TOML: {error}."]) from None
    problems: list[str] = []
    if isinstance(raw.get("sources"), Mapping):
        problems.append("Write [[sources]] instead of [sources]: there can be several.")
    elif not isinstance(raw.get("sources"), list) or not raw["sources"]:
        problems.append("A recipe needs at least one [[sources]] table, but has none.")
    if problems:
        raw["sources"] = []
    wrong = table_problems(RecipeTables, raw)
    paths = {problem.path for problem in wrong}
    # What is right by itself is checked against the rest all the same.
    sound = sound_part(RecipeTables, raw, paths)
    problems += [*wrong, *(p for p in _rules(sound, raw, paths) if p.path not in paths)]
    if problems:
        raise ConfigError(located(problems, file, text, parse))
    return _recipe(sound, base)


def _rules(tables: RecipeTables, raw: Mapping[str, Any], wrong: Collection[str]) -> list[Problem]:
    """What does not go together, or lies outside of what is possible.

    Args:
        tables: with the defaults of what is wrong by itself.
        raw: what the file says.
        wrong: paths of what is.
    """
    found: list[Problem] = []
    named: list[tuple[str, str]] = []
    splits = {split: table for split in HELD_OUT if (table := getattr(tables, split))}
    sources = {f"sources[{i}]": table for i, table in enumerate(tables.sources)}
    for where, table in {**sources, **splits}.items():
        # Of several sources one that is no table at all has moved the others.
        given = raw[where] if where in HELD_OUT else raw["sources"][int(where[8:-1])]
        if not isinstance(given, Mapping):
            return found
        found += _source_rules(where, table, given, wrong)
        named.append((f"{where}.name", table.name or where))
    for name, count in Counter(name for _, name in named).items():
        if count > 1:
            path = next(path for path, one in reversed(named) if one == name)
            told = f"Source names must differ, but '{name}' comes {count} times."
            found.append(Problem(path, told))
    found += _whole_rules(tables, wrong)
    return [*found, *_held_out_rules(tables, raw, splits)]


def _whole_rules(tables: RecipeTables, wrong: Collection[str]) -> Iterator[Problem]:
    if not NAME.fullmatch(tables.name):
        told = f"name must be a lower-case name such as 'my-mix', but got {shown(tables.name)}."
        yield Problem("name", told)
    if tables.name == "nano":
        yield Problem("name", "name must not be 'nano': that corpus comes with the package.")
    known = "tokenizer" not in wrong and "vocab_size" not in wrong
    if known and bool(tables.tokenizer) == bool(tables.vocab_size):
        yield Problem(
            "vocab_size" if tables.vocab_size else "tokenizer",
            "A recipe needs either `tokenizer` (llama3 or a file) or `vocab_size` (train one on "
            "the text), and not both.",
        )
    if tables.vocab_size and tables.vocab_size < MIN_VOCAB_SIZE:
        told = f"vocab_size must be at least {MIN_VOCAB_SIZE}, but got {tables.vocab_size}."
        yield Problem("vocab_size", told)
    for key, least in (("shard_tokens", 1), ("tokens", 0)):
        if (value := getattr(tables, key)) < least:
            yield Problem(key, f"{key} must be at least {least}, but got {value}.")
    weights = [Fraction(table.weight) for table in tables.sources if _weight_fits(table.weight)]
    if weights and (parts := sum(whole_weights(weights))) > MAX_PERIOD:
        told = (
            f"The weights are whole numbers only in {parts} parts, more than {MAX_PERIOD}; write "
            f"them with fewer digits."
        )
        yield Problem("sources", told)


def _held_out_rules(
    tables: RecipeTables, raw: Mapping[str, Any], splits: Collection[str]
) -> Iterator[Problem]:
    if "test" in splits and "validation" not in splits:
        yield Problem("test", "A [test] table needs a [validation] table beside it.")
    for split in HELD_OUT:
        key = f"{split}_share"
        if (tables.validation or tables.test) and key in raw:
            yield Problem(key, f"{key} does not go with a [validation] table; remove one.")
        if not 0 < (share := float(getattr(tables, key))) < 0.5:
            told = (
                f"{key} must lie between 0 and 0.5, but got {share}. Every run is judged on the "
                f"{split} split; for one of your own choice, add a [{split}] table instead."
            )
            yield Problem(key, told)


def _source_rules(
    where: str, table: SourceTable, raw: Mapping[str, Any], wrong: Collection[str]
) -> Iterator[Problem]:
    if "name" not in raw and where not in HELD_OUT:
        told = f"{where}.name is missing: a lower-case name such as 'web'."
        yield Problem(f"{where}.name", told)
    elif "name" in raw and not NAME.fullmatch(table.name):
        told = f"must be a lower-case name such as 'web', but got {shown(table.name)}."
        yield Problem(f"{where}.name", f"{where}.name {told}")
    known = f"{where}.files" not in wrong and f"{where}.hub" not in wrong
    if known and bool(raw.get("files")) == ("hub" in raw):
        yield Problem(where, f"{where} needs either `files` or `hub`, and not both.")
    hub = table.hub or HubDataset(dataset="none")
    texts = {"files": table.files, "hub.files": hub.files, "hub.dataset": (hub.dataset,)}
    for path, given in texts.items():
        if not all(given):
            yield Problem(f"{where}.{path}", f"{where}.{path} must not be empty, but got ''.")
    yield from _number_rules(where, table, raw)


def _number_rules(where: str, table: SourceTable, raw: Mapping[str, Any]) -> Iterator[Problem]:
    path = f"{where}.weight"
    if where in HELD_OUT and "weight" in raw:
        told = "has no meaning: held-out text is one source and is read whole. Remove it."
        yield Problem(path, f"{path} {told}")
    elif not _weight_fits(table.weight):
        told = (
            f"{path} must be a number above 0 of at most {MOST_DIGITS} digits before and behind "
            f"its point, but got {table.weight}. To leave a source out, remove its table."
        )
        yield Problem(path, told)
    for key, least in (("documents", 0), ("tokens", 0), ("side_by_side", 1)):
        if (value := getattr(table, key)) < least:
            told = f"{where}.{key} must be at least {least}, but got {value}."
            yield Problem(f"{where}.{key}", told)


def _weight_fits(weight: Decimal | int) -> bool:
    """Whether a weight is above zero and has not so many digits that its fraction is endless."""
    return weight > 0 and abs(Decimal(weight).adjusted()) <= MOST_DIGITS


def _recipe(tables: RecipeTables, base: Path) -> MixtureRecipe:
    values: dict[str, Any] = {f.name: getattr(tables, f.name) for f in dataclasses.fields(tables)}
    for split in HELD_OUT:
        values[split] = table.source(table.name or split) if (table := values[split]) else None
        values[f"{split}_share"] = float(values[f"{split}_share"])
    values["sources"] = tuple(table.source(table.name) for table in tables.sources)
    return MixtureRecipe(base=base, **values)
