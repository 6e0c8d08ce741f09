"""A run that has ended is not trained again, whoever was killed before its record was stored."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest

from optbench.checkpoints.checkpoint import checkpoint_directory
from optbench.checkpoints.root import CheckpointRoot
from optbench.config import RunConfig
from optbench.executors.processes import InlineExecutor
from optbench.executors.result_spool import run_or_load
from optbench.store.store import RunRecord, RunStore, spooled_record
from optbench.study.sweep import Job, Sweep
from tests.builders import config_with_lr, record_of
from tests.study.test_sweep import FakeJob, Observer, ask, lr_of

CONFIG = config_with_lr(3)


def once(job: Job, store: Path, checkpoints: str | None = None) -> RunRecord:
    """The run, by a job that keeps its checkpoints in the store unless told elsewhere."""
    return run_or_load(job, store, CheckpointRoot.of(store, checkpoints), CONFIG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a store that was opened once."""
    RunStore.open(tmp_path).close()
    return tmp_path


def test_a_record_that_its_driver_never_stored_is_given_back(folder: Path) -> None:
    job = FakeJob()
    record = once(job, folder)
    assert once(job, folder) == record
    assert job.trained == [3]


def test_it_is_kept_until_it_is_stored(folder: Path) -> None:
    record = once(FakeJob(), folder)
    assert spooled_record(folder, CONFIG.run_id).exists()
    with RunStore.open(folder) as store:
        store.append(record)
        assert list((folder / "ended").iterdir()) == []
    assert not (folder / "ended").exists()


def test_a_sweep_stores_what_an_earlier_one_could_not(folder: Path) -> None:
    once(FakeJob(), folder)  # and then its driver was killed
    stored: list[float] = []
    job, observer = FakeJob(), Observer()
    with RunStore.open(folder) as store:
        Sweep(
            store,
            InlineExecutor(),
            functools.partial(run_or_load, job, folder, CheckpointRoot.of(folder, None)),
            observer,
            on_stored=lambda record: stored.append(lr_of(record.run_config)),
        ).run([ask([2, 3], [4])])
    assert job.trained == [2, 4]
    assert stored == [2, 3, 4]
    assert [lr for lr, _ in observer.ended] == [2, 3, 4]
    assert not (folder / "ended").exists()


def test_failures_are_not_kept_and_divergences_are(folder: Path) -> None:
    def failed(config: RunConfig) -> RunRecord:
        return record_of(config, loss=None, status="failed", error="no room")

    once(failed, folder)
    job = FakeJob(diverging=[3])
    assert once(job, folder).status == "diverged"
    assert once(job, folder).status == "diverged"
    assert job.trained == [3]


@pytest.mark.parametrize("content", [b"", b'{"run_id": "', b"{}", b"\xff", b"[]"])
def test_half_a_record_is_none(folder: Path, content: bytes) -> None:
    (folder / "ended").mkdir()
    spooled_record(folder, CONFIG.run_id).write_bytes(content)
    job = FakeJob()
    assert once(job, folder).val_loss == 2.0
    assert job.trained == [3]


def test_the_record_of_another_run_is_none(folder: Path) -> None:
    other = dataclasses.replace(record_of(), run_id="0" * 16)
    (folder / "ended").mkdir()
    spooled_record(folder, CONFIG.run_id).write_text(other.to_json())
    job = FakeJob()
    assert once(job, folder).run_id == CONFIG.run_id
    assert job.trained == [3]


def test_a_folder_of_that_name_on_another_machine_is_not_the_store(tmp_path: Path) -> None:
    """What a worker made there for its checkpoints would never be cleared."""
    (tmp_path / "checkpoints").mkdir()
    job = FakeJob()
    for _ in range(2):
        once(job, tmp_path)
    assert job.trained == [3, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_worker_that_cannot_reach_the_store_trains_all_the_same(tmp_path: Path) -> None:
    assert once(FakeJob(), tmp_path / "elsewhere").val_loss == 2.0
    assert list(tmp_path.iterdir()) == []


def leave_a_checkpoint(root: Path) -> Path:
    step = root / CONFIG.run_id / "step-00000001"
    step.mkdir(parents=True)
    return step


def test_where_the_store_is_out_of_sight_an_ended_run_leaves_no_checkpoints_in_its_folder(
    tmp_path: Path,
) -> None:
    step = leave_a_checkpoint(tmp_path / "checkpoints")

    def failed(config: RunConfig) -> RunRecord:
        return record_of(config, loss=None, status="failed", error="no room")

    once(failed, tmp_path)
    assert step.exists()
    once(FakeJob(), tmp_path)
    assert not step.parent.exists()


def test_what_the_driver_may_see_is_removed_by_the_driver(folder: Path, tmp_path: Path) -> None:
    in_store = leave_a_checkpoint(folder / "checkpoints")
    once(FakeJob(), folder)
    assert in_store.exists()
    shared = leave_a_checkpoint(tmp_path / "shared")
    once(FakeJob(), tmp_path / "elsewhere", str(tmp_path / "shared"))
    assert shared.exists()
    at_url = checkpoint_directory("memory://ended", CONFIG.run_id)
    at_url.write(1, "rank-0-of-1.safetensors", lambda file: file.write(b"x"))
    once(FakeJob(), tmp_path / "elsewhere", "memory://ended")
    assert at_url.steps() == [1]
