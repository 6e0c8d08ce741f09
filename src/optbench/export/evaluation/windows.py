"""Which tokens a model of limited length sees to predict a continuation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Window(NamedTuple):
    """One pass of the model: ``inputs`` go in, and their last outputs predict ``targets``.

    The last of the targets is no input; the targets before it are the last inputs.
    """

    inputs: list[int]
    targets: list[int]


def windows(context: Sequence[int], continuation: Sequence[int], max_length: int) -> list[Window]:
    """Windows in which each token of the continuation is predicted once, from all that fits.

    A context that is too long loses its beginning. A continuation longer than ``max_length`` is
    taken in pieces of that length, of which each sees the tokens before it as far as they fit:
    with one token of context these are the harness's rolling windows.

    Args:
        context: at least one token.
        continuation: nothing gives no window.
    """
    assert context, "the first token needs something to be predicted from"
    return list(_windows([*context, *continuation], len(context), max_length))


def _windows(tokens: list[int], start: int, max_length: int) -> Iterator[Window]:
    while start < len(tokens):
        end = min(start + max_length, len(tokens))
        yield Window(tokens[max(0, end - 1 - max_length) : end - 1], tokens[start:end])
        start = end
