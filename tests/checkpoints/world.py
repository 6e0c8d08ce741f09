"""Ranks that are threads of one process and train one model, each with an optimizer of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from optbench.checkpoints.checkpoint import checkpoint_directory
from optbench.checkpoints.loop_state import LoopState
from optbench.checkpoints.manager import CheckpointManager
from optbench.checkpoints.training_state import RankInfo, held_names
from optbench.execution import Execution
from optbench.optimizers import OPTIMIZERS, CurvatureOptimizer, parameter_groups
from optbench.training.model import Llama
from tests.checkpoints.checkpointed_runs import MODEL, Cycle

Build = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
STEPS = 100


@dataclass
class Meeting:
    """A collective of threads."""

    num_ranks: int
    values: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.num_ranks)

    def gather_of(self, rank: int) -> Callable[[Any], list[Any]]:
        def gather(value: Any) -> list[Any]:
            self.values[rank] = value
            self.barrier.wait(30)
            found = [self.values[r] for r in range(self.num_ranks)]
            self.barrier.wait(30)
            return found

        return gather


def everyone(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the jobs give, each in a thread of its own."""
    results: list[Any] = [None] * len(jobs)

    def run(number: int) -> None:
        results[number] = jobs[number]()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


@dataclass
class World:
    """A model whose parameters are dealt out to the optimizers of several ranks."""

    root: Path
    build: Build
    num_ranks: int
    seed: int = 0

    def __post_init__(self) -> None:
        self.model = Llama(MODEL, seed=self.seed)
        groups = parameter_groups(self.model, self.model.roles())
        self.optimizers: list[torch.optim.Optimizer] = []
        for rank in range(self.num_ranks):
            own = [{**g, **self._dealt(g, rank)} for g in groups]
            self.optimizers.append(self.build([g for g in own if g["params"]]))
        meeting, directory = Meeting(self.num_ranks), checkpoint_directory(self.root, "r")
        self.keepers = [
            CheckpointManager(
                directory,
                Execution(checkpoint_steps=1),
                STEPS,
                rank_info=RankInfo(rank, self.num_ranks),
                gather=meeting.gather_of(rank),
            )
            for rank in range(self.num_ranks)
        ]

    def _dealt(self, group: dict[str, Any], rank: int) -> dict[str, Any]:
        names = [n for n, _ in self.model.named_parameters()]
        of = {id(p): number for number, (_, p) in enumerate(self.model.named_parameters())}
        assert names
        params = list(group["params"])
        if params and isinstance(params[0], tuple):
            params = [p for _, p in params]
        return {"params": [p for p in params if of[id(p)] % self.num_ranks == rank]}

    def train(self, steps: range) -> None:
        for step in steps:
            tokens = Cycle().batch(step, seed=0, batch_size=4, seq_len=8)
            self.model.loss(torch.from_numpy(tokens)).backward()
            for optimizer in self.optimizers:
                optimizer.step()
                if isinstance(optimizer, CurvatureOptimizer) and optimizer.curvature_due():
                    optimizer.update_curvature(batch_tokens=32)
            self.model.zero_grad()

    def save(self, step: int) -> None:
        def job(rank: int) -> Callable[[], None]:
            def save() -> None:
                checkpointer = self.keepers[rank]
                assert checkpointer.should_save(step)
                checkpointer.save(self.model, self.optimizers[rank], loop_state(step, rank))
                assert checkpointer._writer.is_free(30)
                checkpointer.close()

            return save

        everyone([job(rank) for rank in range(self.num_ranks)])

    def resume(self) -> list[LoopState | None]:
        return everyone(
            [
                lambda rank=rank: self.keepers[rank].resume(self.model, self.optimizers[rank])
                for rank in range(self.num_ranks)
            ]
        )

    def state(self) -> dict[str, Any]:
        """Parameters and their optimizer's state, by name."""
        found: dict[str, Any] = dict(self.model.named_parameters())
        for optimizer in self.optimizers:
            names = chain.from_iterable(held_names(self.model, optimizer))
            params = chain.from_iterable(g["params"] for g in optimizer.param_groups)
            for name, param in zip(names, params, strict=True):
                found |= {f"{name}/{key}": v for key, v in optimizer.state[param].items()}
        return found


def loop_state(step: int, rank: int = 0) -> LoopState:
    return LoopState(
        steps_taken=step,
        train_curve=[(step - 2, 3.0)] if step > 2 else [],
        val_curve=[],
        first_micro_batch_size=None,
        micro_batch_size=2,
        step_times=torch.full((step,), 0.5 + rank, dtype=torch.float64),
        optimizer_times=torch.full((step,), 0.25, dtype=torch.float64),
        recent_losses=torch.tensor([3.0 + rank, 4.0 - rank]),
    )


BUILDS: dict[str, Build] = {
    **{
        name: (lambda groups, name=name: OPTIMIZERS[name](groups))
        for name in ("adamw", "soap", "kron", "muon", "adam_mini")
    },
    "sophia": lambda groups: OPTIMIZERS["sophia"](groups, curvature_interval=3),  # type: ignore[call-arg]
    "torch": lambda groups: torch.optim.AdamW([{"params": g["params"]} for g in groups], lr=0.01),
}
