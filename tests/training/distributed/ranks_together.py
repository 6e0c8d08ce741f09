"""Trainings by several ranks, launched once for all tests that look at them."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from optbench.optimizers import OPTIMIZERS, Mars
from optbench.training.distributed import elastic
from optbench.training.distributed.process_group import SINGLE_PROCESS
from optbench.training.run import optimizer_state_bytes
from tests.training.distributed.rank_jobs import Case, losses_of, train_case

ROOT = Path(__file__).parents[3]
SIZES = [2, pytest.param(3, marks=pytest.mark.slow)]

HUTCHINSON = {"estimator": "hutchinson", "rho": 0.0125, "eps": 1e-7, "curvature_interval": 3}
VARIANTS = (
    Case("sophia", (("curvature_interval", 3),)),
    Case("sophia", (("curvature_interval", 3),), micro_batch_size=2),
    Case("sophia", tuple(HUTCHINSON.items()), micro_batch_size=2),
    Case("mars", tuple(Mars.paper.items())),
    Case("adamw", documents=True),
    Case("adamw", batch_size=6, micro_batch_size=1),
    Case("muon", micro_batch_size=2, clip_scope="norms"),
    Case("torch AdamW"),
    Case("torch SGD", (("lr", 0.1), ("momentum", 0.9))),
    Case("own"),
)
OWN_METHODS = tuple(Case(name) for name in OPTIMIZERS)
CASES = (*OWN_METHODS, *VARIANTS, *(Case(name, dtype="float32") for name in OPTIMIZERS))


@dataclass(frozen=True, slots=True)
class Together:
    """What the ranks said at the end of each case, in their order, and their parameters."""

    said: dict[str, Any]
    parameters: tuple[dict[str, torch.Tensor], ...]

    def of(self, case: Case) -> list[dict[str, Any]]:
        return self.said[case.label]


@dataclass(frozen=True, slots=True)
class Alone:
    """One process's training of a case."""

    losses: list[float]
    parameters: dict[str, torch.Tensor]
    state_bytes: int


@functools.cache
def together(size: int) -> Together:
    """All cases, trained by so many ranks in one launch."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        ranks_can_import_the_jobs(patch)
        cases = [dataclasses.asdict(case) for case in CASES]
        job = {"name": "train_cases", "folder": folder, "cases": cases}
        said = elastic.run_ranks("tests.training.distributed.rank_jobs", job, size, max_restarts=0)
        files = [Path(folder) / f"{number}.safetensors" for number in range(len(CASES))]
        return Together(said, tuple(load_file(file) for file in files))


@functools.cache
def alone(case: Case) -> Alone:
    result, model, optimizer = train_case(case, SINGLE_PROCESS)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    return Alone(losses_of(result), parameters, optimizer_state_bytes(optimizer))


def ranks_can_import_the_jobs(patch: pytest.MonkeyPatch) -> None:
    """Ranks are new processes, to which pytest gives none of its paths."""
    patch.setenv("PYTHONPATH", str(ROOT), prepend=":")
