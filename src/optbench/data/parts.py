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

_MAGIC = "*?["
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
)
_COMMIT = re.compile("[0-9a-f]{7,40}")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a source.

    Args:
        url: a path or an fsspec URL.
        label: its name below the common folder, the same on every machine.
        size: bytes as listed; None if the server does not say.
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
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


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
        root = _root(source.hub, base)
        found = [f for pattern in source.hub.files for f in _matching(root + pattern, base, source)]
        origin = root.rstrip("/") + " " + ", ".join(source.hub.files)
    else:
        urls, known, origin = _resolved(source.hub, base)
        found = _sized(urls)
        documents = documents or known
    files = {file.url: file for file in sorted(found, key=lambda file: file.url)}
    labels = _labels(list(files))
    parts = [
        Part(url, labels[url], source.format or _format_of(url, source.name), file.size, file.stamp)
        for url, file in files.items()
    ]
    if all(part.size == 0 for part in parts):
        raise DataError(
            f"The source '{source.name}' holds no text: {parts[0].url} is empty"
            + (f", and so are its other {len(parts) - 1} files." if len(parts) > 1 else ".")
        )
    parts.sort(key=lambda part: hashlib.sha256(f"{source.name}/{part.label}".encode()).digest())
    return Listing(tuple(parts), documents, origin)


def _matching(pattern: str, base: Path, source: TextSource) -> list[_Found]:
    """Every file that a path, pattern or URL names."""
    located = pattern if "://" in pattern else str(base / Path(pattern).expanduser())
    system, path = fsspec.url_to_fs(located)
    if any(letter in path for letter in _MAGIC):
        found: dict[str, dict[str, Any]] = system.glob(path, detail=True)
        infos = [info for info in found.values() if info["type"] == "file"]
    else:
        infos = _info_if_there(system, path)
        if any(info["type"] == "directory" for info in infos):
            raise DataError(
                f"The source '{source.name}' names the folder {located} as a file. Name its files "
                f"by a pattern: {pattern.rstrip('/')}/*"
            )
    if not infos:
        raise DataError(
            f"The source '{source.name}' finds no file at {located}. Relative paths start at the "
            f"folder of the recipe."
        )
    return [_found(system, info) for info in infos]


def _sized(urls: Sequence[str]) -> list[_Found]:
    """Files that are there; one request per folder, because hubs count them."""
    infos: dict[str, dict[str, Any]] = {}
    located = [fsspec.url_to_fs(url) for url in urls]
    for system, path in located:
        if path not in infos:
            listed = system.ls(path.rsplit("/", 1)[0], detail=True)
            infos.update({info["name"]: info for info in listed})
    return [_found(system, infos.get(path, {"name": path})) for system, path in located]


def _found(system: Any, info: Mapping[str, Any]) -> _Found:
    url = _url(system, info["name"])
    return _Found(url, info.get("size"), stamp_of(url, info))


def stamp_of(url: str, info: Mapping[str, Any]) -> str:
    """What changes when a file is written again; ``info`` is what fsspec says of it.

    Inodes are left out: they change when a network folder is mounted again.
    """
    if "://" not in url:
        return local_stamp(url)
    return next((f"{key} {info[key]}" for key in _STAMPS if info.get(key)), "")


def local_stamp(path: str) -> str:
    """When a file on this machine was written last, to the nanosecond."""
    # Of the file that a link points to; fsspec tells that of the link.
    return f"modified {np.datetime64(os.stat(path).st_mtime_ns, 'ns')}"


def _info_if_there(system: Any, path: str) -> list[dict[str, Any]]:
    try:
        return [system.info(path)]
    except FileNotFoundError:
        return []


def _url(system: Any, path: str) -> str:
    local = "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)
    return path if local else system.unstrip_protocol(path)


def _root(hub: HubDataset, base: Path) -> str:
    if (base / hub.dataset).is_dir():
        return f"{base / hub.dataset}/"
    return f"hf://datasets/{hub.dataset}@{_commit(hub)}/"


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
    owners: dict[str, str] = {}
    for name, listing in listings.items():
        for part in listing.parts:
            place = part.url if "://" in part.url else os.path.realpath(part.url)
            if (other := owners.setdefault(place, name)) != name:
                raise DataError(
                    f"{part.url} is in '{other}' and in '{name}': its text would come twice, or be "
                    f"trained on and held out. Name it in one of them."
                )


def total_size(parts: Iterable[Part]) -> int:
    """Bytes of all files whose size is known."""
    return sum(part.size or 0 for part in parts)
