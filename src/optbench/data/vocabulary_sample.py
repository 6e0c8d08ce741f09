"""The text from which a vocabulary is learned: a share of each document, long ones included."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Of the room for a source: as much as one document gives before the others have had their turn.
_LARGEST_SHARE = 16
# Learning takes time in the square of a word's length: one of 200,000 letters takes two minutes.
_LONGEST_WORD = 1000
_WORDS = re.compile(r"[^\W\d_]+|\d+|\s+|(?:[^\w\s]|_)+")


def vocabulary_sample(texts: Iterable[str], room: int) -> Iterator[str]:
    """As much of ``texts`` as fits, from their beginning on; no document takes all of the room.

    A long document gives its head in its turn, and the rest of it only where the others leave room.
    Words without end, such as encoded images, are cut.

    Args:
        room: bytes in UTF-8.
    """
    for text in _that_fit(texts, room):
        start = 0
        for end in _cuts(text):
            yield text[start:end]
            start = end
        yield text[start:]


def _cuts(text: str) -> Iterator[int]:
    """Where the words of a text are cut that are longer than one may be."""
    if len(text) > _LONGEST_WORD:
        for word in _WORDS.finditer(text):
            yield from range(word.start() + _LONGEST_WORD, word.end(), _LONGEST_WORD)


def _that_fit(texts: Iterable[str], room: int) -> Iterator[str]:
    most = max(1, room // _LARGEST_SHARE)
    rests: list[bytes] = []
    kept = 0
    for text in texts:
        head, rest = _cut(text.encode(), most)
        if len(head) > room:
            return
        room -= len(head)
        yield head.decode()
        rests.append(_cut(rest, max(0, room - kept))[0])
        kept += len(rests[-1])
    for rest in filter(None, rests):
        # What came later may have taken the room that was left for it.
        fits, _ = _cut(rest, room)
        room -= len(fits)
        yield fits.decode()


def _cut(raw: bytes, most: int) -> tuple[bytes, bytes]:
    """A text in two, the first of at most ``most`` bytes, between two characters."""
    end = min(most, len(raw))
    while 0 < end < len(raw) and raw[end] & 0xC0 == 0x80:
        end -= 1
    return raw[:end], raw[end:]
