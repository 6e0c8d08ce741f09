"""What training steps and optimizers cost on this device: for plans, ratios and tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from optbench.config import RunConfig
from optbench.training.accumulation import Accumulation
from optbench.training.micro_batches import Batch
from optbench.training.model import Llama
from optbench.training.run import build_optimizer, default_device, optimizer_state_bytes
from optbench.training.trainer import clipped_parameters, update

LONGEST_STEPS_S = 10.0  # of one measurement for a plan, begun steps apart
WARMUP_STEPS = 10
PLAN_STEPS = 60
STEPS_PER_BLOCK = 10  # at least one refresh at the usual intervals
EVAL_BATCHES = 20
# Training steps that one measurement for a plan amounts to; an evaluated batch is a third of one.
MEASURED_STEPS = WARMUP_STEPS + PLAN_STEPS + EVAL_BATCHES / 3
PROBE_SIDE = 512
PROBES = 5
OPTIMIZER_STEPS = 30  # three refreshes at the usual interval of ten
ROUNDS = 20  # of STEPS_PER_BLOCK steps, when winners are timed side by side
LEAST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of one training step, refreshes included, and of evaluating one token."""

    step_s: float
    eval_s_per_token: float

    def run_seconds(self, config: RunConfig) -> float:
        """Predicted seconds of a whole run on one worker, evaluations included."""
        eval_tokens = config.num_evals * config.eval_tokens + config.test_tokens
        return config.num_steps * self.step_s + eval_tokens * self.eval_s_per_token


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of one training step, and of the update within it."""

    total_s: float
    update_s: float


@dataclass(frozen=True, slots=True)
class OptimizerCost:
    """What an optimizer costs on this device.

    Args:
        step_s: median seconds of a whole training step.
        update_s: median seconds of the update within it.
        worst_update_s: the slowest update, such as the refresh of a preconditioner.
        share: of the updates in the time of all steps, refreshes included.
        state_bytes_per_param: optimizer state over all parameters.
    """

    optimizer: str
    step_s: float
    update_s: float
    worst_update_s: float
    share: float
    state_bytes_per_param: float


def mean_cost(costs: Sequence[StepCost]) -> StepCost:
    """The average over workers."""
    return StepCost(
        statistics.mean(cost.step_s for cost in costs),
        statistics.mean(cost.eval_s_per_token for cost in costs),
    )


class TimedTraining:
    """A model of a configuration that trains on one batch of random tokens, and times it.

    The text does not matter for the time, and neither does the loss.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._device = default_device()
        model = Llama(config.model, seed=0, precision=config.precision)
        self._model = model.to(self._device)
        self._accumulation = Accumulation(self._model)
        self._clipped = clipped_parameters(self._model, config.clip_scope)
        self._optimizer = build_optimizer(config, self._model)
        shape = (config.batch_size, config.model.seq_len + 1)
        tokens = torch.randint(0, config.model.vocab_size, shape, device=self._device)
        self._batch = Batch(tokens)

    @property
    def state_bytes_per_param(self) -> float:
        """Optimizer state after the steps so far."""
        return optimizer_state_bytes(self._optimizer) / self.config.model.num_params

    def step_s(self, num_steps: int) -> float:
        """Median seconds of a training step over ``num_steps``."""
        return statistics.median(self.step().total_s for _ in range(num_steps))

    def block_step_s(self, num_steps: int) -> float:
        """Seconds of a step over ``num_steps``: the median over blocks, of each block the mean.

        Unlike the median over steps it sees what is done once in some steps, and unlike the mean it
        is not moved by what else the machine did at one time.
        """
        blocks = range(num_steps // STEPS_PER_BLOCK)
        return statistics.median(
            statistics.fmean(self.step().total_s for _ in range(STEPS_PER_BLOCK)) for _ in blocks
        )

    def step(self) -> StepTimes:
        """One training step, forward to update."""
        started = time.perf_counter()
        self._accumulation.accumulate_gradients(self._batch)
        if self.config.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self._clipped, self.config.clip_norm)
        _synchronize(self._device)
        before_update = time.perf_counter()
        update(self._optimizer, self._accumulation, self._batch, noise_seed=0)
        _synchronize(self._device)
        ended = time.perf_counter()
        return StepTimes(ended - started, ended - before_update)

    @torch.no_grad()
    def eval_s_per_token(self) -> float:
        """Seconds of evaluating one token."""
        started = time.perf_counter()
        for _ in range(EVAL_BATCHES):
            self._model.loss(self._batch.tokens)
        _synchronize(self._device)
        evaluated = EVAL_BATCHES * self.config.batch_size * self.config.model.seq_len
        return (time.perf_counter() - started) / evaluated


def measure_step(config: RunConfig) -> StepCost:
    """Seconds of a training step and of an evaluated token, from fewer steps where these are slow.

    A training whose steps take seconds is timed by as many as ten seconds hold, at least by one.
    """
    training = TimedTraining(config)
    first_s = training.step_s(1)  # makes the state too
    if first_s * MEASURED_STEPS > LONGEST_STEPS_S:
        more = int(LONGEST_STEPS_S / first_s) - 1
        step_s = training.step_s(more) if more > 0 else first_s
        return StepCost(step_s, step_s / 3 / config.tokens_per_step)
    training.step_s(WARMUP_STEPS - 1)
    return StepCost(training.block_step_s(PLAN_STEPS), training.eval_s_per_token())


def matmul_flops_per_s() -> float:
    """Rate of a plain float32 matrix product on this device, which no training step exceeds."""
    device = default_device()
    factor = torch.ones(PROBE_SIDE, PROBE_SIDE, device=device)
    times: list[float] = []
    for _ in range(PROBES):
        started = time.perf_counter()
        torch.mm(factor, factor)
        _synchronize(device)
        times.append(time.perf_counter() - started)
    return 2.0 * PROBE_SIDE**3 / min(times)


def measure_optimizer(config: RunConfig, num_steps: int = OPTIMIZER_STEPS) -> OptimizerCost:
    """Median and worst update of one optimizer within training steps of its own."""
    training = TimedTraining(config)
    # The first step makes the state; the next ones settle the memory.
    training.step_s(WARMUP_STEPS)
    steps = [training.step() for _ in range(num_steps)]
    updates = [step.update_s for step in steps]
    return OptimizerCost(
        optimizer=config.optimizer.name,
        step_s=statistics.median(step.total_s for step in steps),
        update_s=statistics.median(updates),
        worst_update_s=max(updates),
        share=sum(updates) / sum(step.total_s for step in steps),
        state_bytes_per_param=training.state_bytes_per_param,
    )


def measure_interleaved(configs: Sequence[RunConfig]) -> list[list[float]]:
    """Seconds per token of several configurations, turn by turn, one list of rounds for each.

    What the machine does besides slows all of a round alike, so their ratios are far steadier than
    times that were taken one configuration after another.
    """
    # Runs that are shorter than what would time them are timed by as much as they are long.
    longest = max((config.num_steps for config in configs), default=0)
    rounds = min(ROUNDS, max(LEAST_ROUNDS, longest // STEPS_PER_BLOCK))
    trainings = [TimedTraining(config) for config in configs]
    for training in trainings:
        training.step_s(WARMUP_STEPS)
    times: list[list[float]] = [[] for _ in trainings]
    for _ in range(rounds):
        for own, training in zip(times, trainings, strict=True):
            # Whole blocks, so that what a method does once in some steps counts.
            own.append(training.block_step_s(STEPS_PER_BLOCK) / training.config.tokens_per_step)
    return times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
