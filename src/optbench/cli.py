"""The command line: verbs that parse, call and print.

torch and the plotting code are imported inside the verbs that need them, so ``optbench --help``
answers at once.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from optbench import __version__
from optbench.plan_options import rental_options

if TYPE_CHECKING:
    from rich.console import Console

    from optbench.config import RunConfig
    from optbench.devices import Rental
    from optbench.store import RunRecord
    from optbench.study_config import StudyConfig

LOG_WIDTH = 160
P = ParamSpec("P")
R = TypeVar("R")

EPILOG = """\b
Examples:
  optbench run nano               tune and compare four optimizers, 12 minutes on 2 cores
  optbench plan nano              what that will cost on this machine
  optbench show --store runs/nano list its runs
"""


class _Failure(click.ClickException):
    """Prints the message of one of our own exceptions, without a traceback."""

    exit_code = 2

    def format_message(self) -> str:
        return self.message if "\n" not in self.message else "\n" + self.message


def _reports_errors(verb: Callable[P, R]) -> Callable[P, R]:
    """Turn the exceptions that are meant for users into messages and exit codes."""

    @functools.wraps(verb)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        from optbench.config import UserError

        try:
            return verb(*args, **kwargs)
        except UserError as error:
            raise _Failure(str(error)) from None

    return wrapped


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="optbench")
def main() -> None:
    """How much faster is an optimizer really than a well-tuned AdamW, with error bars?"""


_study_argument = click.argument("study", default="nano")
_workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Runs at a time, one thread each.  [default: the number of cores]",
)
_smoke_option = click.option(
    "--smoke", is_flag=True, help="The same code on a tiny budget, within a minute."
)


def _store_option(default: str | None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    return click.option(
        "--store",
        type=click.Path(path_type=Path, file_okay=False),
        default=default,
        required=default is None,
        help="Folder with the records.",
        show_default=default is not None,
    )


@main.command()
@_study_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for records and report.  [default: runs/STUDY]",
)
@_smoke_option
@_workers_option
@click.option("--max-runs", type=click.IntRange(1), help="Stop after this many runs in all.")
@click.option("--max-tokens", type=click.FloatRange(1), help="Stop after this many tokens in all.")
@click.option("--max-core-hours", type=click.FloatRange(0), help="Stop after these hours of runs.")
@_reports_errors
def run(
    study: str,
    out: Path | None,
    smoke: bool,
    workers: int | None,
    max_runs: int | None,
    max_tokens: float | None,
    max_core_hours: float | None,
) -> None:
    """Tune, compare and report: carry out STUDY (a name or a .toml file).

    Interrupt it at any time; the same command goes on where it stopped. The limits count all
    sittings with the study; at a limit, the runs that are going on end first.
    """
    from optbench.session import run_study
    from optbench.sweep import Budget

    budget = Budget(max_runs, max_tokens, max_core_hours)
    config = _read_study(study, smoke)
    run_study(config, _out(study, out, smoke), _workers(workers), _console(), budget)


@main.command()
@_study_argument
@_smoke_option
@_workers_option
@rental_options
@click.option("--by-cell", is_flag=True, help="Every cell by itself.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
@_reports_errors
def plan(
    study: str, smoke: bool, workers: int | None, rental: Rental | None, by_cell: bool, form: str
) -> None:
    """What STUDY will cost here or on a --device: runs, tokens, FLOPs, time. Trains nothing."""
    from optbench.session import plan_study

    config = _read_study(study, smoke)
    result = plan_study(config, _workers(workers), rental)
    if form == "json":
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        from optbench.printing import print_plan

        print_plan(config, result, _console(), by_cell=by_cell)


@main.command()
@click.argument("config_file", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--optimizer", default=None, help="Optimizer, such as adamw or muon.")
@click.option("--size", default=None, help="Model size of the ladder.  [default: the study's]")
@click.option(
    "--ratio", type=float, default=None, help="Chinchilla ratio; 1 = 20 tokens a parameter."
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A hyperparameter, repeatable."
)
@click.option("--seed", type=int, default=None, help="Seed of initialisation and data order.")
@_store_option("runs/single")
@_reports_errors
def train(
    config_file: Path | None,
    optimizer: str | None,
    size: str | None,
    ratio: float | None,
    settings: tuple[str, ...],
    seed: int | None,
    store: Path,
) -> None:
    """Train one run, from a CONFIG_FILE (.toml or .json, see `show --config`) or from flags."""
    from optbench.session import single_run_config, train_one

    if config_file is not None:
        if clash := [n for n, v in (("--size", size), ("--ratio", ratio)) if v is not None]:
            raise click.UsageError(f"{' and '.join(clash)} cannot change what {config_file} says.")
        config = _run_config_from(config_file, optimizer, settings, seed)
    else:
        config = single_run_config(
            optimizer or "adamw",
            size=size,
            ratio=ratio,
            settings=_settings(settings),
            seed=seed or 0,
        )
    record = train_one(config, store, _console())
    from optbench.printing import print_record

    print_record(record, _console())
    if record.status == "failed":
        raise _Failure(record.error)


@main.command()
@click.option("--size", default="d64", show_default=True, help="Model size of the ladder.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--optimizer", "optimizers", multiple=True, help="Only this one, repeatable.  [default: all]"
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
@_reports_errors
def bench(size: str, batch_size: int, optimizers: tuple[str, ...], form: str) -> None:
    """What each optimizer costs on this device: time, share of a training step, memory."""
    import dataclasses

    from optbench.session import bench_optimizers

    costs = bench_optimizers(size, batch_size, optimizers, _error_console())
    if form == "json":
        click.echo(json.dumps([dataclasses.asdict(cost) for cost in costs], indent=2))
    else:
        from optbench.printing import print_costs

        print_costs(costs, _console())


@main.command()
@click.argument("run_id", required=False)
@_store_option(None)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
@click.option(
    "--config", "only_config", is_flag=True, help="Only the run's configuration, as JSON."
)
@_reports_errors
def show(run_id: str | None, store: Path, form: str, only_config: bool) -> None:
    """List the runs of a store, or print the one whose id starts with RUN_ID."""
    from optbench.store import RunStore

    records = RunStore.read(store).records
    if run_id is None:
        if only_config:
            raise click.UsageError("--config needs a RUN_ID.")
        _list_records(list(records.values()), form)
        return
    matches = [record for key, record in records.items() if key.startswith(run_id)]
    if len(matches) != 1:
        problem = "No run" if not matches else f"{len(matches)} runs"
        raise _Failure(
            f"{problem} in {store} with an id starting with '{run_id}'; see `optbench show`."
        )
    if only_config:
        click.echo(json.dumps(matches[0].config, indent=2))
    elif form == "json":
        click.echo(json.dumps(json.loads(matches[0].to_json()), indent=2))
    else:
        from optbench.printing import print_record

        print_record(matches[0], _console())


@main.command()
@_store_option(None)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The HTML file.  [default: report.html in the store]",
)
@click.option("--format", "form", type=click.Choice(["table", "json", "markdown"]), default="table")
@_reports_errors
def report(store: Path, out: Path | None, form: str) -> None:
    """Rebuild the table and the HTML report from the records alone; trains nothing."""
    from optbench.analysis.summary import summarise
    from optbench.report.cells_table import markdown_cells_table
    from optbench.report.html import write_report
    from optbench.report.text import markdown_table
    from optbench.store import RunStore

    records = RunStore.read(store)
    summary = summarise(records)
    path = out or store / "report.html"
    write_report(summary, records, path)
    if form == "json":
        click.echo(json.dumps(summary.to_dict(), indent=2))
    elif form == "markdown":
        tables = [markdown_table(summary), markdown_cells_table(summary)]
        click.echo("\n\n".join(table for table in tables if table))
    else:
        from optbench.report.terminal import print_result

        print_result(summary, path, _console())


@main.command()
@click.argument("cell")
@click.argument("optimizer")
@_store_option(None)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@_reports_errors
def explain(cell: str, optimizer: str, store: Path, form: str) -> None:
    """Why OPTIMIZER has its hyperparameters in CELL (such as d32-1x): every move, every tie."""
    from optbench.analysis.explanation import explain as explain_tuning
    from optbench.analysis.journal import read_journal
    from optbench.optimizers import OPTIMIZERS
    from optbench.report.explain_text import print_explanation
    from optbench.store import RunStore
    from optbench.study_config import RUN_AXES

    own = OPTIMIZERS[optimizer].space if optimizer in OPTIMIZERS else {}
    known, axes = RunStore.read(store), {**RUN_AXES, **own}
    found = explain_tuning(read_journal(known.journal), known.records, cell, optimizer, axes)
    if form == "json":
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_explanation(found, _console())


def _console() -> Console:
    from rich.console import Console

    # A log file has no width of its own; tables get enough for their columns.
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def _error_console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _workers(given: int | None) -> int:
    """As asked for, else the cores that this process may use; macOS knows only their number."""
    if given is not None:
        return given
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _read_study(study: str, smoke: bool) -> StudyConfig:
    from optbench.study_file import find_study, read_study

    return read_study(find_study(study), smoke=smoke)


def _out(study: str, out: Path | None, smoke: bool) -> Path:
    return out or Path("runs") / (Path(study).stem + ("-smoke" if smoke else ""))


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is a TOML scalar."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        try:
            if not separator or not name:
                raise ValueError
            values[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except ValueError:
            raise click.UsageError(
                f"--set takes NAME=VALUE with a number, true, false or \"text\", but got '{pair}'."
            ) from None
    return values


def _run_config_from(
    path: Path, optimizer: str | None, settings: tuple[str, ...], seed: int | None
) -> RunConfig:
    from optbench.config import ConfigError, RunConfig

    text = path.read_text(encoding="utf-8")
    try:
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ConfigError([f"{path} cannot be parsed: {error}."]) from None
    if seed is not None:
        raw["seed"] = seed
    table = raw.setdefault("optimizer", {})
    if optimizer is not None:
        table["name"] = optimizer
    table["hyperparameters"] = {**table.get("hyperparameters", {}), **_settings(settings)}
    return RunConfig.from_dict(raw)


def _list_records(records: list[RunRecord], form: str) -> None:
    from optbench.printing import print_records

    if form == "json":
        click.echo(json.dumps([json.loads(record.to_json()) for record in records], indent=2))
    else:
        print_records(records, _console())


if __name__ == "__main__":
    main()
