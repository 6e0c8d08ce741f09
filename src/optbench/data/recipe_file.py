"""Recipe files: a TOML file → a checked, frozen MixtureRecipe, or all of its problems at once.

The schema, with an example, is in ``docs/data.md``.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

from optbench.config import ConfigError
from optbench.data.mixture_recipe import (
    FORMATS,
    HubDataset,
    MixtureRecipe,
    TextSource,
    whole_weights,
)
from optbench.space import did_you_mean
from optbench.text_files import read_user_text

MAX_PERIOD = 100_000
NAME = re.compile(r"[a-z0-9][a-z0-9_.]*(-[a-z0-9_.]+)*")
_KINDS = {str: "a text", int: "a whole number", float: "a number", list: "a list of texts"}


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
        return read_recipe(read_user_text(path), path.parent)
    shipped = shipped_recipes()
    if name_or_path not in shipped:
        known = ["nano", *sorted(shipped)]
        raise ConfigError(
            [did_you_mean(name_or_path, known, what="recipe") + " Or give a .toml file."]
        )
    return read_recipe(shipped[name_or_path], Path())


def read_recipe(text: str, base: Path) -> MixtureRecipe:
    """Parse and check a recipe whose relative paths start at ``base``.

    Raises:
        ConfigError: every problem found, each with the value received and the remedy.
    """
    try:
        raw = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"The recipe is not valid TOML: {error}."]) from None
    reader = _Reader()
    recipe = reader.recipe(raw, base)
    if reader.problems or recipe is None:
        raise ConfigError(reader.problems)
    return recipe


@dataclass(slots=True)
class _Reader:
    """Reads the tables of a recipe and collects their problems."""

    problems: list[str] = field(default_factory=list)

    def recipe(self, raw: Mapping[str, Any], base: Path) -> MixtureRecipe | None:
        self._refuse_unknown("", raw, [f.name for f in dataclasses.fields(MixtureRecipe)][:-1])
        tables = raw.get("sources", [])
        if isinstance(tables, Mapping):
            self.problems.append("Write [[sources]] instead of [sources]: there can be several.")
            tables = []
        elif not isinstance(tables, list) or not tables:
            self.problems.append("A recipe needs at least one [[sources]] table, but has none.")
            tables = []
        sources = [self._source(f"sources[{i}]", table) for i, table in enumerate(tables)]
        held_out = {
            split: self._held_out(split, raw[split])
            for split in ("validation", "test")
            if isinstance(raw.get(split), Mapping)
        }
        values = {
            "name": self._get("", raw, "name", str, ""),
            "tokenizer": self._get("", raw, "tokenizer", str, ""),
            "vocab_size": self._get("", raw, "vocab_size", int, 0),
            "end_of_document": self._get("", raw, "end_of_document", str, ""),
            "tokens": self._get("", raw, "tokens", int, 0),
            "shard_tokens": self._get("", raw, "shard_tokens", int, 2**26),
            "validation_share": self._get("", raw, "validation_share", float, 0.02),
            "test_share": self._get("", raw, "test_share", float, 0.02),
        }
        self._check_whole(raw, values, sources, held_out)
        if self.problems:
            return None
        return MixtureRecipe(
            sources=tuple(source for source in sources if source),
            validation=held_out.get("validation"),
            test=held_out.get("test"),
            base=base,
            **values,
        )

    def _held_out(self, split: str, raw: Mapping[str, Any]) -> TextSource | None:
        if "weight" in raw:
            self.problems.append(
                f"`{split}.weight` has no meaning: held-out text is one source and is read whole. "
                f"Remove it."
            )
        return self._source(split, {"name": split, **raw})

    def _check_whole(
        self,
        raw: Mapping[str, Any],
        values: Mapping[str, Any],
        sources: Sequence[TextSource | None],
        held_out: Mapping[str, TextSource | None],
    ) -> None:
        if not NAME.fullmatch(values["name"]):
            self.problems.append(
                f"`name` must be a lower-case name such as 'my-mix', but got '{values['name']}'."
            )
        if values["name"] == "nano":
            self.problems.append("`name` must not be 'nano': that corpus comes with the package.")
        if bool(values["tokenizer"]) == bool(values["vocab_size"]):
            self.problems.append(
                "A recipe needs either `tokenizer` (llama3 or a file) or `vocab_size` (train one "
                "on the text), and not both."
            )
        if values["shard_tokens"] < 1:
            self.problems.append("`shard_tokens` must be at least 1.")
        self._check_held_out(raw, values, held_out)
        found = [source for source in (*sources, *held_out.values()) if source]
        for name, count in Counter(source.name for source in found).items():
            if count > 1:
                self.problems.append(f"Source names must differ, but '{name}' comes {count} times.")
        weights = [source.weight for source in sources if source]
        if weights and min(weights) > 0 and sum(whole_weights(weights)) > MAX_PERIOD:
            self.problems.append(
                f"The weights are whole numbers only in {sum(whole_weights(weights))} parts, more "
                f"than {MAX_PERIOD}; write them with fewer digits."
            )

    def _check_held_out(
        self,
        raw: Mapping[str, Any],
        values: Mapping[str, Any],
        held_out: Mapping[str, TextSource | None],
    ) -> None:
        if "test" in held_out and "validation" not in held_out:
            self.problems.append("A [test] table needs a [validation] table beside it.")
        for split in ("validation", "test"):
            if split in raw and split not in held_out:
                self.problems.append(f"`{split}` must be a table like one of [[sources]].")
            key = f"{split}_share"
            if held_out and key in raw:
                self.problems.append(f"`{key}` does not go with a [validation] table; remove one.")
            if not 0 < values[key] < 0.5:
                self.problems.append(
                    f"`{key}` must lie between 0 and 0.5, but got {values[key]}. Every run is "
                    f"judged on the {split} split; for one of your own choice, add a [{split}] "
                    f"table instead."
                )

    def _source(self, where: str, raw: object) -> TextSource | None:
        if not isinstance(raw, Mapping):
            self.problems.append(f"`{where}` must be a table, but got {raw!r}.")
            return None
        before = len(self.problems)
        self._refuse_unknown(where, raw, [f.name for f in dataclasses.fields(TextSource)])
        get = functools.partial(self._get, where, raw)
        values: dict[str, Any] = {
            "name": get("name", str, ""),
            "files": self._strings(where, raw, "files"),
            "field": get("field", str, "text"),
            "separator": get("separator", str, ""),
            "documents": get("documents", int, 0),
            "tokens": get("tokens", int, 0),
            "side_by_side": get("side_by_side", int, 8),
        }
        weight = self._weight(where, raw)
        hub = self._hub(f"{where}.hub", raw["hub"]) if "hub" in raw else None
        self._check_source(where, raw, values)
        if len(self.problems) > before:
            return None
        return TextSource(weight=weight, hub=hub, format=raw.get("format"), **values)

    def _check_source(self, where: str, raw: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        if "name" not in raw and where not in ("validation", "test"):
            self.problems.append(f"`{where}.name` is missing: a lower-case name such as 'web'.")
        elif not NAME.fullmatch(values["name"]):
            self.problems.append(
                f"`{where}.name` must be a lower-case name such as 'web', but got "
                f"'{values['name']}'."
            )
        if bool(raw.get("files")) == ("hub" in raw):
            self.problems.append(f"`{where}` needs either `files` or `hub`, and not both.")
        if "format" in raw and raw["format"] not in FORMATS:
            self.problems.append(did_you_mean(str(raw["format"]), FORMATS, what="format"))
        for key, least in (("documents", 0), ("tokens", 0), ("side_by_side", 1)):
            if values[key] < least:
                self.problems.append(
                    f"`{where}.{key}` must be at least {least}, but got {values[key]}."
                )

    def _weight(self, where: str, raw: Mapping[str, Any]) -> Fraction:
        value = raw.get("weight", 1)
        number = isinstance(value, int | Decimal) and not isinstance(value, bool)
        if number and Decimal(value).is_finite() and value > 0:
            return Fraction(value)
        self.problems.append(
            f"`{where}.weight` must be a number above 0, but got {value!s}. To leave a source out, "
            f"remove its table."
        )
        return Fraction(1)

    def _hub(self, where: str, raw: object) -> HubDataset | None:
        if not isinstance(raw, Mapping):
            self.problems.append(f"`{where}` must be a table, but got {raw!r}.")
            return None
        self._refuse_unknown(where, raw, [f.name for f in dataclasses.fields(HubDataset)])
        dataset = self._get(where, raw, "dataset", str, "")
        if not dataset:
            self.problems.append(f"`{where}.dataset` is missing: owner/name, or a folder.")
        return HubDataset(
            dataset=dataset,
            revision=self._get(where, raw, "revision", str, "main"),
            config=self._get(where, raw, "config", str, ""),
            split=self._get(where, raw, "split", str, "train"),
            files=self._strings(where, raw, "files"),
        )

    def _get(self, where: str, raw: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
        value = raw.get(key, default)
        if isinstance(value, Decimal) or (kind is float and type(value) is int):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            path = f"{where}.{key}" if where else key
            self.problems.append(f"`{path}` must be {_KINDS[kind]}, but got {value!r}.")
            if kind is list and isinstance(value, str):
                self.problems[-1] += f' Write ["{value}"].'
            if kind is int and isinstance(value, float | str):
                self.problems[-1] += " Write it out, such as 3_000_000."
            return default
        return value

    def _strings(self, where: str, raw: Mapping[str, Any], key: str) -> tuple[str, ...]:
        values = self._get(where, raw, key, list, [])
        if not all(isinstance(value, str) and value for value in values):
            self.problems.append(f"`{where}.{key}` must be {_KINDS[list]}, but got {values!r}.")
        return tuple(values)

    def _refuse_unknown(self, where: str, raw: Mapping[str, Any], known: Sequence[str]) -> None:
        prefix = f"{where}." if where else ""
        names = [f"{prefix}{name}" for name in known]
        self.problems += [
            did_you_mean(f"{prefix}{key}", names, what="key") for key in raw if key not in known
        ]
