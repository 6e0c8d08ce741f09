"""Shards of a mixture: tokens, where each document starts, and a manifest of schema 2.

A prepared mixture is a folder ``<name>-v<vocab>`` of the cache::

    tokenizer.json
    train-web-00000.bin …   little-endian tokens, 16 bits each if the vocabulary fits, else 32;
                            documents one after another, each ended by the end-of-document token
    train-web-00000.idx …   64-bit offsets: where each document starts, and the end of the last
    manifest.json           sizes, checksums, provenance, fingerprint
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from optbench.data.corpus import DataError, Split
from optbench.data.shards import MANIFEST_FILE, TOKENIZER_FILE
from optbench.files.durable import flush_to_disk, write_durably

SCHEMA_VERSION = 2
OFFSET_DTYPE = np.dtype("<u8")
Mixtures: TypeAlias = tuple[tuple[Split, tuple[tuple[str, int], ...]], ...]
TOKEN_DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentShard:
    """One file of tokens and its offsets; ``text_bytes`` is the UTF-8 length of the text."""

    split: Split
    source: str
    index: int
    tokens: int
    documents: int
    text_bytes: int
    sha256: str
    offsets_sha256: str

    @property
    def name(self) -> str:
        """Name of both files, without the ending."""
        return shard_name(self.split, self.source, self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceProvenance:
    """What a source gave.

    Args:
        origin: data set and commit, or the files as the recipe names them.
        files: how many there are; ``files_sha256`` stands for their names and sizes.
        files_opened: how many were read, wholly or in part.
        documents_read: all that were read; ``documents_empty`` of them held no text.
        documents_over_quota: were read with the last ones and not kept.
    """

    source: str
    origin: str
    files: int
    files_opened: int
    files_bytes: int
    files_sha256: str
    documents_read: int
    documents_empty: int
    documents_over_quota: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureManifest:
    """Contents of a prepared mixture.

    Args:
        mixtures: for each split (source, parts of the mixture) in the order of the recipe.
        token_type: ``uint16`` or ``uint32``.
        tokenizer: what the recipe calls it; ``tokenizer_sha256`` is that of the file here.
        tokenizer_switched_off: settings of the given file that would cut, fill or randomise
            documents.
        recipe_sha256: of everything in the recipe that decides the bytes.
        fingerprint: 16 hex digits over mixtures, shards and tokenizer.
    """

    corpus: str
    vocab_size: int
    eod_id: int
    token_type: str
    mixtures: Mixtures
    shards: tuple[DocumentShard, ...]
    provenance: tuple[SourceProvenance, ...]
    tokenizer: str
    tokenizer_sha256: str
    recipe_sha256: str
    software: str
    fingerprint: str
    tokenizer_switched_off: tuple[str, ...] = ()
    schema: int = SCHEMA_VERSION

    def mixture(self, split: Split) -> tuple[tuple[str, int], ...]:
        """(source, parts) of a split."""
        return dict(self.mixtures)[split]

    def shards_of(self, split: Split, source: str) -> list[DocumentShard]:
        """The shards of a source in a split, in order."""
        return [s for s in self.shards if (s.split, s.source) == (split, source)]

    def num_tokens(self, split: Split) -> int:
        """Tokens of a split, over all sources."""
        return sum(shard.tokens for shard in self.shards if shard.split == split)

    def to_json(self) -> str:
        """Indented JSON, for people too."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> MixtureManifest:
        """Inverse of :meth:`to_json` after ``json.loads``."""
        values = dict(raw)
        values["mixtures"] = tuple(
            (split, tuple((str(name), int(weight)) for name, weight in mixture))
            for split, mixture in raw["mixtures"]
        )
        values["shards"] = tuple(DocumentShard(**shard) for shard in raw["shards"])
        values["provenance"] = tuple(SourceProvenance(**entry) for entry in raw["provenance"])
        values["tokenizer_switched_off"] = tuple(raw.get("tokenizer_switched_off", ()))
        return cls(**values)


@dataclass(frozen=True)
class TokenFiles:
    """The shards of one source in one split as one array, mapped into memory.

    Args:
        arrays: tokens of each shard.
        starts: where each begins in the whole, and the length of the whole at the end.
    """

    arrays: tuple[npt.NDArray[np.unsignedinteger[Any]], ...]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return self.starts[-1]

    def copy_to(self, row: npt.NDArray[np.int64], start: int) -> None:
        """Fill ``row`` (n,) with the n tokens from ``start`` on, across shards if need be."""
        at, shard = 0, bisect.bisect_right(self.starts, start) - 1
        while at < len(row):
            local = start + at - self.starts[shard]
            piece = self.arrays[shard][local : local + len(row) - at]
            row[at : at + len(piece)] = piece
            at, shard = at + len(piece), shard + 1


@dataclass(frozen=True)
class MixtureCorpus:
    """A prepared mixture; get one from :func:`open_mixture`."""

    directory: Path
    manifest: MixtureManifest

    @property
    def tokenizer_path(self) -> Path:
        """The file for :func:`optbench.data.tokenizer.load_tokenizer`."""
        return self.directory / TOKENIZER_FILE

    def tokens(self, split: Split, source: str) -> TokenFiles:
        """All tokens of a source in a split."""
        shards = self.manifest.shards_of(split, source)
        dtype = TOKEN_DTYPES[self.manifest.token_type]
        # Plain array views: slicing the memmap subclass costs several times as much.
        arrays = tuple(
            np.asarray(np.memmap(self.directory / f"{shard.name}.bin", dtype=dtype, mode="r"))
            for shard in shards
        )
        return TokenFiles(arrays, (0, *itertools.accumulate(shard.tokens for shard in shards)))


@dataclass(slots=True)
class ShardWriter:
    """Writes one shard; nothing has its final name before :meth:`close`."""

    folder: Path
    split: Split
    source: str
    index: int
    dtype: np.dtype[Any]
    text_bytes: int = 0
    _ends: list[int] = field(default_factory=lambda: [0])
    _digest: Any = field(default_factory=hashlib.sha256)
    _file: IO[bytes] | None = None

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        return self._ends[-1]

    def add(self, tokens: npt.NDArray[np.uint32], text_bytes: int) -> None:
        """Append one document."""
        if self._file is None:
            self._file = self._path(".bin.part").open("wb")
        raw = tokens.astype(self.dtype).tobytes()
        self._digest.update(raw)
        self._file.write(raw)
        self._ends.append(self._ends[-1] + len(tokens))
        self.text_bytes += text_bytes

    def close(self) -> DocumentShard | None:
        """Bring both files to the disk and give them their names; None if nothing was added."""
        if self._file is None:
            return None
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
        offsets = np.array(self._ends, OFFSET_DTYPE).tobytes()
        write_durably(self._path(".idx"), offsets)
        self._path(".bin.part").replace(self._path(".bin"))
        flush_to_disk(self.folder)
        return DocumentShard(
            split=self.split,
            source=self.source,
            index=self.index,
            tokens=self.tokens,
            documents=len(self._ends) - 1,
            text_bytes=self.text_bytes,
            sha256=self._digest.hexdigest(),
            offsets_sha256=hashlib.sha256(offsets).hexdigest(),
        )

    def abandon(self) -> None:
        """Close and remove what was written."""
        if self._file is not None:
            self._file.close()
            self._path(".bin.part").unlink(missing_ok=True)

    def _path(self, ending: str) -> Path:
        return self.folder / (shard_name(self.split, self.source, self.index) + ending)


def shard_name(split: str, source: str, index: int) -> str:
    """Such as ``train-web-00000``."""
    return f"{split}-{source}-{index:05d}"


def open_mixture(directory: Path, *, verify_checksums: bool = False) -> MixtureCorpus:
    """Open a prepared mixture; sizes are always checked, checksums and offsets on request.

    Raises:
        DataError: a file is missing, has another size or other contents than in the manifest.
    """
    manifest = _read_manifest(directory)
    tokenizer = directory / TOKENIZER_FILE
    if not tokenizer.exists() or sha256_of(tokenizer) != manifest.tokenizer_sha256:
        raise _damaged(directory, f"{TOKENIZER_FILE} is missing or does not match its checksum")
    size = TOKEN_DTYPES[manifest.token_type].itemsize
    check = functools.partial(_check_file, directory, verify=verify_checksums)
    for shard in manifest.shards:
        check(f"{shard.name}.bin", shard.tokens * size, shard.sha256)
        check(f"{shard.name}.idx", 8 * (shard.documents + 1), shard.offsets_sha256)
    return MixtureCorpus(directory, manifest)


def fingerprint(mixtures: Mixtures, shards: Iterable[DocumentShard], tokenizer_sha256: str) -> str:
    """16 hex digits that stand for every token of a mixture and the weights it is read with."""
    lines = [f"{split} {name} {weight}" for split, parts in mixtures for name, weight in parts]
    lines += [f"{shard.name} {shard.sha256} {shard.offsets_sha256}" for shard in shards]
    lines.append(f"{TOKENIZER_FILE} {tokenizer_sha256}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(directory: Path) -> MixtureManifest:
    path = directory / MANIFEST_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != SCHEMA_VERSION:
            raise DataError(
                f"The prepared corpus in {directory} has schema {raw['schema']}, but mixtures are "
                f"read in schema {SCHEMA_VERSION}. Prepare it again in another folder."
            )
        manifest = MixtureManifest.from_dict(raw)
    except OSError:
        raise DataError(
            f"There is no prepared corpus in {directory}. Prepare it first: optbench data prepare"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, f"{MANIFEST_FILE} cannot be read ({error})") from error
    if manifest.fingerprint != fingerprint(
        manifest.mixtures, manifest.shards, manifest.tokenizer_sha256
    ):
        raise _damaged(directory, f"{MANIFEST_FILE} does not match its own fingerprint")
    return manifest


def _check_file(directory: Path, name: str, size: int, sha256: str, *, verify: bool) -> None:
    path = directory / name
    if not path.exists():
        raise _damaged(directory, f"{name} is missing")
    if (found := path.stat().st_size) != size:
        raise _damaged(directory, f"{name} has {found} bytes instead of {size}")
    if verify and sha256_of(path) != sha256:
        raise _damaged(directory, f"{name} does not match its checksum")


def _damaged(directory: Path, what: str) -> DataError:
    return DataError(
        f"The prepared corpus in {directory} is damaged: {what}. Delete the folder and prepare it "
        f"again: optbench data prepare"
    )
