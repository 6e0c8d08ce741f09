"""Curvature estimates: the second backward pass that some optimizers ask for every few steps."""

from __future__ import annotations

import torch
from torch import Tensor

from optbench.model import Llama
from optbench.optimizers import CurvatureOptimizer, CurvatureSource


def give_curvature(
    optimizer: CurvatureOptimizer, model: Llama, tokens: Tensor, generator: torch.Generator
) -> None:
    """Estimate the curvature on a batch, let the optimizer take it in, and clear the gradients.

    Args:
        optimizer: one whose estimate is due; its source says which estimate it wants.
        model: its gradients are empty before and after.
        tokens: (B, S + 1).
        generator: of the sampled labels or of the random direction.
    """
    if optimizer.curvature_source is CurvatureSource.SAMPLED_LABELS:
        model.sampled_label_loss(tokens, generator).backward()
    else:
        leave_hessian_product(model, tokens, generator)
    predictions = tokens.shape[0] * (tokens.shape[1] - 1)
    optimizer.update_curvature(batch_tokens=predictions)
    optimizer.zero_grad(set_to_none=True)


def leave_hessian_product(model: Llama, tokens: Tensor, generator: torch.Generator) -> None:
    """Put z ⊙ Hz into every gradient: H the Hessian of the mean loss, z standard normal.

    Its expectation is the diagonal of H (Hutchinson).
    """
    parameters = list(model.parameters())
    loss = model.twice_differentiable_loss(tokens)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    directions = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
        for p in parameters
    ]
    products = torch.autograd.grad(gradients, parameters, grad_outputs=directions)
    for parameter, direction, product in zip(parameters, directions, products, strict=True):
        parameter.grad = direction * product
