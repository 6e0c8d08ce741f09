"""An optimizer and its reference on the same parameters, roles and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import nn

from optbench.optimizers import CurvatureOptimizer
from tests.optimizers.trajectories import SHAPES, gradient

# The roles of the parameters of ``SHAPES``.
ROLES = ("matrix", "head", "matrix", "embedding", "norm")
DECAYED = ("matrix", "head")
# Gradients of an estimate are those of a step that no walk reaches.
ESTIMATE = 1000


class Reference(Protocol):
    params: list[NDArray]

    def step(self, grads: Sequence[NDArray], lr: float | None = None, **kwargs: Any) -> None: ...


def by_role(params: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """One group per parameter of ``SHAPES``, decayed as the references do."""
    return [
        {"params": [param], "role": role} | ({} if role in DECAYED else {"weight_decay": 0.0})
        for param, role in zip(params, ROLES, strict=True)
    ]


def largest_error(
    optimizer: torch.optim.Optimizer,
    reference: Reference,
    params: Sequence[nn.Parameter],
    *,
    steps: int = 30,
    scale: float = 1.0,
    batch_tokens: int = 1,
) -> float:
    """Largest difference of any element after any step; the learning rate halves after ten."""
    errors: list[float] = []
    lr = optimizer.param_groups[0]["lr"]
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = lr if step <= 10 else lr / 2
        _set_gradients(params, step, scale)
        optimizer.step()
        extra = {}
        if isinstance(optimizer, CurvatureOptimizer) and optimizer.curvature_due():
            _set_gradients(params, ESTIMATE + step, scale)
            optimizer.update_curvature(batch_tokens=batch_tokens)
            extra = {"estimate": _gradients(ESTIMATE + step, scale)}
        reference.step(_gradients(step, scale), lr=lr if step <= 10 else lr / 2, **extra)
        pairs = zip(params, reference.params, strict=True)
        errors.extend(float(abs(p.detach().numpy() - r).max()) for p, r in pairs)
    return max(errors)


def _gradients(step: int, scale: float) -> list[NDArray]:
    return [scale * gradient(i, step, shape).numpy() for i, shape in enumerate(SHAPES)]


def _set_gradients(params: Sequence[nn.Parameter], step: int, scale: float) -> None:
    for param, grad in zip(params, _gradients(step, scale), strict=True):
        param.grad = torch.from_numpy(grad)
