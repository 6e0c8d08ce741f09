"""Batches of a prepared mixture as a pure function of (seed, step), in constant time and memory.

As in :mod:`optbench.data.batches`, sequences have a global index, ``step · batch_size + row``: a
fixed schedule with the exact weights gives its source, and how many of that source came before
gives epoch and position. A permutation of (seed, source, epoch) that needs no table gives the
window. How the rows of a step are shared out to ranks and micro-batches changes nothing.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optbench.data.batches import MixtureSchedule
from optbench.data.corpus import DataError, Split
from optbench.data.document_shards import MixtureCorpus, TokenFiles
from optbench.data.held_out_text import too_little_text
from optbench.data.permutation import Permutation

# Positions whose windows are computed at once: numpy's cost per call is spread over them.
BLOCK = 1024
_BLOCKS_PER_SOURCE = 4


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    """Sequences with the documents they are made of.

    Args:
        tokens: (B, S + 1); inputs are all but the last, targets all but the first.
        doc_ids: (B, S), the how-many-th document of its row each input token belongs to, from 0.
    """

    tokens: npt.NDArray[np.int64]
    doc_ids: npt.NDArray[np.int32]


class MixtureBatches:
    """Training and evaluation batches of a prepared mixture.

    A sequence is a window of ``seq_len + 1`` consecutive tokens of one source. The windows of an
    epoch do not overlap, so no document is seen twice in one; they start at another offset in each.
    """

    def __init__(self, corpus: MixtureCorpus) -> None:
        self._corpus = corpus
        mixture = corpus.manifest.mixture("train")
        self._sources = [name for name, _ in mixture]
        self._schedule = MixtureSchedule([weight for _, weight in mixture])
        self._train = [corpus.tokens("train", source) for source in self._sources]
        kept = _BLOCKS_PER_SOURCE * len(self._sources)
        self._block = functools.lru_cache(maxsize=kept)(self._computed_block)
        self._windows_per_epoch = functools.lru_cache(maxsize=8)(self._computed_windows)

    def batch(
        self, step: int, *, seed: int, batch_size: int, seq_len: int
    ) -> npt.NDArray[np.int64]:
        """The training batch of a step, (batch_size, seq_len + 1).

        Raises:
            DataError: the step is negative, or a source holds fewer tokens than one epoch of one
                window needs.
        """
        return self.rows(step * batch_size, batch_size, seed=seed, seq_len=seq_len)

    def rows(self, first: int, count: int, *, seed: int, seq_len: int) -> npt.NDArray[np.int64]:
        """Sequences ``first`` to ``first + count`` of the run, (count, seq_len + 1).

        Rank r of R reads the rows ``step · B + r · B/R`` to ``step · B + (r + 1) · B/R``.

        Raises:
            DataError: ``first`` is negative, or a source is too small.
        """
        if first < 0:
            raise DataError(
                f"Steps and sequences count from 0, but sequence {first} was asked for."
            )
        windows = self._windows_per_epoch(seq_len)
        rows = np.empty((count, seq_len + 1), np.int64)
        for row in range(count):
            source, k = self._schedule.place(first + row)
            epoch, position = divmod(k, windows[source])
            block, within = divmod(position, BLOCK)
            start = self._block(source, seed, epoch, seq_len, block)[within]
            self._train[source].copy_to(rows[row], start)
        return rows

    def batch_with_documents(
        self, step: int, *, seed: int, batch_size: int, seq_len: int
    ) -> DocumentBatch:
        """As :meth:`batch`, with the document of every token."""
        return self._with_documents(
            self.batch(step, seed=seed, batch_size=batch_size, seq_len=seq_len)
        )

    def epochs(self, num_sequences: int, *, seq_len: int) -> dict[str, float]:
        """How often each source has been read after ``num_sequences``; above 1 is repetition."""
        epochs = self._schedule.epochs(num_sequences, self._windows_per_epoch(seq_len))
        return dict(zip(self._sources, epochs, strict=True))

    def eval_batches(
        self, split: Split, *, num_tokens: int, batch_size: int, seq_len: int
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Fixed batches of a split, (batch_size, seq_len + 1), the last one possibly smaller.

        Enough sequences to predict at least ``num_tokens`` tokens, mixed by the weights of the
        split and spread evenly over each source; the same for every seed.

        Raises:
            DataError: the split is too small, with the most it can give.
        """
        mixture = self._corpus.manifest.mixture(split)
        schedule = MixtureSchedule([weight for _, weight in mixture])
        files = [self._corpus.tokens(split, name) for name, _ in mixture]
        num_sequences = -(-num_tokens // seq_len)
        counts = schedule.counts(num_sequences)
        windows = [len(tokens) // (seq_len + 1) for tokens in files]
        if not _fit(schedule, windows, num_sequences):
            most = bisect.bisect_left(
                range(num_sequences), True, key=lambda n: not _fit(schedule, windows, n)
            )
            raise too_little_text(
                self._corpus.manifest.corpus,
                split,
                {name: len(tokens) for (name, _), tokens in zip(mixture, files, strict=True)},
                needed=num_tokens,
                most=(most - 1) * seq_len,
                seq_len=seq_len,
            )

        def sequences(first: int, last: int) -> npt.NDArray[np.int64]:
            rows = np.empty((last - first, seq_len + 1), np.int64)
            for row, index in enumerate(range(first, last)):
                source, k = schedule.place(index)
                start = k * windows[source] // counts[source] * (seq_len + 1)
                files[source].copy_to(rows[row], start)
            return rows

        starts = range(0, num_sequences, batch_size)
        return (sequences(first, min(first + batch_size, num_sequences)) for first in starts)

    def eval_batches_with_documents(
        self, split: Split, *, num_tokens: int, batch_size: int, seq_len: int
    ) -> Iterator[DocumentBatch]:
        """As :meth:`eval_batches`, with the document of every token."""
        return map(
            self._with_documents,
            self.eval_batches(split, num_tokens=num_tokens, batch_size=batch_size, seq_len=seq_len),
        )

    def _with_documents(self, tokens: npt.NDArray[np.int64]) -> DocumentBatch:
        ends = tokens[:, :-1] == self._corpus.manifest.eod_id
        doc_ids = np.zeros(ends.shape, np.int32)
        # The token that ends a document is still of it.
        np.cumsum(ends[:, :-1], axis=1, out=doc_ids[:, 1:])
        return DocumentBatch(tokens, doc_ids)

    def _computed_windows(self, seq_len: int) -> list[int]:
        named = zip(self._sources, self._train, strict=True)
        return [_windows(name, tokens, seq_len) for name, tokens in named]

    def _computed_block(
        self, source: int, seed: int, epoch: int, seq_len: int, block: int
    ) -> list[int]:
        """First token of the windows at positions block · BLOCK, … of an epoch."""
        width = seq_len + 1
        windows = self._windows_per_epoch(seq_len)[source]
        name = f"{self._corpus.manifest.corpus}/{self._sources[source]}/{seed}/{epoch}"
        digest = hashlib.sha256(f"offset/{name}".encode()).digest()
        offset = int.from_bytes(digest[:8], "little") % width
        positions = np.arange(block * BLOCK, min((block + 1) * BLOCK, windows))
        starts = offset + width * Permutation(windows, name)(positions)
        return starts.tolist()


def _fit(schedule: MixtureSchedule, windows: Sequence[int], num_sequences: int) -> bool:
    counts = schedule.counts(num_sequences)
    return all(count <= n for count, n in zip(counts, windows, strict=True))


def _windows(name: str, tokens: TokenFiles, seq_len: int) -> int:
    # One window less than could fit, so that any offset below a window's width fits too.
    windows = (len(tokens) - seq_len) // (seq_len + 1)
    if windows < 1:
        raise DataError(
            f"The train split of '{name}' holds {len(tokens)} tokens, but sequences of {seq_len} "
            f"need at least {2 * seq_len + 1}. Use a larger corpus or shorter sequences."
        )
    return windows
