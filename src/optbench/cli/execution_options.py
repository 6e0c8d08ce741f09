"""The options of `optbench train` and `optbench run` for how the device is used.

Each is a field of :class:`~optbench.execution.Execution`, but for the place of the checkpoints:
like the folder of the runs, it belongs to one store and is in no study file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, get_args

import click

from optbench.cli.verbs import Finite, renamed_option
from optbench.execution import Execution
from optbench.typed_data import field_types

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def execution_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add the options, and pass on those given as ``execution``, and ``checkpoints``.

    They change no run's identity.
    """
    fields = [f for f in dataclasses.fields(Execution) if not f.metadata.get("internal")]

    @functools.wraps(verb)
    def wrapped(**given: Any) -> None:
        values = {field.name: given.pop(field.name) for field in fields}
        verb(execution={n: v for n, v in values.items() if v is not None}, **given)

    place = click.option(
        "--checkpoint-dir",
        "checkpoints",
        metavar="URL",
        help="A folder or an fsspec URL.  [default: checkpoints, in the folder of the runs]",
    )
    options = [option for field in fields for option in _options(field)]
    with_options: Callable[..., None] = wrapped
    for option in reversed((*options, place, renamed_option("--checkpoints", "--checkpoint-dir"))):
        with_options = option(with_options)
    return with_options


def _options(field: dataclasses.Field[Any]) -> list[Decorator]:
    """The option of a field, and those that answer the name that it had before."""
    kind, name = field_types(Execution)[field.name], field.name.replace("_", "-")
    is_flag, number, default = kind is bool, None, ""
    if not is_flag:
        is_whole = int in (kind, *get_args(kind))
        above_zero = field.metadata.get("above_zero", False)
        number = click.IntRange(1) if is_whole else Finite(0, min_open=above_zero)
        default = "" if field.default is None else f"  [default: {field.default:g}]"
    prefixes = ("--", "--no-") if is_flag else ("--",)
    flags, text = "/".join(prefix + name for prefix in prefixes), field.metadata["help"] + default
    # Click gets no default: what is not given is left to the study file.
    options: list[Decorator] = [click.option(flags, type=number, default=None, help=text)]
    if old := field.metadata.get("before", "").replace("_", "-"):
        options += [renamed_option(p + old, p + name, is_flag=is_flag) for p in prefixes]
    return options
