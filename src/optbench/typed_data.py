"""Data as JSON and TOML have it, checked against annotations and made into dataclasses.

:func:`fits` answers for a record in microseconds whether every value has the type that its
annotation wants: a truth value is no number, a number with a fraction no whole number, and infinity
and NaN are none at all. What is wrong, and in which words, :mod:`optbench.tables` finds out.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MOST = 2**63 - 1  # of a whole number, as tensors and seeds have it
MOST_FLOAT = sys.float_info.max
Check = Callable[[Any], bool]
_call: Any = operator.call  # of pairs, by `map`


@functools.cache
def field_types(cls: type[Any]) -> dict[str, Any]:
    """The annotation of every field of a dataclass, in their order."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def item_type(kind: Any) -> Any:
    """The annotation of the items of a list, or of the values of a table, else None."""
    if get_origin(kind) in (tuple, list, Sequence):
        return functools.reduce(operator.or_, [one for one in get_args(kind) if one is not ...])
    return get_args(kind)[1] if get_origin(kind) in (dict, Mapping) else None


def is_fixed(kind: Any) -> bool:
    """Whether an annotation is that of a tuple with a type for each of its items."""
    return get_origin(kind) is tuple and Ellipsis not in get_args(kind)


def is_union(kind: Any) -> bool:
    """Whether an annotation allows several types."""
    return get_origin(kind) in (Union, types.UnionType)


@functools.cache
def fits(kind: Any, *, others: bool = False) -> Check:
    """A check whether a value has a type, made once for each.

    Args:
        kind: a dataclass, int, float, bool, str, Any, None, or of these a literal, a tuple, a list,
            a mapping by text, or a union.
        others: tables may have keys that their dataclass does not know.
    """
    if dataclasses.is_dataclass(kind):
        return _table_check(kind, others)
    if get_origin(kind) is Literal:
        choices = frozenset(get_args(kind))
        return lambda value: type(value) is str and value in choices
    if is_union(kind):
        checks = [fits(one, others=others) for one in get_args(kind)]
        return lambda value: any(check(value) for check in checks)
    if is_fixed(kind):
        checks = [fits(one, others=others) for one in get_args(kind)]
        return lambda value: (
            isinstance(value, (list, tuple))
            and len(value) == len(checks)
            and all(map(_call, checks, value))
        )
    if (item := item_type(kind)) is not None:
        check = fits(item, others=others)
        if get_origin(kind) in (dict, Mapping):
            return lambda value: (
                (type(value) is dict and all(type(key) is str for key in value))
                and all(map(check, value.values()))
            )
        return lambda value: isinstance(value, (list, tuple)) and all(map(check, value))
    return _scalar_check(kind)


def _scalar_check(kind: Any) -> Check:
    if kind is Any:
        return lambda value: True
    if kind is int:
        return lambda value: type(value) is int and abs(value) <= MOST
    if kind is float:
        return lambda value: (
            ((type(value) is float and math.isfinite(value)) or type(value) is int)
            and abs(value) <= MOST_FLOAT
        )
    return lambda value: type(value) is kind


def _table_check(cls: Any, others: bool) -> Check:
    hints = field_types(cls)
    checks = {name: fits(kind, others=others) for name, kind in hints.items()}
    required = {field.name for field in dataclasses.fields(cls) if is_required(field)}

    def check(value: Any) -> bool:
        if type(value) is not dict or not required <= value.keys():
            return False
        if others:
            return all(test(value[name]) for name, test in checks.items() if name in value)
        return all(name in checks and checks[name](item) for name, item in value.items())

    return check


@functools.cache
def builder(kind: Any) -> Callable[[Any], Any]:
    """A function that makes of data that fits what an annotation wants, made once for each.

    Tables become dataclasses and their lists tuples; keys that a dataclass does not know are left
    out.
    """
    if dataclasses.is_dataclass(kind):
        made: Any = kind
        builders = {name: builder(hint) for name, hint in field_types(made).items()}
        return lambda raw: made(
            **{name: build(raw[name]) for name, build in builders.items() if name in raw}
        )
    if is_union(kind):
        built = [one for one in get_args(kind) if item_type(one) or dataclasses.is_dataclass(one)]
        build = builder(built[0]) if built else _as_it_is
        return lambda raw: None if raw is None else build(raw)
    if (item := item_type(kind)) is not None:
        build_item = builder(item)
        if get_origin(kind) is tuple:
            return lambda raw: tuple(map(build_item, raw))
        if get_origin(kind) in (dict, Mapping) and build_item is not _as_it_is:
            return lambda raw: {key: build_item(value) for key, value in raw.items()}
    return _as_it_is


def _as_it_is(raw: Any) -> Any:
    return raw
