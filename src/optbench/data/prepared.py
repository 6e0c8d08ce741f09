"""Prepared corpora of either kind: opened by their manifest, and listed."""

from __future__ import annotations

import json
import re
import socket
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from optbench.data.batches import TokenBatches
from optbench.data.cache_errors import errors_of_cache
from optbench.data.corpus import NANO, NANO_VOCAB_SIZE, SPLITS, DataError, Split
from optbench.data.document_shards import SCHEMA_VERSION, MixtureCorpus, open_mixture
from optbench.data.mixture_batches import MixtureBatches
from optbench.data.recipe_file import NAME, shipped_recipes
from optbench.data.shards import (
    MANIFEST_FILE,
    Corpus,
    corpus_dir,
    default_cache_dir,
    open_corpus,
    prepare,
)
from optbench.data.unfinished import unfinished_folders
from optbench.space import did_you_mean

AnyCorpus: TypeAlias = Corpus | MixtureCorpus
AnyBatches: TypeAlias = TokenBatches | MixtureBatches
_FOLDER = re.compile(r"(.+)-v([0-9]+)")


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """One folder of the cache.

    Args:
        tokens: of each split.
        documents: of each split.
        sources: with their parts of the training mixture.
        source_tokens: training tokens of each source.
        state: ``ok``, ``unfinished``, or what is damaged.
    """

    name: str
    directory: Path
    state: str
    vocab_size: int = 0
    tokens: dict[Split, int] | None = None
    documents: dict[Split, int] | None = None
    sources: tuple[tuple[str, int], ...] = ()
    source_tokens: dict[str, int] = field(default_factory=dict)
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
    with errors_of_cache(cache):
        if directory.exists():
            return open_prepared(directory)
    others = prepared_vocabularies(cache).get(corpus)
    if others:
        raise DataError(
            f"The corpus '{corpus}' is prepared in {cache} with a vocabulary of "
            f"{_listed(others)}, but the model has one of {vocab_size}. Give the model "
            f"that of the corpus: `vocab_size` in [models] of the study or in the run's "
            f"configuration. Or prepare the corpus with the model's: optbench data prepare "
            f"{_recipe_of(corpus)} --vocab-size {vocab_size}"
        )
    raise _not_prepared(corpus, cache)


def choose_vocabulary(corpus: str, preferred: int, cache: Path) -> tuple[str, int]:
    """The name and the vocabulary of the prepared corpus that a run on ``corpus`` reads.

    Args:
        corpus: its name, or that of its folder, which has the vocabulary at its end.
        preferred: taken if the corpus is there with it; else the only one that is there.

    Raises:
        DataError: there is no such corpus, with those that are there, or the choice is the user's.
    """
    known = prepared_vocabularies(cache)
    # nano needs no word from the user to be prepared.
    known[NANO] = tuple(sorted({*known.get(NANO, ()), NANO_VOCAB_SIZE}))
    folder = _FOLDER.fullmatch(corpus)
    if corpus not in known and folder and int(folder[2]) in known.get(folder[1], ()):
        return folder[1], int(folder[2])
    if corpus not in known:
        raise _not_prepared(corpus, cache)
    sizes = known[corpus]
    if preferred in sizes:
        return corpus, preferred
    if len(sizes) > 1:
        folders = " or ".join(f"{corpus}-v{size}" for size in sizes)
        raise DataError(
            f"The corpus '{corpus}' is prepared with vocabularies of {_listed(sizes)}, and the "
            f"model size's own {preferred} is none of them. Say which: {folders}"
        )
    return corpus, min(sizes)


def prepared_vocabularies(cache: Path) -> dict[str, tuple[int, ...]]:
    """With which vocabularies each corpus of a cache is prepared, by its name."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for manifest in cache.glob(f"[!.]*/{MANIFEST_FILE}"):
        if folder := _FOLDER.fullmatch(manifest.parent.name):
            found[folder[1]].append(int(folder[2]))
    return {name: tuple(sorted(sizes)) for name, sizes in sorted(found.items())}


def _not_prepared(corpus: str, cache: Path) -> DataError:
    if corpus in shipped_recipes():
        return DataError(
            f"The corpus '{corpus}' is not prepared in {cache}; prepare it first: optbench data "
            f"prepare {corpus}"
        )
    known = sorted({NANO, *prepared_vocabularies(cache)})
    return DataError(
        f"{did_you_mean(corpus, known, what='prepared corpus')} They lie in {cache}. Prepare "
        f"another from its recipe: optbench data prepare {_recipe_of(corpus)}"
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
            f"There is no {directory} on {socket.gethostname()}. Keep the cache on a disk that "
            f"every machine sees, and name it in OPTBENCH_CACHE; or prepare the corpus there. "
            f"{error}"
        ) from None


def _recipe_of(corpus: str) -> str:
    """What `data prepare` takes; only corpora that ship with the package have no file."""
    return corpus if corpus in (NANO, *shipped_recipes()) else f"{corpus}.toml"


def _listed(sizes: tuple[int, ...]) -> str:
    return " and ".join(str(size) for size in sizes)


def list_prepared(cache: Path, *, verify_checksums: bool = False) -> list[CorpusSummary]:
    """Everything in a cache, prepared or unfinished; damage is a state here and no error."""
    with errors_of_cache(cache):
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
        source_tokens={
            name: sum(s.tokens for s in manifest.shards if (s.split, s.source) == ("train", name))
            for name, _ in mixture
        },
        fingerprint=manifest.fingerprint,
    )


def _schema(directory: Path) -> int | None:
    try:
        raw = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
        return raw["schema"] if isinstance(raw["schema"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # opening it raises what is wrong
