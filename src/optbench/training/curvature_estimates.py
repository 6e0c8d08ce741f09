"""Curvature estimates: the second backward pass that some optimizers ask for every few steps."""

from __future__ import annotations

import torch
from torch import Tensor

from optbench.optimizers import CurvatureOptimizer, CurvatureSource
from optbench.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from optbench.training.label_sampler import LabelSampler
from optbench.training.micro_batches import Batch
from optbench.training.model import Llama


def update_curvature(
    optimizer: CurvatureOptimizer,
    model: Llama,
    tokens: Tensor,
    generator: torch.Generator,
    *,
    doc_ids: Tensor | None = None,
    micro_batch_size: int | None = None,
) -> None:
    """Estimate the curvature on a batch, let the optimizer take it in, and clear the gradients.

    Args:
        optimizer: one whose estimate is due; its source names the estimate it needs.
        model: its gradients are empty before and after.
        tokens: (B, S + 1).
        generator: of the sampled labels or of the random direction, on the device of the tokens.
        doc_ids: (B, S), where attention stays within documents.
        micro_batch_size: sequences at a time; None is all of them. The estimate is of the batch.
    """
    batch = Batch(tokens, doc_ids)
    accumulate_estimate(optimizer.curvature_source, model, batch, generator, micro_batch_size)
    optimizer.update_curvature(batch_tokens=batch.predictions)
    optimizer.zero_grad(set_to_none=True)


def accumulate_estimate(
    source: CurvatureSource,
    model: Llama,
    batch: Batch,
    generator: torch.Generator,
    micro_batch_size: int | None = None,
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Put the curvature estimate on a batch into the gradients, or this rank's summand of it.

    Args:
        source: which estimate.
        model: its gradients are empty before.
        batch: of all ranks.
        generator: as for :func:`update_curvature`, in the same state on all ranks.
        ranks: among whom the batch is shared out; their gradients add up to the estimate.
    """
    start, stop = ranks.span(len(batch.tokens))
    pieces = batch.part(start, stop).split(micro_batch_size, of=len(batch.tokens))
    if source is CurvatureSource.HESSIAN_PRODUCT:
        _accumulate_hessian_product(model, pieces, generator)
        return
    length = batch.predictions // len(batch.tokens)
    sampler = LabelSampler(generator, batch.predictions, start=start * length)
    for piece, share in pieces:
        loss = model.sampled_label_loss(piece.tokens, sampler, piece.doc_ids)
        (loss * share).backward()


def accumulate_hessian_product(model: Llama, tokens: Tensor, generator: torch.Generator) -> None:
    """Put z ⊙ Hz into every gradient: H the Hessian of the mean loss, z standard normal.

    Its expectation is the diagonal of H (Hutchinson).
    """
    _accumulate_hessian_product(model, Batch(tokens).split(None), generator)


def _accumulate_hessian_product(
    model: Llama, pieces: list[tuple[Batch, float]], generator: torch.Generator
) -> None:
    parameters = list(model.parameters())
    directions = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
        for p in parameters
    ]
    # One direction for all: then the products of the pieces add up to that of the batch.
    for piece, share in pieces:
        loss = model.twice_differentiable_loss(piece.tokens, piece.doc_ids) * share
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        products = torch.autograd.grad(gradients, parameters, grad_outputs=directions)
        for parameter, direction, product in zip(parameters, directions, products, strict=True):
            estimate = direction * product
            parameter.grad = estimate if parameter.grad is None else parameter.grad + estimate
