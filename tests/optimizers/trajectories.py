"""Fixed parameters and gradients, and the walk of an optimizer along them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from optbench.optimizers import OPTIMIZERS, CurvatureOptimizer

every_optimizer = pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)

Shape = tuple[int, ...]
# Square, wide and tall, two of one shape, and what is no matrix.
SHAPES: tuple[Shape, ...] = ((6, 6), (4, 10), (10, 4), (4, 10), (5,))


# Between two orders of the same operations in float64, on elements of size 4 at most (an ulp is
# 4e-16): at most two roundings a step, over the few steps of a test.
ROUNDING = 1e-14


def _normal(shape: Shape, *seed: int) -> Tensor:
    # Copied, because torch aligns its memory alike and NumPy does not: products may depend on it.
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def parameters(
    shapes: Sequence[Shape] = SHAPES, dtype: torch.dtype = torch.float64
) -> list[nn.Parameter]:
    """Parameter i of the fixed start."""
    return [nn.Parameter(_normal(shape, 0, i).to(dtype)) for i, shape in enumerate(shapes)]


def gradient(index: int, step: int, shape: Shape) -> Tensor:
    """Gradient of parameter ``index`` at ``step``, float64."""
    return _normal(shape, 1, index, step)


def arrays(index: int, shape: Shape, steps: int) -> tuple[NDArray, list[NDArray]]:
    """Start and gradients of parameter ``index``, for a reference."""
    start = _normal(shape, 0, index).numpy()
    return start, [gradient(index, t, shape).numpy() for t in range(1, steps + 1)]


def walk(
    optimizer: torch.optim.Optimizer,
    params: Sequence[Tensor],
    steps: range | int,
    *,
    scale: float = 1.0,
) -> None:
    """Step on the fixed gradients; an integer counts from step 1."""
    for step in range(1, steps + 1) if isinstance(steps, int) else steps:
        for index, param in enumerate(params):
            param.grad = (scale * gradient(index, step, tuple(param.shape))).to(param.dtype)
        optimizer.step()
        supply_curvature(optimizer)


def supply_curvature(optimizer: torch.optim.Optimizer) -> None:
    """Let the present gradients serve as the curvature estimate of a method that waits for one."""
    if isinstance(optimizer, CurvatureOptimizer) and optimizer.curvature_due():
        optimizer.update_curvature(batch_tokens=10_000)


def distance(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Largest absolute difference between two lists of tensors."""
    pairs = zip(left, right, strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs if a.numel())


def state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, str, Tensor]]:
    """(parameter, name, tensor) of all state."""
    for param, entry in optimizer.state.items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                yield param, name, value
