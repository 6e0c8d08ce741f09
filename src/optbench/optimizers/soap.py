r"""Soap: Adam in the eigenbasis of Shampoo's two Gram matrices.

Vyas et al. (2024), "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321,
Algorithm 3, with the power iteration of Algorithm 4.

Update, for a matrix W of shape (m, n) with gradient G at step t = 1, 2, …:
    t = 1:  L ← (1 − β)·G·Gᵀ;  R ← (1 − β)·Gᵀ·G;  P, Q ← their eigenvectors;  u = 0
    t > 1:  G′ = Pᵀ·G·Q;  k = t − 1
            M′ ← β₁·M′ + (1 − β₁)·G′
            V ← β₂·V + (1 − β₂)·G′²
            u = P·[M′/(1 − β₁ᵏ) / ((√V + ε)/√(1 − β₂ᵏ))]·Qᵀ
            L ← β·L + (1 − β)·G·Gᵀ;  R ← β·R + (1 − β)·Gᵀ·G
            every f steps (k divisible by f), for P with L and the rows of V, for Q with R and the
            columns of V: order by diag(Pᵀ·L·P), largest first; P ← orthogonal factor of L·P by QR;
            M′ is carried over from the old basis to the new
    W ← (1 − lr·λ)·W − lr·u
with β₁ = `beta1`, β₂ = `beta2`, ε = `eps`, λ = `weight_decay`, β = `shampoo_beta`,
f = `precondition_frequency`. A side is not rotated (P or Q = I) where it is longer than
`max_precond_dim`, and neither is the vocabulary's side of embedding and head, nor a vector, for
which this is Adam. With `block_size` the rotated sides are cut into blocks with bases of their own.

State: exp_avg, exp_avg_sq (m, n) float32 = M′, V; gram_rows, basis_rows (m, m) float32 = L, P;
gram_columns, basis_columns (n, n) float32 = R, Q; with blocks, (blocks, b, b) each.
Cost: 24 bytes per parameter of a square matrix, 8·(1 + (m² + n²)/(m·n)) in general, 8 of a vector;
6·m·n·(m + n) FLOPs per matrix and step, and about 5·(m³ + n³) + 4·m·n·(m + n) where the bases are
refreshed.

Departures: the base class decays weights in the first step too, and before the update where the
authors do it after. Where a matrix is not square, the first basis of its longer side is that of the
shorter, mapped by G and completed by QR: the same eigenvectors at less cost, and those of
eigenvalue 0, which the authors leave to the solver's rounding errors, are defined. The
vocabulary's side is known by its role, not only by its length. Tensors of more than two sides are
taken as (first, rest), or as stacked matrices where the group has `matrix_layout` = "experts"; the
authors rotate each side. The study (`paper`) counts the skipped step, k = t, which is
`count_first_step`; refreshes the bases before it adds the gradient to L and R, which is
`refresh_first`; rotates vectors too, which is `rotate_vectors`; and cuts blocks.

Reference code: https://github.com/nikhilvyas/SOAP at a1e5535.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from optbench.config import Role
from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.blocks import Blocks, cut, is_stacked, matrix_shape
from optbench.optimizers.eigenbases import Rotation, Side
from optbench.optimizers.engine.buckets import Group, State
from optbench.optimizers.engine.flop_count import FlopCount
from optbench.optimizers.hyperparameters import (
    FRACTION,
    NON_NEGATIVE,
    POSITIVE_INTEGER,
    SHARED_BOUNDS,
    Constraint,
)
from optbench.optimizers.linalg import full_float32
from optbench.space import SearchSpace, Value, choices, complement, geometric


@final
class Soap(BaseOptimizer):
    """Soap on all parameters.

    Args:
        params: tensors, named tensors or groups.
        lr: learning rate, ≥ 0.
        beta1: decay of the gradient average, in [0, 1).
        beta2: decay of the squared-gradient average, in [0, 1).
        eps: added to the root of the second moment, ≥ 0.
        weight_decay: λ, ≥ 0, multiplied by the learning rate.
        shampoo_beta: decay of the Gram matrices, in [0, 1).
        precondition_frequency: steps from one refresh of the bases to the next, ≥ 1.
        max_precond_dim: longest side that is rotated, ≥ 0.
        block_size: longest side of a block, ≥ 0; 0 leaves matrices whole.
        count_first_step: let bias correction and refresh count the step that does not move.
        refresh_first: refresh the bases before the Gram matrices take in the gradient.
        rotate_vectors: rotate vectors too, instead of Adam.
    """

    second_moment: ClassVar[bool] = True
    structural: ClassVar[frozenset[str]] = frozenset(
        {"block_size", "max_precond_dim", "rotate_vectors"}
    )
    # The study's grid, with lr = 0.032 and beta1 = 0.98 added because its best values were ends.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.004, 0.008, 0.016, 0.032),
        beta1=complement(0.8, 0.9, 0.95, 0.98),
        beta2=complement(0.9, 0.95, 0.98, 0.99),
        eps=geometric(1e-20, 1e-15, 1e-10, low=1e-20, high=1e-6),
        weight_decay=geometric(0.0, 0.1, 0.2),
        shampoo_beta=complement(0.9, 0.95, 0.98, 0.99),
        precondition_frequency=choices(1, 5, 10),
    )
    bounds: ClassVar[Mapping[str, Constraint]] = MappingProxyType(
        {
            **SHARED_BOUNDS,
            "shampoo_beta": FRACTION,
            "precondition_frequency": POSITIVE_INTEGER,
            "max_precond_dim": NON_NEGATIVE,
            "block_size": NON_NEGATIVE,
        }
    )
    paper: ClassVar[Mapping[str, Value]] = MappingProxyType(
        {
            "block_size": 256,
            "count_first_step": True,
            "refresh_first": True,
            "rotate_vectors": True,
        }
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.016,
        beta1: float = 0.95,
        beta2: float = 0.98,
        eps: float = 1e-10,
        weight_decay: float = 0.1,
        shampoo_beta: float = 0.95,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10_000,
        block_size: int = 0,
        count_first_step: bool = False,
        refresh_first: bool = False,
        rotate_vectors: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "beta1": beta1,
                "beta2": beta2,
                "eps": eps,
                "weight_decay": weight_decay,
                "shampoo_beta": shampoo_beta,
                "precondition_frequency": precondition_frequency,
                "max_precond_dim": max_precond_dim,
                "block_size": block_size,
                "count_first_step": count_first_step,
                "refresh_first": refresh_first,
                "rotate_vectors": rotate_vectors,
            },
        )

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero moments, Gram matrices and bases; the first step finds the rotation."""
        layout = _layout(like.shape[1:], group)
        blocks = layout.blocks
        lead = blocks.lead(len(like))
        shape = (*lead, blocks.height, blocks.width) if blocks.count > 1 else like.shape
        state = {"exp_avg": like.new_zeros(shape), "exp_avg_sq": like.new_zeros(shape)}
        for side, size in layout.rotated.items():
            for part in Side.PARTS:
                state[f"{part}_{side}"] = like.new_zeros(*lead, size, size)
        return state

    @classmethod
    def update_flops(cls, shape: tuple[int, ...], group: Group, num_steps: int) -> FlopCount:
        """Rotating there and back and the Gram matrices; at a refresh G·Q, its QR, M′ carried over.

        QR with its orthogonal factor formed takes 8/3·k³. The eigenvectors of the first step are
        left out.
        """
        layout = _layout(shape, group)
        blocks, sides = layout.blocks, layout.rotated.values()
        area = blocks.height * blocks.width
        rotation = sum(2.0 * area * side for side in sides)
        cubes = sum(float(side) ** 3 for side in sides)
        counted = num_steps if group["count_first_step"] else num_steps - 1
        refreshes = counted // group["precondition_frequency"]
        step = FlopCount(fp32_flops=3 * rotation)
        refresh = FlopCount(fp32_flops=2 * rotation + 2 * cubes, factor_flops=8 / 3 * cubes)
        return (step * (num_steps - 1) + refresh * refreshes) * blocks.count

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """Adam's direction in the rotated basis, rotated back, for a stack (B, *shape)."""
        if grad.numel() == 0:
            return torch.zeros_like(grad)
        layout = _layout(grad.shape[1:], group)
        gradients = layout.blocks.split(grad)
        rotation = _rotation(state, layout)
        with full_float32():
            if step == 1:
                rotation.start(gradients, group["shampoo_beta"])
                return torch.zeros_like(grad)
            m, v = (state[name].view(gradients.shape) for name in ("exp_avg", "exp_avg_sq"))
            count = step if group["count_first_step"] else step - 1
            direction = rotation.back(_adam(rotation.forward(gradients), m, v, count, group))
            refresh = count % group["precondition_frequency"] == 0
            if refresh and group["refresh_first"]:
                rotation.refresh(m, v)
            rotation.accumulate(gradients, group["shampoo_beta"])
            if refresh and not group["refresh_first"]:
                rotation.refresh(m, v)
        return layout.blocks.join(direction).reshape(grad.shape)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a parameter is cut, and the size of each side of a block that is rotated."""

    blocks: Blocks
    rotated: dict[str, int]


def _layout(shape: tuple[int, ...], group: Group) -> _Layout:
    stacked = is_stacked(shape, group)
    rows, columns = matrix_shape(shape, stacked=stacked)
    longest = group["max_precond_dim"]
    vocabulary = group["role"] in (Role.EMBEDDING, Role.HEAD)
    rotates = len(shape) > 1 or group["rotate_vectors"]
    by_rows = rotates and 1 < rows <= longest and not vocabulary
    by_columns = rotates and 1 < columns <= longest
    blocks = cut(shape, group["block_size"], rows=by_rows, columns=by_columns, stacked=stacked)
    sides = (("rows", blocks.height, by_rows), ("columns", blocks.width, by_columns))
    return _Layout(blocks, {side: size for side, size, rotated in sides if rotated})


def _rotation(state: State, layout: _Layout) -> Rotation:
    """The state's bases, those of all blocks along one axis."""
    sides = {
        side: Side(*(state[f"{part}_{side}"].view(-1, size, size) for part in Side.PARTS))
        for side, size in layout.rotated.items()
    }
    return Rotation(sides.get("rows"), sides.get("columns"))


def _adam(rotated: Tensor, m: Tensor, v: Tensor, count: int, group: Group) -> Tensor:
    """Adam's direction for the rotated gradients; the moments are brought up to date."""
    beta1, beta2 = group["beta1"], group["beta2"]
    m.lerp_(rotated, 1 - beta1)
    v.mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
    correction = (1 - beta1**count) / math.sqrt(1 - beta2**count)
    # (ε + √v)·correction: one pass over memory instead of three.
    eps = torch.scalar_tensor(correction * group["eps"], dtype=v.dtype)
    root = v.sqrt()
    denominator = torch.add(eps, root, alpha=correction, out=root)
    return torch.div(m, denominator, out=denominator)
