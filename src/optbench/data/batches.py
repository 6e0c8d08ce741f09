"""Batches of token windows as a pure function of (seed, step).

Sequences have a global index, ``step · batch_size + row``. The index decides the source by a fixed
schedule with the exact weights of the mixture, and the how-many-th sequence of that source it is;
that number decides the epoch and, through a permutation drawn from (seed, source, epoch), the
window. So a run resumes at any step at once, and every optimizer sees the same tokens.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from optbench.data.corpus import DataError, Split
from optbench.data.held_out_text import too_little_text
from optbench.data.shards import Corpus


class MixtureSchedule:
    """Which source each sequence comes from.

    The schedule repeats after ``sum(weights)`` sequences and holds each source exactly ``weight``
    times in any that many consecutive ones. Within, the source furthest behind its share is next,
    the first listed on a tie, so that no source comes in a clump.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        if not weights or min(weights) < 1:
            raise DataError(
                f"Mixture weights must be whole numbers of at least 1, one per source, but got "
                f"{list(weights)}."
            )
        self.weights = tuple(weights)
        self.period = sum(weights)
        self._places: list[tuple[int, int]] = []  # (source, how often it came before)
        taken = [0] * len(weights)
        for index in range(self.period):
            behind = [
                w * (index + 1) - self.period * n for w, n in zip(weights, taken, strict=True)
            ]
            source = behind.index(max(behind))
            self._places.append((source, taken[source]))
            taken[source] += 1

    def place(self, index: int) -> tuple[int, int]:
        """(source, k): sequence ``index`` is the k-th of that source, both counted from 0."""
        cycle, position = divmod(index, self.period)
        source, before = self._places[position]
        return source, cycle * self.weights[source] + before

    def counts(self, num_sequences: int) -> list[int]:
        """Sequences of each source among the first ``num_sequences``."""
        cycles, rest = divmod(num_sequences, self.period)
        counts = [cycles * weight for weight in self.weights]
        for source, _ in self._places[:rest]:
            counts[source] += 1
        return counts

    def epochs(self, num_sequences: int, windows: Sequence[int]) -> list[float]:
        """How often each source has been read by then, if it holds so many windows an epoch."""
        counts = self.counts(num_sequences)
        return [count / n for count, n in zip(counts, windows, strict=True)]


class TokenBatches:
    """Training and evaluation batches of a prepared corpus.

    A sequence is a window of ``seq_len + 1`` consecutive tokens of one source: inputs are all but
    the last, targets all but the first. Windows of an epoch do not overlap.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._sources = [name for name, _ in corpus.manifest.weights]
        self._schedule = MixtureSchedule([weight for _, weight in corpus.manifest.weights])
        self._train = [corpus.tokens("train", source) for source in self._sources]
        # A batch at the turn of an epoch needs two of each source; recomputing gives the same.
        self._starts = functools.lru_cache(maxsize=2 * len(self._sources))(self._epoch_starts)

    def batch(
        self, step: int, *, seed: int, batch_size: int, seq_len: int
    ) -> npt.NDArray[np.int64]:
        """The training batch of a step, (batch_size, seq_len + 1).

        Row j of step s depends only on the seed and on s · batch_size + j: two steps of 8 rows are
        one step of 16.

        Raises:
            DataError: a source holds fewer tokens than one epoch of one window needs.
        """
        width = seq_len + 1
        windows = self._windows_per_epoch(seq_len)
        rows = np.empty((batch_size, width), np.int64)
        for row in range(batch_size):
            source, k = self._schedule.place(step * batch_size + row)
            epoch, position = divmod(k, windows[source])
            start = self._starts(source, seed, epoch, width)[position]
            rows[row] = self._train[source][start : start + width]
        return rows

    def epochs(self, num_sequences: int, *, seq_len: int) -> dict[str, float]:
        """How often each source has been read after ``num_sequences``; above 1 is repetition."""
        epochs = self._schedule.epochs(num_sequences, self._windows_per_epoch(seq_len))
        return dict(zip(self._sources, epochs, strict=True))

    def eval_batches(
        self, split: Split, *, num_tokens: int, batch_size: int, seq_len: int
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Fixed batches of a split, (batch_size, seq_len + 1), the last one possibly smaller.

        Enough sequences to predict at least ``num_tokens`` tokens, mixed by the weights of the
        corpus and spread evenly over each shard; the same for every seed.

        Raises:
            DataError: the split is too small, with the most it can give.
        """
        num_sequences = -(-num_tokens // seq_len)
        shards = [self._corpus.tokens(split, source) for source in self._sources]
        counts = self._schedule.counts(num_sequences)
        windows = [len(tokens) // (seq_len + 1) for tokens in shards]
        if any(count > n for count, n in zip(counts, windows, strict=True)):
            weights = self._schedule.weights
            cycles = min(n // weight for n, weight in zip(windows, weights, strict=True))
            raise too_little_text(
                self._corpus.manifest.corpus,
                split,
                {name: len(shard) for name, shard in zip(self._sources, shards, strict=True)},
                needed=num_tokens,
                most=cycles * self._schedule.period * seq_len,
                seq_len=seq_len,
            )

        def window(index: int) -> npt.NDArray[np.uint16]:
            source, k = self._schedule.place(index)
            start = k * windows[source] // counts[source] * (seq_len + 1)
            return shards[source][start : start + seq_len + 1]

        return (
            np.stack(
                [window(i) for i in range(first, min(first + batch_size, num_sequences))],
                dtype=np.int64,
            )
            for first in range(0, num_sequences, batch_size)
        )

    def _windows_per_epoch(self, seq_len: int) -> list[int]:
        # One window less than could fit, so that any offset below a window's width fits too.
        windows = [(len(tokens) - seq_len) // (seq_len + 1) for tokens in self._train]
        for name, tokens, n in zip(self._sources, self._train, windows, strict=True):
            if n < 1:
                raise DataError(
                    f"The train split of '{name}' holds {len(tokens)} tokens, but sequences of "
                    f"{seq_len} need at least {2 * seq_len + 1}. Use a larger corpus or shorter "
                    f"sequences."
                )
        return windows

    def _epoch_starts(
        self, source: int, seed: int, epoch: int, width: int
    ) -> npt.NDArray[np.int64]:
        """First token of every window of an epoch, in the order they are read."""
        name = f"{self._corpus.manifest.corpus}/{self._sources[source]}/{seed}/{epoch}"
        digest = hashlib.sha256(name.encode()).digest()
        offset = int.from_bytes(digest[:8], "little") % width
        key = int.from_bytes(digest[16:], "little")
        windows = (len(self._train[source]) - width + 1) // width
        # Raw Philox output is fixed by its definition; numpy may change its shuffles.
        draws = np.random.Philox(key=key).random_raw(windows)
        return offset + width * np.argsort(draws, kind="stable").astype(np.int64)
