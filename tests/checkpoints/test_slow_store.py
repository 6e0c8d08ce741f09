"""A store that is slow or hangs holds up neither a run nor its ranks nor its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from optbench.checkpoints import manager as keeper_module
from optbench.checkpoints import writer as writer_module
from optbench.checkpoints.checkpoint import CheckpointDirectory, checkpoint_directory
from optbench.checkpoints.manager import CheckpointManager
from optbench.checkpoints.training_state import RankInfo
from optbench.checkpoints.writer import CheckpointWriter
from optbench.execution import Execution
from tests.checkpoints.world import STEPS, Meeting, everyone, loop_state

BY_TIME = Execution(checkpoint_interval=1e-9)
BY_STEPS = Execution(checkpoint_interval=0, checkpoint_steps=1)
TENSORS = {"a": torch.ones(3)}


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "PATIENCE_S", 0.0)


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set, the last rank's file is not written."""
    event, real = threading.Event(), CheckpointDirectory.write

    def write(self: CheckpointDirectory, step: int, name: str, write: Any) -> Any:
        rank, num_ranks = int(name.split("-")[1]), int(name.split("-")[3].split(".")[0])
        if rank == num_ranks - 1:
            assert event.wait(60)
        return real(self, step, name, write)

    monkeypatch.setattr(CheckpointDirectory, "write", write)
    yield event
    event.set()


def keepers_of(root: Path, execution: Execution, num_ranks: int) -> list[CheckpointManager]:
    meeting = Meeting(num_ranks)
    return [
        CheckpointManager(
            checkpoint_directory(root, "r"),
            execution,
            STEPS,
            rank_info=RankInfo(rank, num_ranks),
            gather=meeting.gather_of(rank),
        )
        for rank in range(num_ranks)
    ]


def on_all(keepers: list[CheckpointManager], what: Any) -> list[Any]:
    return everyone(
        [lambda checkpointer=checkpointer: what(checkpointer) for checkpointer in keepers]
    )


def save(step: int) -> Any:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD([model.weight])

    def on_a_rank(checkpointer: CheckpointManager) -> None:
        own = optimizer if checkpointer.rank_info.rank == 0 else torch.optim.SGD([model.bias])
        checkpointer.save(model, own, loop_state(step))

    return on_a_rank


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_by_time_none_is_due_while_one_is_under_way_on_any_rank(
    num_ranks: int, tmp_path: Path, go_on: threading.Event
) -> None:
    keepers = keepers_of(tmp_path, BY_TIME, num_ranks)
    assert on_all(keepers, lambda k: k.should_save(10)) == [True] * num_ranks
    on_all(keepers, save(10))
    assert on_all(keepers, lambda k: k.should_save(20)) == [False] * num_ranks
    go_on.set()
    assert on_all(keepers, lambda k: k._writer.is_free(30)) == [True] * num_ranks
    assert on_all(keepers, lambda k: k.should_save(30)) == [True] * num_ranks
    assert all(checkpointer.record() == {"checkpoints_written": 1} for checkpointer in keepers)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_by_steps_one_is_left_out_while_another_is_under_way_on_any_rank(
    num_ranks: int, tmp_path: Path, go_on: threading.Event
) -> None:
    keepers = keepers_of(tmp_path, BY_STEPS, num_ranks)
    for step in (3, 4):
        assert all(on_all(keepers, lambda k, step=step: k.should_save(step)))
        on_all(keepers, save(step))
    go_on.set()
    assert all(on_all(keepers, lambda k: k._writer.is_free(30)))
    on_all(keepers, save(5))
    assert all(on_all(keepers, lambda k: k._writer.is_free(30)))
    assert checkpoint_directory(tmp_path, "r").steps() == [5, 3]
    for checkpointer in keepers:
        assert checkpointer.record() == {
            "checkpoints_written": 2,
            "checkpoints_failed": 1,
            "checkpoint_problems": [
                "The checkpoint of step 4 was not written: the one before it was still being "
                "written."
            ],
        }


def test_by_steps_a_moment_is_waited_for(
    tmp_path: Path, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "PATIENCE_S", 30.0)
    (checkpointer,) = keepers_of(tmp_path, BY_STEPS, 1)
    save(3)(checkpointer)
    threading.Timer(0.1, go_on.set).start()
    save(4)(checkpointer)
    checkpointer.close()
    assert checkpointer.record() == {"checkpoints_written": 2}


def test_with_several_ranks_it_is_complete_at_the_next_step(
    tmp_path: Path, go_on: threading.Event
) -> None:
    keepers = keepers_of(tmp_path, BY_TIME, 2)
    on_all(keepers, save(10))
    assert on_all(keepers, lambda k: k.should_save(11)) == [False, False]
    assert not checkpoint_directory(tmp_path, "r").is_complete(10)
    go_on.set()
    until = time.monotonic() + 30
    step = 12
    while not checkpoint_directory(tmp_path, "r").is_complete(10):
        assert time.monotonic() < until
        step += 1 if step % 10 != 9 else 2  # never one at which the clock is asked
        assert on_all(keepers, lambda k, step=step: k.should_save(step)) == [False, False]


def test_the_end_of_a_run_waits_only_so_long(tmp_path: Path, go_on: threading.Event) -> None:
    before = set(threading.enumerate())  # another test's may not have ended yet
    writer = CheckpointWriter(checkpoint_directory(tmp_path, "r"))
    writer.save(1, TENSORS, {})
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon  # so the end of the process does not wait for it either
    writer.close(0.01)
    assert (writer.written, writer.failed) == (0, 1)
    assert writer.problems == [
        "A checkpoint was still being written 0.01 s after the run; it was abandoned."
    ]
    go_on.set()
    thread.join(30)
    assert (writer.written, checkpoint_directory(tmp_path, "r").is_complete(1)) == (0, False)


def test_a_thread_that_cannot_be_started_costs_the_checkpoint_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    writer = CheckpointWriter(checkpoint_directory(tmp_path, "r"))
    with monkeypatch.context() as patch:
        patch.setattr(writer_module.threading.Thread, "start", refuse)
        writer.save(1, TENSORS, {})
    assert writer.is_free()
    assert writer.problems == [
        "The checkpoint of step 1 was not written: RuntimeError: can't start new thread"
    ]
    writer.save(2, TENSORS, {})
    assert writer.is_free(30)
    assert (writer.written, writer.failed) == (1, 1)
