"""Documents → tokens, by several processes, in the order in which they were read.

What comes out depends on the text and the tokenizer alone: a batch is encoded by one process, and
batches come back in the order of their reading whichever is ready first.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from optbench.data.corpus import DataError, Split
from optbench.data.document_shards import sha256_of
from optbench.data.mixture_recipe import Shares, Stream
from optbench.data.reading import ReadPosition, TextBatch
from optbench.data.tokenizer import load_tokenizer
from optbench.data.wholeness import Wholeness, wholeness_of
from optbench.errors import excerpt

BATCHES_AHEAD = 2  # per process: enough that none waits for the reader
_SHOWN = 60
Tokens: TypeAlias = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """One document's tokens, the end of the document among them, and where it belongs."""

    split: Split
    tokens: Tokens
    text_bytes: int


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The documents of a :class:`TextBatch` that hold text.

    Args:
        after: the place behind the batch.
        read: documents read, those without text among them.
    """

    documents: tuple[EncodedDocument, ...]
    after: ReadPosition
    read: int


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes with a tokenizer file.

    Args:
        eod_id: the token that ends documents; no text encodes to it.
        workers: processes; 1 encodes in this one.
    """

    tokenizer_path: Path
    eod_id: int
    workers: int

    def encode(self, batches: Iterator[TextBatch], stream: Stream) -> Generator[EncodedBatch]:
        """Encode batches in order, reading a few ahead.

        Raises:
            DataError: the tokens of a document do not hold all of it or end it in its midst, or a
                process died.
        """
        digest = sha256_of(self.tokenizer_path)
        job = functools.partial(_encode, self.tokenizer_path, digest, self.eod_id, stream)
        if self.workers == 1:
            yield from map(job, batches)
            return
        # Forked copies of a process with threads may wait for ever.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, mp_context=context) as pool:
            waiting: deque[Future[EncodedBatch]] = deque()
            try:
                for batch in batches:
                    waiting.append(pool.submit(job, batch))
                    if len(waiting) > BATCHES_AHEAD * self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BrokenProcessPool as error:
                raise DataError(
                    "A process that encoded text died, perhaps for lack of memory. The same "
                    "command goes on from the last finished shard; try fewer --workers."
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def split_by_text(text: bytes, shares: Shares) -> Split:
    """The split of a document, by a hash of its text, so that copies are in the same one."""
    place = int.from_bytes(hashlib.sha256(b"split/" + text).digest()[:8], "big") / 2**64
    for split, share in shares:
        place -= share
        if place < 0:
            return split
    return shares[-1][0]


def encode_separately(wholeness: Wholeness, texts: Sequence[str], eod_id: int) -> list[Tokens]:
    """Tokens of each text, ended by ``eod_id``.

    Raises:
        DataError: a text encodes to that token, or to tokens that do not hold all of it.
    """
    encodings = wholeness.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    ids = [encoding.ids for encoding in encodings]
    for text, tokens in zip(texts, ids, strict=True):
        if eod_id in tokens:
            raise DataError(
                f"The token that ends documents ({eod_id}) comes inside one that begins "
                f"{excerpt(text[:_SHOWN])}. Name another one: `end_of_document` in the recipe."
            )
    for text, loss in wholeness.losses(texts, ids):
        raise DataError(
            f"The tokenizer does not keep the whole of the document that begins "
            f"{excerpt(text[:_SHOWN])}: {loss} Give a tokenizer that keeps every byte, such as a "
            f"byte-level one, or train one: `vocab_size` in the recipe."
        )
    return [np.array([*tokens, eod_id], np.uint32) for tokens in ids]


def _encode(path: Path, digest: str, eod_id: int, stream: Stream, batch: TextBatch) -> EncodedBatch:
    texts = [text for text in batch.texts if text.strip()]
    raw = [text.encode() for text in texts]
    try:
        tokens = encode_separately(_wholeness(path, digest), texts, eod_id)
    except DataError as error:
        first = batch.after.documents - len(batch.texts) + 1
        raise DataError(
            f"Documents {first:,} to {batch.after.documents:,} of the source "
            f"'{stream.source.name}': {error}"
        ) from None
    documents = (
        EncodedDocument(split_by_text(text, stream.shares), ids, len(text))
        for text, ids in zip(raw, tokens, strict=True)
    )
    return EncodedBatch(tuple(documents), batch.after, len(batch.texts))


@functools.lru_cache(maxsize=1)
def _wholeness(path: Path, digest: str) -> Wholeness:  # another file may come to that path
    return wholeness_of(load_tokenizer(path))
