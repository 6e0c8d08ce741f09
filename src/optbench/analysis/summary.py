"""A store → StudySummary: every number that a table, a figure or the report shows, by run."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optbench.analysis.baseline import (
    BaselineCurve,
    Reference,
    build_reference,
    confirmed_baseline,
    draw_curve,
)
from optbench.analysis.confirmation import Confirmed, read_confirmation
from optbench.analysis.journal import CellEntry, Journal, NoiseEntry, StudyEntry, read_journal
from optbench.analysis.noise import SeedNoise, pooled_noise, shared_seed_correlation
from optbench.analysis.outcomes import OptimizerRow, build_row
from optbench.analysis.spending import Budget, compare_budget, spent_on
from optbench.analysis.tuning import read_tuning
from optbench.analysis.units import format_count, format_p, format_seconds
from optbench.store import RunRecord, RunStore

UNEQUAL_NOISE_P = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseGroup:
    """Seeds of one configuration, and their own standard deviation of test losses."""

    what: str
    optimizer: str
    cell: CellEntry
    run_ids: tuple[str, ...]
    losses: tuple[float, ...]
    sigma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedBadly:
    """A run that diverged (a result) or failed (not one)."""

    run_id: str
    optimizer: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentUse:
    """A device and its software, and how many runs it trained."""

    environment: Mapping[str, Any]
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """What a study has found so far.

    Args:
        rows: one for each optimizer, the best headline speed-up first, unfinished ones last.
        noise: σ of test losses, pooled over ``noise_groups``; None until a group has two seeds.
        thresholds: the noise measurements that set the tie thresholds.
        seed_correlation: of the confirmation losses of two configurations over the seeds that they
            share, the mean over all pairs; what it is above 0 the paired intervals gain.
        missing: what is not there yet, in sentences.
    """

    study: StudyEntry
    rows: tuple[OptimizerRow, ...]
    curve: BaselineCurve
    noise: SeedNoise | None
    noise_groups: tuple[NoiseGroup, ...]
    thresholds: tuple[NoiseEntry, ...]
    seed_correlation: float | None
    budget: Budget
    ended_badly: tuple[EndedBadly, ...]
    environments: tuple[EnvironmentUse, ...]
    missing: tuple[str, ...]

    @property
    def title(self) -> str:
        """What was compared, on one line."""
        cell = self.study.tuned_cell
        return (
            f"{self.study.title or self.study.name}: speed-ups over {self.study.baseline} in cell "
            f"{cell.label} ({format_count(cell.num_tokens)} tokens)"
        )

    def row(self, optimizer: str) -> OptimizerRow:
        """The row of an optimizer.

        Raises:
            KeyError: the study does not have it.
        """
        return {row.optimizer: row for row in self.rows}[optimizer]

    def notes(self) -> list[str]:
        """What belongs under the table: verdicts, winners, what is missing, planned and spent."""
        verdicts = [
            f"{row.optimizer}: {row.verdict}.{_difference(row)}" for row in self.rows if row.test
        ]
        return [*verdicts, *self.missing, budget_sentence(self.budget)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; a number that is infinite or does not exist becomes None."""
        return _plain(dataclasses.asdict(self))


def _difference(row: OptimizerRow) -> str:
    """The sentence on the test loss against the baseline, with its interval and p-value."""
    if row.difference is None:
        return ""
    change = f"{row.difference.value:+.3f}".replace("-", "−")
    p = format_p(row.difference.p_value)
    return f" Test loss {change} ± {row.difference.half_width:.3f} against the baseline, {p}."


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def budget_sentence(budget: Budget) -> str:
    """Runs, tokens and time, spent and planned."""
    spent, plan = budget.spent, budget.plan
    text = (
        f"Spent: {spent.runs} runs, {format_count(spent.tokens)} tokens, "
        f"{format_seconds(spent.core_s)} of core time"
    )
    if budget.wall_s:
        text += f", {format_seconds(budget.wall_s)} on the clock with {budget.workers} workers"
    if budget.open_sessions:
        text += (
            f" (without {budget.open_sessions} of {budget.sessions} sittings, which were cut off)"
        )
    if plan is None:
        return f"{text}. No plan was recorded."
    return (
        f"{text}. Planned: {plan.runs} runs (at most {plan.runs_worst}), "
        f"{format_count(plan.tokens)} tokens, {format_seconds(plan.seconds)} on the clock with "
        f"{plan.workers} workers."
    )


def summarise(store: RunStore) -> StudySummary:
    """Read a finished or unfinished study.

    Raises:
        StoreError: the journal does not say what the study is, or lacks a field.
    """
    journal = read_journal(store.journal)
    study = journal.study
    curve_points = confirmed_baseline(journal, store.records)
    others = [
        read_confirmation(entry, store.records)
        for (key, name), entry in journal.confirmations.items()
        if key == study.tuned_cell.key and name != study.baseline and name in study.optimizers
    ]
    groups = _noise_groups(journal, [*curve_points, *others], store.records)
    noise = pooled_noise([group.losses for group in groups])
    reference = build_reference(study, curve_points, noise, journal.timing)
    confirmed = {c.optimizer: c for c in others}
    if reference.confirmed is not None:
        confirmed[study.baseline] = reference.confirmed
    rows = tuple(_rows(journal, confirmed, reference, store.records))
    return StudySummary(
        study=study,
        rows=rows,
        curve=draw_curve(curve_points, reference),
        noise=noise,
        noise_groups=groups,
        thresholds=journal.noise,
        seed_correlation=shared_seed_correlation([c.by_seed for c in [*curve_points, *others]]),
        budget=compare_budget(journal, store.records.values()),
        ended_badly=_ended_badly(store.records),
        environments=_environments(store.records),
        missing=tuple(_missing(journal, rows, reference)),
    )


def _noise_groups(
    journal: Journal, confirmed: list[Confirmed], records: Mapping[str, RunRecord]
) -> tuple[NoiseGroup, ...]:
    """The confirmation runs, and the runs that measured the noise before anything was tuned."""
    groups = [_noise_group("confirmation", c.optimizer, c.cell, _by_run(c)) for c in confirmed]
    for entry in journal.noise:
        found = [records[run_id] for run_id in entry.run_ids if run_id in records]
        losses = {r.run_id: r.test_loss for r in found if r.test_loss is not None}
        groups.append(_noise_group("untuned", entry.optimizer, entry.cell, losses))
    return tuple(group for group in groups if group is not None)


def _by_run(confirmed: Confirmed) -> dict[str, float]:
    return {s.run_id: s.test_loss for s in confirmed.seeds if s.test_loss is not None}


def _noise_group(
    what: str, optimizer: str, cell: CellEntry, losses: Mapping[str, float]
) -> NoiseGroup | None:
    if len(losses) < 2:
        return None
    return NoiseGroup(
        what=what,
        optimizer=optimizer,
        cell=cell,
        run_ids=tuple(losses),
        losses=tuple(losses.values()),
        sigma=float(np.std(list(losses.values()), ddof=1)),
    )


def _rows(
    journal: Journal,
    confirmed: Mapping[str, Confirmed],
    reference: Reference,
    records: Mapping[str, RunRecord],
) -> list[OptimizerRow]:
    study = journal.study
    rows: list[OptimizerRow] = []
    for name in study.optimizers:
        entry = journal.tuning(study.tuned_cell, name)
        own = [r for r in records.values() if r.config["optimizer"]["name"] == name]
        axes = tuple(study.axes.get(name, ()))
        tuning = read_tuning(entry, axes) if entry is not None else None
        rows.append(build_row(name, confirmed.get(name), tuning, spent_on(own), reference))
    return sorted(rows, key=_rank)


def _rank(row: OptimizerRow) -> tuple[bool, float]:
    """Fastest first; the baseline stands at 1, where it belongs."""
    speed = row.tokens.value if row.tokens else 1.0
    return row.tokens is None and not row.is_baseline, -speed


def _ended_badly(records: Mapping[str, RunRecord]) -> tuple[EndedBadly, ...]:
    return tuple(
        EndedBadly(
            run_id=record.run_id,
            optimizer=record.config["optimizer"]["name"],
            status=record.status,
            reason=record.error.strip().splitlines()[-1] if record.error.strip() else "",
        )
        for record in records.values()
        if record.status != "completed"
    )


def _environments(records: Mapping[str, RunRecord]) -> tuple[EnvironmentUse, ...]:
    counts = Counter(json.dumps(r.environment, sort_keys=True) for r in records.values())
    return tuple(
        EnvironmentUse(environment=json.loads(text), runs=runs)
        for text, runs in counts.most_common()
    )


def _missing(journal: Journal, rows: tuple[OptimizerRow, ...], reference: Reference) -> list[str]:
    study, found = journal.study, [sentence for row in rows for sentence in row.missing]
    unmeasured = [
        cell.label
        for cell in study.curve_cells
        if float(cell.num_tokens) not in reference.losses.tokens
    ]
    if unmeasured:
        found.append(
            f"The baseline's loss curve lacks {', '.join(unmeasured)}: no confirmation runs there."
        )
    if reference.noise is None:
        found.append("No intervals yet: no configuration has two seeds.")
    elif reference.noise.equal_p is not None and reference.noise.equal_p < UNEQUAL_NOISE_P:
        found.append(
            f"The seed noise is not the same everywhere (Bartlett p = "
            f"{reference.noise.equal_p:.1g}); intervals with the pooled σ are too narrow for the "
            f"noisier optimizers."
        )
    return found
