"""Scores of a run on tasks, as plain data: what is printed, stored, and warned about."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench.store.store import append_entry

FILE = "evaluations.jsonl"
PUBLISHED_SPREAD = 0.004  # nats between AdamW, NAdamW, Muon and SOAP at 1.2B parameters, ratio 8
_DIFFERENCE = 1.96 * math.sqrt(2)  # of two equally uncertain scores, in their standard errors


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One metric of one task.

    Args:
        version: of the task in the harness, empty where its file gives none; scores of different
            versions do not compare.
        value: an accuracy as a share, a perplexity in its own unit.
        stderr: standard error over the task's documents; None where the harness knows none.
        documents: how many were scored.
        chance: the accuracy of a uniform guess; None for what is no accuracy.
    """

    task: str
    version: str
    metric: str
    value: float
    stderr: float | None
    documents: int
    chance: float | None

    @property
    def is_accuracy(self) -> bool:
        """Whether the score is a share of right answers."""
        return self.chance is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The scores of a run.

    Args:
        limit: documents taken of each task; None for all, which alone is comparable.
        harness: version of lm-eval.
        evaluated_at: ISO 8601, UTC.
    """

    run_id: str
    scores: tuple[TaskScore, ...]
    limit: int | None
    harness: str
    optbench: str
    evaluated_at: str

    @property
    def warning(self) -> str:
        """Why these scores cannot rank optimizers, with this evaluation's own numbers."""
        errors = [100 * _DIFFERENCE * s.stderr for s in self.scores if s.is_accuracy and s.stderr]
        reason = ""
        if errors:
            low, high = f"{min(errors):.1f}", f"{max(errors):.1f}"
            span = low if low == high else f"{low} to {high}"
            reason = (
                f" The choice of questions alone makes two equal runs differ by up to {span} "
                f"points of accuracy (1.96·√2 standard errors of a task), the seed not counted. "
                f"The published study's optimizers end within {PUBLISHED_SPREAD} nats of each "
                f"other at its largest size: {100 * PUBLISHED_SPREAD:.1g} % in the probability of "
                f"a token."
            )
        return (
            f"The scores of a single run cannot rank optimizers.{reason} Compare optimizers by "
            f"their test losses over several seeds ('optbench report')."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the warning included: the numbers are not to be read without it."""
        return {**dataclasses.asdict(self), "warning": self.warning}


def store_evaluation(store: Path, evaluation: EvaluationResult) -> None:
    """Append to ``evaluations.jsonl`` of a store.

    Raises:
        StoreError: the disk refuses it.
    """
    append_entry(store / FILE, evaluation.to_dict())
