"""Prepared corpora of either kind: opened by what their manifest says, and listed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from optbench.data.batches import TokenBatches
from optbench.data.corpus import NANO, SPLITS, DataError, Split
from optbench.data.document_shards import SCHEMA_VERSION, MixtureCorpus, open_mixture
from optbench.data.mixture_batches import MixtureBatches
from optbench.data.recipe_file import NAME
from optbench.data.shards import (
    MANIFEST_FILE,
    Corpus,
    corpus_dir,
    default_cache_dir,
    open_corpus,
    prepare,
)
from optbench.data.unfinished import unfinished_folders

AnyCorpus: TypeAlias = Corpus | MixtureCorpus
AnyBatches: TypeAlias = TokenBatches | MixtureBatches


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """One folder of the cache.

    Args:
        tokens: of each split.
        documents: of each split.
        sources: with their parts of the training mixture.
        state: ``ok``, ``unfinished``, or what is damaged.
    """

    name: str
    directory: Path
    state: str
    vocab_size: int = 0
    tokens: dict[Split, int] | None = None
    documents: dict[Split, int] | None = None
    sources: tuple[tuple[str, int], ...] = ()
    fingerprint: str = ""


def open_prepared(directory: Path, *, verify_checksums: bool = False) -> AnyCorpus:
    """Open a prepared corpus, whatever prepared it.

    Raises:
        DataError: it is missing or damaged.
    """
    if _schema(directory) == SCHEMA_VERSION:
        return open_mixture(directory, verify_checksums=verify_checksums)
    return open_corpus(directory, verify_checksums=verify_checksums)


def batches_of(corpus: AnyCorpus) -> AnyBatches:
    """Training and evaluation batches of an opened corpus."""
    return MixtureBatches(corpus) if isinstance(corpus, MixtureCorpus) else TokenBatches(corpus)


def too_small_for(
    corpus: AnyCorpus, *, seq_len: int, eval_tokens: int, test_tokens: int
) -> list[str]:
    """What a corpus lacks for runs: a training window of each source, or held-out tokens."""
    batches = batches_of(corpus)
    problems: list[str] = []
    try:
        batches.batch(0, seed=0, batch_size=1, seq_len=seq_len)
    except DataError as error:
        problems.append(str(error))
    held_out: tuple[tuple[Split, int], ...] = (("validation", eval_tokens), ("test", test_tokens))
    for split, num_tokens in held_out:
        try:
            batches.eval_batches(split, num_tokens=num_tokens, batch_size=1, seq_len=seq_len)
        except DataError as error:
            problems.append(str(error))
    return problems


def open_named(corpus: str, vocab_size: int, cache: Path) -> AnyCorpus:
    """A prepared corpus by its name.

    Raises:
        DataError: it is not in the cache, with the command that prepares it, or is no name.
    """
    if not NAME.fullmatch(corpus):
        raise DataError(f"`corpus` must be a lower-case name such as 'my-mix', but got '{corpus}'.")
    directory = corpus_dir(corpus, vocab_size, cache)
    if directory.exists():
        return open_prepared(directory)
    others = sorted(path.name for path in cache.glob(f"{corpus}-v*"))
    there = f" There is {', '.join(others)}, with another vocabulary." if others else ""
    raise DataError(
        f"The corpus '{corpus}' with a vocabulary of {vocab_size} is not prepared in {cache}."
        f"{there} Prepare it: optbench data prepare {corpus} (or its recipe file)"
    )


def directory_here(directory: Path, corpus: str, vocab_size: int) -> Path:
    """Where this machine has a corpus: where another one has it too, else in its own cache.

    Nano is prepared there if need be; its text comes with the installed packages.

    Raises:
        DataError: it is in neither place.
    """
    if directory.exists():
        return directory
    cache = default_cache_dir()
    if corpus == NANO:
        prepare(corpus, vocab_size, cache, lambda _what, _share: None)
        return corpus_dir(corpus, vocab_size, cache)
    try:
        return open_named(corpus, vocab_size, cache).directory
    except DataError as error:
        raise DataError(
            f"There is no {directory} on {socket.gethostname()}. {error} Or keep the cache on a "
            f"disk that every machine sees, and name it in OPTBENCH_CACHE."
        ) from None


def list_prepared(cache: Path, *, verify_checksums: bool = False) -> list[CorpusSummary]:
    """Everything in a cache, prepared or unfinished; damage is a state here and no error."""
    return [*_finished(cache, verify_checksums), *_unfinished(cache)]


def _finished(cache: Path, verify_checksums: bool) -> Iterator[CorpusSummary]:
    for manifest in sorted(cache.glob(f"[!.]*/{MANIFEST_FILE}")):
        directory = manifest.parent
        try:
            corpus = open_prepared(directory, verify_checksums=verify_checksums)
        except DataError as error:
            yield CorpusSummary(directory.name, directory, str(error))
        else:
            yield _summary(corpus)


def _unfinished(cache: Path) -> Iterator[CorpusSummary]:
    for folder in unfinished_folders(cache):
        name = folder.name.removeprefix(".").removesuffix(".unfinished")
        yield CorpusSummary(name, folder, "unfinished")


def _summary(corpus: AnyCorpus) -> CorpusSummary:
    manifest = corpus.manifest
    documents: dict[Split, int] = {
        split: sum(shard.documents for shard in manifest.shards if shard.split == split)
        for split in SPLITS
    }
    mixture = (
        corpus.manifest.mixture("train")
        if isinstance(corpus, MixtureCorpus)
        else corpus.manifest.weights
    )
    return CorpusSummary(
        name=manifest.corpus,
        directory=corpus.directory,
        state="ok",
        vocab_size=manifest.vocab_size,
        tokens={split: manifest.num_tokens(split) for split in SPLITS},
        documents=documents,
        sources=mixture,
        fingerprint=manifest.fingerprint,
    )


def _schema(directory: Path) -> int | None:
    try:
        raw = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
        return raw["schema"] if isinstance(raw["schema"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # opening it says what is wrong
