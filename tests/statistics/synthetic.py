"""Simulated studies whose truth is known: a store filled as by a real study, without training."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optbench.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from optbench.ladder import Cell, llama
from optbench.space import Configuration, SearchSpace, choices, complement, geometric
from optbench.store.journal_entries import (
    ConfirmationEntry,
    EvaluationEntry,
    JournalEntry,
    MoveEntry,
    NoiseEntry,
    PhasesEntry,
    PlanEntry,
    RejectionEntry,
    SessionEndEntry,
    SessionEntry,
    StudyEntry,
    TuningEntry,
    cell_entry,
    entry_to_dict,
)
from optbench.store.store import RunRecord, RunStore
from optbench.study.coordinate_descent import CoordinateDescent

UNIT_TOKENS = 655_360
MODEL = llama(2, 32, 16, 1024, 128)  # its budget at ratio 1 is UNIT_TOKENS
MODELS = {"d32": MODEL, "d48": llama(2, 48, 16, 1024, 128), "d64": llama(2, 64, 16, 1024, 128)}
UNIT_PARAMS = MODEL.num_nonembedding_params
SPACE = SearchSpace(
    lr=geometric(0.004, 0.008, 0.016, 0.032),
    beta2=complement(0.95, 0.98, 0.99),
    nesterov=choices(True, False),
)
START: Configuration = {"lr": 0.016, "beta2": 0.98, "nesterov": True}
ENVIRONMENT = {"optbench": "0.1.0", "torch": "2.13.0", "device": "a CPU", "commit": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The simulated world: L = α·(e·D/D₀)^(−B) + β + γ·((N/N₀)^(−0.35) − 1) + σ·z.

    Args:
        efficiency: e of each optimizer at N₀ and a ratio of 1.
        trend: e is multiplied by (N/N₀)^trend, the baseline's excepted.
        drift: e is multiplied by r^drift, by optimizer.
        steepness: nats that a learning rate a factor of two off the best costs; it grows with the
            square of the factors.
        early: factor on what validation losses along a run are above the last one, by optimizer.
    """

    alpha: float = 0.8
    exponent: float = 0.5
    beta: float = 3.4
    gamma: float = 0.5
    sigma: float = 0.02
    steepness: float = 0.1
    trend: float = 0.0
    drift: Mapping[str, float] = field(default_factory=dict[str, float])
    early: Mapping[str, float] = field(default_factory=dict[str, float])
    efficiency: Mapping[str, float] = field(
        default_factory=lambda: {"adamw": 1.0, "nadamw": 1.03, "lion": 0.85, "muon": 1.35}
    )
    best_lr: Mapping[str, float] = field(
        default_factory=lambda: {"adamw": 0.016, "nadamw": 0.008, "lion": 0.004, "muon": 0.032}
    )
    step_s: Mapping[str, float] = field(
        default_factory=lambda: {"adamw": 0.012, "nadamw": 0.0122, "lion": 0.0117, "muon": 0.0141}
    )

    def loss(self, tokens: float, efficiency: float = 1.0, params: float = UNIT_PARAMS) -> float:
        """Without noise."""
        ratio, size = tokens * efficiency / UNIT_TOKENS, params / UNIT_PARAMS
        return self.alpha * ratio**-self.exponent + self.beta + self.gamma * (size**-0.35 - 1)

    def speedup(self, optimizer: str, cell: Cell) -> float:
        """The efficiency in a cell."""
        size = cell.model.num_nonembedding_params / UNIT_PARAMS
        trend = 0.0 if optimizer == "adamw" else self.trend
        drift = self.drift.get(optimizer, 0.0)
        return self.efficiency[optimizer] * size**trend * cell.ratio**drift

    def run(self, config: RunConfig) -> RunRecord:
        """A record as a real run would leave it; the noise depends on the run's identity alone."""
        name, h = config.optimizer.name, config.optimizer.hyperparameters
        rng = np.random.default_rng(zlib.crc32(config.run_id.encode()))
        off = np.log2(float(h["lr"]) / self.best_lr[name])
        penalty = self.steepness * off**2 + (0.05 if h["beta2"] == 0.95 else 0.0)
        diverged = bool(off >= 2.9)
        params = config.model.num_nonembedding_params
        cell = Cell("", config.model, config.num_tokens / (20 * params))
        final = self.loss(config.num_tokens, self.speedup(name, cell), params) + penalty
        final = float(final + self.sigma * rng.standard_normal())
        steps = [config.num_steps * k // 4 for k in (1, 2, 3, 4)]
        early = 0.9 * self.early.get(name, 1.0)
        curve = [(s, final + early * (config.num_steps / s - 1) ** 0.7) for s in steps]
        step_s = self.step_s[name] * (1 + 0.02 * rng.standard_normal())
        return RunRecord(
            run_id=config.run_id,
            config=config.to_dict(),
            status="diverged" if diverged else "completed",
            val_loss=None if diverged else final,
            test_loss=None if diverged else final + 0.01,
            train_curve=curve,
            val_curve=curve[:1] if diverged else curve,
            num_steps=config.num_steps,
            num_tokens=config.num_steps * config.tokens_per_step,
            step_s=step_s,
            optimizer_step_s=0.1 * step_s,
            wall_s=step_s * config.num_steps * 1.1,
            state_bytes=8 * config.model.num_params,
            started_at="2026-01-01T00:00:00+00:00",
            environment=dict(ENVIRONMENT),
            error="the loss was not finite at step 80" if diverged else "",
        )


def run_config(optimizer: str, cell: Cell, configuration: Configuration, seed: int) -> RunConfig:
    num_steps = cell.num_tokens // (16 * cell.model.seq_len)
    return RunConfig(
        model=cell.model,
        data=DataConfig(corpus="nano"),
        optimizer=OptimizerConfig(name=optimizer, hyperparameters=dict(configuration)),
        schedule=ScheduleConfig(warmup_steps=num_steps // 10, decay_steps=num_steps // 2),
        num_tokens=cell.num_tokens,
        batch_size=16,
        seed=seed,
    )


@dataclass(slots=True)
class SimulatedStudy:
    """Writes into a store in memory what the driver of a study writes into a real one.

    Args:
        ratios: of the baseline's curve at the size of the headline cell.
        phases: cells by phase, as sizes and ratios; None for a study with one tuned cell.
        space: searched by every optimizer.
    """

    truth: Truth = field(default_factory=Truth)
    optimizers: tuple[str, ...] = ("adamw", "nadamw", "lion", "muon")
    ratios: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    seeds: int = 6
    phases: Mapping[str, Sequence[tuple[str, float]]] | None = None
    space: SearchSpace = field(default_factory=lambda: SPACE)
    store: RunStore = field(default_factory=lambda: RunStore(Path("runs/simulated")))

    def cell(self, ratio: float = 1.0, size: str = "d32") -> Cell:
        return Cell(size, MODELS[size], ratio)

    def note(self, entry: JournalEntry) -> None:
        self.store.journal.append(json.loads(json.dumps(entry_to_dict(entry))))

    def train(self, config: RunConfig) -> RunRecord:
        record = self.truth.run(config)
        self.store.records[record.run_id] = record
        return record

    def begin(self) -> None:
        self.note(
            StudyEntry(
                name="simulated",
                title="A study whose truth is known",
                smoke=False,
                baseline="adamw",
                optimizers=self.optimizers,
                confirm_seeds=self.seeds,
                tuned_cell=cell_entry(self.cell()),
                baseline_cells=tuple(cell_entry(self.cell(r)) for r in self.ratios if r != 1.0),
                axes={name: list(self.space) for name in self.optimizers},
                phases=self._phases(),
            )
        )
        self.note(
            PlanEntry(
                runs=90, runs_worst=140, tokens=60_000_000, flops=2e13, seconds=300.0, workers=2
            )
        )
        self.note(SessionEntry(started_at="2026-01-01T00:00:00", workers=2, host=ENVIRONMENT))

    def _phases(self) -> PhasesEntry | None:
        if self.phases is None:
            return None
        return PhasesEntry(
            **{
                name: tuple(cell_entry(self.cell(ratio, size)) for size, ratio in cells)
                for name, cells in self.phases.items()
            }
        )

    def measure_noise(self) -> None:
        neighbour = {**START, "lr": 0.008}
        configs, others = (
            [run_config("adamw", self.cell(), point, seed) for seed in range(4)]
            for point in (START, neighbour)
        )
        own, other = ([self.train(c).val_loss or 0.0 for c in group] for group in (configs, others))
        paired = float(np.std(np.subtract(own, other), ddof=1))
        self.note(
            NoiseEntry(
                cell=cell_entry(self.cell()),
                optimizer="adamw",
                run_ids=tuple(config.run_id for config in configs),
                neighbour_run_ids=tuple(config.run_id for config in others),
                sigma=float(np.std(own, ddof=1)),
                paired_sigma=paired,
                tie_threshold=max(3e-3, paired),
            )
        )

    def tune(
        self, optimizer: str, ratio: float = 1.0, size: str = "d32", tau: float = 0.02
    ) -> Configuration:
        cell = self.cell(ratio, size)
        descent = CoordinateDescent(space=self.space, start=START, tie_threshold=tau, max_runs=24)
        while candidates := descent.ask():
            for candidate in candidates:
                record = self.train(run_config(optimizer, cell, candidate, 0))
                loss = float("inf") if record.val_loss is None else record.val_loss
                descent.tell(candidate, loss)
        configs = [run_config(optimizer, cell, e.configuration, 0) for e in descent.evaluations]
        winner = {**descent.incumbent, "weight_decay": 0.1}  # held fixed, so never searched

        def finite(loss: float) -> float | None:
            return loss if np.isfinite(loss) else None

        self.note(
            TuningEntry(
                cell=cell_entry(cell),
                optimizer=optimizer,
                start=dict(START),
                incumbent=winner,
                certified=descent.certified,
                tie_threshold=descent.tie_threshold,
                moves=tuple(
                    MoveEntry(m.axis, m.before, m.after, finite(m.loss_before), m.loss_after)
                    for m in descent.moves
                ),
                evaluations=tuple(
                    EvaluationEntry(dict(e.configuration), c.run_id, finite(e.loss))
                    for e, c in zip(descent.evaluations, configs, strict=True)
                ),
                rejected=(RejectionEntry({**START, "beta2": 0.5}, "β2 is too small"),),
                edges=tuple(descent.edges),
                runs=len(configs),
                tokens=sum(c.num_steps * c.tokens_per_step for c in configs),
            )
        )
        return winner

    def confirm(
        self,
        optimizer: str,
        configuration: Configuration,
        ratio: float = 1.0,
        size: str = "d32",
    ) -> list[str]:
        cell = self.cell(ratio, size)
        configs = [run_config(optimizer, cell, configuration, 1000 + k) for k in range(self.seeds)]
        for config in configs:
            self.train(config)
        run_ids = [config.run_id for config in configs]
        self.note(
            ConfirmationEntry(cell_entry(cell), optimizer, dict(configuration), tuple(run_ids))
        )
        return run_ids

    def confirm_best(self, optimizer: str, ratio: float = 1.0, size: str = "d32") -> list[str]:
        """The configuration that is the best in truth, without a search for it."""
        best = {**START, "lr": self.truth.best_lr[optimizer]}
        return self.confirm(optimizer, best, ratio, size)

    def end(self) -> None:
        runs = len(self.store.records)
        self.note(SessionEndEntry("2026-01-01T00:00:00", wall_s=320.0, runs_trained=runs))


def finished_study(truth: Truth | None = None, **settings: Any) -> SimulatedStudy:
    """All phases, all optimizers."""
    study = SimulatedStudy(truth=truth or Truth(), **settings)
    study.begin()
    study.measure_noise()
    for optimizer in study.optimizers:
        winner = study.tune(optimizer)
        for ratio in study.ratios if optimizer == "adamw" else (1.0,):
            study.confirm(optimizer, winner, ratio)
    study.end()
    return study


def confirmed_study(
    truth: Truth, cells: Sequence[tuple[str, float]], **settings: Any
) -> SimulatedStudy:
    """Every optimizer confirmed in every cell, nothing tuned."""
    names = tuple(truth.efficiency)
    phases = {"tune": list(cells), "retune": [], "predict": []}
    study = SimulatedStudy(truth=truth, optimizers=names, ratios=(1.0,), phases=phases, **settings)
    study.begin()
    for optimizer in names:
        for size, ratio in cells:
            study.confirm_best(optimizer, ratio, size)
    return study
