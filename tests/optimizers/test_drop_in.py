"""Every optimizer on a model that is wrapped by DistributedDataParallel or by torch.compile."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from optbench.config import ModelConfig
from optbench.optimizers import OPTIMIZERS, BaseOptimizer, CurvatureOptimizer, parameter_groups
from optbench.training.model import Llama
from tests.optimizers.trajectories import distance

ROOT = Path(__file__).parents[2]
SIZES = ModelConfig(num_layers=1, d_model=8, d_ff=16, num_heads=2, vocab_size=24, seq_len=6)
STEPS = 5
BATCH = 8
RANKS = 2


def bare_model() -> Llama:
    """The same start each time; in float64, so that only a wrong gradient shows."""
    return Llama(SIZES, seed=0).double()


def tokens_of(step: int) -> Tensor:
    """(B, S + 1)."""
    shape = (BATCH, SIZES.seq_len + 1)
    return torch.from_numpy(np.random.default_rng((0, step)).integers(SIZES.vocab_size, size=shape))


def uniforms_of(step: int) -> Tensor:
    """(B, S, 1), so that a label can be drawn for a sequence whichever process has it."""
    shape = (BATCH, SIZES.seq_len, 1)
    return torch.from_numpy(np.random.default_rng((1, step)).random(shape))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def build(name: str, model: nn.Module, bare: Llama) -> BaseOptimizer:
    """As a user does who knows roles and heads by the names of the bare model."""
    factory = cast(Callable[..., BaseOptimizer], OPTIMIZERS[name])
    defaults = OPTIMIZERS[name].default_hyperparameters()
    heads = bare.heads() if "head_dim" in defaults else None
    groups = parameter_groups(model.named_parameters(), bare.roles(), heads=heads)
    # Often enough that an estimate is used within the few steps.
    often = {"curvature_interval": 2, "precondition_frequency": 2}
    return factory(groups, **{key: value for key, value in often.items() if key in defaults})


def train(optimizer: BaseOptimizer, model: nn.Module, share: slice) -> list[float]:
    """The losses of a few steps on this process's share of each batch.

    The model is only ever called: a wrapper acts on calls, not on other methods of what it wraps.
    """
    losses: list[float] = []
    for step in range(STEPS):
        tokens, uniforms = tokens_of(step)[share], uniforms_of(step)[share]
        loss = cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(optimizer, CurvatureOptimizer) and optimizer.curvature_due():
            logits = model(tokens[:, :-1])
            passed = logits.detach().softmax(-1).cumsum(-1) < uniforms
            labels = passed.sum(-1).clamp(max=SIZES.vocab_size - 1)
            cross_entropy(logits, labels).backward()
            # The gradient is the mean over the batch of all processes, and so is the count.
            optimizer.update_curvature(batch_tokens=BATCH * SIZES.seq_len)
            optimizer.zero_grad()
    return losses


def values_of(model: nn.Module) -> list[Tensor]:
    return [param.detach() for param in model.parameters()]


# DistributedDataParallel ---------------------------------------------------------------------


def train_as_rank(rank: int, folder: str) -> None:
    """Train with every optimizer on this rank's sequences, and write the parameters."""
    # Otherwise the address would be that of the machine's name, which need not resolve.
    names = [name for _, name in socket.if_nameindex()]
    os.environ["GLOO_SOCKET_IFNAME"] = next(name for name in names if name.startswith("lo"))
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    share = slice(rank * BATCH // RANKS, (rank + 1) * BATCH // RANKS)
    results: dict[str, list[Tensor]] = {}
    for name in OPTIMIZERS:
        for gradients in ("copied", "bucket views"):
            bare = bare_model()
            views = gradients == "bucket views"
            model = DistributedDataParallel(bare, gradient_as_bucket_view=views)
            train(build(name, model, bare), model, share)
            results[f"{name}, {gradients}"] = values_of(bare)
    torch.save(results, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def trained_by_ranks(folder: Path, patch: pytest.MonkeyPatch) -> list[dict[str, list[Tensor]]]:
    """What each rank has in the end, by what ``train_as_rank`` trained with."""
    # The ranks get this process's sys.path, on which pytest does not put the tests by itself.
    patch.setattr(sys, "path", [*sys.path, str(ROOT)])
    spawn(train_as_rank, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


# One test for all, because two processes take seconds to start.
@pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()),
    reason="torch was built without gloo",
)
def test_two_processes_with_half_the_batch_each_are_one_with_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = trained_by_ranks(tmp_path, monkeypatch)
    assert len(first) == 2 * len(OPTIMIZERS)
    apart = [case for case, values in first.items() if distance(values, second[case]) != 0]
    assert apart == []
    start = values_of(bare_model())
    for name in OPTIMIZERS:
        alone = bare_model()
        train(build(name, alone, alone), alone, slice(None))
        for gradients in ("copied", "bucket views"):
            values = first[f"{name}, {gradients}"]
            assert distance(values, values_of(alone)) < 1e-10, f"{name}, {gradients}"
            assert all(not torch.equal(a, b) for a, b in zip(values, start, strict=True)), name


# torch.compile -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compiled:
    """A model and its compiled form, which share their parameters."""

    bare: Llama
    model: nn.Module


@pytest.fixture(scope="module")
def compiled() -> Iterator[Compiled]:
    """Compiled once for all optimizers, without a C++ compiler: gradients come by other code."""
    bare = bare_model()
    model = torch.compile(bare, backend="aot_eager", fullgraph=True)
    yield Compiled(bare, cast(nn.Module, model))
    torch.compiler.reset()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_compiled_model_trains_as_the_plain_one(name: str, compiled: Compiled):
    plain = bare_model()
    expected = train(build(name, plain, plain), plain, slice(None))
    compiled.bare.load_state_dict(bare_model().state_dict())
    losses = train(build(name, compiled.model, compiled.bare), compiled.model, slice(None))
    assert losses == pytest.approx(expected, rel=0, abs=1e-12)
    assert distance(values_of(compiled.bare), values_of(plain)) < 1e-10


def test_a_compiled_model_has_other_names_for_the_same_parameters(compiled: Compiled):
    named = [(name, id(param)) for name, param in compiled.model.named_parameters()]
    bare = [(name, id(param)) for name, param in compiled.bare.named_parameters()]
    assert named == [(f"_orig_mod.{name}", identity) for name, identity in bare]
