"""The options of `optbench train` and `optbench run` for how the device is used.

Each is a field of :class:`~optbench.execution_settings.ExecutionSettings`, but for the place of the
checkpoints: like the folder of the runs, it belongs to one store and is in no study file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click

from optbench.cli.verbs import Finite, renamed_option

_OPTIONS = (
    click.option(
        "--micro-batch",
        type=click.IntRange(1),
        help="Sequences forward and backward at once.  [default: the batch; on a GPU, what fits]",
    ),
    click.option(
        "--memory-gb",
        type=Finite(0, min_open=True),
        help="Choose the micro-batch for this much memory.",
    ),
    click.option(
        "--activation-checkpointing/--no-activation-checkpointing",
        default=None,
        help="Keep of each block only its input, and compute the rest again.",
    ),
    click.option("--compile/--no-compile", default=None, help="Fuse the blocks by torch.compile."),
    click.option(
        "--checkpoint-interval",
        type=Finite(0),
        help="Minutes between two checkpoints of a run; 0 = none.  [default: 10]",
    ),
    click.option(
        "--checkpoint-dir",
        "checkpoints",
        metavar="URL",
        help="A folder or an fsspec URL.  [default: checkpoints, in the folder of the runs]",
    ),
    click.option(
        "--devices-per-run",
        type=click.IntRange(1),
        help="Devices of this machine that execute a run together.  [default: 1]",
    ),
)
_RENAMED = (
    renamed_option("--checkpointing", "--activation-checkpointing", is_flag=True),
    renamed_option("--no-checkpointing", "--no-activation-checkpointing", is_flag=True),
    renamed_option("--checkpoint-minutes", "--checkpoint-interval"),
    renamed_option("--checkpoints", "--checkpoint-dir"),
)


def execution_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add the options and pass them on as ``execution`` and ``checkpoints``.

    They change no run's identity.
    """

    @functools.wraps(verb)
    def wrapped(**given: Any) -> None:
        from optbench.execution_settings import ExecutionSettings

        names = [field.name for field in dataclasses.fields(ExecutionSettings)]
        verb(execution=ExecutionSettings(**{name: given.pop(name) for name in names}), **given)

    for option in reversed((*_OPTIONS, *_RENAMED)):
        wrapped = option(wrapped)
    return wrapped
