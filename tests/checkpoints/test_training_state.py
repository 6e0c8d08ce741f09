"""The state of a run by names: written by some ranks, read by others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from optbench.checkpoints.checkpoint import place_of
from optbench.checkpoints.keeper import CheckpointKeeper
from optbench.checkpoints.loop_state import LoopState
from optbench.checkpoints.training_state import ONLY, SavedState, Seat, held_names, snapshot
from optbench.execution import Execution
from optbench.model import Llama
from optbench.optimizers import OPTIMIZERS, CurvatureOptimizer, parameter_groups
from optbench.tensor_file import TensorStream

from .checkpointed_runs import MODEL, Cycle

Build = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
STEPS = 100


@dataclass
class Meeting:
    """A collective of threads."""

    num_ranks: int
    values: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.num_ranks)

    def gather_of(self, rank: int) -> Callable[[Any], list[Any]]:
        def gather(value: Any) -> list[Any]:
            self.values[rank] = value
            self.barrier.wait(30)
            found = [self.values[r] for r in range(self.num_ranks)]
            self.barrier.wait(30)
            return found

        return gather


def everyone(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the jobs give, each in a thread of its own."""
    results: list[Any] = [None] * len(jobs)

    def carry_out(number: int) -> None:
        results[number] = jobs[number]()

    threads = [threading.Thread(target=carry_out, args=(n,)) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


@dataclass
class World:
    """A model whose parameters are dealt out to the optimizers of several ranks."""

    root: Path
    build: Build
    num_ranks: int
    seed: int = 0

    def __post_init__(self) -> None:
        self.model = Llama(MODEL, seed=self.seed)
        groups = parameter_groups(self.model, self.model.roles())
        self.optimizers: list[torch.optim.Optimizer] = []
        for rank in range(self.num_ranks):
            own = [{**g, **self._dealt(g, rank)} for g in groups]
            self.optimizers.append(self.build([g for g in own if g["params"]]))
        meeting, place = Meeting(self.num_ranks), place_of(self.root, "r")
        self.keepers = [
            CheckpointKeeper(
                place,
                Execution(checkpoint_steps=1),
                STEPS,
                seat=Seat(rank, self.num_ranks),
                gather=meeting.gather_of(rank),
            )
            for rank in range(self.num_ranks)
        ]

    def _dealt(self, group: dict[str, Any], rank: int) -> dict[str, Any]:
        names = [n for n, _ in self.model.named_parameters()]
        of = {id(p): number for number, (_, p) in enumerate(self.model.named_parameters())}
        assert names
        params = list(group["params"])
        if params and isinstance(params[0], tuple):
            params = [p for _, p in params]
        return {"params": [p for p in params if of[id(p)] % self.num_ranks == rank]}

    def train(self, steps: range) -> None:
        for step in steps:
            tokens = Cycle().batch(step, seed=0, batch_size=4, seq_len=8)
            self.model.loss(torch.from_numpy(tokens)).backward()
            for optimizer in self.optimizers:
                optimizer.step()
                if isinstance(optimizer, CurvatureOptimizer) and optimizer.curvature_due():
                    optimizer.update_curvature(batch_tokens=32)
            self.model.zero_grad()

    def save(self, step: int) -> None:
        def job(rank: int) -> Callable[[], None]:
            def save() -> None:
                keeper = self.keepers[rank]
                assert keeper.due(step)
                keeper.save(self.model, self.optimizers[rank], loop_state(step, rank))
                assert keeper.due(step + 1)  # the meeting at which all say that theirs is there
                keeper._writer.settle(wait=True)
                keeper.close()

            return save

        everyone([job(rank) for rank in range(self.num_ranks)])

    def resume(self) -> list[LoopState | None]:
        return everyone(
            [
                lambda rank=rank: self.keepers[rank].resume(self.model, self.optimizers[rank])
                for rank in range(self.num_ranks)
            ]
        )

    def state(self) -> dict[str, Any]:
        """Parameters and their optimizer's state, by name."""
        found: dict[str, Any] = dict(self.model.named_parameters())
        for optimizer in self.optimizers:
            names = chain.from_iterable(held_names(self.model, optimizer))
            params = chain.from_iterable(g["params"] for g in optimizer.param_groups)
            for name, param in zip(names, params, strict=True):
                found |= {f"{name}/{key}": v for key, v in optimizer.state[param].items()}
        return found


def loop_state(step: int, rank: int = 0) -> LoopState:
    return LoopState(
        steps_taken=step,
        train_curve=[(1, 3.0)],
        val_curve=[],
        first_micro_batch_size=None,
        micro_batch_size=2,
        step_times=torch.full((step,), 0.5 + rank, dtype=torch.float64),
        optimizer_times=torch.full((step,), 0.25, dtype=torch.float64),
        recent_losses=torch.tensor([3.0 + rank, 4.0 - rank]),
    )


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[name].dtype, name
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


BUILDS: dict[str, Build] = {
    **{
        name: (lambda groups, name=name: OPTIMIZERS[name](groups))
        for name in ("adamw", "soap", "kron", "muon", "adam_mini")
    },
    "sophia": lambda groups: OPTIMIZERS["sophia"](groups, curvature_interval=3),  # type: ignore[call-arg]
    "torch": lambda groups: torch.optim.AdamW([{"params": g["params"]} for g in groups], lr=0.01),
}


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
    for keeper in reading.keepers:
        assert "rank-1-of-2.safetensors has" in keeper.record()["checkpoint_problems"][0]


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
    assert reading.resume() == [None, None]
    assert broken
    after = reading.state()
    assert after.keys() == start.keys()
    assert all(torch.equal(torch.as_tensor(after[name]), start[name]) for name in start)


def test_a_rank_that_cannot_write_costs_the_checkpoint_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optbench.checkpoints.checkpoint import Place

    writers = World(tmp_path, BUILDS["adamw"], 2)
    writers.train(range(3))
    real = Place.write

    def write(self: Place, step: int, name: str, write: Any) -> Any:
        if name.startswith("rank-1"):
            raise OSError("no space")
        return real(self, step, name, write)

    monkeypatch.setattr(Place, "write", write)
    writers.save(3)
    assert place_of(tmp_path, "r").steps() == []
    for keeper in writers.keepers:
        assert keeper.record() == {
            "checkpoints_failed": 1,
            "checkpoint_problems": ["The checkpoint of step 3 was not written: OSError: no space"],
        }


def test_the_clock_of_the_first_rank_decides_for_all(tmp_path: Path) -> None:
    meeting = Meeting(2)
    keepers = [
        CheckpointKeeper(
            place_of(tmp_path, "r"),
            Execution(checkpoint_minutes=1e-9 if rank == 0 else 60),
            STEPS,
            seat=Seat(rank, 2),
            gather=meeting.gather_of(rank),
        )
        for rank in range(2)
    ]
    due = everyone([lambda k=k: [s for s in range(1, 31) if k.due(s)] for k in keepers])
    assert due == [[10, 20, 30]] * 2


def test_tensors_are_named_by_parameter_and_state() -> None:
    world = World(Path("/nowhere"), BUILDS["adamw"], 1)
    world.train(range(2))
    taken = snapshot(world.model, world.optimizers[0], loop_state(2))
    assert "model/head.weight" in taken.tensors
    assert taken.tensors["optimizer/head.weight/exp_avg"].shape == (32, 16)
    assert taken.facts["optimizer"]["state"]["head.weight"]["dict"]["step"] == 2
    second = snapshot(world.model, world.optimizers[0], loop_state(2), rank=1)
    assert not any(name.startswith("model/") for name in second.tensors)
    saved = SavedState([taken.facts], ONLY)
    assert saved.wanted(world.model, world.optimizers[0]) == set(taken.tensors)
