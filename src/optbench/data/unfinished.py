"""A preparation that is going on or was interrupted: its folder, its lock, how far it has come."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optbench.data.corpus import DataError
from optbench.data.document_shards import DocumentShard, write_durably
from optbench.data.reading import Place
from optbench.data.shards import TOKENIZER_FILE

PROGRESS_FILE = "progress.json"
LOCK_FILE = "lock"
_ENDING = ".unfinished"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """How far one source is on the disk.

    Args:
        files_sha256: of the names and sizes of the source's files.
        place: behind the last document that is in a finished shard.
        shards: finished, in order.
        rounds: how often shards were finished: the index of the next ones.
        tokens: towards the quota.
        empty: documents read that held no text.
        over_quota: documents read and not kept.
    """

    files_sha256: str
    place: Place = field(default_factory=Place)
    shards: tuple[DocumentShard, ...] = ()
    rounds: int = 0
    tokens: int = 0
    empty: int = 0
    over_quota: int = 0

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> StreamProgress:
        """Inverse of ``dataclasses.asdict`` after JSON."""
        values, place = dict(raw), dict(raw["place"])
        place["open"] = tuple((int(index), int(count)) for index, count in place["open"])
        values["place"] = Place(**place)
        values["shards"] = tuple(DocumentShard(**shard) for shard in raw["shards"])
        return cls(**values)


@dataclass(slots=True)
class Unfinished:
    """The folder of a preparation and what is finished in it; from :func:`hold_unfinished`.

    Args:
        identity: stands for the recipe and the tokenizer file.
    """

    folder: Path
    identity: str
    streams: dict[str, StreamProgress]

    def save(self) -> None:
        """Write the progress in one step; it is on the disk when this returns."""
        values = {
            "schema": _SCHEMA,
            "identity": self.identity,
            "streams": {name: dataclasses.asdict(s) for name, s in self.streams.items()},
        }
        write_durably(self.folder / PROGRESS_FILE, json.dumps(values).encode())

    def remove_strays(self) -> None:
        """Remove what no finished shard owns: it was being written when the last try ended."""
        shards = (shard for stream in self.streams.values() for shard in stream.shards)
        known = {f"{shard.name}{end}" for shard in shards for end in (".bin", ".idx")}
        for path in self.folder.iterdir():
            if path.name not in {PROGRESS_FILE, LOCK_FILE, TOKENIZER_FILE, *known}:
                path.unlink()


def unfinished_folder(final: Path) -> Path:
    """Where a corpus is prepared before it gets its name."""
    return final.with_name(f".{final.name}{_ENDING}")


def unfinished_folders(cache: Path) -> list[Path]:
    """Every preparation in a cache that has not ended."""
    return sorted(cache.glob(f".*{_ENDING}"))


@contextlib.contextmanager
def hold_unfinished(final: Path, identity: str) -> Generator[Unfinished]:
    """The unfinished folder of a corpus, new or as it was left, held against other processes.

    Raises:
        DataError: another process holds it, or it was begun with another recipe.
    """
    folder = unfinished_folder(final)
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"Another optbench is preparing this corpus in {folder}. Wait for it or stop it."
            ) from None
        unfinished = _read(folder, identity)
        unfinished.remove_strays()
        yield unfinished
    finally:
        os.close(lock)


def _read(folder: Path, identity: str) -> Unfinished:
    path = folder / PROGRESS_FILE
    if not path.exists():
        return Unfinished(folder, identity, {})
    raw = json.loads(path.read_text(encoding="utf-8"))
    if raw["schema"] != _SCHEMA or raw["identity"] != identity:
        raise DataError(
            f"{folder} holds an unfinished preparation with another recipe or tokenizer. Give this "
            f"recipe another name, or delete that folder."
        )
    streams = {name: StreamProgress.from_dict(s) for name, s in raw["streams"].items()}
    return Unfinished(folder, identity, streams)
