"""StudyConfig: a study file, checked and frozen; and the run that each candidate becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optbench.config import (
    MOST_SEED,
    AttentionScope,
    ClipScope,
    ConfigError,
    DataConfig,
    OptimizerConfig,
    Precision,
    RunConfig,
    ScheduleConfig,
)
from optbench.execution import DEFAULT_EXECUTION, Execution
from optbench.export.trackers.settings import SinkSettings
from optbench.ladder import Cell
from optbench.optimizers import OPTIMIZERS
from optbench.run_axes import RUN_AXES, decay_steps_of, overlaid, warmup_steps_of
from optbench.schedule import DecayShape
from optbench.space import Configuration, SearchSpace, did_you_mean
from optbench.study.digest import study_digest
from optbench.training.run import optimizer_problems

FIRST_CONFIRM_SEED = 1000  # far from the tuning and noise seeds
_AT_LEAST_ONE = ("batch_size", "eval_tokens", "test_tokens", "num_evals")
_SHARES = ("warmup_frac", "decay_frac", "final_frac")
_NOT_NEGATIVE = ("clip_norm", "warmup_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What all runs of a study share unless an axis of the search sets it.

    Args:
        warmup_frac: share of the steps over which the learning rate rises.
        warmup_steps: their number, for studies that count them; used instead unless it is 0.
        decay_frac: share of the steps over which it falls; the rest is a plateau in between.
    """

    batch_size: int
    clip_norm: float = 1.0
    clip_scope: ClipScope = "all"
    precision: Precision = "float32"
    attention_scope: AttentionScope = "document"
    warmup_frac: float = 0.1
    warmup_steps: int = 0
    decay_frac: float = 0.9
    decay_shape: DecayShape = "cosine"
    final_frac: float = 0.0
    eval_tokens: int = 65_536
    test_tokens: int = 262_144
    num_evals: int = 4


def run_setting_problems(values: Mapping[str, Any]) -> dict[str, str]:
    """By name, why settings of a run cannot be what they are; other names are not looked at."""
    found: dict[str, str] = {}
    for names, low, high, wanted in (
        (_AT_LEAST_ONE, 1, math.inf, "be at least 1"),
        (_NOT_NEGATIVE, 0, math.inf, "not be negative"),
        (_SHARES, 0, 1, "lie in [0, 1]"),
    ):
        for name in names:
            if name in values and not low <= values[name] <= high:
                found[name] = f"{name} must {wanted}, but got {values[name]}."
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProtocol:
    """How the study searches and how it measures noise (protocol.md §2 and §5).

    Args:
        tuning_seed: every candidate of every optimizer is trained on this seed.
        noise_seeds: seeds on which the noise is measured, the tuning seed among them; with one
            nothing is measured, and τ is ``tie_floor``.
        confirm_seeds: held-out seeds on which each winner is trained again; with one there are no
            intervals.
        tie_floor: τ is never smaller than this, in nats.
        tie_sigmas: τ in units of the measured spread of a difference between two configurations
            trained on the same seeds.
        max_runs: cap on the tuning runs of one optimizer in one cell, equal for all.
        grow_grids: whether an axis whose best value is at its end grows by a step.
    """

    tuning_seed: int = 0
    noise_seeds: int = 4
    confirm_seeds: int = 6
    tie_floor: float = 3e-3
    tie_sigmas: float = 1.0
    max_runs: int = 40
    grow_grids: bool = True

    @property
    def measured_seeds(self) -> range:
        """Seeds of tuning and of the noise; the first is the tuning seed."""
        return range(self.tuning_seed, self.tuning_seed + self.noise_seeds)

    @property
    def held_out_seeds(self) -> range:
        """Seeds of confirmation runs."""
        return range(FIRST_CONFIRM_SEED, FIRST_CONFIRM_SEED + self.confirm_seeds)

    def problems(self) -> dict[str, str]:
        """By name, why a setting cannot be what it is."""
        least = (
            ("tuning_seed", 0, "it seeds generators"),
            ("noise_seeds", 1, "the tuning seed alone is one"),
            ("confirm_seeds", 1, "a loss that is quoted needs a run"),
            ("tie_floor", 0, "it is a difference of losses that counts as none"),
            ("tie_sigmas", 0, "it is a width"),
            ("max_runs", 1, "the start point alone is one run"),
        )
        found = {
            name: f"{name} must be at least {low}, but got {getattr(self, name)}: {why}."
            for name, low, why in least
            if getattr(self, name) < low
        }
        measured, held_out = self.measured_seeds, self.held_out_seeds
        both = range(max(measured.start, held_out.start), min(measured.stop, held_out.stop))
        if both and not found:
            found["tuning_seed"] = (
                f"tuning_seed and the noise_seeds from it on, {measured.start} to "
                f"{measured.stop - 1}, must not be seeds of confirmation, but {both.start} to "
                f"{both.stop - 1} are: winners are confirmed on {held_out.start} to "
                f"{held_out.stop - 1}, on which nothing may have been chosen."
            )
        if measured.stop > MOST_SEED:
            found["tuning_seed"] = f"tuning_seed must be below 2^63, but got {self.tuning_seed}."
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCells:
    """The cells of a study (protocol.md §2 to §4), each in the order in which it is visited.

    Args:
        tune: phase I, all axes searched; the tuned cell is the first.
        retune: phase II, only the axes searched that phase I found sensitive to scale.
        predict: phase III, hyperparameters taken from the laws fitted to the phases before.
        noise: where the seed noise is measured, the tuned cell first.
    """

    tune: tuple[Cell, ...]
    retune: tuple[Cell, ...] = ()
    predict: tuple[Cell, ...] = ()
    noise: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerStudy:
    """One optimizer's search: its axes in descent order, and where it starts.

    The start may name further hyperparameters, which stay as they are.

    Args:
        run: the study's settings of a run with this optimizer's own laid over them.
        cells: labels of the cells to which its part in the phases is limited; empty = all.
    """

    space: SearchSpace
    start: Configuration
    run: RunSettings
    cells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """A whole study, checked.

    Args:
        tuned_cell: where every optimizer is tuned and compared.
        baseline_cells: further budgets at which the baseline is measured, for its loss curve.
        baseline_retuned: axes that are searched again at those budgets.
        phases: the cells of the three phases.
        smoke: the file's ``[smoke]`` table was laid over the rest.
        text: the file.
        sinks: where else the runs are shown; no part of what the study is.
        execution: how they are executed where the command line has no option for it; no part of it
            either.
    """

    name: str
    title: str
    corpus: str
    baseline: str
    optimizers: Mapping[str, OptimizerStudy]
    tuned_cell: Cell
    baseline_cells: tuple[Cell, ...]
    baseline_retuned: tuple[str, ...]
    phases: PhaseCells
    run: RunSettings
    protocol: StudyProtocol
    smoke: bool
    text: str = field(repr=False)
    sinks: tuple[SinkSettings, ...] = ()
    execution: Execution = DEFAULT_EXECUTION

    @property
    def cells(self) -> list[Cell]:
        """All cells of the study, each once."""
        phases = self.phases
        every = (self.tuned_cell, *self.baseline_cells, *phases.tune, *phases.retune)
        return list(dict.fromkeys([*every, *phases.predict, *phases.noise]))

    def cells_of(self, optimizer: str, cells: Sequence[Cell]) -> list[Cell]:
        """Those of some cells in which an optimizer takes part; in the tuned cell all do."""
        limit = self.optimizers[optimizer].cells
        return [c for c in cells if not limit or c.label in limit or c == self.tuned_cell]

    @property
    def digest(self) -> str:
        """Hash of the study file; a store belongs to one digest."""
        return study_digest(self.text, smoke=self.smoke)

    def start_point(self, optimizer: str) -> Configuration:
        """Where a search for this optimizer starts: the study's start, else its defaults.

        Raises:
            ConfigError: there is no such optimizer.
        """
        if optimizer not in OPTIMIZERS:
            raise ConfigError([did_you_mean(optimizer, OPTIMIZERS, what="optimizer")])
        own = self.optimizers[optimizer].start if optimizer in self.optimizers else {}
        return {**OPTIMIZERS[optimizer].default_hyperparameters(), **own}

    def run_config(
        self,
        optimizer: str,
        cell: Cell,
        configuration: Configuration,
        *,
        seed: int,
        fingerprint: str,
    ) -> RunConfig:
        """The complete run of a candidate."""
        settings = self.optimizers[optimizer].run if optimizer in self.optimizers else self.run
        named = {name: value for name, value in configuration.items() if name in RUN_AXES}
        own = {name: value for name, value in configuration.items() if name not in RUN_AXES}
        shared = overlaid({name: getattr(settings, name) for name in RUN_AXES}, named)
        batch_size = int(shared["batch_size"])
        num_steps = cell.num_tokens // (batch_size * cell.model.seq_len)
        # A warm-up that is too long by itself is left as it is, and refused as such.
        warmup_steps = warmup_steps_of(shared, num_steps)
        decay_steps = decay_steps_of(shared, num_steps, warmup_steps)
        return RunConfig(
            model=cell.model,
            data=DataConfig(corpus=self.corpus, fingerprint=fingerprint),
            optimizer=OptimizerConfig(
                name=optimizer,
                hyperparameters={**OPTIMIZERS[optimizer].default_hyperparameters(), **own},
            ),
            schedule=ScheduleConfig(
                warmup_steps=warmup_steps,
                decay_steps=decay_steps,
                shape=settings.decay_shape,
                final_frac=settings.final_frac,
            ),
            num_tokens=cell.num_tokens,
            batch_size=batch_size,
            clip_norm=float(shared["clip_norm"]),
            seed=seed,
            eval_tokens=settings.eval_tokens,
            test_tokens=settings.test_tokens,
            num_evals=settings.num_evals,
            clip_scope=settings.clip_scope,
            precision=settings.precision,
            attention_scope=settings.attention_scope,
        )


def run_problems(config: RunConfig) -> list[str]:
    """Everything that makes a run impossible, its optimizer included."""
    hyperparameters = dict(config.optimizer.hyperparameters)
    return config.problems() + optimizer_problems(config.optimizer.name, hyperparameters)


def smallest_batch(config: StudyConfig) -> int:
    """Sequences in the smallest batch that a study names; grids that grow may try smaller ones."""
    return min(
        int(size)
        for search in config.optimizers.values()
        for size in (
            search.start.get("batch_size", search.run.batch_size),
            *(search.space["batch_size"].values if "batch_size" in search.space else ()),
        )
    )
