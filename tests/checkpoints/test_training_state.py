"""The state of a run by names: written by some ranks, read by others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from optbench.checkpoints import manager as keeper_module
from optbench.checkpoints.checkpoint import checkpoint_directory
from optbench.checkpoints.manager import CheckpointManager
from optbench.checkpoints.training_state import SINGLE_RANK, RankInfo, SavedState, snapshot
from optbench.execution import Execution
from optbench.files.tensor_file import TensorStream
from tests.checkpoints.world import BUILDS, STEPS, Meeting, World, everyone, loop_state


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[name].dtype, name
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("readers", [1, 2, 3])
def test_what_two_ranks_wrote_is_read_by_any_number(
    name: str, readers: int, tmp_path: Path
) -> None:
    writers = World(tmp_path, BUILDS[name], 2)
    writers.train(range(7))
    writers.save(7)
    assert [k.record() for k in writers.keepers] == [{"checkpoints_written": 1}] * 2
    reading = World(tmp_path, BUILDS[name], readers, seed=9)
    loops = reading.resume()
    assert [loop.steps_taken for loop in loops if loop is not None] == [7] * readers
    assert_same(reading.state(), writers.state())
    writers.train(range(7, 12))
    reading.train(range(7, 12))
    ours, theirs = reading.state(), writers.state()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if readers == 2:
            assert torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(value)), key
        elif key in dict(reading.model.named_parameters()):
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)


def test_a_rank_goes_on_with_its_summands_and_another_number_with_their_sum(
    tmp_path: Path,
) -> None:
    writers = World(tmp_path, BUILDS["adamw"], 2)
    writers.train(range(3))
    writers.save(3)

    def resumed(readers: int) -> list[tuple[list[float], float]]:
        loops = World(tmp_path, BUILDS["adamw"], readers, seed=1).resume()
        return [(x.recent_losses.tolist(), float(x.step_times[0])) for x in loops if x is not None]

    assert resumed(2) == [([3.0, 4.0], 0.5), ([4.0, 3.0], 1.5)]
    assert resumed(1) == [([7.0, 7.0], 0.5)]
    assert resumed(3) == [([7.0, 7.0], 0.5), *[([0.0, 0.0], 0.5)] * 2]


def test_where_the_file_of_one_rank_is_damaged_all_take_the_checkpoint_before(
    tmp_path: Path,
) -> None:
    writers = World(tmp_path, BUILDS["adamw"], 2)
    writers.train(range(3))
    writers.save(3)
    before = {name: torch.clone(torch.as_tensor(v)) for name, v in writers.state().items()}
    writers = World(tmp_path, BUILDS["adamw"], 2)
    writers.resume()
    writers.train(range(3, 5))
    writers.save(5)
    path = tmp_path / "r/step-00000005/rank-1-of-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    reading = World(tmp_path, BUILDS["adamw"], 2, seed=4)
    assert [loop.steps_taken for loop in reading.resume() if loop is not None] == [3, 3]
    after = {name: torch.as_tensor(v) for name, v in reading.state().items()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    for checkpointer in reading.keepers:
        assert "rank-1-of-2.safetensors has" in checkpointer.record()["checkpoint_problems"][0]


def test_where_one_rank_cannot_read_all_take_the_checkpoint_before_and_none_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = World(tmp_path, BUILDS["torch"], 2)
    writers.train(range(3))
    writers.save(3)
    reading = World(tmp_path, BUILDS["torch"], 2, seed=4)
    start = {name: torch.clone(torch.as_tensor(v)) for name, v in reading.state().items()}
    real, main = TensorStream.read, threading.current_thread()
    broken = []

    def read(self: TensorStream, wanted: Any) -> Any:
        assert threading.current_thread() is not main
        if not any(name.startswith("optimizer/embedding") for name in wanted):
            broken.append(wanted)
            raise OSError("the disk is away")
        return real(self, wanted)

    monkeypatch.setattr(TensorStream, "read", read)
    monkeypatch.setattr(keeper_module, "PAUSES_S", (0.0,))
    assert reading.resume() == [None, None]
    assert len(broken) == 2
    assert all(not checkpointer._writer.superseded for checkpointer in reading.keepers)
    after = reading.state()
    assert after.keys() == start.keys()
    assert all(torch.equal(torch.as_tensor(after[name]), start[name]) for name in start)


def test_a_rank_that_cannot_write_costs_the_checkpoint_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optbench.checkpoints.checkpoint import CheckpointDirectory

    writers = World(tmp_path, BUILDS["adamw"], 2)
    writers.train(range(3))
    real = CheckpointDirectory.write

    def write(self: CheckpointDirectory, step: int, name: str, write: Any) -> Any:
        if name.startswith("rank-1"):
            raise OSError("no space")
        return real(self, step, name, write)

    monkeypatch.setattr(CheckpointDirectory, "write", write)
    writers.save(3)
    assert checkpoint_directory(tmp_path, "r").steps() == []
    for checkpointer in writers.keepers:
        assert checkpointer.record() == {
            "checkpoints_failed": 1,
            "checkpoint_problems": ["The checkpoint of step 3 was not written: OSError: no space"],
        }


def test_the_clock_of_the_first_rank_decides_for_all(tmp_path: Path) -> None:
    meeting = Meeting(2)
    keepers = [
        CheckpointManager(
            checkpoint_directory(tmp_path, "r"),
            Execution(checkpoint_interval=1e-9 if rank == 0 else 60),
            STEPS,
            rank_info=RankInfo(rank, 2),
            gather=meeting.gather_of(rank),
        )
        for rank in range(2)
    ]
    should_save = everyone(
        [lambda k=k: [s for s in range(1, 31) if k.should_save(s)] for k in keepers]
    )
    assert should_save == [[10, 20, 30]] * 2


def test_tensors_are_named_by_parameter_and_state() -> None:
    world = World(Path("/nowhere"), BUILDS["adamw"], 1)
    world.train(range(2))
    taken = snapshot(world.model, world.optimizers[0], loop_state(2))
    assert "model/head.weight" in taken.tensors
    assert taken.tensors["optimizer/head.weight/exp_avg"].shape == (32, 16)
    assert taken.facts["optimizer"]["state"]["head.weight"]["dict"]["step"] == 2
    second = snapshot(world.model, world.optimizers[0], loop_state(2), rank=1)
    assert not any(name.startswith("model/") for name in second.tensors)
    saved = SavedState([taken.facts], SINGLE_RANK)
    assert saved.wanted(world.model, world.optimizers[0]) == set(taken.tensors)
