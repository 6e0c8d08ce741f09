"""Writing checkpoints: in the background, the newest few, and never the end of a run."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from optbench.checkpoints import writer as module
from optbench.checkpoints.checkpoint import CheckpointDirectory, checkpoint_directory
from optbench.checkpoints.manifest import CheckpointManifest
from optbench.checkpoints.writer import CheckpointWriter
from optbench.execution import Execution
from optbench.files.tensor_file import StreamFacts
from tests.checkpoints.checkpointed_runs import Runs, assert_bit_equal, config_of, undisturbed

TENSORS = {"a": torch.arange(6.0).view(2, 3)}


@pytest.fixture
def directory(tmp_path: Path) -> CheckpointDirectory:
    return checkpoint_directory(tmp_path, "r")


def save(writer: CheckpointWriter, *steps: int) -> None:
    for step in steps:
        writer.save(step, TENSORS, {"n": step})
        assert writer.is_free(30)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_few_are_kept(keep: int, directory: CheckpointDirectory) -> None:
    writer = CheckpointWriter(directory, keep)
    save(writer, 3, 7, 20, 100_000_000)
    assert directory.steps() == [100_000_000, 20, 7, 3][:keep]
    assert [
        directory.manifest(step).facts[0]["n"] for step in directory.steps()
    ] == directory.steps()
    assert (writer.written, writer.failed, writer.problems) == (4, 0, [])
    writer.close()


def test_halves_and_refused_ones_are_removed_when_a_newer_one_is_written(
    directory: CheckpointDirectory,
) -> None:
    save(CheckpointWriter(directory), 5, 6, 9)
    directory.write(7, "rank-0-of-1.safetensors", lambda file: StreamFacts(file.write(b"x"), ""))
    assert directory.steps() == [9, 7, 6]
    writer = CheckpointWriter(directory, superseded={9})
    save(writer, 8)
    assert directory.steps() == [8, 6]


def test_newer_checkpoints_that_nobody_refused_stay(directory: CheckpointDirectory) -> None:
    """A run that could not see them has started anew; they are still the best there is."""
    save(CheckpointWriter(directory), 50, 60)
    save(CheckpointWriter(directory), 10, 20, 30)
    assert directory.steps() == [60, 50, 30, 20]


def test_the_snapshot_is_of_the_moment_and_the_caller_goes_on(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    real = module.write_tensors

    def slow(file: IO[bytes], tensors: Any) -> StreamFacts:
        assert go_on.wait(30)
        return real(file, tensors)

    monkeypatch.setattr(module, "write_tensors", slow)
    tensor = torch.ones(3)
    writer = CheckpointWriter(directory)
    writer.save(1, {"a": tensor}, {})
    assert writer.is_busy
    tensor.fill_(7)
    go_on.set()
    assert writer.is_free(30)
    assert not writer.is_busy
    with directory.streams(directory.manifest(1)) as (stream,):
        assert torch.equal(stream.read({"a"})["a"], torch.ones(3))


def full_disk(after: int) -> Callable[..., Any]:
    """An ``open`` whose files take so many bytes and then say that the disk is full."""
    real = LocalFileSystem.open

    def opened(self: Any, path: str, mode: str = "rb", **others: Any) -> Any:
        file = real(self, path, mode, **others)
        if "w" not in mode:
            return file
        write, left = file.write, [after]

        def limited(data: Any) -> int:
            if len(data) > left[0]:
                write(bytes(data)[: left[0]])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            left[0] -= len(data)
            return write(data)

        file.write = limited
        return file

    return opened


def test_a_full_disk_ends_no_run_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Runs(tmp_path, config_of(steps=30), Execution(checkpoint_steps=2))
    whole = undisturbed(runs)
    runs.part(5)
    monkeypatch.setattr(LocalFileSystem, "open", full_disk(after=5000))
    part = runs.part(29, seed=1)
    record = part.checkpointer.record()
    assert part.resumed_at == [4]
    assert (record["checkpoints_written"], record["checkpoints_failed"]) == (2, 12)
    assert len(record["checkpoint_problems"]) == 10
    assert "step 6 was not written: OSError: [Errno 28] No space left" in caplog.messages[0]
    assert len(caplog.messages) == 1
    directory = checkpoint_directory(tmp_path, runs.config.run_id)
    assert directory.steps() == [4, 2]  # no halves
    monkeypatch.undo()
    resumed = runs.part(seed=2)
    assert resumed.resumed_at == [4]
    assert_bit_equal(resumed, whole)


def test_a_store_that_is_read_only_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PermissionError by the file system: root may write in spite of any mode."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS), "/store")

    monkeypatch.setattr(LocalFileSystem, "makedirs", refuse)
    runs = Runs(tmp_path, config_of(steps=10), Execution(checkpoint_steps=3))
    part = runs.part()
    assert_bit_equal(part, undisturbed(runs))
    assert part.checkpointer.record()["checkpoints_failed"] == 3
    assert "Read-only file system: '/store'" in part.checkpointer.record()["checkpoint_problems"][0]


def test_a_manifest_that_cannot_be_written_leaves_no_checkpoint(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    writer = CheckpointWriter(directory)
    save(writer, 1)
    monkeypatch.setattr(CheckpointDirectory, "complete", refuse)
    save(writer, 2)
    assert directory.steps() == [1]
    assert writer.failed == 1


def test_no_memory_for_the_copy_is_a_problem_and_no_end(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(module, "_copy", refuse)
    writer = CheckpointWriter(directory)
    save(writer, 1)
    assert writer.problems == [
        "The checkpoint of step 1 was not written: RuntimeError: DefaultCPUAllocator: can't "
        "allocate memory"
    ]


def test_old_checkpoints_that_cannot_be_removed_are_a_problem_and_no_end(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(CheckpointDirectory, "remove", refuse)
    writer = CheckpointWriter(directory, keep=1)
    save(writer, 1, 2)
    assert (writer.written, directory.steps()) == (2, [2, 1])
    assert writer.problems == ["Old checkpoints were not removed: PermissionError: no"]


def test_a_checkpoint_exists_only_with_its_manifest(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file first, on the disk; the manifest renamed into its place."""
    seen: list[list[str]] = []
    real = CheckpointDirectory.complete

    def look(self: CheckpointDirectory, manifest: CheckpointManifest) -> None:
        folder = Path(self.folder(manifest.step))
        seen.append(sorted(file.name for file in folder.iterdir()))
        real(self, manifest)
        seen.append(sorted(file.name for file in folder.iterdir()))

    monkeypatch.setattr(CheckpointDirectory, "complete", look)
    save(CheckpointWriter(directory), 1)
    assert seen == [["rank-0-of-1.safetensors"], ["checkpoint.json", "rank-0-of-1.safetensors"]]
