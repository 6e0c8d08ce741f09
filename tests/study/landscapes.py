"""Made-up losses over made-up hyperparameters, and what drives a descent over them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from optbench.space import Configuration, SearchSpace, Value, choices, complement, geometric
from optbench.study.coordinate_descent import CoordinateDescent, Evaluation, key

Landscape = Callable[[Configuration], float]

SPACE = SearchSpace(
    lr=geometric(0.001, 0.002, 0.004, 0.008, low=1e-5, high=1.0),
    beta=complement(0.9, 0.95, 0.98),
    batch=geometric(8, 16, 32, low=1, high=256),
    shape=choices("cosine", "linear"),
)
START: Configuration = {"lr": 0.002, "beta": 0.95, "batch": 16, "shape": "cosine"}


def log_distance(value: Value, optimum: float) -> float:
    """Number of doublings between a value and its optimum."""
    return math.log2(float(value) / optimum)


def bowl(optimum: Configuration) -> Landscape:
    """A separable quadratic in the logarithms of lr, 1 - beta and batch, with a better shape."""

    def loss(c: Configuration) -> float:
        return (
            3.0
            + 0.04 * log_distance(c["lr"], float(optimum["lr"])) ** 2
            + 0.03 * log_distance(1 - float(c["beta"]), 1 - float(optimum["beta"])) ** 2
            + 0.02 * log_distance(c["batch"], float(optimum["batch"])) ** 2
            + 0.05 * (c["shape"] != optimum["shape"])
        )

    return loss


def valley(c: Configuration) -> float:
    """The best lr doubles with the batch: one coordinate alone soon sees no descent."""
    lr, batch = log_distance(c["lr"], 0.032), log_distance(c["batch"], 128)
    return 3.0 + 0.05 * (lr - batch) ** 2 + 0.004 * (lr + batch) ** 2


def flat(_: Configuration) -> float:
    return 3.0


def noisy(loss: Landscape, sigma: float, seed: int) -> Landscape:
    """The same noise whenever the same configuration is evaluated."""

    def noisy_loss(c: Configuration) -> float:
        return loss(c) + random.Random(f"{seed} {key(c)}").gauss(0, sigma)

    return noisy_loss


def diverging(loss: Landscape, above_lr: float) -> Landscape:
    return lambda c: math.nan if float(c["lr"]) > above_lr else loss(c)


def run(
    descent: CoordinateDescent, loss: Landscape, *, shuffle_seed: int | None = None
) -> list[list[Configuration]]:
    """Carry a descent out; returns the batches that it asked for."""
    batches: list[list[Configuration]] = []
    rng = random.Random(shuffle_seed)
    while batch := descent.ask():
        batches.append(batch)
        told = list(batch)
        if shuffle_seed is not None:
            rng.shuffle(told)
        for configuration in told:
            descent.tell(configuration, loss(configuration))
        assert len(batches) < 1000, "the descent does not end"
    return batches


def better_neighbours(descent: CoordinateDescent) -> list[Evaluation]:
    """Single changes of the current best, tried ones, that beat it by more than the threshold."""
    incumbent = descent.incumbent
    limit = descent.incumbent_loss - descent.tie_threshold
    return [
        e
        for e in descent.evaluations
        if sum(e.configuration[name] != incumbent[name] for name in incumbent) == 1
        and e.loss < limit
    ]


def untried_neighbours(descent: CoordinateDescent) -> list[Mapping[str, Value]]:
    """Single changes that the grid allows and that were neither tried nor rejected."""
    known = {key(e.configuration) for e in descent.evaluations}
    known |= {key(r.configuration) for r in descent.rejections}
    return [c for name in descent.space for c in descent.line(name) if key(c) not in known]
