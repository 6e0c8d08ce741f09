"""Recipe → prepared mixture: stream, tokenize, shard, check; interrupted at any time, it goes on.

Each time a shard is full, the shards of all splits of its source are finished together and the
place behind their last document is written down. What was read after that is read again. The bytes
depend on the recipe and the text alone, and not on the interruptions or the number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from optbench.data.cache_errors import errors_of_cache
from optbench.data.corpus import SPLITS, DataError, Split
from optbench.data.document_shards import (
    MixtureManifest,
    Mixtures,
    ShardWriter,
    SourceProvenance,
    fingerprint,
    open_mixture,
    sha256_of,
    write_durably,
)
from optbench.data.encoding import EncodedBatch, Encoder, split_by_text
from optbench.data.kept_mixture import identity, kept_mixture, unchanged
from optbench.data.listed_files import LISTED_FILE, keep_contents, keep_listings, refuse_changed
from optbench.data.mixture_recipe import MixtureRecipe, Stream
from optbench.data.parts import Listing, Part, check_distinct, list_parts, total_size
from optbench.data.readers import read_part
from optbench.data.reading import ReadPosition, SourceReader
from optbench.data.retries import Patience
from optbench.data.shards import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    TOKENIZER_SAMPLE_BYTES,
    OnProgress,
    corpus_dir,
)
from optbench.data.tokenizer import load_tokenizer
from optbench.data.tokenizer_choice import TokenizerChoice, choose_tokenizer, end_of_document
from optbench.data.unfinished import StreamProgress, UnfinishedCorpus, hold_unfinished
from optbench.data.vocabulary_sample import vocabulary_sample

_MAX_16_BIT_VOCAB = 2**16
# Opens a file of a source behind its first k documents.
OpenSource = Callable[[Stream, Part, int], Iterator[str]]


def prepare_mixture(
    recipe: MixtureRecipe,
    cache: Path,
    *,
    workers: int = 1,
    restart: bool = False,
    on_progress: OnProgress = lambda _what, _share: None,
    patience: Patience | None = None,
    open_source: OpenSource = lambda stream, part, skip: read_part(part, stream.source, skip),
) -> MixtureManifest:
    """Prepare a mixture, go on with it, or do nothing if the cache has it.

    Args:
        workers: processes that encode.
        restart: begin again instead of going on with what is unfinished.
        on_progress: called with what is being done and the finished share of the whole, 0 to 1.
        patience: with failures of the network.
        open_source: reads a file; another one lets failures be tried out.

    Raises:
        DataError: text or tokenizer cannot be had or are damaged, a source ends before its quota,
            the disk is full, or the cache holds this name from another recipe or other files.
    """
    patience = patience or Patience()
    if (kept := kept_mixture(recipe, cache, patience)) is not None:
        return kept
    choice = choose_tokenizer(recipe)
    final = corpus_dir(recipe.name, choice.vocab_size, cache)
    settings = {**recipe.settings(), "tokenizer": choice.sha256}
    with (
        errors_of_cache(cache),
        hold_unfinished(final, identity(recipe, choice), settings, restart=restart) as unfinished,
    ):
        if final.exists():  # the process that held the lock before has finished it
            shutil.rmtree(unfinished.folder, ignore_errors=True)
            return unchanged(final, recipe, choice, patience)
        work = _Preparation(recipe, choice, unfinished, workers, on_progress, patience, open_source)
        manifest = work.run()
        write_durably(unfinished.folder / MANIFEST_FILE, manifest.to_json().encode())
        open_mixture(unfinished.folder, verify_checksums=True)
        unfinished.publish(final)
    on_progress("prepared", 1.0)
    return manifest


@dataclass(slots=True)
class _Preparation:
    """The work that is left in an unfinished folder."""

    recipe: MixtureRecipe
    choice: TokenizerChoice
    unfinished: UnfinishedCorpus
    workers: int
    on_progress: OnProgress
    patience: Patience
    open_source: OpenSource

    def run(self) -> MixtureManifest:
        streams = self.recipe.streams()
        listings = {s.source.name: self._listing(s) for s in streams}
        check_distinct(listings)
        self._begin(listings)
        path = self.unfinished.folder / TOKENIZER_FILE
        if not path.exists():
            self.on_progress("making the tokenizer", 0.0)
            tokenizer = self.choice.make(self._sample(streams, listings))
            write_durably(path, tokenizer.to_str().encode())
        eod = end_of_document(load_tokenizer(path), self.recipe.end_of_document)
        encoder = Encoder(path, eod, self.workers)
        self._check_disk(streams)
        for stream in streams:
            self._write(stream, listings[stream.source.name], encoder)
        self.on_progress("checking the files", 1.0)
        opened = {name: one.place.next_part for name, one in self.unfinished.streams.items()}
        keep_contents(self.unfinished.folder, listings, opened)
        return self._manifest(streams, listings, eod)

    def _listing(self, stream: Stream) -> Listing:
        name = stream.source.name
        self.on_progress(f"listing {name}", 0.0)
        return list_parts(stream.source, self.recipe.base, self.patience)

    def _begin(self, listings: dict[str, Listing]) -> None:
        """Note the files, or see that they are those that were there when all this began."""
        unfinished = self.unfinished
        if unfinished.streams:
            digests = {name: known.files_sha256 for name, known in unfinished.streams.items()}
            try:
                refuse_changed(unfinished.folder, listings, digests)
            except DataError:
                if unfinished.has_shards:
                    raise
                unfinished.clear()
        if not unfinished.streams or not (unfinished.folder / LISTED_FILE).exists():
            keep_listings(unfinished.folder, listings)
        for name, listing in listings.items():
            unfinished.streams.setdefault(name, StreamProgress(listing.digest()))
        unfinished.save()

    def _reader(self, stream: Stream, listing: Listing) -> SourceReader:
        def open_part(part: Part, skip: int) -> Iterator[str]:
            return self.open_source(stream, part, skip)

        source = stream.source
        return SourceReader(source.name, listing, source.side_by_side, open_part, self.patience)

    def _sample(self, streams: tuple[Stream, ...], listings: dict[str, Listing]) -> Iterator[str]:
        """Training text in equal shares of the sources: a rare domain needs its own words too."""
        trained = [stream for stream in streams if "train" in stream.counted]
        for stream in trained:
            reader = self._reader(stream, listings[stream.source.name])
            with contextlib.closing(reader.batches(ReadPosition())) as batches:
                texts = (
                    text
                    for batch in batches
                    for text in batch.texts
                    if split_by_text(text.encode(), stream.shares) == "train"
                )
                yield from vocabulary_sample(texts, TOKENIZER_SAMPLE_BYTES // len(trained))

    def _write(self, stream: Stream, listing: Listing, encoder: Encoder) -> None:
        """Write the shards of a source that are not there yet."""
        name = stream.source.name
        done = self.unfinished.streams[name]
        if done.place.ended:
            return
        reader = self._reader(stream, listing)
        current = _Round(self, stream, done)
        try:
            with contextlib.closing(encoder.encode(reader.batches(done.place), stream)) as batches:
                for batch in batches:
                    current.add(batch)
                    self.on_progress(f"encoding {name}", self._share(stream, listing, current.now))
                    if current.now.place.ended:
                        break
                    if current.full:
                        current = current.finish()
            current.finish()
        except BaseException:
            current.abandon()
            raise

    def _share(self, stream: Stream, listing: Listing, now: StreamProgress) -> float:
        streams = self.recipe.streams()
        opened = now.place.next_part - len(now.place.open)
        part = now.tokens / stream.tokens if stream.tokens else opened / len(listing.parts)
        return (streams.index(stream) + min(1.0, part)) / len(streams)

    def _check_disk(self, streams: tuple[Stream, ...]) -> None:
        size = self.token_dtype.itemsize
        left = sum(
            max(0, stream.tokens - self.unfinished.streams[stream.source.name].tokens) * size
            for stream in streams
        )
        free = shutil.disk_usage(self.unfinished.folder).free
        if left > free:
            raise DataError(
                f"The shards need {left / 1e9:.1f} GB more in {self.unfinished.folder.parent}, but "
                f"{free / 1e9:.1f} GB are free there. Free some, lower `tokens`, or choose another "
                f"folder: --cache."
            )

    @property
    def token_dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.choice.vocab_size <= _MAX_16_BIT_VOCAB else "<u4")

    def _manifest(
        self, streams: tuple[Stream, ...], listings: dict[str, Listing], eod: int
    ) -> MixtureManifest:
        done = self.unfinished.streams
        shards = tuple(shard for stream in streams for shard in done[stream.source.name].shards)
        mixtures: Mixtures = tuple((split, self._mixture(split, streams)) for split in SPLITS)
        for split, mixture in mixtures:
            for name, _ in mixture:
                if not any((s.split, s.source) == (split, name) for s in shards):
                    stream = next(s for s in streams if s.source.name == name)
                    raise _no_document(split, stream, done[name], listings[name])
        digest = sha256_of(self.unfinished.folder / TOKENIZER_FILE)
        return MixtureManifest(
            corpus=self.recipe.name,
            vocab_size=self.choice.vocab_size,
            eod_id=eod,
            token_type=self.token_dtype.name,
            mixtures=mixtures,
            shards=shards,
            provenance=tuple(_provenance(n, done[n], listing) for n, listing in listings.items()),
            tokenizer=self.choice.name,
            tokenizer_sha256=digest,
            tokenizer_switched_off=self.choice.switched_off,
            recipe_sha256=self.unfinished.identity,
            software=f"python {platform.python_version()}, tokenizers {version('tokenizers')}",
            fingerprint=fingerprint(mixtures, shards, digest),
        )

    def _mixture(self, split: Split, streams: tuple[Stream, ...]) -> tuple[tuple[str, int], ...]:
        """Held-out text has the weights of the training text, or is one source."""
        weights = dict(
            zip((s.name for s in self.recipe.sources), self.recipe.weights(), strict=True)
        )
        names = [s.source.name for s in streams if split in {name for name, _ in s.shares}]
        return tuple((name, weights.get(name, 1)) for name in names)


class _Round:
    """One shard of each split of a source, written side by side and finished together."""

    def __init__(self, work: _Preparation, stream: Stream, done: StreamProgress) -> None:
        self._work, self._stream, self.now = work, stream, done
        self._writers = {
            split: ShardWriter(
                work.unfinished.folder, split, stream.source.name, done.rounds, work.token_dtype
            )
            for split, _ in stream.shares
        }

    @property
    def full(self) -> bool:
        """Whether one of the shards has reached its size."""
        limit = self._work.recipe.shard_tokens
        return any(writer.tokens >= limit for writer in self._writers.values())

    def add(self, batch: EncodedBatch) -> None:
        """Write the documents of a batch up to the quota."""
        now, quota = self.now, self._stream.tokens
        tokens, over_quota = now.tokens, now.over_quota
        for document in batch.documents:
            if quota and tokens >= quota:
                over_quota += 1
                continue
            self._writers[document.split].add(document.tokens, document.text_bytes)
            if document.split in self._stream.counted:
                tokens += len(document.tokens)
        if batch.after.ended and tokens < quota:
            raise self._ended_early(batch.after.documents, tokens)
        self.now = dataclasses.replace(
            now,
            place=dataclasses.replace(batch.after, ended=batch.after.ended or 0 < quota <= tokens),
            tokens=tokens,
            empty=now.empty + batch.read - len(batch.documents),
            over_quota=over_quota,
        )

    def finish(self) -> _Round:
        """Bring the shards to the disk, note the place behind them, and begin the next ones."""
        written = [shard for w in self._writers.values() if (shard := w.close())]
        done = dataclasses.replace(
            self.now, shards=(*self.now.shards, *written), rounds=self.now.rounds + 1
        )
        self._work.unfinished.streams[self._stream.source.name] = done
        self._work.unfinished.save()
        return _Round(self._work, self._stream, done)

    def abandon(self) -> None:
        """Remove the shards that are not finished."""
        for writer in self._writers.values():
            writer.abandon()

    def _ended_early(self, documents: int, tokens: int) -> DataError:
        return DataError(
            f"The source '{self._stream.source.name}' ended early: all its {documents} documents "
            f"give {tokens} tokens, but {self._stream.tokens} are needed. Lower `tokens`, lower "
            f"the source's weight, or add files."
        )


def _provenance(name: str, done: StreamProgress, listing: Listing) -> SourceProvenance:
    return SourceProvenance(
        source=name,
        origin=listing.origin,
        files=len(listing.parts),
        files_opened=done.place.next_part,
        files_bytes=total_size(listing.parts),
        files_sha256=listing.digest(),
        documents_read=done.place.documents,
        documents_empty=done.empty,
        documents_over_quota=done.over_quota,
    )


def _no_document(split: Split, stream: Stream, done: StreamProgress, listing: Listing) -> DataError:
    name, documents = stream.source.name, done.place.documents - done.empty
    whole_files = not stream.source.separator and any(p.format == "text" for p in listing.parts)
    hint = " Each text file is one document, unless `separator` divides it." if whole_files else ""
    if not documents or split == "train":
        remedy = "Are these the right files?" if not documents else "Give more text."
    elif "train" in stream.counted:
        remedy = f"Give more text, raise `{split}_share`, or add a [validation] table."
    else:
        remedy = "Give more text there, or add a [test] table of its own."
    return DataError(
        f"No document of the source '{name}' falls into the {split} split ({documents} documents "
        f"with text in all).{hint} {remedy}"
    )
