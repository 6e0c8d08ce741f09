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

    def split(self, size: int | None) -> list[tuple[Batch, float]]:
        """Pieces of ``size`` sequences, the last one possibly smaller, and their shares in B.

        A share is exactly 1 where there is one piece, so the whole batch is computed as without.
        """
        total = len(self.tokens)
        size = total if size is None else size
        tokens = self.tokens.split(size)
        documents = [None] * len(tokens) if self.doc_ids is None else self.doc_ids.split(size)
        pieces = (Batch(*both) for both in zip(tokens, documents, strict=True))
        return [(piece, len(piece.tokens) / total) for piece in pieces]
