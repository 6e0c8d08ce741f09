"""LabelSampler: labels drawn from predictions, the same however a batch is split.

A label is argmax(p / q) with q exponential, which is how torch.multinomial draws one, and with the
same bits. The noise q belongs to the batch: it is drawn for a chunk of positions at a time, in
order, so it depends on the generator and on the place of a position in the batch, and neither on
micro-batches nor on which rank computes the predictions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optbench.training.cross_entropy import chunk_size


class LabelSampler:
    """The noise of a batch's positions, used up in order.

    Args:
        generator: of the noise, on the device of the predictions.
        positions: of the whole batch.
        start: the first position that labels are wanted for.
    """

    def __init__(self, generator: torch.Generator, positions: int, *, start: int = 0) -> None:
        self._generator = generator
        self._positions = positions
        self._chunk = chunk_size(generator.device.type)
        self._next = start
        self._drawn = 0
        self._noise: Tensor | None = None

    def split(self, states: Tensor) -> tuple[Tensor, ...]:
        """What belongs to the next positions (P, …), in pieces that lie in one chunk each."""
        first = min(self._chunk - self._next % self._chunk, len(states))
        rest = len(states) - first
        return states.split([first, *_sizes(rest, self._chunk)])

    def sample(self, probabilities: Tensor) -> Tensor:
        """A label (P,) for each of the next positions, which lie in one chunk.

        Args:
            probabilities: (P, V) float32.
        """
        count, size = probabilities.shape
        while self._drawn <= self._next:
            self._draw(size, probabilities)
        assert self._noise is not None  # a chunk was drawn for this position
        start = self._next - (self._drawn - len(self._noise))
        noise = self._noise[start : start + count]
        self._next += count
        return torch.div(probabilities, noise, out=noise).argmax(-1)

    def _draw(self, size: int, like: Tensor) -> None:
        self._noise = None  # before the next chunk's is made
        count = min(self._chunk, self._positions - self._drawn)
        empty = torch.empty((count, size), dtype=like.dtype, device=like.device)
        self._noise = empty.exponential_(1, generator=self._generator)
        self._drawn += count


def _sizes(total: int, size: int) -> list[int]:
    whole, rest = divmod(total, size)
    return [size] * whole + [rest] * (rest > 0)
