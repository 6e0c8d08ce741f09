"""evaluate(): tasks by name, a trained run → scores with their standard errors.

The harness is imported inside :func:`evaluate`, because it is an extra that most installations do
without.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError

import optbench
from optbench.config import UserError
from optbench.export.evaluation.scores import EvaluationResult, TaskScore
from optbench.export.evaluation.tasks import PAPER_TASKS
from optbench.space import did_you_mean
from optbench.training.weights import TrainedModel

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

# Of a metric that is no mean, such as a perplexity; the harness's 100,000 take minutes.
_BOOTSTRAP_DRAWS = 1000


class EvaluationError(UserError):
    """Tasks that cannot be evaluated; the message names them and the remedy."""


@dataclass(frozen=True, slots=True)
class TaskChoice:
    """Which tasks.

    Args:
        names: of the harness or of ``folder``; none means all of ``folder``, or else the study's.
        folder: YAML task files of the user's own.
        limit: documents of each task; None for all.
    """

    names: tuple[str, ...] = ()
    folder: Path | None = None
    limit: int | None = None


def evaluate(
    trained: TrainedModel,
    choice: TaskChoice,
    *,
    device: torch.device,
    notify: Callable[[str], None] = lambda _: None,
) -> EvaluationResult:
    """Score a run.

    Args:
        notify: called beforehand with the data that the harness may download.

    Raises:
        EvaluationError: the harness is not installed, a task is unknown, or its data is not there.
    """
    require_harness()
    from lm_eval.evaluator import simple_evaluate

    from optbench.export.evaluation.harness_model import HarnessModel

    manager, names, foreign = _tasks(choice)
    if foreign:
        notify(
            f"The harness downloads the data of {', '.join(foreign)} from the Hugging Face hub "
            f"(huggingface.co), unless its cache has it."
        )
    # A bootstrap in worker processes would fork one that has threads.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    with errors_of_tasks(names, choice.folder, foreign), contextlib.redirect_stdout(sys.stderr):
        results = simple_evaluate(
            model=HarnessModel(trained, device=device),
            tasks=list(names),
            limit=choice.limit,
            bootstrap_iters=_BOOTSTRAP_DRAWS,
            task_manager=manager,
        )
    assert results is not None, "only other ranks of a distributed evaluation get nothing"
    return EvaluationResult(
        run_id=trained.origin.run_id,
        scores=tuple(scores_of(results)),
        limit=choice.limit,
        harness=importlib.metadata.version("lm-eval"),
        optbench=optbench.__version__,
        evaluated_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def require_harness() -> None:
    """Refuse to go on without the extra ``eval``.

    Raises:
        EvaluationError: with the command that installs it.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise EvaluationError(
            "Downstream tasks need EleutherAI's lm-evaluation-harness, which is not installed. "
            "Install it (about 500 MB): pip install 'optbench[eval]'"
        )


def scores_of(results: Mapping[str, Any]) -> Iterator[TaskScore]:
    """The scores in what the harness returns, task by task, metric by metric.

    Groups of tasks are left out: their tasks are there themselves.
    """
    for task, samples in results["samples"].items():
        metrics: Mapping[str, Any] = results["results"][task]
        for key, value in metrics.items():
            metric, _, rule = key.partition(",")
            if not rule or metric.endswith("_stderr"):
                continue
            stderr = metrics.get(f"{metric}_stderr,{rule}")
            yield TaskScore(
                task=task,
                version=_version(results["versions"].get(task)),
                metric=metric if rule == "none" else f"{metric} ({rule})",
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                documents=results["n-samples"][task]["effective"],
                chance=_chance(metric, results["configs"][task]["output_type"], samples),
            )


def _version(version: object) -> str:
    """Empty for none, which the harness calls "Yaml" in a task that comes from a file."""
    return "" if version in (None, "Yaml") else str(version)


def _chance(metric: str, kind: str, samples: Sequence[Mapping[str, Any]]) -> float | None:
    """The expected accuracy of a uniform guess among the choices that each document offers."""
    if metric not in ("acc", "acc_norm", "acc_bytes"):
        return None
    if kind != "multiple_choice":
        return 0.0  # any text could be the answer
    return sum(1 / len(sample["resps"]) for sample in samples) / len(samples)


def _tasks(choice: TaskChoice) -> tuple[TaskManager, tuple[str, ...], list[str]]:
    """Who finds the tasks, their names, and those of them whose data is not the user's own."""
    from lm_eval.tasks import TaskManager

    if choice.folder is None:
        own, manager = [], TaskManager()
    else:
        # Reading the harness's fourteen thousand task files takes ten seconds.
        manager = TaskManager(include_path=str(choice.folder), include_defaults=False)
        own = list(manager.all_tasks)
        if not own:
            raise EvaluationError(
                f"There are no tasks in {choice.folder}. A task is a .yaml file with the key "
                f"'task', as in the harness's documentation."
            )
    names = choice.names or tuple(own) or tuple(PAPER_TASKS.values())
    foreign = [name for name in names if name not in own]
    if foreign and own:
        manager = TaskManager(include_path=str(choice.folder))
    if unknown := [name for name in foreign if name not in manager.all_tasks]:
        known = [*own, *PAPER_TASKS.values()]
        raise EvaluationError(
            "\n".join(did_you_mean(name, known, what="task") for name in unknown)
            + " The harness's other tasks can be named too ('lm_eval ls tasks')."
        )
    return manager, names, foreign


@contextlib.contextmanager
def errors_of_tasks(
    names: Sequence[str], folder: Path | None, foreign: Sequence[str]
) -> Generator[None]:
    """Name the remedy when the data of a task is not there, or its file does not fit its data."""
    own = f"the task files in {folder}"
    try:
        yield
    except OSError as error:
        remedy = (
            "The harness takes it from the Hugging Face hub; connect to the network, or name tasks "
            "on local data with --task-path."
            if foreign
            else f"Check `dataset_path` and `dataset_kwargs` of {own}; a data set of the hub needs "
            f"the network."
        )
        raise EvaluationError(
            f"The data of {', '.join(names)} cannot be loaded ({error}). {remedy}"
        ) from error
    except TemplateError as error:
        raise EvaluationError(
            f"A template of {', '.join(names)} does not fit the documents ({error}). Check "
            f"`doc_to_text`, `doc_to_choice` and `doc_to_target` of {own}: the names in them must "
            f"be fields of the data."
        ) from error
