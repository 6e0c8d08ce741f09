"""Tables of files that users write, checked by pydantic; what is wrong with them as sentences.

The dataclasses of a table are its schema. Values are taken as they were written: a number in quotes
is no number, a truth value neither, and a number with a fraction no whole number.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import functools
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, NotRequired, TypeVar, get_args, get_origin

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from optbench.errors import MOST_CHARACTERS, ConfigError, excerpt, shortened
from optbench.space import did_you_mean
from optbench.typed_data import (
    MOST,
    builder,
    field_types,
    is_fixed,
    is_required,
    is_union,
    item_type,
)

T = TypeVar("T")


class Problem(str):
    """A sentence about a value of a file, which knows the value's path."""

    path: str

    def __new__(cls, path: str, sentence: str) -> Problem:
        """A sentence about the value of a path."""
        problem = super().__new__(cls, sentence)
        problem.path = path
        return problem


_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_WHOLE = Annotated[int, Field(ge=-MOST, le=MOST)]
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "greater_than_equal": "a whole number below 2^63",
    "less_than_equal": "a whole number below 2^63",
    "float_type": "a number",
    "finite_number": "a finite number",
    "is_instance_of": "a number",  # of a decimal, the only class that is no type of JSON
    "decimal_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_unicode": "text of whole characters",
    "list_type": "a list",
    "too_short": "a longer list",
    "too_long": "a shorter list",
    "dict_type": "a table of keys and values",
    "none_required": "left out",
}


def read_table(kind: type[T], raw: object, path: str = "") -> T:
    """A dataclass from the table of a file.

    Args:
        path: of the table in its file, such as ``models.mine``.

    Raises:
        ConfigError: every problem found, each with the path, the value received and the remedy.
    """
    if problems := table_problems(kind, raw, path):
        raise ConfigError(problems)
    return builder(kind)(raw)


def table_problems(kind: Any, raw: object, path: str = "") -> list[Problem]:
    """What is wrong with a value of a file; empty if it fits its annotation.

    Args:
        kind: a dataclass, or another annotation that :func:`~optbench.typed_data.fits` knows.
    """
    try:
        _adapter(kind).validate_python(raw)
    except ValidationError as error:
        return _sentences(kind, error.errors(include_url=False), path)
    return []


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    schema = _schema(kind)
    return TypeAdapter(schema, config=None if dataclasses.is_dataclass(kind) else _STRICT)


def _schema(kind: Any) -> Any:
    """The annotation of the data that an annotation's value is built from."""
    if dataclasses.is_dataclass(kind):
        hints = field_types(kind)  # pyright: ignore[reportArgumentType]
        schemas: dict[str, Any] = {}
        for field in _keys(kind):
            schema = _schema(hints[field.name])
            schemas[field.name] = schema if is_required(field) else NotRequired[schema]
        # Of the data, so a dictionary; made at run time, which no type checker follows.
        table: Any = TypedDict("table", schemas)  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType, reportCallIssue]
        table.__pydantic_config__ = _STRICT
        return table
    if is_union(kind):
        return functools.reduce(lambda a, b: a | b, map(_schema, get_args(kind)))
    if (item := item_type(kind)) is not None:
        is_table = get_origin(kind) in (dict, Mapping)
        if is_table:
            return dict[str, _schema(item)]
        size = len(get_args(kind)) if is_fixed(kind) else None
        return Annotated[list[_schema(item)], Field(min_length=size, max_length=size)]
    return _WHOLE if kind is int else kind


def _keys(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass that a file may have."""
    return [f for f in dataclasses.fields(kind) if not f.metadata.get("internal")]


def _sentences(kind: Any, errors: Iterable[ErrorDetails], path: str) -> list[Problem]:
    """One for each value, however many of the types that it may have were tried."""
    by_path: dict[str, tuple[list[ErrorDetails], list[str], str]] = {}
    for error in errors:
        where, siblings, now = _place(kind, error["loc"], path)
        by_path.setdefault(where, ([], siblings, now))[0].append(error)
    return [
        Problem(at, f"{at} is now {now}." if now else _sentence(at, of, known))
        for at, (of, known, now) in by_path.items()
    ]


def _place(kind: Any, steps: Iterable[int | str], path: str) -> tuple[str, list[str], str]:
    """The path to a value as a user would write it, and the keys that its table may have.

    Returns:
        The path, the keys, and the present name of a key that was called otherwise before.
    """
    known: list[str] = []
    now = ""
    for step in steps:
        if is_union(kind):
            options = [one for one in get_args(kind) if dataclasses.is_dataclass(one)]
            kind = options[0] if options else None
        if dataclasses.is_dataclass(kind):
            hints = field_types(kind)  # pyright: ignore[reportArgumentType]
            prefix = f"{path}." if path else ""
            keys = {prefix + f.name: f.metadata.get("before") for f in _keys(kind)}
            now = "".join(name for name, before in keys.items() if before == step)
            known, kind = list(keys), hints.get(str(step))
        elif kind is None or item_type(kind) is None:
            continue  # which of several types was tried
        else:
            kind = item_type(kind)
        path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}" if path else step
    return path, known, now


def _sentence(path: str, errors: list[ErrorDetails], known: list[str]) -> str:
    kind, value = errors[0]["type"], errors[0]["input"]
    if kind == "extra_forbidden":
        return did_you_mean(path, known, what="key")
    if kind == "missing":
        return f"Missing key '{path}'."
    if kind == "literal_error":
        return choice_problem(path, value, _literal_choices(errors[0]))
    wanted = list(dict.fromkeys(_WANTED.get(e["type"], "another value") for e in errors))
    if "a finite number" in wanted:
        wanted = ["a finite number"]
    elif "a number" in wanted and "a whole number" in wanted:
        wanted.remove("a whole number")
    sentence = f"{path or 'The file'} must be {_listed(wanted)}, but got {shown(value)}."
    return sentence + _remedy(wanted[0], value)


def _remedy(wanted: str, value: object) -> str:
    """What to write instead of a text, where that is clear."""
    if not isinstance(value, str) or len(value) > MOST_CHARACTERS:
        return ""
    if wanted == "a list":
        return f' Write ["{value}"].'
    if wanted == "true or false":
        return " Write it without quotes."
    return " Write it out, without quotes." if wanted in ("a whole number", "a number") else ""


def _literal_choices(error: ErrorDetails) -> list[str]:
    """The texts that pydantic lists as ``'a', 'b' or 'c'``."""
    expected = error.get("ctx", {})["expected"].replace(" or ", ", ")
    return [choice.strip("'") for choice in expected.split(", ")]


def choice_problem(path: str, value: object, choices: list[str]) -> str:
    """The sentence for a value that is none of the words that it can be."""
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    return f"{path} must be {_listed([repr(c) for c in choices])}, but got {shown(value)}.{guess}"


def _listed(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def shown(value: object) -> str:
    """A received value as a user may recognise it, cut to a line's length."""
    as_written = isinstance(value, (datetime.date, datetime.time, Decimal))
    return shortened(str(value)) if as_written else excerpt(value)


def sound_part(kind: Any, raw: Any, wrong: Collection[str], path: str = "") -> Any:
    """What of a value of a file is right by itself, built, so that it can be checked for the rest.

    Args:
        kind: its annotation.
        raw: parsed data.
        wrong: paths of the values that are refused; they have their defaults instead.

    Returns:
        None where a value without a default is refused or missing.
    """
    if is_union(kind):
        return sound_part(get_args(kind)[0], raw, wrong, path)
    if dataclasses.is_dataclass(kind):
        made: Any = kind
        prefix = f"{path}." if path else ""
        values = {
            name: value
            for name, hint in field_types(made).items()
            if name in raw and f"{prefix}{name}" not in wrong
            if (value := sound_part(hint, raw[name], wrong, f"{prefix}{name}")) is not None
        }
        required = {field.name for field in dataclasses.fields(made) if is_required(field)}
        return made(**values) if required <= values.keys() else None
    if (item := item_type(kind)) is None:
        return raw
    if isinstance(raw, Mapping):
        pairs = {k: (v, f"{path}.{k}") for k, v in raw.items()}
        built = {
            k: sound_part(item, v, wrong, at) for k, (v, at) in pairs.items() if at not in wrong
        }
        return {key: value for key, value in built.items() if value is not None}
    places = [f"{path}[{i}]" for i in range(len(raw))]
    items = [
        sound_part(item, v, wrong, at) for v, at in zip(raw, places, strict=True) if at not in wrong
    ]
    return tuple(value for value in items if value is not None)


# Where a path is in a file --------------------------------------------------------------------


def located(
    problems: Iterable[str],
    file: str,
    text: str,
    parse: Callable[[str], Mapping[str, Any]] | None = tomllib.loads,
) -> list[str]:
    """The problems with their file, and their line where they know their path.

    Args:
        file: its name; the problems stay as they are without one.
        text: of the file.
        parse: as for :func:`line_of`; None where no line is looked for.
    """
    if not file:
        return list(problems)
    found: list[str] = []
    for problem in problems:
        line = None
        if isinstance(problem, Problem) and parse is not None:
            line = line_of(text, problem.path, parse)
        found.append(f"{file}{'' if line is None else f', line {line}'}: {problem}")
    return found


def line_of(text: str, path: str, parse: Callable[[str], Mapping[str, Any]]) -> int | None:
    """The line of a file on which the value of a path, or the table that lacks it, begins.

    It is the first line behind the longest beginning of the file that can be parsed and lacks the
    value, so strings, comments and tables within tables need no parser of our own.

    Args:
        text: a file that can be parsed.
        path: such as ``sources[1].hub.files``.
        parse: a format whose files may end after any value, such as TOML; others have no lines.
    """
    lines = text.splitlines(keepends=True)
    wanted = reached(parse(text), path)
    if not wanted:
        return None
    before, behind = 0, len(lines)  # beginnings that lack the value, and that have it
    while behind - before > 1:
        middle = (before + behind) // 2
        # A line within a value ends no beginning: the next that does stands for it, else one above.
        for end in (*range(middle, behind), *range(middle - 1, before, -1)):
            try:
                has = reached(parse("".join(lines[:end])), path) >= wanted
            except ValueError:
                continue
            before, behind = (before, end) if has else (end, behind)
            break
        else:
            break
    return before + 1


def reached(data: object, path: str) -> int:
    """How many characters of a path lead to something in parsed data."""
    rest = path
    while rest:
        if isinstance(data, Mapping):
            if not (keys := [k for k in data if f"{rest}.".startswith((f"{k}.", f"{k}["))]):
                break
            step = max(keys, key=len)
            data, rest = data[step], rest[len(step) :].removeprefix(".")
        elif isinstance(data, list) and rest.startswith("["):
            index, _, behind = rest[1:].partition("]")
            if int(index) >= len(data):
                break
            data, rest = data[int(index)], behind.removeprefix(".")
        else:
            break
    return len(path) - len(rest)
