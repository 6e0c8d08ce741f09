"""A source as one stream of documents, whose place can be written down and found again.

Several files are open at once and give a document each in turn; a file that ends makes room for the
next. Which document comes when depends on the files alone, never on their speed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from optbench.data.corpus import DataError
from optbench.data.parts import Listing, Part
from optbench.data.retries import Patience, persistently

BATCH_DOCUMENTS = 256
BATCH_CHARS = 1_000_000

# Opens a file behind its first k documents.
OpenPart = Callable[[Part, int], Iterator[str]]


@dataclass(frozen=True, slots=True)
class ReadPosition:
    """How far a source has been read.

    Args:
        documents: read in all.
        open: (index of the file, documents read from it) of each file that is open, in turn.
        next_part: index of the first file not opened yet.
        turn: which of the open files is next.
        ended: there is nothing more.
    """

    documents: int = 0
    open: tuple[tuple[int, int], ...] = ()
    next_part: int = 0
    turn: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Consecutive documents of a source, and the place behind them."""

    texts: tuple[str, ...]
    after: ReadPosition


@dataclass(frozen=True, slots=True)
class SourceReader:
    """Reads a source from any place on.

    Args:
        name: of the source, for errors.
        side_by_side: how many files are open at once.
        open_part: opens one of them.
    """

    name: str
    listing: Listing
    side_by_side: int
    open_part: OpenPart
    patience: Patience

    def batches(self, start: ReadPosition) -> Generator[TextBatch]:
        """The documents behind ``start``; where batches end depends on the documents alone.

        The last batch, which may be empty, has a place that is ``ended``.

        Raises:
            DataError: a file is damaged or out of reach, or there are not as many documents as
                the data set says.
        """
        lanes = _Lanes(self, start)
        texts: list[str] = []
        chars = 0
        for text in lanes:
            texts.append(text)
            chars += len(text)
            if len(texts) >= BATCH_DOCUMENTS or chars >= BATCH_CHARS:
                yield TextBatch(tuple(texts), lanes.place())
                texts, chars = [], 0
        self._check_count(lanes.documents)
        yield TextBatch(tuple(texts), replace(lanes.place(), ended=True))

    def documents_of(self, part: Part, skip: int) -> Iterator[str]:
        """One file from a document on, opened again where it broke off."""
        open_at = functools.partial(self.open_part, part)
        return persistently(open_at, skip, f"{part.url} (source '{self.name}')", self.patience)

    def _check_count(self, documents: int) -> None:
        expected = self.listing.documents
        if expected and documents != expected:
            raise DataError(
                f"The source '{self.name}' gave {documents} documents, but there must be "
                f"{expected}: its files are not whole, or `documents` in the recipe is wrong."
            )


class _Lanes:
    """The files that are open."""

    def __init__(self, reader: SourceReader, start: ReadPosition) -> None:
        self._reader = reader
        self._parts: Sequence[Part] = reader.listing.parts
        self._next = start.next_part
        self._turn = start.turn
        self.documents = start.documents
        self._counts = [list(lane) for lane in start.open]
        self._streams = [
            reader.documents_of(self._parts[index], count) for index, count in start.open
        ]
        if not start.documents:
            while len(self._counts) < reader.side_by_side and self._open(len(self._counts)):
                pass

    def __iter__(self) -> Iterator[str]:
        while self._streams:
            self._turn %= len(self._streams)
            text = next(self._streams[self._turn], None)
            if text is None:
                del self._streams[self._turn], self._counts[self._turn]
                self._open(self._turn)
                continue
            self._counts[self._turn][1] += 1
            self.documents += 1
            self._turn += 1
            yield text

    def place(self) -> ReadPosition:
        lanes = tuple((index, count) for index, count in self._counts)
        return ReadPosition(self.documents, lanes, self._next, self._turn)

    def _open(self, at: int) -> bool:
        if self._next >= len(self._parts):
            return False
        self._counts.insert(at, [self._next, 0])
        self._streams.insert(at, self._reader.documents_of(self._parts[self._next], 0))
        self._next += 1
        return True
