"""The options of `optbench train` and `optbench run` that say how the device is used."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

_OPTIONS = (
    click.option(
        "--micro-batch",
        type=click.IntRange(1),
        help="Sequences forward and backward at once.  [default: the batch; on a GPU, what fits]",
    ),
    click.option(
        "--memory-gb",
        type=click.FloatRange(0, min_open=True),
        help="Choose the micro-batch for this much memory.",
    ),
    click.option(
        "--checkpointing", is_flag=True, help="Compute activations again instead of keeping them."
    ),
    click.option("--compile", "compiled", is_flag=True, help="Fuse the blocks by torch.compile."),
    click.option(
        "--checkpoint-minutes",
        type=click.FloatRange(0),
        default=10.0,
        show_default=True,
        help="Keep a run's state this often; 0 = never.",
    ),
    click.option(
        "--checkpoints",
        metavar="URL",
        help="Where: a folder or an fsspec URL.  [default: checkpoints, in the folder of the runs]",
    ),
    click.option(
        "--devices-per-run",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Devices of this machine that carry out a run together.",
    ),
)


def execution_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add the options and pass them on as ``execution`` and ``checkpoints``.

    They change no run's identity.
    """

    @functools.wraps(verb)
    def wrapped(
        *,
        micro_batch: int | None,
        memory_gb: float | None,
        checkpointing: bool,
        compiled: bool,
        checkpoint_minutes: float,
        devices_per_run: int,
        **others: Any,
    ) -> None:
        from optbench.execution import Execution

        execution = Execution(
            micro_batch_size=micro_batch,
            memory_bytes=None if memory_gb is None else round(memory_gb * 1e9),
            checkpointing=checkpointing,
            compiled=compiled,
            checkpoint_minutes=checkpoint_minutes or None,
            devices=devices_per_run,
        )
        verb(execution=execution, **others)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
