"""A study of several cells, executed with losses that are a known law."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

from optbench.config import RunConfig
from optbench.executors.processes import InlineExecutor
from optbench.ladder import SIZES
from optbench.store.store import RunRecord, RunStore
from optbench.study.config import StudyConfig
from optbench.study.file import read_study
from optbench.study.study import Study
from optbench.study.sweep import Sweep
from tests.study.test_study import Quiet, record_of

TEXT = """
name = "ladder"
title = "A simulated ladder"
baseline = "adamw"
[cell]
size = "d32"
ratio = 1.0
[phases]
tune = ["d32 4x", "d48 1x"]
retune = ["d48 4x"]
predict = ["d32 8x", "d64 1x"]
[baseline_curve]
ratios = [0.5]
cells = ["d64 4x"]
retune = ["lr"]
[run]
batch_size = 16
[protocol]
noise_seeds = 3
confirm_seeds = 3
max_runs = 30
[optimizers.adamw]
start = { lr = 0.016, beta1 = 0.9 }
space = { lr = [0.008, 0.016, 0.032], beta1 = [0.8, 0.9, 0.95] }
[optimizers.muon]
start = { lr = 0.016, momentum = 0.9 }
space = { lr = [0.016, 0.032, 0.064], momentum = [0.8, 0.9, 0.95] }
[optimizers.lion]
cells = ["d32 1x"]
start = { lr = 0.004 }
space = { lr = [0.002, 0.004, 0.008] }
"""
EFFICIENCY = {
    "adamw": 1.0, "nadamw": 1.05, "lion": 0.85, "muon": 1.45, "mars": 1.02, "cautious": 0.97,
    "adam_mini": 0.93, "scion": 1.35, "kron": 1.4, "soap": 1.5, "sophia": 0.8,
}  # fmt: skip
TREND = -0.15  # of ln e over ln N, of all but the baseline
HALVED = -math.log(2) / math.log(2.25)  # exponent of N with which an optimum halves from d32 to d48
N0 = SIZES["d32"].num_nonembedding_params


def efficiency(optimizer: str, params: float) -> float:
    """The true speed-up at a size, the same at all data ratios."""
    trend = 0.0 if optimizer == "adamw" else TREND
    return EFFICIENCY[optimizer] * (params / N0) ** trend


def best(axis: str, params: float, ratio: float) -> float:
    """The optimum of lr and of one minus momentum or beta1; that of beta1 is the same everywhere.

    In every tuned cell it is a candidate.
    """
    scale = (params / N0) ** HALVED * ratio**-0.5
    return {"lr": 0.032 * scale, "momentum": 0.2 * scale, "beta1": 0.1}[axis]


def simulated(config: RunConfig) -> RunRecord:
    """Parabolas in the logarithms of hyperparameters, a seed's share that all have, and noise."""
    name, values = config.optimizer.name, config.optimizer.hyperparameters
    params = config.model.num_nonembedding_params
    ratio = config.num_tokens / (20 * params)
    loss = 3 + 0.4 * (params / N0) ** -0.5
    loss += 0.8 * (config.num_tokens * efficiency(name, params) / (20 * N0)) ** -0.5
    for axis in ("lr", "momentum", "beta1"):
        if axis in values:
            value = float(values[axis])
            scaled = value if axis == "lr" else 1 - value
            loss += 0.03 * math.log2(scaled / best(axis, params, ratio)) ** 2
    loss += random.Random(f"{config.seed}").gauss(0, 0.008)
    loss += random.Random(config.run_id).gauss(0, 0.002)
    steps = [config.num_steps * k // 4 for k in (1, 2, 3, 4)]
    curve = [(s, loss + 0.5 * (config.num_steps / s - 1) ** 0.7) for s in steps]
    record = record_of(config, loss)
    return dataclasses.replace(record, val_curve=curve, step_s=0.01 * EFFICIENCY[name] ** 0.3)


def simulate(config: StudyConfig, folder: Path) -> RunStore:
    """Carry the whole study out in a folder."""
    with RunStore.open(folder) as store:
        study = Study(config, store, fingerprint="f")
        study.claim_store()
        study.run(Sweep(store, InlineExecutor(), simulated, Quiet()))
    return store


def simulated_ladder(folder: Path) -> RunStore:
    """Two optimizers in six cells, a third in one."""
    return simulate(read_study(TEXT), folder)
