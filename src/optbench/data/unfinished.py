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
from optbench.data.document_shards import DocumentShard
from optbench.data.listed_files import LISTED_FILE
from optbench.data.reading import ReadPosition
from optbench.data.retries import describe
from optbench.data.shards import TOKENIZER_FILE
from optbench.files.durable import flush_to_disk, write_durably

PROGRESS_FILE = "progress.json"
LOCK_FILE = "lock"
_OWN_FILES = (PROGRESS_FILE, LISTED_FILE, LOCK_FILE, TOKENIZER_FILE)
_ENDING = ".unfinished"
# 2: tokens are checked to hold the whole of each document.
_SCHEMA = 2
_MOST_DIFFERENCES = 3


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
    place: ReadPosition = field(default_factory=ReadPosition)
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
        values["place"] = ReadPosition(**place)
        values["shards"] = tuple(DocumentShard(**shard) for shard in raw["shards"])
        return cls(**values)


@dataclass(slots=True)
class UnfinishedCorpus:
    """The folder of a preparation and what is finished in it; from :func:`hold_unfinished`.

    Args:
        identity: stands for the recipe and the tokenizer file.
        settings: the recipe by its keys, to name what differs in another one.
    """

    folder: Path
    identity: str
    settings: dict[str, str]
    streams: dict[str, StreamProgress]

    def save(self) -> None:
        """Write the progress in one step; it is on the disk when this returns."""
        values = {
            "schema": _SCHEMA,
            "identity": self.identity,
            "settings": self.settings,
            "streams": {name: dataclasses.asdict(s) for name, s in self.streams.items()},
        }
        write_durably(self.folder / PROGRESS_FILE, json.dumps(values).encode())

    @property
    def has_shards(self) -> bool:
        """Whether anything is finished that would be lost."""
        return any(stream.shards for stream in self.streams.values())

    def clear(self) -> None:
        """Begin again."""
        self.streams = {}
        # In this order: a tokenizer without progress would be taken for that of the next recipe.
        for name in (TOKENIZER_FILE, PROGRESS_FILE, LISTED_FILE):
            (self.folder / name).unlink(missing_ok=True)
        self.remove_strays()

    def publish(self, final: Path) -> None:
        """Give the finished corpus its name; what is left of the work goes only then."""
        self.folder.rename(final)
        flush_to_disk(final.parent)
        for name in (PROGRESS_FILE, LOCK_FILE):
            (final / name).unlink(missing_ok=True)

    def remove_strays(self) -> None:
        """Remove what no finished shard owns: it was being written when the last try ended."""
        shards = (shard for stream in self.streams.values() for shard in stream.shards)
        known = {f"{shard.name}{end}" for shard in shards for end in (".bin", ".idx")}
        for path in self.folder.glob("*"):  # another process may just have renamed the folder
            if path.name not in {*_OWN_FILES, *known}:
                path.unlink()


def unfinished_folder(final: Path) -> Path:
    """Where a corpus is prepared before it gets its name."""
    return final.with_name(f".{final.name}{_ENDING}")


def unfinished_folders(cache: Path) -> list[Path]:
    """Every preparation in a cache that has not ended."""
    return sorted(cache.glob(f".*{_ENDING}"))


def finished_shards(final: Path) -> int:
    """How many shards of an unfinished corpus are on the disk; 0 if nothing is known."""
    try:
        raw = json.loads((unfinished_folder(final) / PROGRESS_FILE).read_text(encoding="utf-8"))
        return sum(len(stream["shards"]) for stream in raw["streams"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0


@contextlib.contextmanager
def hold_unfinished(
    final: Path, identity: str, settings: dict[str, str], *, restart: bool = False
) -> Generator[UnfinishedCorpus]:
    """The unfinished folder of a corpus, new or as it was left, held against other processes.

    Args:
        restart: begin again whatever is there.

    Raises:
        DataError: another process holds it, or it has shards of another recipe.
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
        unfinished = UnfinishedCorpus(folder, identity, settings, {})
        if restart or not _load_progress(unfinished):
            unfinished.clear()
        unfinished.remove_strays()
        yield unfinished
    finally:
        os.close(lock)


def _load_progress(unfinished: UnfinishedCorpus) -> bool:
    """Whether there is something of the same recipe to go on with."""
    path = unfinished.folder / PROGRESS_FILE
    if not path.exists():
        return False
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        same = (raw["schema"], raw["identity"]) == (_SCHEMA, unfinished.identity)
        streams = {name: StreamProgress.from_dict(s) for name, s in raw["streams"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({describe(error)}). Begin again with --restart."
        ) from error
    found = dataclasses.replace(unfinished, streams=streams)
    if raw["schema"] != _SCHEMA and found.has_shards:
        raise DataError(
            f"{unfinished.folder} holds an unfinished preparation by another version of optbench, "
            f"which may have read the text otherwise. Begin again with --restart."
        )
    if not same and found.has_shards:
        raise DataError(
            f"{unfinished.folder} holds an unfinished preparation with another recipe or "
            f"tokenizer{_differences(raw.get('settings', {}), unfinished.settings)}. Give this "
            f"recipe another `name`, or begin again with --restart."
        )
    if same:
        unfinished.streams = streams
    return same


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    keys = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    if not before or not keys:
        return ""
    shown = [
        f"`{key}` was {before.get(key, 'absent')} and is {now.get(key, 'absent')}"
        for key in keys[:_MOST_DIFFERENCES]
    ]
    more = f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    return f": {', '.join(shown)}{more}"
