"""Curvature estimates: the second backward pass that some optimizers ask for every few steps."""

from __future__ import annotations

import torch
from torch import Tensor

from optbench.micro_batches import Batch
from optbench.model import Llama
from optbench.optimizers import CurvatureOptimizer, CurvatureSource


def give_curvature(
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
        optimizer: one whose estimate is due; its source says which estimate it wants.
        model: its gradients are empty before and after.
        tokens: (B, S + 1).
        generator: of the sampled labels or of the random direction. Labels are drawn a chunk of
            positions at a time, so other chunks, of smaller micro-batches, may get other labels.
        doc_ids: (B, S), where attention stays within documents.
        micro_batch_size: sequences at a time; None is all of them. The estimate is of the batch.
    """
    batch = Batch(tokens, doc_ids)
    if optimizer.curvature_source is CurvatureSource.SAMPLED_LABELS:
        for piece, share in batch.split(micro_batch_size):
            loss = model.sampled_label_loss(piece.tokens, generator, piece.doc_ids)
            (loss * share).backward()
    else:
        _leave_hessian_product(model, batch, generator, micro_batch_size)
    optimizer.update_curvature(batch_tokens=batch.predictions)
    optimizer.zero_grad(set_to_none=True)


def leave_hessian_product(model: Llama, tokens: Tensor, generator: torch.Generator) -> None:
    """Put z ⊙ Hz into every gradient: H the Hessian of the mean loss, z standard normal.

    Its expectation is the diagonal of H (Hutchinson).
    """
    _leave_hessian_product(model, Batch(tokens), generator, None)


def _leave_hessian_product(
    model: Llama, batch: Batch, generator: torch.Generator, micro_batch_size: int | None
) -> None:
    parameters = list(model.parameters())
    directions = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
        for p in parameters
    ]
    # One direction for all: then the products of the micro-batches add up to that of the batch.
    for piece, share in batch.split(micro_batch_size):
        loss = model.twice_differentiable_loss(piece.tokens, piece.doc_ids) * share
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        products = torch.autograd.grad(gradients, parameters, grad_outputs=directions)
        for parameter, direction, product in zip(parameters, directions, products, strict=True):
            estimate = direction * product
            parameter.grad = estimate if parameter.grad is None else parameter.grad + estimate
