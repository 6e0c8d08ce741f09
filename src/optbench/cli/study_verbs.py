"""Verbs on a whole study: plan, run, report, explain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optbench.cli.execution_options import execution_options
from optbench.cli.executor_options import executor_options
from optbench.cli.plan_options import allocation_options
from optbench.cli.verbs import Finite, console, format_option, reports_errors, store_option

if TYPE_CHECKING:
    from optbench.executors.choice import ExecutorChoice
    from optbench.study.config import StudyConfig
    from optbench.study.planning.devices import DeviceAllocation

_study_argument = click.argument("study", default="nano")
_smoke_option = click.option(
    "--smoke", is_flag=True, help="The same code with toy models, in a minute or less."
)


@click.command()
@_study_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for records and report.  [default: runs/STUDY]",
)
@_smoke_option
@executor_options
@click.option("--max-runs", type=click.IntRange(1), help="Stop after this many runs in all.")
@click.option("--max-tokens", type=Finite(1), help="Stop after this many tokens in all.")
@click.option("--max-core-hours", type=Finite(0), help="Stop after these hours of runs.")
@click.option(
    "--keep-weights",
    is_flag=True,
    help="Keep the final weights of confirmation runs, in OUT/weights.",
)
@reports_errors
@execution_options
def run(
    study: str,
    out: Path | None,
    smoke: bool,
    executor: ExecutorChoice,
    max_runs: int | None,
    max_tokens: float | None,
    max_core_hours: float | None,
    keep_weights: bool,
    execution: Mapping[str, Any],
    checkpoints: str | None,
) -> None:
    """Tune, compare and report: execute STUDY (a name or a .toml file).

    Interrupt it at any time; the same command goes on where it stopped. The limits count all
    sessions with the study; at a limit, the runs that are going on end first.
    """
    from optbench.cli.run import SessionOptions, run_study
    from optbench.study.sweep import Budget

    budget = Budget(max_runs, max_tokens, max_core_hours)
    config = _read_study(study, smoke)
    run_study(
        config,
        _out(study, out, smoke),
        executor,
        console(),
        SessionOptions(budget, config.execution.overlaid(execution), checkpoints, keep_weights),
    )


@click.command()
@_study_argument
@_smoke_option
@executor_options
@allocation_options
@click.option("--by-cell", is_flag=True, help="Every cell by itself.")
@format_option("table", "json")
@reports_errors
def plan(
    study: str,
    smoke: bool,
    executor: ExecutorChoice,
    allocation: DeviceAllocation | None,
    by_cell: bool,
    form: str,
) -> None:
    """What STUDY will cost here or on a --device: runs, tokens, FLOPs, time. Trains nothing."""
    from optbench.cli.run import plan_study
    from optbench.executors.choice import ExecutorChoice

    if allocation is not None and executor != ExecutorChoice(cores=executor.cores):
        raise click.UsageError(
            "--executor, --workers and the options of Ray are about timing steps on machines that "
            "are available. With --device, --devices is how many runs go on at a time."
        )
    config = _read_study(study, smoke)
    result = plan_study(config, executor, allocation)
    if form == "json":
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        from optbench.cli.printing import print_plan

        print_plan(config, result, console(), by_cell=by_cell)


@click.command()
@store_option(None)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The HTML file.  [default: report.html in the store]",
)
@format_option("table", "json", "markdown")
@reports_errors
def report(store: Path, out: Path | None, form: str) -> None:
    """Rebuild the table and the HTML report from the records alone; trains nothing."""
    from optbench.analysis.summary import summarise
    from optbench.report.cells_table import markdown_cells_table
    from optbench.report.html import write_report
    from optbench.report.summary_json import summary_as_dict
    from optbench.report.text import markdown_table
    from optbench.store.store import RunStore

    records = RunStore.read(store)
    summary = summarise(records)
    path = out or store / "report.html"
    write_report(summary, records, path)
    if form == "json":
        click.echo(json.dumps(summary_as_dict(summary), indent=2))
    elif form == "markdown":
        tables = [markdown_table(summary), markdown_cells_table(summary)]
        click.echo("\n\n".join(table for table in tables if table))
    else:
        from optbench.report.terminal import print_result

        print_result(summary, path, console())


@click.command()
@click.argument("cell")
@click.argument("optimizer")
@store_option(None)
@format_option("text", "json")
@reports_errors
def explain(cell: str, optimizer: str, store: Path, form: str) -> None:
    """Why OPTIMIZER has its hyperparameters in CELL (such as d32-1x): every move, every tie."""
    from optbench.analysis.explanation import explain as explain_tuning
    from optbench.optimizers import OPTIMIZERS
    from optbench.report.explain_text import print_explanation
    from optbench.run_axes import RUN_AXES
    from optbench.store.journal import read_journal
    from optbench.store.store import RunStore

    own = OPTIMIZERS[optimizer].space if optimizer in OPTIMIZERS else {}
    known, axes = RunStore.read(store), {**RUN_AXES, **own}
    found = explain_tuning(read_journal(known.journal), known.records, cell, optimizer, axes)
    if form == "json":
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_explanation(found, console())


def _read_study(study: str, smoke: bool) -> StudyConfig:
    from optbench.study.file import find_study, read_study

    text = find_study(study)
    return read_study(text, smoke=smoke, file=study if Path(study).is_file() else "")


def _out(study: str, out: Path | None, smoke: bool) -> Path:
    return out or Path("runs") / (Path(study).stem + ("-smoke" if smoke else ""))
