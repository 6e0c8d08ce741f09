"""Recipe → prepared mixture: stream, tokenize, shard, check; interrupted at any time, it goes on.

Each time a shard is full, the shards of all splits of its source are finished together and the
place behind their last document is written down. What was read after that is read again. The bytes
depend on the recipe and the text alone, and not on the interruptions or the number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import platform
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from optbench.data.corpus import SPLITS, DataError, Split
from optbench.data.document_shards import (
    MixtureManifest,
    Mixtures,
    ShardWriter,
    SourceProvenance,
    fingerprint,
    open_mixture,
    sha256_of,
    sync_folder,
    write_durably,
)
from optbench.data.encoding import EncodedBatch, Encoder, split_by_text
from optbench.data.mixture_recipe import MixtureRecipe, Stream
from optbench.data.parts import Listing, Part, list_parts, total_size
from optbench.data.readers import read_part
from optbench.data.reading import Place, SourceReader
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
from optbench.data.unfinished import (
    LOCK_FILE,
    PROGRESS_FILE,
    StreamProgress,
    Unfinished,
    hold_unfinished,
)

_MAX_16_BIT_VOCAB = 2**16
# Opens a file of a source behind its first k documents.
OpenSource = Callable[[Stream, Part, int], Iterator[str]]


def prepare_mixture(
    recipe: MixtureRecipe,
    cache: Path,
    *,
    workers: int = 1,
    on_progress: OnProgress = lambda _what, _share: None,
    patience: Patience | None = None,
    open_source: OpenSource = lambda stream, part, skip: read_part(part, stream.source, skip),
) -> MixtureManifest:
    """Prepare a mixture, go on with it, or do nothing if the cache has it.

    Args:
        workers: processes that encode.
        on_progress: called with what is being done and the finished share of the whole, 0 to 1.
        patience: with failures of the network.
        open_source: reads a file; another one lets failures be tried out.

    Raises:
        DataError: text or tokenizer cannot be had or are damaged, a source ends before its quota,
            the disk is full, or the cache holds this name from another recipe.
    """
    choice = choose_tokenizer(recipe)
    final = corpus_dir(recipe.name, choice.vocab_size, cache)
    identity = hashlib.sha256(f"{recipe.digest()} {choice.sha256}".encode()).hexdigest()
    if final.exists():
        return _same_recipe(final, identity)
    with _named_when_full(cache), hold_unfinished(final, identity) as unfinished:
        if final.exists():  # the process that held the lock before has finished it
            return _same_recipe(final, identity)
        patience = patience or Patience()
        work = _Preparation(recipe, choice, unfinished, workers, on_progress, patience, open_source)
        manifest = work.run()
        write_durably(unfinished.folder / MANIFEST_FILE, manifest.to_json().encode())
        open_mixture(unfinished.folder, verify_checksums=True)
        (unfinished.folder / PROGRESS_FILE).unlink()
        (unfinished.folder / LOCK_FILE).unlink()
        unfinished.folder.rename(final)
        sync_folder(cache)
    on_progress("prepared", 1.0)
    return manifest


@dataclass(slots=True)
class _Preparation:
    """The work that is left in an unfinished folder."""

    recipe: MixtureRecipe
    choice: TokenizerChoice
    unfinished: Unfinished
    workers: int
    on_progress: OnProgress
    patience: Patience
    open_source: OpenSource

    def run(self) -> MixtureManifest:
        streams = self.recipe.streams()
        listings = {s.source.name: self._listing(s) for s in streams}
        self.unfinished.save()
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
        return self._manifest(streams, listings, eod)

    def _listing(self, stream: Stream) -> Listing:
        name = stream.source.name
        self.on_progress(f"listing {name}", 0.0)
        listing = list_parts(stream.source, self.recipe.base, self.patience)
        known = self.unfinished.streams.setdefault(name, StreamProgress(listing.digest()))
        if known.files_sha256 != listing.digest():
            raise DataError(
                f"The files of the source '{name}' are not those that were there when the "
                f"preparation began. Restore them, or delete {self.unfinished.folder} and prepare "
                f"again."
            )
        return listing

    def _reader(self, stream: Stream, listing: Listing) -> SourceReader:
        def open_part(part: Part, skip: int) -> Iterator[str]:
            return self.open_source(stream, part, skip)

        source = stream.source
        return SourceReader(source.name, listing, source.side_by_side, open_part, self.patience)

    def _sample(self, streams: tuple[Stream, ...], listings: dict[str, Listing]) -> Iterator[str]:
        """Training text in equal shares of the sources: a rare domain needs its own words too."""
        trained = [stream for stream in streams if "train" in stream.counted]
        for stream in trained:
            room = TOKENIZER_SAMPLE_BYTES // len(trained)
            reader = self._reader(stream, listings[stream.source.name])
            with contextlib.closing(reader.batches(Place())) as batches:
                for text in (text for batch in batches for text in batch.texts):
                    raw = text.encode()
                    if split_by_text(raw, stream.shares) == "train":
                        room -= len(raw)
                        if room < 0:
                            break
                        yield text

    def _write(self, stream: Stream, listing: Listing, encoder: Encoder) -> None:
        """Write the shards of a source that are not there yet."""
        name = stream.source.name
        done = self.unfinished.streams[name]
        if done.place.ended:
            return
        reader = self._reader(stream, listing)
        current = _Round(self, stream, done)
        try:
            with contextlib.closing(
                encoder.encode(reader.batches(done.place), stream.shares)
            ) as batches:
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
                    raise DataError(
                        f"No document of the source '{name}' falls into the {split} split "
                        f"({done[name].place.documents} documents in all). Give more text, raise "
                        f"`{split}_share`, or add a [validation] table."
                    )
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


def _same_recipe(final: Path, identity: str) -> MixtureManifest:
    manifest = open_mixture(final).manifest
    if manifest.recipe_sha256 != identity:
        raise DataError(
            f"{final} was prepared with another recipe or tokenizer. Give this recipe another "
            f"name, or delete that folder."
        )
    return manifest


@contextlib.contextmanager
def _named_when_full(cache: Path) -> Generator[None]:
    """Turn the error of a full disk into one that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"The disk of {cache} is full. Finished shards are kept: free some space and give the "
            f"same command again."
        ) from error
