"""Runs that are interrupted and resumed, each part with a model and an optimizer of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.checkpoints.checkpoint import checkpoint_directory
from optbench.checkpoints.manager import CheckpointManager
from optbench.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from optbench.execution import Execution
from optbench.training.model import Llama
from optbench.training.run import build_optimizer
from optbench.training.trainer import Progress, TrainResult, train

CPU = torch.device("cpu")
MODEL = ModelConfig(num_layers=1, d_model=16, d_ff=32, num_heads=2, vocab_size=32, seq_len=8)
EVERY_STEP = Execution(checkpoint_steps=1)
Build = Callable[[Llama], torch.optim.Optimizer]


class Interruption(Exception):
    """What ends a part of a run."""


@dataclass
class Cycle:
    """Tokens that count upwards modulo the vocabulary."""

    asked: list[int] = field(default_factory=list)

    def batch(self, step: int, *, seed: int, batch_size: int, seq_len: int) -> np.ndarray:
        self.asked.append(step)
        start = np.random.default_rng([seed, step]).integers(0, MODEL.vocab_size, (batch_size, 1))
        return (start + np.arange(seq_len + 1)) % MODEL.vocab_size

    def eval_batches(self, split: str, *, num_tokens: int, batch_size: int, seq_len: int):
        other = Cycle()
        for step in range(num_tokens // (batch_size * seq_len)):
            yield other.batch(
                step, seed=1 + (split == "test"), batch_size=batch_size, seq_len=seq_len
            )


def config_of(optimizer: str = "adamw", steps: int = 30, **hyperparameters: Any) -> RunConfig:
    return RunConfig(
        model=MODEL,
        data=DataConfig(corpus="made up"),
        optimizer=OptimizerConfig(name=optimizer, hyperparameters=hyperparameters),
        schedule=ScheduleConfig(warmup_steps=5, decay_steps=steps - 5),
        num_tokens=steps * 4 * 8,
        batch_size=4,
        eval_tokens=64,
        test_tokens=64,
        num_evals=3,
    )


@dataclass
class Part:
    """One part of a run: what it left, or None where it was interrupted."""

    result: TrainResult | None
    model: Llama
    optimizer: torch.optim.Optimizer
    checkpointer: CheckpointManager
    steps: list[int]

    def state(self) -> list[Tensor]:
        """Parameters and state tensors, in order."""
        entries = self.optimizer.state_dict()["state"]
        kept = [v for key in entries for v in entries[key].values() if isinstance(v, Tensor)]
        return [*self.model.parameters(), *kept]

    @property
    def resumed_at(self) -> list[int]:
        return self.checkpointer.record().get("resumed_at_steps", [])


@dataclass
class Runs:
    """Parts of one run, one after another, with one root for their checkpoints."""

    root: Path | str
    config: RunConfig = field(default_factory=config_of)
    execution: Execution = EVERY_STEP
    micro_batch_size: int | None = None
    build: Build | None = None

    def part(
        self, stop: int | None = None, *, seed: int = 0, prepare: Callable[[Llama], object] = id
    ) -> Part:
        """Train on, and be interrupted when ``stop`` steps have been taken but not yet kept."""
        model = Llama(self.config.model, seed=seed)
        prepare(model)
        build = self.build or (lambda model: build_optimizer(self.config, model))
        optimizer, batches = build(model), Cycle()
        checkpointer = CheckpointManager(
            checkpoint_directory(self.root, self.config.run_id),
            self.execution,
            self.config.num_steps,
        )
        result = None

        def interrupt(at: Progress) -> None:
            if at.step == stop:
                raise Interruption

        try:
            result = train(
                self.config,
                model,
                optimizer,
                batches,
                device=CPU,
                micro_batch_size=self.micro_batch_size,
                on_progress=interrupt,
                checkpointer=checkpointer,
            )
        except Interruption:
            pass
        finally:
            checkpointer.close()
        return Part(result, model, optimizer, checkpointer, batches.asked)

    def parts(self, stops: Sequence[int], **settings: Any) -> Part:
        """Be interrupted at each of these steps; the last part, from yet another start."""
        for number, stop in enumerate(stops):
            assert self.part(stop, seed=number, **settings).result is None
        return self.part(seed=len(stops) + 7, **settings)


def undisturbed(runs: Runs, **settings: Any) -> Part:
    """The same run without a checkpoint."""
    plain = Runs(
        "memory://nothing-is-kept-here",
        runs.config,
        Execution(checkpoint_interval=0),
        runs.micro_batch_size,
        runs.build,
    )
    part = plain.part(**settings)
    assert part.resumed_at == []
    return part


def assert_bit_equal(one: Part, other: Part) -> None:
    """Losses, curves, parameters and the optimizer's state."""
    assert one.result is not None
    assert other.result is not None
    assert one.result.reason == other.result.reason == ""
    for name in ("train_curve", "val_curve", "val_loss", "test_loss", "steps_taken"):
        assert getattr(one.result, name) == getattr(other.result, name), name
    for ours, theirs in zip(one.state(), other.state(), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
