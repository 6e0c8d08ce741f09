"""The training loop: a model, its batches and an optimizer → losses along the run and at its end.

Knows no store, no files and no processes; what it measures goes to a callback. The learning rate of
every parameter group is its own peak rate times one schedule factor. Gradients are clipped by one
global norm over the parameters of the run's clip scope before any optimizer sees them.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optbench.checkpoints.loop_state import Checkpointer, LoopState
from optbench.config import CLIPPED_ROLES, ClipScope, RunConfig
from optbench.optimizers import CurvatureOptimizer
from optbench.schedule import lr_factor
from optbench.training.accumulation import Accumulation
from optbench.training.batch_sources import Batches, DocumentBatches, WithDocuments
from optbench.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from optbench.training.micro_batches import Batch
from optbench.training.model import Llama

DIVERGED_FACTOR = 1.5  # a training loss above 1.5 · ln(V) is worse than knowing nothing
CURVE_POINTS = 50
NOISE_SEEDS_PER_RUN = 2**32


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is."""

    step: int
    num_steps: int
    train_loss: float


@dataclass(slots=True)
class TrainResult:
    """The outcome of a run; losses in nats per token, times in seconds.

    ``reason`` is empty for a run that reached its end, and is the reason for one that diverged.
    ``micro_batch_size`` is that of the last step: sequences forward and backward at once.
    """

    train_curve: list[tuple[int, float]] = field(default_factory=list)
    val_curve: list[tuple[int, float]] = field(default_factory=list)
    val_loss: float | None = None
    test_loss: float | None = None
    steps_taken: int = 0
    step_s: float = 0.0
    optimizer_step_s: float = 0.0
    micro_batch_size: int = 0
    reason: str = ""


def train(
    config: RunConfig,
    model: Llama,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    *,
    device: torch.device,
    micro_batch_size: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    ranks: ProcessGroup = SINGLE_PROCESS,
    checkpointer: Checkpointer | None = None,
) -> TrainResult:
    """Train ``model`` for the whole budget, or until it has diverged.

    Nothing is ever stopped because its loss is merely worse than another's: learning-rate decay
    makes curves cross (protocol §1).

    Args:
        config: budget, schedule, clipping and evaluation.
        optimizer: its groups' current learning rates are the peak rates.
        micro_batch_size: sequences forward and backward at once, as long as they fit; None is a
            whole batch. It changes no result but by rounding.
        on_progress: called about fifty times along the run.
        ranks: who trains together; each returns the same result but for the times.
        checkpointer: of the run's state; the run goes on from what it gives back.
    """
    accumulation = Accumulation(model, micro_batch_size, ranks)
    loop = _Loop(config, model, optimizer, batches, device, accumulation)
    num_evals = min(config.num_evals, config.num_steps)  # more would be at the same steps
    eval_steps = {round((i + 1) * config.num_steps / num_evals) for i in range(num_evals)}
    report_every = max(1, config.num_steps // CURVE_POINTS)
    model.train()
    if checkpointer is not None and (state := checkpointer.resume(model, optimizer)) is not None:
        loop.restore(state)
    for steps_taken in range(loop.result.steps_taken + 1, config.num_steps + 1):
        loop.step()
        if steps_taken % report_every == 0 or steps_taken == config.num_steps:
            on_progress(Progress(steps_taken, config.num_steps, loop.note_train_loss()))
        if steps_taken in eval_steps and not loop.result.reason:
            loop.note_val_loss()
        if loop.result.reason:
            break
        if checkpointer is not None and checkpointer.should_save(steps_taken):
            checkpointer.save(model, optimizer, loop.state())
    return loop.finish()


@dataclass(slots=True)
class _Loop:
    """The state of a run between two steps."""

    config: RunConfig
    model: Llama
    optimizer: torch.optim.Optimizer
    batches: Batches
    device: torch.device
    accumulation: Accumulation
    result: TrainResult = field(default_factory=TrainResult)
    _step_times: list[float] = field(default_factory=list)
    _optimizer_times: list[float] = field(default_factory=list)
    _recent_losses: list[Tensor] = field(default_factory=list)
    _schedule: torch.optim.lr_scheduler.LambdaLR = field(init=False)
    _clipped: list[torch.nn.Parameter] = field(init=False)
    _first_micro_batch_size: int | None = field(init=False)

    def __post_init__(self) -> None:
        self._clipped = clipped_parameters(self.model, self.config.clip_scope)
        self._first_micro_batch_size = self.accumulation.size
        self._schedule = self._schedule_after(0)

    def _schedule_after(self, steps_taken: int) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _factor(self.config, step), last_epoch=steps_taken - 1
        )

    def state(self) -> LoopState:
        """All that the loop goes on from, besides model and optimizer."""
        losses = self._recent_losses
        return LoopState(
            steps_taken=self.result.steps_taken,
            train_curve=self.result.train_curve,
            val_curve=self.result.val_curve,
            first_micro_batch_size=self._first_micro_batch_size,
            micro_batch_size=self.accumulation.size,
            step_times=torch.tensor(self._step_times, dtype=torch.float64),
            optimizer_times=torch.tensor(self._optimizer_times, dtype=torch.float64),
            recent_losses=torch.stack(losses) if losses else torch.zeros(0),
        )

    def restore(self, state: LoopState) -> None:
        """Go on from a state whose model and optimizer have been loaded.

        The micro-batch stays as small as it had become, unless the run is given another one now.
        """
        self.result.steps_taken = state.steps_taken
        self.result.train_curve = list(state.train_curve)
        self.result.val_curve = list(state.val_curve)
        self._step_times = state.step_times.tolist()
        self._optimizer_times = state.optimizer_times.tolist()
        self._recent_losses = list(state.recent_losses.to(self.device).unbind())
        if state.first_micro_batch_size == self._first_micro_batch_size:
            self.accumulation.size = state.micro_batch_size
        self._schedule = self._schedule_after(state.steps_taken)

    def step(self) -> None:
        """One batch, forward to update."""
        config = self.config
        started = time.perf_counter()
        batch = _train_batch(self.batches, config, self.result.steps_taken, self.device)
        loss = self.accumulation.accumulate_gradients(batch)
        if config.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self._clipped, config.clip_norm)
        before_update = time.perf_counter()
        update(self.optimizer, self.accumulation, batch, noise_seed=self._noise_seed())
        self._optimizer_times.append(time.perf_counter() - before_update)
        self._schedule.step()
        self._step_times.append(time.perf_counter() - started)
        self._recent_losses.append(loss)
        self.result.steps_taken += 1

    def _noise_seed(self) -> int:
        """A function of the run's seed and the step alone, so that a resumed run draws the same."""
        return self.config.seed * NOISE_SEEDS_PER_RUN + self.result.steps_taken

    def note_train_loss(self) -> float:
        """The mean loss since the last point of the curve; records whether the run has diverged."""
        own = float(torch.stack(self._recent_losses).mean())
        train_loss = self.accumulation.ranks.total(own)
        self._recent_losses.clear()
        if reason := _divergence(train_loss, self.config):
            self._diverged(reason)
        else:
            self.result.train_curve.append((self.result.steps_taken, train_loss))
        return train_loss

    def note_val_loss(self) -> None:
        """The loss on the validation split."""
        val_loss = self._evaluate("validation")
        if math.isfinite(val_loss):
            self.result.val_curve.append((self.result.steps_taken, val_loss))
        else:
            self._diverged(f"the validation loss is {val_loss}")

    def _diverged(self, reason: str) -> None:
        where = f"step {self.result.steps_taken} of {self.config.num_steps}"
        self.result.reason = f"{where}: {reason}"

    def finish(self) -> TrainResult:
        """The times and, of a run that reached its end, the losses that are quoted."""
        result = self.result
        result.step_s = statistics.median(self._step_times)
        result.optimizer_step_s = statistics.median(self._optimizer_times)
        share = -(-self.config.batch_size // self.accumulation.ranks.size)
        result.micro_batch_size = self.accumulation.size or share
        if not result.reason:
            self._note_final_losses()
        return result

    def _note_final_losses(self) -> None:
        test_loss = self._evaluate("test")
        if math.isfinite(test_loss):
            self.result.val_loss = self.result.val_curve[-1][1]
            self.result.test_loss = test_loss
        else:
            self._diverged(f"the test loss is {test_loss}")

    def _evaluate(self, split: Literal["validation", "test"]) -> float:
        return evaluate(
            self.model,
            self.batches,
            self.config,
            split,
            device=self.device,
            micro_batch_size=self.accumulation.size,
            ranks=self.accumulation.ranks,
        )


def clipped_parameters(model: Llama, scope: ClipScope) -> list[torch.nn.Parameter]:
    """The parameters whose common gradient norm is limited (see :class:`RunConfig`)."""
    roles = model.roles()
    clipped = CLIPPED_ROLES[scope]
    return [param for name, param in model.named_parameters() if roles[name] in clipped]


def update(
    optimizer: torch.optim.Optimizer, accumulation: Accumulation, batch: Batch, *, noise_seed: int
) -> None:
    """Step the optimizer on the gradients that are there, clear them, and give what it asks for.

    Args:
        accumulation: of the model that the optimizer steps.
        batch: that of the gradients; a curvature estimate is made on it.
        noise_seed: of the randomness in such an estimate.
    """
    optimizer.step()
    accumulation.clear()
    if isinstance(optimizer, CurvatureOptimizer) and optimizer.curvature_due():
        accumulation.update_curvature(optimizer, batch, noise_seed=noise_seed)


@torch.no_grad()
def evaluate(
    model: Llama,
    batches: Batches,
    config: RunConfig,
    split: Literal["validation", "test"],
    *,
    device: torch.device,
    micro_batch_size: int | None = None,
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> float:
    """Mean loss in nats per token over the fixed tokens of a split.

    Ranks take turns at the pieces, which are those of one process, and all get the same mean.
    """
    total, count = 0.0, 0
    model.eval()
    pieces = (
        piece
        for whole in _eval_batches(batches, config, split, device)
        for piece, _ in whole.split(micro_batch_size)
    )
    for batch in itertools.islice(pieces, ranks.rank, None, ranks.size):
        total += float(model.loss(batch.tokens, batch.doc_ids)) * batch.predictions
        count += batch.predictions
    model.train()
    return ranks.total(total) / ranks.total(count)


def _documents(batches: Batches, config: RunConfig) -> DocumentBatches | None:
    """The batches, if they know their documents and the run is to keep these apart."""
    if config.attention_scope == "document" and isinstance(batches, DocumentBatches):
        return batches
    return None


def _train_batch(batches: Batches, config: RunConfig, step: int, device: torch.device) -> Batch:
    known = _documents(batches, config)
    read = batches.batch if known is None else known.batch_with_documents
    return _on_device(
        read(step, seed=config.seed, batch_size=config.batch_size, seq_len=config.model.seq_len),
        device,
    )


def _eval_batches(
    batches: Batches,
    config: RunConfig,
    split: Literal["validation", "test"],
    device: torch.device,
) -> Iterator[Batch]:
    known = _documents(batches, config)
    read = batches.eval_batches if known is None else known.eval_batches_with_documents
    found = read(
        split,
        num_tokens=config.eval_tokens if split == "validation" else config.test_tokens,
        batch_size=config.batch_size,
        seq_len=config.model.seq_len,
    )
    return (_on_device(sequences, device) for sequences in found)


def _on_device(sequences: NDArray[np.int64] | WithDocuments, device: torch.device) -> Batch:
    if isinstance(sequences, np.ndarray):
        return Batch(torch.from_numpy(sequences).to(device))
    tokens, doc_ids = torch.from_numpy(sequences.tokens), torch.from_numpy(sequences.doc_ids)
    return Batch(tokens.to(device), doc_ids.to(device))


def _factor(config: RunConfig, step: int) -> float:
    schedule = config.schedule
    return lr_factor(
        step,
        num_steps=config.num_steps,
        warmup_steps=schedule.warmup_steps,
        decay_steps=schedule.decay_steps,
        shape=schedule.shape,
        final_frac=schedule.final_frac,
    )


def _divergence(train_loss: float, config: RunConfig) -> str:
    """The reason why a run has diverged, or nothing."""
    if not math.isfinite(train_loss):
        return f"the training loss is {train_loss}"
    limit = DIVERGED_FACTOR * math.log(config.model.vocab_size)
    if train_loss > limit:
        return (
            f"the training loss {train_loss:.2f} exceeds {limit:.2f} = {DIVERGED_FACTOR:g} · ln "
            f"{config.model.vocab_size}, {DIVERGED_FACTOR:g} times that of a uniform guess"
        )
    return ""
