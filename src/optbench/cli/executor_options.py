"""The options of `optbench run` and `optbench plan` for where runs are executed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from optbench.cli.verbs import Finite, available_workers
from optbench.executors.choice import ExecutorChoice
from optbench.executors.registry import EXECUTORS

_OPTIONS = (
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Runs at a time.  [default: the cores / devices per run; with Ray, what fits]",
    ),
    click.option(
        "--executor",
        "kind",
        type=click.Choice(list(EXECUTORS)),
        default="process",
        show_default=True,
        help="Processes of this machine, Ray, or one run after another.",
    ),
    click.option(
        "--address",
        help="Of a Ray cluster, or `auto` for the one that runs here.  [default: a Ray of its own]",
    ),
    click.option(
        "--cpus-per-run",
        type=Finite(0),
        help="That Ray keeps for a run.  [default: one for each device of a run]",
    ),
    click.option(
        "--gpus-per-run",
        type=Finite(0),
        help="Likewise; 0.5 shares one.  [default: one for each device of a run, if there are any]",
    ),
)


def executor_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add the options and pass them on as ``executor``, an ``ExecutorChoice``."""

    @functools.wraps(verb)
    def wrapped(
        *,
        workers: int | None,
        kind: str,
        address: str | None,
        cpus_per_run: float | None,
        gpus_per_run: float | None,
        **others: Any,
    ) -> None:
        taken = EXECUTORS[kind].options
        special = {
            "address": address,
            "cpus_per_run": cpus_per_run,
            "gpus_per_run": gpus_per_run,
        }
        wrong = [name for name, value in special.items() if value is not None and name not in taken]
        if wrong:
            given = " and ".join("--" + name.replace("_", "-") for name in wrong)
            takers = [k for k, entry in EXECUTORS.items() if {*wrong} & {*entry.options}]
            raise click.UsageError(
                f"{given} can only be given with --executor {' or '.join(takers)}."
            )
        if "workers" not in taken and workers not in (None, 1):
            raise click.UsageError(
                f"--executor {kind} has one worker, so --workers {workers} cannot be."
            )
        if cpus_per_run == 0 and not gpus_per_run:
            raise click.UsageError("--cpus-per-run 0 needs --gpus-per-run: a run takes something.")
        executor = ExecutorChoice(
            kind=kind,
            workers=workers,
            cores=available_workers(None),
            address=address,
            cpus_per_run=cpus_per_run,
            gpus_per_run=gpus_per_run,
        )
        verb(executor=executor, **others)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
