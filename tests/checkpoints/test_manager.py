"""Interrupted runs end as if nothing had happened, on as many processes or on others."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from optbench.checkpoints import manager as module
from optbench.checkpoints.checkpoint import checkpoint_directory
from optbench.checkpoints.manager import CheckpointManager
from optbench.checkpoints.training_state import TrainingStateError, held_names
from optbench.config import RunConfig
from optbench.execution import Execution
from optbench.optimizers import OPTIMIZERS
from optbench.training.model import Llama
from tests.checkpoints.checkpointed_runs import Runs, assert_bit_equal, config_of, undisturbed


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Iterator[str]:
    root = f"memory://{abs(hash(request.node.name))}"
    yield root
    system, path = fsspec.url_to_fs(root)
    if system.exists(path):
        system.rm(path, recursive=True)


# Around Soap's refreshes and Sophia's estimates, which come every fifth step, and Kron's updates,
# which come at every step up to the fifth and at every second one from then on.
STOPS = (2, 5, 6, 7, 10, 11, 12, 16, 30)
RARE: dict[str, dict[str, Any]] = {
    "soap": {"precondition_frequency": 5},
    "sophia": {"curvature_interval": 5},
    "kron": {"flat_steps": 5},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_interrupted_at_many_steps_ends_bit_for_bit_as_undisturbed(
    name: str, memory: str
) -> None:
    runs = Runs(memory, config_of(name, **RARE.get(name, {})))
    resumed = runs.parts(STOPS)
    assert resumed.resumed_at == [stop - 1 for stop in STOPS]
    assert resumed.steps == [29]
    assert_bit_equal(resumed, undisturbed(runs))


def test_sophia_with_the_other_estimator_and_soap_and_mars_of_the_study_are_bit_equal(
    memory: str,
) -> None:
    for name, options in (
        ("sophia", {"estimator": "hutchinson", "curvature_interval": 4}),
        ("soap", {**OPTIMIZERS["soap"].paper, "precondition_frequency": 4}),
        ("mars", dict(OPTIMIZERS["mars"].paper)),
        ("kron", {**OPTIMIZERS["kron"].paper, "block_size": 8}),
    ):
        runs = Runs(memory, config_of(name, steps=14, **options))
        assert_bit_equal(runs.parts((4, 5, 6, 9)), undisturbed(runs))


class Wanderer(torch.optim.Optimizer):
    """Draws from every global generator; keeps state of many types, in the group and beside it."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1e-3, "betas": (0.9, 0.99), "drift": 0.0, "best": None})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        common = self.state.setdefault("common", {"calls": 0})  # type: ignore[call-overload]
        common["calls"] += 1
        for group in self.param_groups:
            group["drift"] += random.random() + float(np.random.random())  # noqa: NPY002
            group["best"] = (group["drift"], [common["calls"]])
            assert type(group["betas"]) is tuple
            for param in group["params"]:
                own = self.state[param]
                own.setdefault("narrow", torch.zeros(param.shape, dtype=torch.bfloat16))
                own.setdefault("signs", torch.zeros(param.shape, dtype=torch.int8))
                own.setdefault("nested", {"pair": (torch.zeros(()), 1.5), "none": None})
                own["narrow"].lerp_(param.grad.bfloat16(), 0.1)
                own["signs"].copy_(param.grad.sign())
                own["nested"]["pair"][0].add_(1)
                noise = torch.randn_like(param) * (1 + own["nested"]["pair"][0])
                step = own["narrow"].float() + own["signs"] * group["drift"] * 0.01 + 0.01 * noise
                param.sub_(group["lr"] * step)


@pytest.mark.parametrize(
    "build",
    [
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True, amsgrad=True),
        lambda model: torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        lambda model: torch.optim.Adagrad(model.parameters(), lr=0.01),
        lambda model: Wanderer(model.parameters()),
    ],
    ids=["AdamW", "fused", "momentum", "SGD", "Adagrad", "own"],
)
def test_any_torch_optimizer_is_resumed_with_all_its_state_and_the_random_numbers(
    build: Any, memory: str
) -> None:
    def seeded(model: Llama) -> torch.optim.Optimizer:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        return build(model)

    runs = Runs(memory, config_of(steps=20), build=seeded)
    whole = undisturbed(runs)
    resumed = runs.parts((2, 9, 20))
    assert resumed.resumed_at == [1, 8, 19]
    assert_bit_equal(resumed, whole)
    assert [
        {k: v for k, v in g.items() if k != "params"} for g in whole.optimizer.param_groups
    ] == [{k: v for k, v in g.items() if k != "params"} for g in resumed.optimizer.param_groups]


def test_losses_not_yet_reported_are_kept_and_steps_not_kept_are_taken_again(memory: str) -> None:
    """Every second step is a point of the curve, every third is kept."""
    runs = Runs(memory, config_of(steps=120), Execution(checkpoint_steps=3))
    first = runs.part(stop=12)
    assert first.steps == list(range(12))
    second = runs.part(stop=20, seed=1)
    assert second.steps == list(range(9, 20))
    resumed = runs.part(seed=2)
    assert resumed.steps[0] == 18
    assert_bit_equal(resumed, undisturbed(runs))


@pytest.mark.parametrize("name", ["adamw", "sophia"])
def test_micro_batches_are_resumed_bit_for_bit(name: str, memory: str) -> None:
    runs = Runs(memory, config_of(name, steps=15, **RARE.get(name, {})), micro_batch_size=3)
    assert_bit_equal(runs.parts((5, 6, 11)), undisturbed(runs))


def short_of_memory(model: Llama) -> None:
    """Once, in the sixth step, a batch of four does not fit."""
    whole, calls = model.loss, iter(range(1000))

    def loss(tokens: torch.Tensor, doc_ids: torch.Tensor | None = None) -> torch.Tensor:
        if model.training and next(calls) == 5:
            raise torch.OutOfMemoryError
        return whole(tokens, doc_ids)

    model.loss = loss  # type: ignore[method-assign]


def test_a_micro_batch_that_had_to_shrink_stays_small_after_resuming(memory: str) -> None:
    runs = Runs(memory, config_of(steps=20))
    whole = undisturbed(runs, prepare=short_of_memory)
    runs.part(9, prepare=short_of_memory)
    resumed = runs.part(seed=3)
    assert resumed.resumed_at == [8]
    assert whole.result is not None
    assert resumed.result is not None
    assert whole.result.micro_batch_size == resumed.result.micro_batch_size == 2
    assert_bit_equal(resumed, whole)
    roomy = undisturbed(runs).result
    assert roomy is not None
    assert roomy.train_curve != whole.result.train_curve


def test_another_micro_batch_that_is_asked_for_now_is_used(memory: str) -> None:
    runs = Runs(memory, config_of(steps=12))
    runs.part(9, prepare=short_of_memory)
    runs.micro_batch_size = 3
    result = runs.part(seed=1).result
    assert result is not None
    assert result.micro_batch_size == 3


def test_a_run_stopped_after_its_last_step_only_evaluates(tmp_path: Path) -> None:
    runs = Runs(tmp_path, config_of(steps=8))
    runs.part()
    resumed = runs.part(seed=1)
    assert (resumed.steps, resumed.resumed_at) == ([], [8])
    assert_bit_equal(resumed, undisturbed(runs))


def test_another_run_with_the_same_root_does_not_take_up_the_state(tmp_path: Path) -> None:
    Runs(tmp_path, config_of("adamw")).part(9)
    other = Runs(tmp_path, config_of("lion")).part()
    assert other.resumed_at == []


def test_times_and_counts_of_all_parts_add_up(tmp_path: Path) -> None:
    runs = Runs(tmp_path, config_of(steps=12), Execution(checkpoint_steps=2))
    first, second = runs.part(7), runs.part(11, seed=1)
    assert first.checkpointer.record() == {"checkpoints_written": 3}
    assert second.checkpointer.history.wall_s > 0
    third = runs.part(seed=2)
    assert third.checkpointer.record() == {"resumed_at_steps": [6, 10], "checkpoints_written": 6}
    assert third.checkpointer.history.wall_s > second.checkpointer.history.wall_s
    assert third.checkpointer.wall_s > third.checkpointer.history.wall_s


def keeper_of(root: Path, execution: Execution) -> CheckpointManager:
    return CheckpointManager(checkpoint_directory(root, "r"), execution, 100)


def test_a_checkpoint_is_due_by_time_or_by_steps(tmp_path: Path) -> None:
    def should_save(execution: Execution) -> list[int]:
        checkpointer = keeper_of(tmp_path, execution)
        return [step for step in range(1, 10) if checkpointer.should_save(step)]

    assert should_save(Execution()) == should_save(Execution(checkpoint_interval=0)) == []
    assert should_save(Execution(checkpoint_interval=0, checkpoint_steps=4)) == [4, 8]
    assert should_save(Execution(checkpoint_interval=1e-9)) == list(range(1, 10))


def test_a_short_run_at_the_default_writes_nothing(tmp_path: Path) -> None:
    part = Runs(tmp_path / "root", config_of(), Execution()).part()
    assert part.checkpointer.record() == {}
    assert not (tmp_path / "root").exists()


def test_a_state_that_cannot_be_kept_is_said_once_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step()
            self.param_groups[0]["odd"] = object()

    part = Runs(tmp_path, config_of(steps=6), build=lambda m: Odd(m.parameters(), lr=0.1)).part()
    assert part.result is not None
    assert part.result.test_loss is not None
    assert part.checkpointer.record()["checkpoints_failed"] == 6
    (warning,) = caplog.messages
    assert "step 1 was not written: The state of Odd cannot be kept" in warning
    assert "'group/0/0/odd' is of the type object" in warning


def test_an_optimizer_with_a_parameter_that_is_not_the_models_is_not_kept(tmp_path: Path) -> None:
    def build(model: Llama) -> torch.optim.Optimizer:
        stranger = torch.nn.Parameter(torch.zeros(3))
        return torch.optim.SGD([*model.parameters(), stranger], lr=0.1)

    runs = Runs(tmp_path, config_of(steps=3), build=build)
    model = Llama(runs.config.model, seed=0)
    optimizer = build(model)
    with pytest.raises(TrainingStateError, match=r"of shape \(3,\) that is not the model's"):
        held_names(model, optimizer)
    assert runs.part().checkpointer.record()["checkpoints_failed"] == 3


def test_where_the_store_cannot_be_looked_through_the_run_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES_S", (0.0,))
    (tmp_path / "file").write_text("no folder")
    runs = Runs(tmp_path / "file", config_of(steps=6), Execution(checkpoint_steps=2))
    part = runs.part()
    assert_bit_equal(part, undisturbed(runs))
    problems = part.checkpointer.record()["checkpoint_problems"]
    assert "cannot be looked through for checkpoints" in problems[0]
    assert part.checkpointer.record()["checkpoints_failed"] == 3
    assert len(caplog.messages) == 2


def test_the_learning_rate_is_that_of_the_step(memory: str) -> None:
    config: RunConfig = config_of(steps=20)
    runs = Runs(memory, config)
    runs.part(9)
    rates = [g["lr"] for g in runs.part(10, seed=4).optimizer.param_groups]
    # After nine steps the schedule has been stepped nine times or ten, as undisturbed.
    plain = Runs(f"{memory}-other", config)
    assert rates == [g["lr"] for g in plain.part(10).optimizer.param_groups]
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)
