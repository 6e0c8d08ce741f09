"""What tunings found, in one form for the published results and for a study of one's own.

Of each tuned cell: the winner, and for every hyperparameter that was searched there its candidates
and its statistically tied values. A hyperparameter that was fixed shows nothing about its best
value, so it has neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from optbench.analysis.axis_scaling import searched_axes, tunings_of
from optbench.config import ClipScope
from optbench.published import PublishedCell, PublishedResults
from optbench.run_axes import axis_values
from optbench.space import Configuration, Value
from optbench.statistics.sensitivity import evaluations_of, near_best
from optbench.store.journal import Journal
from optbench.store.journal_entries import TuningEntry
from optbench.store.store import RunRecord

PUBLISHED_TIE = 3e-3  # nats; what the publication holds for a tie
LEAST_EPS = 1e-20  # smaller ones gave the same losses in all that was published
# Always the same, without an equal here, or found to change nothing (see `published.names`).
WITHOUT_EFFECT = frozenset(
    {
        "final_frac",
        "lr_schedule",
        "muon_epsilon",
        "nesterov",
        "partition_grads_into_blocks",
        "preconditioner_init_scale",
        "scion_epsilon",
    }
)
# The published norms of these cover a part of the parameters; those of the others cover all.
PUBLISHED_CLIP_SCOPES: Mapping[str, ClipScope] = MappingProxyType(
    {"adam_mini": "norms", "muon": "no_matrices", "scion": "no_matrices"}
)
# What is set here in place of a published value, as in the study `paper-original`, and why.
_SET_HERE: Mapping[str, Mapping[str, tuple[Value, str]]] = MappingProxyType(
    {
        "mars": {
            "clip_norm": (
                0.0,
                "the published clip_norm of 1 limits the corrected gradient, which the method "
                "does itself; the run clips no gradient.",
            )
        }
    }
)
NEGLIGIBLE_EXTRAPOLATION = 1.05  # places that differ by less, in N or r, count as the same


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedCell:
    """One optimizer, tuned at one size and ratio.

    Args:
        optimizer: its name.
        size: name of the model size.
        num_params: N, non-embedding parameters.
        ratio: r, the Chinchilla ratio.
        winner: the best configuration.
        near_best: by searched hyperparameter, its values within the noise threshold, the winner's
            among them.
        candidates: by searched hyperparameter, what was tried.
        diverged: by searched hyperparameter, the values with which no run ended well.
        set_here: by hyperparameter, why its value is not the source's.
    """

    optimizer: str
    size: str
    num_params: float
    ratio: float
    winner: Configuration
    near_best: Mapping[str, tuple[Value, ...]]
    candidates: Mapping[str, tuple[Value, ...]]
    diverged: Mapping[str, tuple[Value, ...]]
    set_here: Mapping[str, str] = field(default_factory=dict[str, str])

    def is_at(self, num_params: float, ratio: float) -> bool:
        """Whether it is that place, but for a factor that is negligible."""
        return all(
            away < math.log(NEGLIGIBLE_EXTRAPOLATION) + 1e-9
            for away in self.distance(num_params, ratio)
        )

    def distance(self, num_params: float, ratio: float) -> tuple[float, float]:
        """How far a place is in ln N, then in ln r: hyperparameters depend on N the most."""
        return abs(math.log(self.num_params / num_params)), abs(math.log(self.ratio / ratio))


def published_tunings(
    results: PublishedResults, variants: Mapping[str, Configuration] | None = None
) -> tuple[TunedCell, ...]:
    """The cells that were tuned: those with a grid. Others copy or extrapolate, and show nothing.

    Statistically tied are the values of the published tied sets, and those within the noise
    threshold of the winner in the tuning table.

    Args:
        results: as published.
        variants: by optimizer, arguments that make its constructor the published method.
    """
    given = variants or {}
    return tuple(
        published_tuning(cell, given.get(cell.optimizer, {})) for cell in results.cells if cell.grid
    )


def published_tuning(cell: PublishedCell, variant: Configuration) -> TunedCell:
    """One of them."""
    set_here = _SET_HERE.get(cell.optimizer, {})
    left_out = WITHOUT_EFFECT | set(set_here)
    tidied = {axis: _tidy(axis, v) for axis, v in cell.grid.items() if axis not in left_out}
    searched = {axis: values for axis, values in tidied.items() if len(values) > 1}
    return TunedCell(
        optimizer=cell.optimizer,
        size=cell.size,
        num_params=float(cell.cell.model.num_nonembedding_params),
        ratio=cell.ratio,
        winner={
            **variant,
            **{
                axis: tidy_eps(axis, value)
                for axis, value in cell.configuration.items()
                if axis not in left_out
            },
            **{axis: value for axis, (value, _) in set_here.items()},
        },
        near_best={axis: _tidy(axis, _near_best_published(cell, axis)) for axis in searched},
        candidates=searched,
        diverged={
            axis: _tidy(axis, (t.value for t in cell.trials if t.axis == axis and t.diverged))
            for axis in searched
        },
        set_here={axis: reason for axis, (_, reason) in set_here.items()},
    )


def _near_best_published(cell: PublishedCell, axis: str) -> Iterable[Value]:
    yield cell.configuration[axis]
    yield from (member[axis] for member in cell.near_best if axis in member)
    if cell.table_loss is not None:
        for trial in cell.trials:
            near = trial.loss is not None and trial.loss <= cell.table_loss + PUBLISHED_TIE
            if trial.axis == axis and near:
                yield trial.value


def tidy_eps(axis: str, value: Value) -> Value:
    """The value, an epsilon no smaller than what makes a difference."""
    is_number = axis == "eps" and not isinstance(value, (str, bool))
    return max(float(value), LEAST_EPS) if is_number else value


def _tidy(axis: str, values: Iterable[Value]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(tidy_eps(axis, value) for value in values))


def study_tunings(journal: Journal, records: Mapping[str, RunRecord]) -> tuple[TunedCell, ...]:
    """Every finished tuning of a study; what its runs held fixed is read from their records."""
    return tuple(
        _study_tuning(tuning, records)
        for optimizer in journal.study.optimizers
        for tuning in tunings_of(journal, optimizer)
        if any(e.loss is not None for e in tuning.evaluations)
    )


def _study_tuning(tuning: TuningEntry, records: Mapping[str, RunRecord]) -> TunedCell:
    axes = searched_axes(tuning)
    close = [configuration for configuration, _ in near_best(evaluations_of(tuning))]
    tried = [evaluation.configuration for evaluation in tuning.evaluations]
    return TunedCell(
        optimizer=tuning.optimizer,
        size=tuning.cell.size,
        num_params=float(tuning.cell.num_nonembedding_params),
        ratio=tuning.cell.ratio,
        winner={**_held(tuning, records), **tuning.incumbent},
        near_best={axis: _values(axis, [tuning.incumbent, *close]) for axis in axes},
        candidates={axis: _values(axis, tried) for axis in axes},
        diverged={axis: _diverged(axis, tuning) for axis in axes},
    )


def _diverged(axis: str, tuning: TuningEntry) -> tuple[Value, ...]:
    well = [e.configuration for e in tuning.evaluations if e.loss is not None]
    ended = _values(axis, well)
    return tuple(dict.fromkeys(v for v in _tried(axis, tuning) if v not in ended))


def _tried(axis: str, tuning: TuningEntry) -> Iterable[Value]:
    return (e.configuration[axis] for e in tuning.evaluations if axis in e.configuration)


def _values(axis: str, configurations: Sequence[Configuration]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(c[axis] for c in configurations if axis in c))


def _held(tuning: TuningEntry, records: Mapping[str, RunRecord]) -> Configuration:
    """The settings of the winner's run that are no axis of its search, as axes are named."""
    # Evaluations may leave out what was fixed, which the current best names.
    won = (e for e in tuning.evaluations if e.configuration.items() <= tuning.incumbent.items())
    wanted = next((e.run_id for e in won if e.run_id in records), None)
    if wanted is None:
        return {}
    values = axis_values(records[wanted].run_config)
    # One of the two names of the warm-up: the share, unless the search counted steps.
    del values["warmup_frac" if "warmup_steps" in tuning.incumbent else "warmup_steps"]
    return values
