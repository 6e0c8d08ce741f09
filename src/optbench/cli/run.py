"""One session with a study: prepare the corpus, plan, run, summarise, report.

Everything between the command line and the study: it owns the workers and the open store, and
prints on the terminal what happens.
"""

from __future__ import annotations

import datetime
import functools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from optbench.analysis.summary import summarise
from optbench.checkpoints.root import CheckpointRoot
from optbench.cli.printing import print_text
from optbench.config import ConfigError, UserError
from optbench.data.document_shards import MixtureManifest
from optbench.data.shards import CorpusManifest, corpus_dir, default_cache_dir
from optbench.execution import DEFAULT_EXECUTION, Execution
from optbench.executors.choice import ExecutorChoice
from optbench.executors.failures import last_lines
from optbench.executors.processes import Executor
from optbench.executors.result_spool import run_or_load
from optbench.export.trackers.study_sinks import StudySinks
from optbench.report.html import write_report
from optbench.report.terminal import print_result
from optbench.store.journal import entries_of
from optbench.store.journal_entries import (
    PlanEntry,
    SessionEndEntry,
    SessionEntry,
    TimingEntry,
    cell_entry,
)
from optbench.store.store import RunRecord, RunStore, check_folder
from optbench.study.config import StudyConfig, smallest_batch
from optbench.study.kept_weights import (
    keeping_weights,
    kept_weights_message,
    missing_weights_message,
    prepare_to_keep,
    without_weights,
)
from optbench.study.planning.devices import DeviceAllocation
from optbench.study.planning.plan import (
    Plan,
    make_plan,
    plan_for,
    refuse_long_measurements,
    untimed_plan,
)
from optbench.study.planning.planned_runs import PlannedRuns, planned_runs
from optbench.study.preflight import check_corpus, prepared_corpus, require_corpus
from optbench.study.progress import Kind, StudyProgress
from optbench.study.study import Study
from optbench.study.sweep import Budget, BudgetSpentError, Job, RunError, Sweep
from optbench.training.bench import measure_interleaved
from optbench.training.run import device_problems, environment, run
from optbench.units import format_seconds

NO_LIMIT = Budget()
INTERRUPTED = 130  # the shell's exit code for Ctrl-C


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What one session with a study may spend, and how it executes runs.

    Args:
        budget: of all sessions together.
        execution: how the devices are used.
        checkpoints: where the runs keep theirs, a folder or an fsspec URL; None = a folder in the
            study's.
        keep_weights: keep the final weights of confirmation runs, in the study's folder.
    """

    budget: Budget = NO_LIMIT
    execution: Execution = DEFAULT_EXECUTION
    checkpoints: str | None = None
    keep_weights: bool = False


def run_study(
    config: StudyConfig,
    out: Path,
    executor: ExecutorChoice,
    console: Console,
    options: SessionOptions,
) -> None:
    """Carry out a study in folder ``out``, or go on with it, then print and write its report.

    Args:
        options: what it may spend, and how.

    Raises:
        CheckpointError: no checkpoint can be kept there.
        DataError: the study's corpus cannot be prepared.
        ConfigError: the corpus is too small for the study's runs, or there are more devices per run
            than GPUs, than are kept for one, or than sequences in the study's smallest batch.
        ClusterError: no workers can be had from Ray.
        WeightsError: there is no room for the weights.
        StoreError: the folder belongs to another study or another process.
        SystemExit: interrupted (130), or runs failed twice (1), after the report of what there is;
            everything finished is kept.
    """
    failed = False
    require_corpus(config.corpus, config.tuned_cell.model.vocab_size)
    problems = device_problems(options.execution, smallest_batch(config))
    if problems := problems + executor.device_problems(options.execution.devices_per_run):
        raise ConfigError(problems)
    check_folder(out)
    place = CheckpointRoot.of(out, options.checkpoints)
    manifest = prepared_corpus(config.corpus, config.tuned_cell.model.vocab_size, console)
    check_corpus(manifest, [kind.example for kind in planned_runs(config)], console)
    with RunStore.open(out, functools.partial(print_text, console)) as store:
        place.discard_finished(store)
        study = Study(config, store, manifest.fingerprint)
        study.claim_store()
        try:
            if options.keep_weights:
                _announce_weights(study, console)
            with executor.opened(options.execution.devices_per_run) as workers:
                _train(study, workers, manifest, console, options, place)
        except KeyboardInterrupt:
            console.print(
                f"\nInterrupted. {store.num_finished} finished runs are kept in {out}; the same "
                f"command goes on from there."
            )
            raise SystemExit(INTERRUPTED) from None
        except BudgetSpentError as error:
            print_text(console, str(error))
        except RunError as error:
            print_text(console, str(error))
            failed = True
        summary = summarise(store)
        write_report(summary, store, out / "report.html")
        print_result(summary, out / "report.html", console)
        if options.keep_weights:
            console.print(kept_weights_message(study.winners(), out), markup=False, highlight=False)
    if failed:
        raise SystemExit(1)


def _announce_weights(study: Study, console: Console) -> None:
    """How many weights there will be, and which runs that are there already lack theirs."""
    store, seeds = study.store, study.config.protocol.held_out_seeds
    sentences = [prepare_to_keep(store.directory, planned_runs(study.config))]
    if lacking := without_weights(store.records.values(), store.directory, seeds):
        sentences.append(missing_weights_message(lacking, store.directory))
    print_text(console, "\n".join(sentences))


def _train(
    study: Study,
    executor: Executor,
    manifest: CorpusManifest | MixtureManifest,
    console: Console,
    options: SessionOptions,
    checkpoints: CheckpointRoot,
) -> None:
    """Plan, then execute what is not in the store yet; the journal gets the wall time."""
    store, config = study.store, study.config
    started, started_at = time.monotonic(), _now()
    planned = planned_runs(config, study.fingerprint)
    plan = _plan_totals(study, planned, executor, console)
    workers = executor.num_workers
    seconds = plan.seconds * plan.workers / workers  # it may have been made with others
    kept = f" {count} runs are there already." if (count := store.num_finished) else ""
    time_needed = f", {format_seconds(seconds)} on {workers} workers" if seconds else ""
    console.print(
        f"Study '{config.name}' in {store.directory}: about {plan.runs} runs, "
        f"{plan.tokens / 1e6:.0f}M tokens{time_needed}.{kept}",
        highlight=False,
    )
    store.note(SessionEntry(started_at, workers, environment()))
    axes = {
        name: {axis: found.values for axis, found in search.space.items()}
        for name, search in config.optimizers.items()
    }
    directory = corpus_dir(manifest.corpus, manifest.vocab_size, default_cache_dir())
    expected: Counter[Kind] = Counter()
    for kind in planned:
        expected[kind.optimizer, kind.cell.num_tokens] += kind.expected
    observer = StudyProgress(console, expected, seconds, axes, config.tuned_cell.num_tokens)
    try:
        with _sinks(study, console) as sinks, observer:
            run_here = functools.partial(
                run,
                corpus_directory=directory.resolve(),
                execution=options.execution,
                checkpoints=checkpoints.root,
            )
            train: Job = run_here
            if options.keep_weights:
                seeds = config.protocol.held_out_seeds
                train = keeping_weights(run_here, store.directory, seeds)
            job = functools.partial(run_or_load, train, store.directory.resolve(), checkpoints)

            def on_stored(record: RunRecord) -> None:
                checkpoints.discard(record)
                sinks.take(record)

            study.run(Sweep(store, executor, job, observer, options.budget, on_stored))
        _time_winners(study, executor, console)
    finally:
        wall_s = time.monotonic() - started
        store.note(SessionEndEntry(started_at, wall_s, runs_trained=observer.runs_trained))


def _sinks(study: Study, console: Console) -> StudySinks:
    """The sinks of the study file; they are given what they lack of the store at once."""
    store = study.store
    return StudySinks(
        study.config.sinks,
        study=study.config.name,
        cells=study.config.cells,
        directory=store.directory,
        records=store.records,
        finished=[run_id for run_id in store.records if store.has_finished(run_id)],
        notify=lambda line: console.print(line, markup=False, highlight=False),
    )


def _time_winners(study: Study, executor: Executor, console: Console) -> None:
    """Measure the winners' training steps side by side, once per study.

    The runs themselves were timed too, but at different times of a machine that others use. Where
    it cannot be done (the winners are in memory all at once), the study is none the worse for it.
    """
    if entries_of(TimingEntry, study.store.journal):
        return
    winners = study.winners()
    try:
        times = executor.submit(measure_interleaved, list(winners.values())).result()
    except Exception as error:  # of a worker: any class
        print_text(
            console,
            f"The winners' steps could not be timed side by side ({_message(error)}), so seconds "
            f"are those of the runs, each at a time of its own. The same command tries again.",
        )
        return
    study.store.note(
        TimingEntry(
            cell=cell_entry(study.config.tuned_cell),
            device=executor.submit(environment).result()["device"],
            s_per_token=dict(zip(winners, times, strict=True)),
        )
    )


def _plan_totals(
    study: Study, planned: Sequence[PlannedRuns], executor: Executor, console: Console
) -> PlanEntry:
    """The plan from when the study was started first, or a new measurement.

    Where steps cannot be timed, on one device as they are for a plan, the time is unknown (0).
    """
    if kept := entries_of(PlanEntry, study.store.journal):
        return kept[0]
    console.print("Timing training steps for the plan, for less than a minute.")
    try:
        plan = make_plan(planned, executor)
    except UserError:
        raise
    except Exception as error:  # of a worker: any class
        print_text(
            console,
            f"The steps could not be timed ({_message(error)}), so how long the study takes is "
            f"not known beforehand.",
        )
        return untimed_plan(planned, executor.num_workers).totals()
    if plan.estimated:
        print_text(
            console,
            f"Timing all steps would take too long now; part of those of "
            f"{', '.join(plan.estimated)} are estimated from FLOPs.",
        )
    totals = plan.totals()
    study.store.note(totals)
    return totals


def _message(error: Exception) -> str:
    """The last line of a worker's error; before that there may be its whole traceback."""
    return " ".join(last_lines(str(error), 1)).rstrip(".") or type(error).__name__


def plan_study(
    config: StudyConfig, executor: ExecutorChoice, allocation: DeviceAllocation | None = None
) -> Plan:
    """What a study will cost on this machine or on others; needs no corpus and no folder.

    Raises:
        ConfigError: no device is named, and a model is too large for measuring its steps here.
    """
    planned = planned_runs(config)
    if allocation is not None:
        return plan_for(planned, allocation)
    with executor.opened(config.execution.devices_per_run) as workers:
        refuse_long_measurements(planned, workers)
        return make_plan(planned, workers)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
