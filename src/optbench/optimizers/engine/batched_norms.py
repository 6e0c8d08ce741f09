"""One number per tensor of a stack: ``(B, *shape)`` in, ``(B, 1, …, 1)`` of as many axes out."""

from __future__ import annotations

import torch
from torch import Tensor


def tensor_means(stack: Tensor) -> Tensor:
    """The mean of each tensor, in the stack's dtype; NaN for a tensor without elements."""
    return _per_tensor(_rows(stack).mean(dim=1), stack)


def tensor_norms(stack: Tensor) -> Tensor:
    """The Euclidean norm of each tensor."""
    return _per_tensor(torch.linalg.vector_norm(_rows(stack), dim=1), stack)


def _rows(stack: Tensor) -> Tensor:
    """(B, elements of one tensor); a tensor without axes has one element."""
    return stack.unsqueeze(-1).flatten(1)


def _per_tensor(values: Tensor, stack: Tensor) -> Tensor:
    return values.view(-1, *[1] * (stack.ndim - 1))
