"""Token shards on disk: prepared once, complete or absent, checked when opened.

A prepared corpus is a folder ``<corpus>-v<vocab>`` of the cache::

    tokenizer.json
    train-prose.bin …   one per split and source: 16-bit little-endian tokens, documents one after
                        another, each ended by the end-of-document token
    manifest.json       sizes, checksums, provenance, fingerprint

It is built in a hidden folder beside and renamed when everything is on the disk, so a folder with
this name is finished. Two processes that prepare at the same time do the work twice and agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from optbench.data.cache_errors import errors_of_cache
from optbench.data.corpus import (
    SPLITS,
    DataError,
    Document,
    Recipe,
    Split,
    read_pieces,
    recipe_for,
    split_of,
)
from optbench.data.tokenizer import (
    TOKEN_DTYPE,
    encode_documents,
    end_of_document_id,
    load_tokenizer,
    train_tokenizer,
)
from optbench.files.durable import flush_to_disk, write_durably

SCHEMA_VERSION = 1
TOKENIZER_FILE = "tokenizer.json"
MANIFEST_FILE = "manifest.json"
TOKENIZER_SAMPLE_BYTES = 6_000_000
_DOCUMENTS_PER_BATCH = 128

OnProgress: TypeAlias = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of tokens; ``text_bytes`` is the UTF-8 length of the text it encodes."""

    split: Split
    source: str
    tokens: int
    documents: int
    text_bytes: int
    sha256: str

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.split}-{self.source}.bin"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What one package gave to one source, counted in whole documents before cutting."""

    source: str
    package: str
    version: str
    licence: str
    documents: int
    text_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusManifest:
    """Contents of a prepared corpus.

    Args:
        weights: (source, parts of the mixture) in the order of the recipe.
        fingerprint: 16 hex digits over weights, shards and tokenizer; equal fingerprints mean equal
            tokens in equal order.
    """

    corpus: str
    vocab_size: int
    eod_id: int
    weights: tuple[tuple[str, int], ...]
    shards: tuple[Shard, ...]
    tokenizer_sha256: str
    provenance: tuple[Provenance, ...]
    python: str
    fingerprint: str
    schema: int = SCHEMA_VERSION

    def shard(self, split: Split, source: str) -> Shard:
        """The shard of a split and source."""
        return next(s for s in self.shards if (s.split, s.source) == (split, source))

    def num_tokens(self, split: Split) -> int:
        """Tokens of a split, over all sources."""
        return sum(shard.tokens for shard in self.shards if shard.split == split)

    def to_json(self) -> str:
        """Indented JSON, for people too."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> CorpusManifest:
        """Inverse of :meth:`to_json` after ``json.loads``."""
        values = dict(raw)
        values["weights"] = tuple((str(name), int(weight)) for name, weight in raw["weights"])
        values["shards"] = tuple(Shard(**shard) for shard in raw["shards"])
        values["provenance"] = tuple(Provenance(**entry) for entry in raw["provenance"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A prepared corpus; get one from :func:`open_corpus`."""

    directory: Path
    manifest: CorpusManifest

    @property
    def tokenizer_path(self) -> Path:
        """The file for :func:`optbench.data.tokenizer.load_tokenizer`."""
        return self.directory / TOKENIZER_FILE

    def tokens(self, split: Split, source: str) -> npt.NDArray[np.uint16]:
        """Tokens of one shard, (tokens,), mapped into memory and read-only."""
        path = self.directory / self.manifest.shard(split, source).file
        # A plain array view: slicing the memmap subclass costs several times as much.
        return np.asarray(np.memmap(path, dtype=TOKEN_DTYPE, mode="r"))


def default_cache_dir() -> Path:
    """``$OPTBENCH_CACHE``, else ``optbench`` in the user's cache folder of the platform.

    Raises:
        DataError: the user has no home folder.
    """
    chosen = os.environ.get("OPTBENCH_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "optbench"
        caches = os.environ.get("XDG_CACHE_HOME")
        return (Path(caches) if caches else Path.home() / ".cache") / "optbench"
    except RuntimeError as error:
        raise DataError(
            f"The folder of prepared corpora is not known ({error}). Name one by its whole path: "
            f"OPTBENCH_CACHE"
        ) from None


def corpus_dir(corpus: str, vocab_size: int, cache: Path) -> Path:
    """Folder of a prepared corpus in the cache."""
    return cache / f"{corpus}-v{vocab_size}"


def prepare(corpus: str, vocab_size: int, cache: Path, on_progress: OnProgress) -> CorpusManifest:
    """Prepare a corpus, or do nothing if the cache has it.

    Args:
        corpus: name of a recipe, see :func:`optbench.data.corpus.recipe_for`.
        vocab_size: tokens of the vocabulary, 257 to 65,536.
        cache: folder of prepared corpora; made if need be.
        on_progress: called with what is being done and the finished share of the whole, 0 to 1.

    Raises:
        DataError: unknown corpus, text not installed, vocabulary out of range, damaged cache.
    """
    return prepare_recipe(recipe_for(corpus), vocab_size, cache, on_progress)


def prepare_recipe(
    recipe: Recipe, vocab_size: int, cache: Path, on_progress: OnProgress
) -> CorpusManifest:
    """As :func:`prepare`, from a recipe."""
    final = corpus_dir(recipe.name, vocab_size, cache)
    with errors_of_cache(cache):
        if not final.exists():
            staging = cache / f".{final.name}.{uuid.uuid4().hex}"
            staging.mkdir(parents=True)
            try:
                _build(recipe, vocab_size, staging, on_progress)
                open_corpus(staging, verify_checksums=True)
                _publish(staging, final)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        return open_corpus(final).manifest


def open_corpus(directory: Path, *, verify_checksums: bool = False) -> Corpus:
    """Open a prepared corpus; sizes are always checked, checksums of shards on request.

    Raises:
        DataError: a file is missing, has another size or other contents than in the manifest.
    """
    manifest = _read_manifest(directory)
    if not (directory / TOKENIZER_FILE).exists():
        raise _damaged(directory, f"{TOKENIZER_FILE} is missing")
    if _sha256(directory / TOKENIZER_FILE) != manifest.tokenizer_sha256:
        raise _damaged(directory, f"{TOKENIZER_FILE} does not match its checksum")
    for shard in manifest.shards:
        _check_shard(directory, shard, verify_checksums=verify_checksums)
    return Corpus(directory, manifest)


def fingerprint(
    weights: Sequence[tuple[str, int]], shards: Sequence[Shard], tokenizer_sha256: str
) -> str:
    """16 hex digits that stand for every token of a corpus and the mixture it is read in."""
    lines = [f"{name} {weight}" for name, weight in weights]
    lines += [f"{shard.file} {shard.sha256}" for shard in shards]
    lines.append(f"{TOKENIZER_FILE} {tokenizer_sha256}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _build(recipe: Recipe, vocab_size: int, folder: Path, on_progress: OnProgress) -> None:
    pieces: dict[str, list[Document]] = {}
    for index, source in enumerate(recipe.sources):
        on_progress(f"reading {source.name}", 0.1 * index / len(recipe.sources))
        pieces[source.name] = read_pieces(source)
    on_progress("training the tokenizer", 0.1)
    tokenizer_path = folder / TOKENIZER_FILE
    tokenizer = train_tokenizer(_tokenizer_sample(pieces), vocab_size)
    write_durably(tokenizer_path, tokenizer.to_str(pretty=True).encode())
    shards = tuple(_write_shards(pieces, folder, on_progress))
    weights = tuple((source.name, source.weight) for source in recipe.sources)
    digest = _sha256(tokenizer_path)
    manifest = CorpusManifest(
        corpus=recipe.name,
        vocab_size=vocab_size,
        eod_id=end_of_document_id(load_tokenizer(tokenizer_path)),
        weights=weights,
        shards=shards,
        tokenizer_sha256=digest,
        provenance=tuple(_provenance(recipe, pieces)),
        python=platform.python_version(),
        fingerprint=fingerprint(weights, shards, digest),
    )
    path = folder / MANIFEST_FILE
    path.write_text(manifest.to_json(), encoding="utf-8")
    flush_to_disk(path)
    on_progress("prepared", 1.0)


def _tokenizer_sample(pieces: Mapping[str, list[Document]]) -> Iterator[str]:
    """Training text in equal shares of the sources: a rare domain needs its own words too."""
    for documents in pieces.values():
        room = TOKENIZER_SAMPLE_BYTES // len(pieces)
        for document in documents:
            if split_of(document) != "train":
                continue
            room -= document.num_bytes
            if room < 0:
                break
            yield document.text


def _write_shards(
    pieces: Mapping[str, list[Document]], folder: Path, on_progress: OnProgress
) -> Iterator[Shard]:
    total = sum(len(documents) for documents in pieces.values())
    done = 0

    def on_encoded(source: str, num_documents: int) -> None:
        nonlocal done
        done += num_documents
        on_progress(f"encoding {source}", 0.25 + 0.75 * done / total)

    for source, documents in pieces.items():
        for split in SPLITS:
            chosen = [document for document in documents if split_of(document) == split]
            if not chosen:
                raise DataError(
                    f"No document of the source '{source}' falls into the {split} split "
                    f"({len(documents)} documents in all). Use a larger corpus."
                )
            yield _write_shard(split, source, chosen, folder, on_encoded)


def _write_shard(
    split: Split,
    source: str,
    documents: list[Document],
    folder: Path,
    on_encoded: Callable[[str, int], None],
) -> Shard:
    tokenizer = load_tokenizer(folder / TOKENIZER_FILE)
    digest = hashlib.sha256()
    num_tokens = 0
    path = folder / f"{split}-{source}.bin"
    with path.open("wb") as out:
        for start in range(0, len(documents), _DOCUMENTS_PER_BATCH):
            batch = documents[start : start + _DOCUMENTS_PER_BATCH]
            tokens = encode_documents(tokenizer, [document.text for document in batch])
            num_tokens += len(tokens)
            digest.update(tokens.tobytes())
            out.write(tokens.tobytes())
            on_encoded(source, len(batch))
    flush_to_disk(path)
    text_bytes = sum(document.num_bytes for document in documents)
    return Shard(split, source, num_tokens, len(documents), text_bytes, digest.hexdigest())


def _provenance(recipe: Recipe, pieces: Mapping[str, list[Document]]) -> Iterator[Provenance]:
    packages = recipe.packages()
    for source, documents in pieces.items():
        wholes = {document.name.split("#", 1)[0]: document.package for document in documents}
        counts = Counter(wholes.values())
        sizes: Counter[str] = Counter()
        for document in documents:
            sizes[document.package] += document.num_bytes
        for name in sorted(counts):
            package = packages[name]
            yield Provenance(
                source, name, package.version, package.licence, counts[name], sizes[name]
            )


def _publish(staging: Path, final: Path) -> None:
    flush_to_disk(staging)
    try:
        staging.rename(final)
    except OSError:
        # Another process was first: its folder is complete, and equal to ours.
        if not final.exists():
            raise
    flush_to_disk(final.parent)


def _read_manifest(directory: Path) -> CorpusManifest:
    path = directory / MANIFEST_FILE
    if not directory.exists():
        raise DataError(f"There is no prepared corpus in {directory}. Prepare it first.")
    if not path.exists():
        raise _damaged(directory, f"{MANIFEST_FILE} is missing")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        schema = raw["schema"]
        manifest = CorpusManifest.from_dict(raw) if schema == SCHEMA_VERSION else None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, f"{MANIFEST_FILE} cannot be read ({error})") from error
    if manifest is None:
        raise DataError(
            f"The prepared corpus in {directory} has schema {schema}, but this version of "
            f"optbench reads {SCHEMA_VERSION}. Delete the folder; it is prepared again on the "
            f"next use."
        )
    if manifest.fingerprint != fingerprint(
        manifest.weights, manifest.shards, manifest.tokenizer_sha256
    ):
        raise _damaged(directory, f"{MANIFEST_FILE} does not match its own fingerprint")
    return manifest


def _check_shard(directory: Path, shard: Shard, *, verify_checksums: bool) -> None:
    path = directory / shard.file
    if not path.exists():
        raise _damaged(directory, f"{shard.file} is missing")
    expected = shard.tokens * TOKEN_DTYPE.itemsize
    if (size := path.stat().st_size) != expected:
        raise _damaged(directory, f"{shard.file} has {size} bytes instead of {expected}")
    if verify_checksums and _sha256(path) != shard.sha256:
        raise _damaged(directory, f"{shard.file} does not match its checksum")


def _damaged(directory: Path, what: str) -> DataError:
    return DataError(
        f"The prepared corpus in {directory} is damaged: {what}. Delete the folder; it is "
        f"prepared again on the next use."
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
