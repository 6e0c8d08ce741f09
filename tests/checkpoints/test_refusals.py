"""What is wrong with a checkpoint decides whether it is removed, and is known before it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from optbench.checkpoints import manager as module
from optbench.checkpoints.checkpoint import CheckpointDirectory, checkpoint_directory
from optbench.checkpoints.manager import CheckpointManager
from optbench.checkpoints.manifest import MANIFEST, CheckpointManifest, rank_file
from optbench.execution import Execution
from optbench.files.tensor_file import write_tensors
from tests.checkpoints.checkpointed_runs import Runs, config_of
from tests.checkpoints.world import BUILDS, STEPS, World, loop_state


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0))


def keeper_of(root: Path) -> CheckpointManager:
    return CheckpointManager(checkpoint_directory(root, "r"), Execution(checkpoint_steps=1), STEPS)


def model_and_optimizer() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(3, 3)
    return model, torch.optim.AdamW(model.parameters())


def keep(checkpointer: CheckpointManager, *steps: int) -> None:
    model, optimizer = model_and_optimizer()
    for step in steps:
        checkpointer.save(model, optimizer, loop_state(step))
        assert checkpointer._writer.is_free(30)


def away(times: int) -> Callable[..., Any]:
    """``Place.streams`` of a store that is away so many times."""
    real, left = CheckpointDirectory.streams, [times]

    def streams(self: CheckpointDirectory, manifest: CheckpointManifest) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("503 slow down")
        return real(self, manifest)

    return streams


def test_a_store_that_is_away_for_a_moment_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(keeper_of(tmp_path), 40, 50)
    monkeypatch.setattr(CheckpointDirectory, "streams", away(2))
    checkpointer = keeper_of(tmp_path)
    found = checkpointer.resume(*model_and_optimizer())
    assert found is not None
    assert found.steps_taken == 50
    assert checkpointer.record() == {"resumed_at_steps": [50], "checkpoints_written": 2}


def test_what_could_not_be_read_stays_though_the_one_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(keeper_of(tmp_path), 40, 50)
    monkeypatch.setattr(CheckpointDirectory, "streams", away(3))
    checkpointer = keeper_of(tmp_path)
    found = checkpointer.resume(*model_and_optimizer())
    assert found is not None
    assert found.steps_taken == 40
    (problem,) = checkpointer.record()["checkpoint_problems"]
    assert problem.endswith("step-00000050 is not used: OSError: 503 slow down")
    keep(checkpointer, 43)
    assert checkpoint_directory(tmp_path, "r").steps() == [50, 43, 40]
    other = keeper_of(tmp_path).resume(*model_and_optimizer())
    assert other is not None
    assert other.steps_taken == 50


def test_one_of_a_newer_schema_stays(tmp_path: Path) -> None:
    keep(keeper_of(tmp_path), 50)
    path = Path(checkpoint_directory(tmp_path, "r").folder(50), MANIFEST)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    checkpointer = keeper_of(tmp_path)
    assert checkpointer.resume(*model_and_optimizer()) is None
    keep(checkpointer, 5)
    assert checkpoint_directory(tmp_path, "r").steps() == [50, 5]


def test_one_that_an_optimizer_does_not_take_stays(tmp_path: Path) -> None:
    class Stubborn(torch.optim.AdamW):
        def load_state_dict(self, state_dict: Any) -> None:
            raise KeyError("no room for it")

    keep(keeper_of(tmp_path), 50)
    model = torch.nn.Linear(3, 3)
    weight, checkpointer = model.weight.detach().clone(), keeper_of(tmp_path)
    assert checkpointer.resume(model, Stubborn(model.parameters())) is None
    assert torch.equal(model.weight, weight)
    assert "KeyError: 'no room for it'" in checkpointer.record()["checkpoint_problems"][0]
    keep(checkpointer, 5)
    assert checkpoint_directory(tmp_path, "r").steps() == [50, 5]


# What optimizers raise ---------------------------------------------------------------------------


class Speechless(torch.optim.AdamW):
    """Gives no account of its state."""

    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("CUDA out of memory")


def test_a_state_dict_that_raises_costs_the_checkpoint_and_no_more(tmp_path: Path) -> None:
    runs = Runs(tmp_path, config_of(steps=3), build=lambda m: Speechless(m.parameters(), lr=0.01))
    part = runs.part()
    assert part.result is not None
    assert part.checkpointer.record() == {
        "checkpoints_failed": 3,
        "checkpoint_problems": [
            f"The checkpoint of step {step} was not written: RuntimeError: CUDA out of memory"
            for step in (1, 2, 3)
        ],
    }


def test_a_state_dict_that_raises_on_going_on_starts_the_run_anew(tmp_path: Path) -> None:
    plain = Runs(tmp_path, config_of(steps=3), build=lambda m: torch.optim.AdamW(m.parameters()))
    plain.part(3)
    again = Runs(tmp_path, config_of(steps=3), build=lambda m: Speechless(m.parameters()))
    part = again.part()
    assert part.result is not None
    assert part.resumed_at == []
    assert (
        "RuntimeError: CUDA out of memory" in part.checkpointer.record()["checkpoint_problems"][0]
    )


def test_a_state_dict_that_raises_on_one_rank_costs_all_of_them_the_checkpoint(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, BUILDS["torch"], 2)
    world.train(range(3))
    world.optimizers[1].__class__ = Speechless
    world.save(3)
    for checkpointer in world.keepers:
        assert checkpointer.record() == {
            "checkpoints_failed": 1,
            "checkpoint_problems": [
                "The checkpoint of step 3 was not written: RuntimeError: CUDA out of memory"
            ],
        }
    assert checkpoint_directory(tmp_path, "r").steps() == []


# What contradicts itself -------------------------------------------------------------------------

Tensors = dict[str, torch.Tensor]


def change(loop: dict[str, Any]) -> Callable[[list[Any], list[Tensors]], None]:
    """Other facts of the second rank's loop."""
    return lambda facts, _: facts[1]["loop"].update(loop)


def losses(rank: int, values: torch.Tensor) -> Callable[[list[Any], list[Tensors]], None]:
    return lambda _, tensors: tensors[rank].update({f"loop/{rank}/recent_losses": values})


CONTRADICTIONS = {
    "losses of several lengths": (
        losses(1, torch.ones(1)),
        "'loop/1/recent_losses' is float32 of shape (1,), but the run has float32 of shape (2,)",
    ),
    "losses of another type": (
        losses(0, torch.ones(2, dtype=torch.float64)),
        "'loop/0/recent_losses' is float64 of shape (2,), but the run has float32 of shape (2,)",
    ),
    "another curve": (
        change({"train_curve": [[1, 9.0]]}),
        "The loop of rank 1 is not that of the first one",
    ),
    "another micro-batch": (
        change({"micro_batch_size": 1}),
        "The loop of rank 1 is not that of the first one",
    ),
    "a loss that is no number": (
        lambda facts, _: [one["loop"].update(train_curve=[[1, True]]) for one in facts],
        "Its train_curve has the point (1, True)",
    ),
    "a long name": (
        lambda _, tensors: tensors[0].update({"x" * 10_000: torch.ones(1)}),
        "has the unknown ['" + "x" * 97 + "...']",
    ),
}


def forge(
    directory: CheckpointDirectory, step: int, spoil: Callable[[list[Any], list[Tensors]], object]
) -> None:
    """Change a checkpoint of two ranks and make its checksums right again."""
    folder = Path(directory.folder(step))
    manifest, files = directory.manifest(step), [folder / rank_file(rank, 2) for rank in range(2)]
    tensors = [{n: t.clone() for n, t in load_file(file).items()} for file in files]
    facts = list(manifest.facts)
    spoil(facts, tensors)
    written = []
    for file, own in zip(files, tensors, strict=True):
        with file.open("wb") as opened:
            written.append(write_tensors(opened, own))
    directory.complete(CheckpointManifest("r", step, tuple(written), tuple(facts)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a checkpoint of two ranks."""
    root = tmp_path_factory.mktemp("written")
    world = World(root, BUILDS["adamw"], 2)
    world.train(range(3))
    world.save(3)
    return {file.name: file.read_bytes() for file in root.glob("r/step-00000003/*")}


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused_by_all_before_anything_is_changed(
    name: str, readers: int, tmp_path: Path, written: dict[str, bytes]
) -> None:
    spoil, reason = CONTRADICTIONS[name]
    folder = tmp_path / "r/step-00000003"
    folder.mkdir(parents=True)
    for file, data in written.items():
        (folder / file).write_bytes(data)
    forge(checkpoint_directory(tmp_path, "r"), 3, spoil)
    reading = World(tmp_path, BUILDS["adamw"], readers, seed=4)
    start = {key: torch.as_tensor(value).clone() for key, value in reading.state().items()}
    assert reading.resume() == [None] * readers
    for checkpointer in reading.keepers:
        (problem,) = checkpointer.record()["checkpoint_problems"]
        assert reason in problem
        assert checkpointer._writer.superseded == {3}
    after = reading.state()
    assert after.keys() == start.keys()
    assert all(torch.equal(torch.as_tensor(after[key]), start[key]) for key in start)


@pytest.mark.parametrize("curve", ["train_curve", "val_curve"])
def test_one_of_the_last_step_without_its_last_losses_is_refused(
    curve: str, tmp_path: Path
) -> None:
    runs = Runs(tmp_path, config_of(steps=4))
    runs.part()
    directory = checkpoint_directory(tmp_path, runs.config.run_id)
    manifest = directory.manifest(4)
    manifest.facts[0]["loop"][curve].clear()
    directory.complete(manifest)
    part = runs.part(seed=1)
    assert part.resumed_at == [3]
    assert f"but its {curve} ends at 0" in part.checkpointer.record()["checkpoint_problems"][0]
