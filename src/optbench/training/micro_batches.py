"""Micro-batches: the sequences of a step in pieces, with the share of each in the batch's mean."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences on a device.

    Args:
        tokens: (B, S + 1).
        doc_ids: (B, S), which document each input token belongs to; None where attention crosses
            documents.
    """

    tokens: Tensor
    doc_ids: Tensor | None = None

    @property
    def predictions(self) -> int:
        """Tokens that are predicted."""
        return self.tokens.shape[0] * (self.tokens.shape[1] - 1)

    def part(self, start: int, stop: int) -> Batch:
        """The sequences from ``start`` to before ``stop``."""
        documents = None if self.doc_ids is None else self.doc_ids[start:stop]
        return Batch(self.tokens[start:stop], documents)

    def split(self, size: int | None, *, of: int | None = None) -> list[tuple[Batch, float]]:
        """Pieces of ``size`` sequences, the last one possibly smaller, and their shares.

        A share is exactly 1 where there is one piece, so the whole batch is computed as without.

        Args:
            of: sequences of the batch that the shares are in; None is this one.
        """
        total = len(self.tokens) if of is None else of
        size = len(self.tokens) if size is None else size
        tokens = self.tokens.split(size)
        documents = [None] * len(tokens) if self.doc_ids is None else self.doc_ids.split(size)
        pieces = (Batch(*both) for both in zip(tokens, documents, strict=True))
        return [(piece, len(piece.tokens) / total) for piece in pieces]
