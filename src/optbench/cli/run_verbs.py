"""Verbs on single runs: train, show, bench."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optbench.cli.execution_options import execution_options
from optbench.cli.verbs import (
    CliError,
    Finite,
    console,
    error_console,
    find_record,
    format_option,
    reports_errors,
    store_option,
)
from optbench.errors import excerpt
from optbench.execution import DEFAULT_EXECUTION

if TYPE_CHECKING:
    from optbench.config import Precision
    from optbench.store.store import RunRecord


@click.command()
@click.argument("config_file", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--optimizer", default=None, help="Optimizer, such as adamw or muon.")
@click.option("--size", default=None, help="Model size of the ladder.  [default: the study's]")
@click.option(
    "--ratio", type=Finite(), default=None, help="Chinchilla ratio; 1 = 20 tokens a parameter."
)
@click.option("--corpus", help="A prepared corpus; the model gets its vocabulary.  [default: nano]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A hyperparameter or setting of the run, repeatable.",
)
@click.option("--seed", type=int, default=None, help="Seed of initialisation and data order.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the model's products.  [default: float32]",
)
@click.option("--keep-weights", is_flag=True, help="Keep the final weights, in STORE/weights.")
@store_option("runs/single")
@reports_errors
@execution_options
def train(
    config_file: Path | None,
    optimizer: str | None,
    size: str | None,
    ratio: float | None,
    corpus: str | None,
    settings: tuple[str, ...],
    seed: int | None,
    precision: Precision | None,
    keep_weights: bool,
    store: Path,
    execution: Mapping[str, Any],
    checkpoints: str | None,
) -> None:
    """Train one run, from a CONFIG_FILE (.toml or .json, see `show --config`) or from flags."""
    from optbench.cli.train import train_one
    from optbench.study.single_run import run_config_of_file, single_run_config

    if config_file is not None:
        flags = (("--size", size), ("--ratio", ratio), ("--corpus", corpus))
        if clash := [name for name, value in flags if value is not None]:
            raise click.UsageError(f"{' and '.join(clash)} cannot change what {config_file} says.")
        config = run_config_of_file(config_file, optimizer, _settings(settings), seed)
    else:
        config = single_run_config(
            "adamw" if optimizer is None else optimizer,
            size=size,
            ratio=ratio,
            settings=_settings(settings),
            seed=seed or 0,
            corpus=corpus,
        )
    if precision is not None:
        config = dataclasses.replace(config, precision=precision)
    record = train_one(
        config,
        store,
        console(),
        keep_weights=keep_weights,
        execution=DEFAULT_EXECUTION.overlaid(execution),
        checkpoints=checkpoints,
    )
    from optbench.cli.printing import print_record

    print_record(record, console())
    if record.status == "failed":
        raise CliError(record.error)


@click.command()
@click.option("--size", default="d64", show_default=True, help="Model size of the ladder.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--optimizer", "optimizers", multiple=True, help="Only this one, repeatable.  [default: all]"
)
@format_option("table", "json")
@reports_errors
def bench(size: str, batch_size: int, optimizers: tuple[str, ...], form: str) -> None:
    """What each optimizer costs on this device: time, share of a training step, memory."""
    from optbench.cli.train import bench_optimizers

    costs = bench_optimizers(size, batch_size, optimizers, error_console())
    if form == "json":
        click.echo(json.dumps([dataclasses.asdict(cost) for cost in costs], indent=2))
    else:
        from optbench.cli.printing import print_costs

        print_costs(costs, console())


@click.command()
@click.argument("run_id", required=False)
@store_option(None)
@format_option("table", "json")
@click.option(
    "--config", "only_config", is_flag=True, help="Only the run's configuration, as JSON."
)
@reports_errors
def show(run_id: str | None, store: Path, form: str, only_config: bool) -> None:
    """List the runs of a store, or print the one whose id starts with RUN_ID."""
    from optbench.store.store import RunStore

    records = RunStore.read(store).records
    if run_id is None:
        if only_config:
            raise click.UsageError("--config needs a RUN_ID.")
        _list_records(list(records.values()), form)
        return
    record = find_record(records, run_id, store)
    if only_config:
        click.echo(json.dumps(record.config, indent=2))
    elif form == "json":
        click.echo(json.dumps(json.loads(record.to_json()), indent=2))
    else:
        from optbench.cli.printing import print_record

        print_record(record, console())
        _print_text_and_weights(record, store)


def _print_text_and_weights(record: RunRecord, store: Path) -> None:
    """What a record does not hold: how often its text was read, and where its weights are."""
    from optbench.data.shards import default_cache_dir
    from optbench.study.repetition_warning import epochs_text, known_epochs

    config, lines = record.run_config, []
    if (epochs := known_epochs(config, default_cache_dir())) is not None:
        lines.append(f"text         {config.data.corpus}, read: {epochs_text(epochs)}")
    else:
        lines.append(f"text         {config.data.corpus}, not prepared here with this fingerprint")
    weights = store / "weights" / f"{record.run_id}.safetensors"
    if weights.exists():
        lines.append(f"weights      {weights}")
    console().print("\n".join(lines), highlight=False, markup=False)


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is a TOML scalar."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        try:
            if not separator or not name:
                raise ValueError
            parsed = tomllib.loads(f"value = {value}")
            if len(parsed) > 1:  # there was a line break, and another key behind it
                raise ValueError
            values[name.strip()] = parsed["value"]
        except (ValueError, RecursionError):
            raise click.UsageError(
                f'--set takes NAME=VALUE with a number, true, false or "text", but got '
                f"{excerpt(pair)}."
            ) from None
    return values


def _list_records(records: list[RunRecord], form: str) -> None:
    from optbench.cli.printing import print_records

    if form == "json":
        click.echo(json.dumps([json.loads(record.to_json()) for record in records], indent=2))
    else:
        print_records(records, console())
