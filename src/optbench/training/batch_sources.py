"""What the training loop asks of a corpus: batches by step, with documents or without."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class Batches(Protocol):
    """Training batches addressed by step, and fixed evaluation batches."""

    def batch(self, step: int, *, seed: int, batch_size: int, seq_len: int) -> NDArray[np.int64]:
        """Token ids (batch_size, seq_len + 1) of one step."""
        ...

    def eval_batches(
        self,
        split: Literal["validation", "test"],
        *,
        num_tokens: int,
        batch_size: int,
        seq_len: int,
    ) -> Iterable[NDArray[np.int64]]:
        """The same token ids every time."""
        ...


class WithDocuments(Protocol):
    """Sequences whose documents are known.

    ``tokens`` (B, S + 1), and ``doc_ids`` (B, S) of the tokens that are inputs.
    """

    @property
    def tokens(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def doc_ids(self) -> NDArray[np.integer[Any]]: ...  # noqa: D102


@runtime_checkable
class DocumentBatches(Batches, Protocol):
    """Batches that know their documents; a model trained on them attends within documents."""

    def batch_with_documents(
        self, step: int, *, seed: int, batch_size: int, seq_len: int
    ) -> WithDocuments:
        """As :meth:`Batches.batch`."""
        ...

    def eval_batches_with_documents(
        self,
        split: Literal["validation", "test"],
        *,
        num_tokens: int,
        batch_size: int,
        seq_len: int,
    ) -> Iterable[WithDocuments]:
        """As :meth:`Batches.eval_batches`."""
        ...
