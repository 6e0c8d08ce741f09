"""The files of a source: found on this machine, at a URL or in a data set, in one fixed order.

The order is that of a hash of each file's name below the files' common folder, so it is the same on
every machine, and a part of a source is no alphabetical slice of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec
import numpy as np

from optbench.data.corpus import DataError
from optbench.data.local_files import file_identity, local_files
from optbench.data.mixture_recipe import FORMATS, Format, HubDataset, TextSource
from optbench.data.retries import Patience, describe, http_status, is_transient
from optbench.data.unpacking import PACKED_ENDINGS, file_name
from optbench.space import did_you_mean

_ENDINGS: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}

_MAGIC = frozenset("*?[")
# By what stores call them, the surest first.
_STAMPS = (
    "ETag",
    "etag",
    "md5Hash",
    "blob_id",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "created",
    "CRC",
)
_COMMIT = re.compile("[0-9a-f]{7,40}")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a source.

    Args:
        url: a path or an fsspec URL.
        label: its name below the common folder, the same on every machine.
        size: bytes as listed; None if the server does not list it.
        stamp: changes when the file is written again: when it was last, or the server's entity
            tag; empty if nothing is known.
    """

    url: str
    label: str
    format: Format
    size: int | None
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    """A file as a listing has it."""

    url: str
    size: int | None
    stamp: str


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a source in the order in which they are read.

    Args:
        documents: how many there must be in all; 0 is not known.
        origin: the data set with its commit, or the patterns as the recipe has them.
    """

    parts: tuple[Part, ...]
    documents: int
    origin: str

    def digest(self) -> str:
        """SHA-256 over names and sizes."""
        lines = (f"{part.label} {part.size}" for part in self.parts)
        return hashlib.sha256(_raw("\n".join(lines))).hexdigest()


def _raw(name: str) -> bytes:
    return name.encode(errors="surrogateescape")  # as Python has names that are no UTF-8


def list_parts(source: TextSource, base: Path, patience: Patience) -> Listing:
    """Find the files of a source.

    Raises:
        DataError: there are none, one cannot be reached, or their format is not known.
    """
    failures = 0
    while True:
        try:
            return _list_parts(source, base)
        except DataError:
            raise
        except Exception as error:
            failures += 1
            if not is_transient(error) or failures >= patience.attempts:
                raise _unreachable(source, error) from error
            patience.wait(failures, error)


def _list_parts(source: TextSource, base: Path) -> Listing:
    documents, origin = source.documents, ", ".join(source.files)
    if source.hub is None:
        found = [file for pattern in source.files for file in _matching(pattern, base, source)]
    elif source.hub.files:
        found, origin = _in_hub(source.hub, base, source)
    else:
        urls, known, origin = _resolved(source.hub, base)
        found = _sized(urls)
        documents = documents or known
    files: dict[object, _Found] = {}
    for file in sorted(found, key=lambda file: file.url):
        files.setdefault(identity_of(file.url), file)  # several names of a file are one
    labels = _labels([file.url for file in files.values()])
    parts = [
        Part(
            file.url,
            labels[file.url],
            source.format or _format_of(file.url, source.name),
            file.size,
            file.stamp,
        )
        for file in files.values()
    ]
    if all(part.size == 0 for part in parts):
        raise DataError(
            f"The source '{source.name}' holds no text: {parts[0].url} is empty"
            + (f", and so are its other {len(parts) - 1} files." if len(parts) > 1 else ".")
        )
    parts.sort(key=lambda part: hashlib.sha256(_raw(f"{source.name}/{part.label}")).digest())
    return Listing(tuple(parts), documents, origin)


def _matching(pattern: str, base: Path, source: TextSource) -> list[_Found]:
    """Every file that a path, pattern or URL names; ``base`` is no part of the pattern."""
    if "://" not in pattern:
        found = _local(pattern, base, source)
        located = str(base / pattern)
    else:
        system, path = fsspec.url_to_fs(pattern)
        local = "file" in _protocols(system)
        found = _local(path, base, source) if local else _remote(system, path, pattern, source)
        located = pattern
    if not found:
        raise DataError(
            f"The source '{source.name}' finds no file at {located}. Relative paths start at the "
            f"folder of the recipe."
        )
    return found


def _local(pattern: str, base: Path, source: TextSource) -> list[_Found]:
    try:
        return [_found_here(path) for path in local_files(pattern, base)]
    except DataError as error:
        raise DataError(f"Files of the source '{source.name}': {error}") from None


def _found_here(path: str) -> _Found:
    return _Found(path, os.stat(path).st_size, local_stamp(path))


def _remote(system: Any, path: str, pattern: str, source: TextSource) -> list[_Found]:
    # A name with ? or [ may be that of a file, and ? begins the query of a URL.
    infos = [] if "*" in path else _info_if_there(system, path)
    if any(info["type"] == "directory" for info in infos):
        raise DataError(
            f"Files of the source '{source.name}': The folder {pattern} is named as a file. Name "
            f"its files by a pattern: {pattern.rstrip('/')}/*"
        )
    if not infos and _MAGIC & set(path):
        listed: dict[str, dict[str, Any]] = system.glob(path, detail=True)
        infos = [info for info in listed.values() if info["type"] != "directory"]
    head, _, outer = pattern.partition("::")
    chain = f"::{outer}" if outer and "://" in head else ""  # such as zip://a.txt::b.zip
    return [_found(system, info, chain) for info in infos]


def _sized(urls: Sequence[str]) -> list[_Found]:
    """Files that are there; one request per folder, because hubs count them."""
    infos: dict[str, dict[str, Any]] = {}
    located = [(url, *fsspec.url_to_fs(url)) for url in urls]
    for url, system, path in located:
        if "://" in url and path not in infos:
            listed = system.ls(path.rsplit("/", 1)[0], detail=True)
            infos.update({info["name"]: info for info in listed})
    return [
        _found(system, infos.get(path, {"name": path})) if "://" in url else _found_here(path)
        for url, system, path in located
    ]


def _found(system: Any, info: Mapping[str, Any], chain: str = "") -> _Found:
    url = system.unstrip_protocol(info["name"]) + chain
    return _Found(url, info.get("size"), stamp_of(url, info))


def stamp_of(url: str, info: Mapping[str, Any]) -> str:
    """What changes when a file is written again; ``info`` is fsspec's.

    Inodes are left out: they change when a network folder is mounted again.
    """
    if "://" not in url:
        return local_stamp(url)
    return next((f"{key} {info[key]}" for key in _STAMPS if info.get(key)), "")


def local_stamp(path: str) -> str:
    """When a file on this machine was written last, to the nanosecond."""
    # Of the file that a link points to; fsspec has that of the link.
    return f"modified {np.datetime64(os.stat(path).st_mtime_ns, 'ns')}"


def check_stamp(part: Part) -> None:
    """Refuse a file that was written again since it was listed.

    On this machine alone: servers have headers of a file that they lack in a listing.

    Raises:
        DataError: it was.
    """
    if part.stamp and "://" not in part.url and (now := local_stamp(part.url)) != part.stamp:
        raise DataError(
            f"{part.url} was written again while it was being prepared ({part.stamp}, now {now}). "
            "Restore it, or begin again: optbench data prepare --restart"
        )


def _info_if_there(system: Any, path: str) -> list[dict[str, Any]]:
    try:
        return [system.info(path)]
    except FileNotFoundError:
        return []


def _protocols(system: Any) -> Sequence[str]:
    return [system.protocol] if isinstance(system.protocol, str) else system.protocol


def _in_hub(hub: HubDataset, base: Path, source: TextSource) -> tuple[list[_Found], str]:
    """The files of a data set that its table names, and where they are."""
    folder = base / hub.dataset
    if folder.is_dir():
        root, start = "", folder
    else:
        root, start = f"hf://datasets/{hub.dataset}@{_commit(hub)}/", base
    found = [file for one in hub.files for file in _matching(root + one, start, source)]
    return found, f"{(root or str(folder)).rstrip('/')} {', '.join(hub.files)}"


def _commit(hub: HubDataset) -> str:
    """The revision if it is a commit, else the commit that it stands for now."""
    if _COMMIT.fullmatch(hub.revision):
        return hub.revision
    from huggingface_hub import HfApi

    return HfApi().dataset_info(hub.dataset, revision=hub.revision).sha or hub.revision


def _resolved(hub: HubDataset, base: Path) -> tuple[list[str], int, str]:
    """Files of a split as the data set's card says, their documents, and the data set's name."""
    datasets = _datasets()
    folder = base / hub.dataset
    local = folder.is_dir()
    if local and _MAGIC & set(os.path.abspath(folder)):
        raise DataError(
            f"The folder {os.path.abspath(folder)} has a name that the package 'datasets' reads as "
            f"a pattern of other names. Rename it, or name its files: `files` in the hub table."
        )
    commit = None if local else _commit(hub)
    try:
        builder = datasets.load_dataset_builder(
            str(folder) if local else hub.dataset,
            hub.config or None,
            revision=commit,
        )
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        raise DataError(
            f"The data set '{hub.dataset}' cannot be read as its card says ({describe(error)}). "
            f"Check `config`, or name its files: `files` in the hub table."
        ) from error
    splits = {str(split): list(urls) for split, urls in (builder.config.data_files or {}).items()}
    if hub.split not in splits:
        raise DataError(did_you_mean(hub.split, sorted(splits), what=f"split of '{hub.dataset}'"))
    known = (builder.info.splits or {}).get(hub.split)
    origin = f"{hub.dataset}{f'@{commit}' if commit else ''} {hub.config} {hub.split}"
    return splits[hub.split], known.num_examples if known else 0, " ".join(origin.split())


def _datasets() -> ModuleType:
    if importlib.util.find_spec("datasets") is None:
        raise DataError(
            "Data sets of the hub are found by the package 'datasets', which is not installed. "
            "Install it: pip install 'optbench[data]'"
        )
    import datasets

    return datasets


def _labels(urls: Sequence[str]) -> dict[str, str]:
    """Names below the common folder."""
    if len(urls) == 1:
        return {urls[0]: urls[0].rsplit("/", 1)[-1]}
    first, last = min(urls), max(urls)
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    common = first[:shared].rfind("/") + 1
    return {url: url[common:] for url in urls}


def _format_of(url: str, source: str) -> Format:
    name = file_name(url).lower()
    for packed in PACKED_ENDINGS:
        name = name.removesuffix(packed)
    ending = os.path.splitext(name)[1]
    if ending not in _ENDINGS:
        raise DataError(
            f"The source '{source}' does not say the format of {url}, and its ending does not "
            f"either. Set `format` to one of {', '.join(FORMATS)}; text and JSON lines may be "
            f"packed as {', '.join(PACKED_ENDINGS)}."
        )
    return _ENDINGS[ending]


def _unreachable(source: TextSource, error: Exception) -> DataError:
    where = source.hub.dataset if source.hub else ", ".join(source.files)
    login = ""
    if http_status(error) in (401, 403) or "Gated" in type(error).__name__:
        login = " Accept its terms on the hub and log in: hf auth login."
    return DataError(f"The source '{source.name}' cannot list {where} ({describe(error)}).{login}")


def check_distinct(listings: Mapping[str, Listing]) -> None:
    """Refuse a file that two sources have: its text would come twice, or be held out and trained.

    Raises:
        DataError: there is one, with both sources.
    """
    owners: dict[object, str] = {}
    for name, listing in listings.items():
        for part in listing.parts:
            if (other := owners.setdefault(identity_of(part.url), name)) != name:
                raise DataError(
                    f"{part.url} is in '{other}' and in '{name}': its text would come twice, or be "
                    f"trained on and held out. Name it in one of them."
                )


def identity_of(url: str) -> object:
    """Equal for all names of one file on this machine; elsewhere a file has one."""
    return url if "://" in url else file_identity(url)


def total_size(parts: Iterable[Part]) -> int:
    """Bytes of all files whose size is known."""
    return sum(part.size or 0 for part in parts)
