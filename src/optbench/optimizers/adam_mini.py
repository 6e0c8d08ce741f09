r"""Adam-mini: Adam with one second moment per block of parameters instead of one per parameter.

Zhang et al. (2024), "Adam-mini: Use Fewer Learning Rates To Gain More", arXiv 2406.16793,
Algorithm 1 with the paper's partition for transformers.

Update, for a block w of a parameter with gradient g at step t = 1, 2, …:
    m ← β₁·m + (1 − β₁)·g
    v ← β₂·v + (1 − β₂)·mean(g²)              one number
    u = m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
    w ← (1 − lr·λ)·w − lr·u
with β₁ = `beta1`, β₂ = `beta2`, ε = `eps`, λ = `weight_decay`. The blocks are
    embedding, head              each row, that is each token
    hidden matrix                each row, that is each output
    query and key                each attention head: the `head_dim` rows that form it
    bias                         each element, which is Adam
    gains and other vectors      the whole tensor, or each element: `norm_block`
Nothing depends on its name. Query and key differ from other hidden matrices by their group's
`head_dim`, which ``parameter_groups(model, roles, heads=…)`` sets; a bias, that of a norm included,
by the role "bias", which :func:`optbench.optimizers.infer_roles` gives it. In a group without a
role a bias is a vector like a gain.

State: exp_avg (shape of W) float32 = m; exp_avg_sq (blocks, 1) float32 = v.
Cost: 4 bytes per parameter and 4 per row, which for query and key is per head; 8 bytes per element
of a bias; about 9 FLOPs per parameter and step.

Departures from Algorithm 1: decoupled decay, as in the authors' code. The second moments are stored
once per block, where the study stored a copy for each parameter, which changes memory only. Gains
and other vectors are one block each, as in the authors' code; the study gave each element its own,
which is `norm_block` = "element", and clipped the gradients of these alone: clipping is left to the
training loop here. A tensor of three or more dimensions has one block
per index of the first, or one per row of each matrix where the group has `matrix_layout` =
"experts"; the authors' code, which goes by names, may make it a single block.

Reference code: https://github.com/zyushun/Adam-mini at 402aadf (version 1.1.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from optbench.config import Role
from optbench.optimizers.adamw import adamw_scalars
from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.blocks import is_stacked, matrix_shape
from optbench.optimizers.engine.buckets import Group, State
from optbench.optimizers.engine.compiled import Kernel, Scalars
from optbench.optimizers.hyperparameters import POSITIVE_INTEGER, SHARED_BOUNDS, Constraint, OneOf
from optbench.space import SearchSpace, Value, complement, geometric


def adam_mini_kernel(grad: Tensor, state: State, s: Scalars) -> tuple[Tensor, State]:
    """:class:`AdamMini`'s direction and moments; each block is a row."""
    m = s["beta1"] * state["exp_avg"] + s["1 - beta1"] * grad
    mean_square = grad.square().mean(dim=1, keepdim=True)
    v = s["beta2"] * state["exp_avg_sq"] + s["1 - beta2"] * mean_square
    return m / (v.sqrt() * s["root scale"] + s["eps"]), {"exp_avg": m, "exp_avg_sq": v}


ADAM_MINI_KERNEL = Kernel(adam_mini_kernel, adamw_scalars, blocks="exp_avg_sq")


@final
class AdamMini(BaseOptimizer):
    """Adam-mini on all parameters.

    Args:
        params: tensors, named tensors or groups; without roles every tensor of two or more
            dimensions counts as a hidden matrix.
        lr: learning rate, ≥ 0.
        beta1: decay of the gradient average, in [0, 1).
        beta2: decay of the average of mean squared gradients, in [0, 1).
        eps: added to the root of the second moment, ≥ 0.
        weight_decay: λ, ≥ 0, multiplied by the learning rate, for every parameter of the group. The
            authors decay neither gains nor biases: as in the groups of
            :func:`optbench.optimizers.parameter_groups`.
        head_dim: consecutive rows of a hidden matrix that form one block, ≥ 1; meant for the groups
            of query and key.
        norm_block: what shares a second moment in a vector that is no bias: the whole "tensor", or
            each "element" by itself.
    """

    second_moment: ClassVar[bool] = True
    structural: ClassVar[frozenset[str]] = frozenset({"head_dim", "norm_block"})
    # The study's grid, with beta1 = 0.8 and beta2 = 0.99 added because its best values were the
    # ends 0.9 and 0.98 in all of its 12 regimes; lr = 0.002 as for AdamW.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.002, 0.004, 0.008, 0.016, 0.032),
        beta1=complement(0.8, 0.9, 0.95, 0.98),
        beta2=complement(0.9, 0.95, 0.98, 0.99),
        eps=geometric(1e-20, 1e-15, 1e-10, low=1e-20, high=1e-6),
        weight_decay=geometric(0.0, 0.1, 0.2),
    )
    bounds: ClassVar[Mapping[str, Constraint]] = MappingProxyType(
        {
            **SHARED_BOUNDS,
            "head_dim": POSITIVE_INTEGER,
            "norm_block": OneOf(("tensor", "element")),
        }
    )
    paper: ClassVar[Mapping[str, Value]] = MappingProxyType({"norm_block": "element"})

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.008,
        beta1: float = 0.9,
        beta2: float = 0.98,
        eps: float = 1e-10,
        weight_decay: float = 0.1,
        head_dim: int = 1,
        norm_block: str = "tensor",
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "beta1": beta1,
                "beta2": beta2,
                "eps": eps,
                "weight_decay": weight_decay,
                "head_dim": head_dim,
                "norm_block": norm_block,
            },
        )

    @staticmethod
    def kernel(group: Group) -> Kernel | None:
        """For every group."""
        return ADAM_MINI_KERNEL

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero moments.

        Raises:
            ValueError: ``head_dim`` does not divide the rows of a matrix.
        """
        blocks, _ = _partition(tuple(like.shape[1:]), group)
        second = like.new_zeros(like.shape[0], blocks, 1)
        return {"exp_avg": torch.zeros_like(like), "exp_avg_sq": second}

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """m̂ / (√v̂ + ε) for a stack (B, *shape), with one v̂ per block."""
        beta1, beta2 = group["beta1"], group["beta2"]
        in_blocks = (grad.shape[0], *_partition(tuple(grad.shape[1:]), group))
        m = state["exp_avg"].lerp_(grad, 1 - beta1)
        mean_square = grad.reshape(in_blocks).square().mean(dim=-1, keepdim=True)
        v = state["exp_avg_sq"].mul_(beta2).add_(mean_square, alpha=1 - beta2)
        root = (v / (1 - beta2**step)).sqrt_().add_(group["eps"]).mul_(1 - beta1**step)
        return (m.view(in_blocks) / root).view(grad.shape)


def _partition(shape: tuple[int, ...], group: Group) -> tuple[int, int]:
    """Number of blocks of a tensor and elements per block; blocks are contiguous.

    Raises:
        ValueError: heads that do not divide the rows.
    """
    is_bias = group["role"] == Role.BIAS
    if len(shape) < 2 or is_bias:
        size = math.prod(shape)
        return (size, 1) if is_bias or group["norm_block"] == "element" else (1, size)
    rows = group["head_dim"] if group["role"] in (None, Role.MATRIX) else 1
    stacked = is_stacked(shape, group)
    height, width = matrix_shape(shape, stacked=stacked)
    if height % rows:
        raise ValueError(
            f"`head_dim` must divide the rows of a hidden matrix, but got head_dim={rows} and a "
            f"shape of {shape}. Set it in the groups of query and key only."
        )
    count = math.prod(shape[:-2]) if stacked else 1
    return count * height // rows, rows * width
