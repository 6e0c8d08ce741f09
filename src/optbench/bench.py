"""What a training step of a configuration costs on this device, measured before it is spent."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from optbench.config import RunConfig
from optbench.model import Llama
from optbench.run import build_optimizer, default_device

WARMUP_STEPS = 3
PLAN_STEPS = 20
EVAL_BATCHES = 4
ROUNDS = 30
STEPS_PER_ROUND = 5


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of one training step (median), and of evaluating one token."""

    step_s: float
    eval_s_per_token: float

    def run_seconds(self, config: RunConfig) -> float:
        """Predicted seconds of a whole run on one worker, evaluations included."""
        eval_tokens = config.num_evals * config.eval_tokens + config.test_tokens
        return config.num_steps * self.step_s + eval_tokens * self.eval_s_per_token


class TimedTraining:
    """A model of a configuration that trains on one batch of random tokens, and times it.

    The text does not matter for the time, and neither does the loss.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._device = default_device()
        self._model = Llama(config.model, seed=0).to(self._device)
        self._optimizer = build_optimizer(config, self._model)
        shape = (config.batch_size, config.model.seq_len + 1)
        self._tokens = torch.randint(0, config.model.vocab_size, shape, device=self._device)

    def step_s(self, num_steps: int) -> float:
        """Median seconds of a training step over ``num_steps``."""
        return statistics.median(self._step_s() for _ in range(num_steps))

    def _step_s(self) -> float:
        started = time.perf_counter()
        self._model.loss(self._tokens).backward()
        if self.config.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self.config.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        _synchronize(self._device)
        return time.perf_counter() - started

    @torch.no_grad()
    def eval_s_per_token(self) -> float:
        """Seconds of evaluating one token."""
        started = time.perf_counter()
        for _ in range(EVAL_BATCHES):
            self._model.loss(self._tokens)
        _synchronize(self._device)
        evaluated = EVAL_BATCHES * self.config.batch_size * self.config.model.seq_len
        return (time.perf_counter() - started) / evaluated


def measure_step(config: RunConfig) -> StepCost:
    """Seconds of a training step and of an evaluated token."""
    training = TimedTraining(config)
    training.step_s(WARMUP_STEPS)
    return StepCost(training.step_s(PLAN_STEPS), training.eval_s_per_token())


def measure_interleaved(configs: Sequence[RunConfig]) -> list[list[float]]:
    """Seconds per token of several configurations, turn by turn, one list of rounds for each.

    What the machine does besides slows all of a round alike, so their ratios are far steadier than
    times that were taken one configuration after another.
    """
    trainings = [TimedTraining(config) for config in configs]
    for training in trainings:
        training.step_s(WARMUP_STEPS)
    times: list[list[float]] = [[] for _ in trainings]
    for _ in range(ROUNDS):
        for own, training in zip(times, trainings, strict=True):
            own.append(training.step_s(STEPS_PER_ROUND) / training.config.tokens_per_step)
    return times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
