"""Verbs on the weights of a run: export, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optbench.cli.verbs import (
    CliError,
    console,
    error_console,
    find_record,
    format_option,
    reports_errors,
    store_option,
)

if TYPE_CHECKING:
    from optbench.store.store import RunRecord
    from optbench.training.weights import TrainedModel


@click.command()
@click.argument("run_id", metavar="RUN")
@store_option(None)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The folder to make; one with files in it is refused.",
)
@reports_errors
def export(run_id: str, store: Path, out: Path) -> None:
    """Write the RUN whose id starts like this as a Hugging Face LlamaForCausalLM folder.

    The run must have been trained with --keep-weights ('optbench train' or 'optbench run'). The
    folder holds safetensors, the tokenizer, and the record; nothing but optbench is needed to
    write it.
    """
    from optbench.export.huggingface import export_run

    record, trained = _open_run(store, run_id)
    export_run(record, trained, out)
    opened_by = f"AutoModelForCausalLM.from_pretrained('{out}')"
    click.echo(f"Run {record.run_id} is in {out}: {opened_by} opens it.")


@click.command()
@click.argument("run_id", metavar="RUN")
@store_option(None)
@click.option("--tasks", metavar="A,B", help="Tasks of the harness.  [default: the study's ten]")
@click.option(
    "--task-path",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with task files of your own; all of them, unless --tasks names some.",
)
@click.option("--limit", type=click.IntRange(1), help="Documents of each task.  [default: all]")
@format_option("table", "json")
@reports_errors
def evaluate(
    run_id: str,
    store: Path,
    tasks: str | None,
    task_path: Path | None,
    limit: int | None,
    form: str,
) -> None:
    """Score the RUN whose id starts like this on downstream tasks, with standard errors.

    The run must have been trained with --keep-weights ('optbench train' or 'optbench run'), and
    the lm-evaluation-harness be installed (pip install 'optbench[eval]'). The scores are kept in
    STORE/evaluations.jsonl. They cannot rank optimizers: they are of a single run.
    """
    from optbench.export.evaluation.evaluate import TaskChoice, require_harness
    from optbench.export.evaluation.evaluate import evaluate as evaluate_run
    from optbench.export.evaluation.scores import store_evaluation
    from optbench.training.run import default_device

    require_harness()
    _record, trained = _open_run(store, run_id)
    names = tuple(name.strip() for name in (tasks or "").split(",") if name.strip())
    log = error_console()
    found = evaluate_run(
        trained,
        TaskChoice(names, task_path, limit),
        device=default_device(),
        notify=lambda text: log.print(text, highlight=False, markup=False),
    )
    store_evaluation(store, found)
    if form == "json":
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        from optbench.export.evaluation.table import print_evaluation

        print_evaluation(found, console())


def _open_run(store: Path, start: str) -> tuple[RunRecord, TrainedModel]:
    """The record and the kept weights of the one run whose id starts like this."""
    from optbench.store.store import RunStore
    from optbench.training.weights import load_trained, weights_file

    record = find_record(RunStore.read(store).records, start, store)
    if record.status != "completed":
        reason = record.error.strip().rsplit("\n", 1)[-1]
        raise CliError(
            f"Run {record.run_id} {record.status} ({reason}), so it has no final weights. "
            f"'optbench show --store {store}' lists the runs."
        )
    path = weights_file(store, record.run_id)
    return record, load_trained(path, record.run_config.model, record.run_id)
