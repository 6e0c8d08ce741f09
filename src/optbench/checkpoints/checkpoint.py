"""Checkpoints of a run on local disk or at an fsspec URL: a folder each, complete or refused.

::

    <root>/<run_id>/step-00000120/
        rank-0-of-1.safetensors   the tensors, one file per rank
        checkpoint.json           written last: size and SHA-256 of the files, and all else

A folder without ``checkpoint.json`` is no checkpoint. No pickle is read, and nothing is given
memory before the manifest, the sizes and the headers have been found consistent.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from optbench.checkpoints.manifest import MANIFEST, CheckpointError, CheckpointManifest, rank_file
from optbench.files.durable import flush_to_disk
from optbench.files.tensor_file import StreamFacts, TensorFileError, TensorStream

MAX_MANIFEST_BYTES = 2**26
_STEP = re.compile(r"step-(\d{8,18})")
_RUN_ID = re.compile(r"\w[\w-]*")


@dataclass(frozen=True, slots=True)
class CheckpointDirectory:
    """Where the checkpoints of one run lie; made by :func:`checkpoint_directory`."""

    run_id: str
    system: fsspec.AbstractFileSystem
    path: str

    def folder(self, step: int) -> str:
        """The folder of a step."""
        return f"{self.path}/step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a folder, complete or not, the newest first.

        Raises:
            OSError: it cannot be listed.
        """
        found = (_STEP.fullmatch(name) for name in _names(self.system, self.path))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def is_complete(self, step: int) -> bool:
        """Whether the folder of a step has a manifest.

        Raises:
            OSError: it cannot be read.
        """
        return self._size(f"{self.folder(step)}/{MANIFEST}") is not None

    def write(self, step: int, name: str, write: Callable[[IO[bytes]], StreamFacts]) -> StreamFacts:
        """Write a file of a step so that it survives a power cut.

        Raises:
            OSError: the disk refuses.
        """
        folder = self.folder(step)
        self.system.makedirs(folder, exist_ok=True)
        with self.system.open(f"{folder}/{name}", "wb") as file:
            facts = write(cast("IO[bytes]", file))
        if self._is_local:
            flush_to_disk(Path(folder, name))
        return facts

    def complete(self, manifest: CheckpointManifest) -> None:
        """Write the manifest, which makes a checkpoint of a folder whose files are all there.

        Raises:
            OSError: the disk refuses.
        """
        folder, data = self.folder(manifest.step), manifest.to_json()
        if not self._is_local:  # an object store shows an object when it is whole
            self.system.pipe_file(f"{folder}/{MANIFEST}", data)
            return
        new = Path(folder, f"{MANIFEST}.new")
        new.write_bytes(data)
        flush_to_disk(new)
        new.replace(Path(folder, MANIFEST))
        for path in (Path(folder), Path(self.path), Path(self.path).parent):
            flush_to_disk(path)

    def manifest(self, step: int) -> CheckpointManifest:
        """The manifest of a step, checked: its files are there in full.

        Raises:
            CheckpointError: it is missing, damaged or of another run; a file of another size.
            OSError: it cannot be read.
        """
        folder = self.folder(step)
        size = self._size(f"{folder}/{MANIFEST}")
        if size is None:
            raise CheckpointError(f"{MANIFEST} is missing: writing it was not finished.")
        if size > MAX_MANIFEST_BYTES:
            raise CheckpointError(
                f"{MANIFEST} has {size:,} bytes, but at most {MAX_MANIFEST_BYTES:,} are sensible."
            )
        data = self.system.cat_file(f"{folder}/{MANIFEST}")
        manifest = CheckpointManifest.from_json(cast(bytes, data), self.run_id, step)
        for rank, file in enumerate(manifest.files):
            name = rank_file(rank, manifest.num_ranks)
            found = self._size(f"{folder}/{name}")
            if found is None:
                raise CheckpointError(f"{name} is missing.")
            if found != file.size:
                raise CheckpointError(
                    f"{name} has {found:,} bytes, but {MANIFEST} says {file.size:,}: it was cut "
                    f"short or changed."
                )
        return manifest

    @contextlib.contextmanager
    def streams(self, manifest: CheckpointManifest) -> Generator[list[TensorStream]]:
        """The file of each rank, its header read; errors while it is open name the file.

        Raises:
            CheckpointError: a file that is not what it should be.
            OSError: it cannot be read.
        """
        with contextlib.ExitStack() as stack:
            streams: list[TensorStream] = []
            for rank, facts in enumerate(manifest.files):
                name = rank_file(rank, manifest.num_ranks)
                file = stack.enter_context(
                    self.system.open(f"{self.folder(manifest.step)}/{name}", "rb")
                )
                with naming(name):
                    streams.append(TensorStream(cast("IO[bytes]", file), facts))
            yield streams

    def remove(self, step: int) -> None:
        """Remove the folder of a step, its manifest first, so that no half of it looks complete.

        Raises:
            OSError: the disk refuses.
        """
        folder = self.folder(step)
        with contextlib.suppress(FileNotFoundError):
            self.system.rm_file(f"{folder}/{MANIFEST}")
        with contextlib.suppress(FileNotFoundError):
            self.system.rm(folder, recursive=True)

    @property
    def _is_local(self) -> bool:
        return isinstance(self.system, LocalFileSystem)

    def _size(self, path: str) -> int | None:
        self.system.invalidate_cache()
        try:
            return int(self.system.info(path)["size"])
        except FileNotFoundError:
            return None


@contextlib.contextmanager
def naming(name: str) -> Generator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except TensorFileError as error:
        raise CheckpointError(f"{name} {error}") from None


def checkpoint_directory(root: str | Path, run_id: str) -> CheckpointDirectory:
    """Where the checkpoints of a run lie under a root; touches neither disk nor network.

    Args:
        root: a folder, or an fsspec URL such as ``s3://bucket/prefix``.

    Raises:
        CheckpointError: a URL of a kind that is unknown or lacks its package; no id of a run.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise CheckpointError(
            f"'{run_id}' is no id of a run, which is of letters, digits, '_' and '-'."
        )
    system, path = _root(root)
    return CheckpointDirectory(run_id, system, f"{path}/{run_id}")


def discard(root: str | Path, run_id: str) -> None:
    """Remove all checkpoints of a run, if there are any.

    Raises:
        CheckpointError: as for :func:`checkpoint_directory`.
        OSError: the disk refuses.
    """
    place = checkpoint_directory(root, run_id)
    for step in place.steps():
        place.remove(step)
    with contextlib.suppress(FileNotFoundError):
        place.system.rm(place.path, recursive=True)


def discard_finished(root: str | Path, run_ids: Collection[str]) -> None:
    """Remove the checkpoints of those runs that somebody died before removing.

    Raises:
        CheckpointError: as for :func:`checkpoint_directory`.
        OSError: the disk refuses.
    """
    system, path = _root(root)
    for name in _names(system, path):
        if name in run_ids:
            discard(root, name)


def _root(root: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    if isinstance(root, Path):
        return LocalFileSystem(), str(root.absolute())
    try:
        system, path = fsspec.url_to_fs(root)
    except (ValueError, ImportError) as error:
        raise CheckpointError(
            f"Checkpoints cannot be kept in '{root}' ({error}). Give a folder, or an fsspec URL "
            f"such as s3://bucket/prefix with its package installed."
        ) from None
    return system, path.rstrip("/")


def _names(system: fsspec.AbstractFileSystem, path: str) -> Sequence[str]:
    """Names in a folder; none where there is no folder."""
    system.invalidate_cache()
    try:
        found = cast("list[str]", system.ls(path, detail=False))
    except FileNotFoundError:
        return []
    return [PurePosixPath(entry).name for entry in found]
