"""The options of `optbench train` and `optbench run` that say how the device is used.

Each is a field of :class:`~optbench.execution_settings.ExecutionSettings`, but for the place of the
checkpoints: like the folder of the runs, it belongs to one store and is in no study file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click

from optbench.cli.verbs import Finite

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
        "--checkpointing/--no-checkpointing",
        default=None,
        help="Compute activations again instead of keeping them.",
    ),
    click.option("--compile/--no-compile", default=None, help="Fuse the blocks by torch.compile."),
    click.option(
        "--checkpoint-minutes",
        type=Finite(0),
        help="Keep a run's state this often; 0 = never.  [default: 10]",
    ),
    click.option(
        "--checkpoints",
        metavar="URL",
        help="Where: a folder or an fsspec URL.  [default: checkpoints, in the folder of the runs]",
    ),
    click.option(
        "--devices-per-run",
        type=click.IntRange(1),
        help="Devices of this machine that carry out a run together.  [default: 1]",
    ),
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

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
