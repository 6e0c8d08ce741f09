"""Accumulation: the gradient of a step's batch from micro-batches that fit the device.

The mean over the batch is the sum of the micro-batches' means, each weighted by its share, so their
size changes nothing but the order of the sum. Where a pass runs out of memory it is made again from
its start with half the size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from optbench.optimizers import CurvatureOptimizer
from optbench.training.curvature_estimates import accumulate_estimate
from optbench.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from optbench.training.micro_batches import Batch
from optbench.training.model import Llama

_T = TypeVar("_T")
REHEARSALS = 2


class Accumulation:
    """Forward and backward passes of a model over batches, in pieces.

    With several ranks each takes its contiguous share of a batch, and all of them are left with the
    gradient of the whole. The sum over the ranks is DistributedDataParallel's, made while the last
    micro-batch goes backward; the others stay on their rank.

    What runs out of memory within that cannot be made again, for the other ranks already wait for
    its gradients. So the first two steps, the second of which is the first with an optimizer's
    state, are rehearsed without the sum, and the ranks shrink their micro-batches together.

    DistributedDataParallel puts gradients together in buckets, anew after its first pass, and the
    bits of a sum depend on a gradient's place there. So the first pass with the sum is made twice,
    and a run that goes on in a new process adds up as the one that it goes on from.

    Args:
        size: sequences at a time, the same on all ranks; None is the whole share. It shrinks when
            memory runs out, and stays so.
        ranks: among whom batches are shared out.
    """

    def __init__(
        self, model: Llama, size: int | None = None, ranks: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        self.size = size
        self.ranks = ranks
        self._model = model
        self._rehearsals = 0 if ranks.size == 1 else REHEARSALS
        self._summed = None if ranks.size == 1 else _summed(model, ranks)
        self._has_last_buckets = False

    def accumulate_gradients(self, batch: Batch) -> Tensor:
        """Put the gradient of the mean loss into the parameters.

        Args:
            batch: the whole, on every rank.

        Returns:
            The loss, or with several ranks this one's summand of it.

        Raises:
            torch.OutOfMemoryError: a single sequence does not fit.
        """
        if self._summed is None:
            return self._fitting(batch, lambda: self._backward(batch, self._model.loss))
        if self._rehearsals:
            self._fitting(batch, lambda: self._backward(batch, self._model.loss))
            self.clear()
            self._rehearsals -= 1
        if not self._has_last_buckets:
            self._backward(batch, self._summed)
            self.clear()
            self._has_last_buckets = True
        return self._backward(batch, self._summed)

    def _backward(self, batch: Batch, last: Callable[..., Tensor]) -> Tensor:
        """Go through this rank's share of a batch, its last piece by the function ``last``."""
        losses: list[Tensor] = []
        rows, ranks = len(batch.tokens), self.ranks.size
        pieces = batch.part(*self.ranks.span(rows)).split(self.size, of=rows)
        for number, (piece, share) in enumerate(pieces, start=1):
            forward = last if number == len(pieces) else self._model.loss
            # The ranks' gradients are averaged, but they are summands.
            loss = forward(piece.tokens, piece.doc_ids) * (share * ranks)
            loss.backward()
            losses.append(loss.detach() / ranks)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def update_curvature(
        self, optimizer: CurvatureOptimizer, batch: Batch, *, noise_seed: int
    ) -> None:
        """Estimate the curvature on a batch for an optimizer that is due one.

        Args:
            batch: the whole, on every rank.
            noise_seed: of the randomness in the estimate, the same however often it is tried.

        Raises:
            torch.OutOfMemoryError: a single sequence does not fit.
        """

        def leave() -> None:
            accumulate_estimate(
                optimizer.curvature_source,
                self._model,
                batch,
                torch.Generator(batch.tokens.device).manual_seed(noise_seed),
                micro_batch_size=self.size,
                ranks=self.ranks,
            )

        self._fitting(batch, leave)
        self.ranks.sum_gradients(self._model.parameters())
        optimizer.update_curvature(batch_tokens=batch.predictions)
        self.clear()

    def clear(self) -> None:
        """Clear the gradients of all parameters, whoever steps them."""
        self._model.zero_grad(set_to_none=True)

    def _fitting(self, batch: Batch, pass_over: Callable[[], _T]) -> _T:
        """The result of a pass, tried with half the size as often as memory runs out on a rank."""
        rows = -(-len(batch.tokens) // self.ranks.size)
        while True:
            size = rows if self.size is None else self.size
            fits, result = False, None
            try:
                result = pass_over()
                fits = True
            except torch.OutOfMemoryError as error:
                if size == 1:
                    error.add_note(_does_not_fit(batch))
                    raise
            # After the handler, whose traceback holds on to the activations.
            if not self.ranks.any(not fits):
                return cast(_T, result)
            self.size = (min(size, rows) + 1) // 2
            self.clear()
            if batch.tokens.device.type == "cuda":
                torch.cuda.empty_cache()


class _Loss(torch.nn.Module):
    """A model's loss as a module's forward pass, which is what DistributedDataParallel calls."""

    def __init__(self, model: Llama) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, doc_ids: Tensor | None) -> Tensor:
        return self.model.loss(tokens, doc_ids)


def _summed(model: Llama, ranks: ProcessGroup) -> DistributedDataParallel:
    return DistributedDataParallel(
        _Loss(model),
        device_ids=[ranks.device] if ranks.device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def _does_not_fit(batch: Batch) -> str:
    length = batch.predictions // len(batch.tokens)
    return (
        f"A single sequence of {length} tokens does not fit. Checkpoint activations "
        f"(--activation-checkpointing), or take a larger device."
    )
