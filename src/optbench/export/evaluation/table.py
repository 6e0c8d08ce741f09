"""Scores as a table on the terminal, never without the warning."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from optbench.export.evaluation.scores import EvaluationResult, TaskScore
from optbench.export.evaluation.tasks import PAPER_TASKS


def print_evaluation(evaluation: EvaluationResult, console: Console) -> None:
    """One row for each metric of each task, then the limits of the scores."""
    table = Table(title=_title(evaluation), title_justify="left")
    for name in ("task", "metric", "score", "± std. error", "chance", "documents", "version"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for score in evaluation.scores:
        table.add_row(*_cells(score))
    console.print(table)
    console.print(f"Warning: {evaluation.warning}", highlight=False, markup=False)


def _title(evaluation: EvaluationResult) -> str:
    limit = evaluation.limit
    part = f", only the first {limit:,} documents of each task" if limit is not None else ""
    return f"Run {evaluation.run_id} on downstream tasks (lm-eval {evaluation.harness}{part})"


def _cells(score: TaskScore) -> list[str]:
    titles = {name: title for title, name in PAPER_TASKS.items()}
    return [
        titles.get(score.task, score.task),
        score.metric,
        _number(score, score.value),
        _number(score, score.stderr),
        _number(score, score.chance),
        f"{score.documents:,}",
        score.version,
    ]


def _number(score: TaskScore, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if score.is_accuracy else f"{value:.4g}"
