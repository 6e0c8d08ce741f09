"""Accumulation: the gradient of a step's batch from micro-batches that fit the device.

The mean over the batch is the sum of the micro-batches' means, each weighted by its share, so their
size changes nothing but the order of the sum. Where a pass runs out of memory it is made again from
its start with half the size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from optbench.curvature_estimates import give_curvature
from optbench.micro_batches import Batch
from optbench.model import Llama
from optbench.optimizers import CurvatureOptimizer

_T = TypeVar("_T")


class Accumulation:
    """Forward and backward passes of a model over batches, in pieces.

    Args:
        size: sequences at a time; None is the whole batch. It shrinks when memory runs out, and
            stays so.
    """

    def __init__(self, model: Llama, size: int | None = None) -> None:
        self.size = size
        self._model = model

    def leave_gradients(self, batch: Batch) -> Tensor:
        """Put the gradient of the mean loss into the parameters, and return that loss.

        Raises:
            torch.OutOfMemoryError: a single sequence does not fit.
        """
        return self._fitting(batch, lambda: self._backward(batch))

    def _backward(self, batch: Batch) -> Tensor:
        losses: list[Tensor] = []
        for piece, share in batch.split(self.size):
            loss = self._model.loss(piece.tokens, piece.doc_ids) * share
            loss.backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def give_curvature(
        self, optimizer: CurvatureOptimizer, batch: Batch, *, noise_seed: int
    ) -> None:
        """Estimate the curvature on a batch for an optimizer that is due one.

        Args:
            noise_seed: of the randomness in the estimate, the same however often it is tried.

        Raises:
            torch.OutOfMemoryError: a single sequence does not fit.
        """

        def give() -> None:
            give_curvature(
                optimizer,
                self._model,
                batch.tokens,
                torch.Generator(batch.tokens.device).manual_seed(noise_seed),
                doc_ids=batch.doc_ids,
                micro_batch_size=self.size,
            )

        self._fitting(batch, give)

    def _fitting(self, batch: Batch, pass_over: Callable[[], _T]) -> _T:
        """The result of a pass, tried with half the size as often as memory runs out."""
        while True:
            try:
                return pass_over()
            except torch.OutOfMemoryError as error:
                size = len(batch.tokens) if self.size is None else self.size
                if size == 1:
                    error.add_note(_does_not_fit(batch))
                    raise
                self.size = (min(size, len(batch.tokens)) + 1) // 2
            # After the handler, whose traceback holds on to the activations.
            self._model.zero_grad(set_to_none=True)
            if batch.tokens.device.type == "cuda":
                torch.cuda.empty_cache()


def _does_not_fit(batch: Batch) -> str:
    length = batch.predictions // len(batch.tokens)
    return (
        f"A single sequence of {length} tokens does not fit. Recompute activations "
        f"(--checkpointing), or take a larger device."
    )
