r"""Kron: preconditioned SGD whose Kronecker factors are fitted until they whiten the momentum.

Li (2015), "Preconditioned Stochastic Gradient Descent", arXiv 1512.04202, and Li (2024),
"Stochastic Hessian Fittings with Lie Groups", arXiv 2402.11858: the whitening criterion with
triangular factors, dQ = E·Q.

Update, for a matrix W of shape (m, n) with gradient G at step t = 1, 2, …:
    M ← β₁·M + (1 − β₁)·G;   M̂ = M/(1 − β₁ᵗ)
    at steps chosen by the schedule below, with V ~ N(0, 1) of shape (m, n):
        H = M̂ + √ε·mean|M̂|·V
        A = Q₁·H·Q₂ᵀ;   B = Q₁⁻ᵀ·V·Q₂⁻¹
        Q₁ ← Q₁ − ℓ/‖A·Aᵀ + B·Bᵀ‖·triu(A·Aᵀ − B·Bᵀ)·Q₁
        Q₂ ← Q₂ − ℓ/‖Aᵀ·A + Bᵀ·B‖·triu(Aᵀ·A − Bᵀ·B)·Q₂
    U = Q₁ᵀ·Q₁·M̂·Q₂ᵀ·Q₂
    u = U / max(1, rms(U)/1.1)
    W ← (1 − lr·λ)·W − lr·u
with β₁ = `beta1`, ℓ = `preconditioner_lr`, λ = `weight_decay`, ε = 2⁻²³, and ‖·‖ the lower bound
:func:`optbench.optimizers.linalg.spectral_norm_lower_bound`. Q₁ (m, m) and Q₂ (n, n) are upper
triangular and start as √`preconditioner_init_scale`·I. A factor is diagonal (diag in place of triu,
the largest element for the norm) where the side is longer than `max_size_triangular`, for the
vocabulary's side of embedding and head, and for a vector, which has one factor. With `block_size`
the sides of triangular factors are cut into blocks with factors of their own; means are over the
whole matrix. With `normalize_grads`, G is divided by its norm first.

Schedule: the factors are updated at every step up to `flat_steps`, then ever more rarely, down to a
share of `min_update_probability` (:func:`optbench.optimizers.annealing.updates_until`). Before
every 100th update, Q₁ and Q₂ are scaled to equal largest elements. V is drawn from `seed` and the
number of the update alone, the same for all matrices of a shape, so that a resumed run and every
rank see the same noise.

State: momentum_buffer (shape of W) float32 = M; factor_rows (m, m) or (m,) float32 = Q₁;
factor_columns (n, n) or (n,) float32 = Q₂; with blocks, (blocks, b, b).
Cost: 12 bytes per parameter of a square matrix, 4·(1 + (m² + n²)/(m·n)) in general, 8 of a vector;
at most 4·m·n·(m + n) FLOPs per matrix and step, and 7·m·n·(m + n) + 2·(m³ + n³) more where the
factors are updated.

Departures: the authors' counter and noise live outside `state_dict`, so that a resumed run starts
with an update at every step; here both follow from t. They balance with probability 0.01, here (and
in the study) every 100th time. H replaces M̂ in their U too, an accident of in-place arithmetic.
The vocabulary's side is known by its role, not only by its length. Where mean|M̂| is so small that
its square underflows, factors stay as they are: they would grow by ℓ per update until they
overflow. Tensors of more than two sides are taken as (first, rest), or as stacked matrices where
the group has `matrix_layout` = "experts". The study (`paper`) normalizes gradients, uses blocks and
triangular factors up to 25,000; its means are over all layers, here over one. It takes the
probability of an update one step later in the schedule, at t instead of t − 1, which is
`flat_steps` less by one: 2744 instead of 2745 updates in the 5120 steps of its smallest run.

Reference code: https://github.com/evanatyourservice/kron_torch at 884427c.
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
from optbench.optimizers.annealing import updates_until
from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.blocks import Blocks, cut, is_stacked, matrix_shape
from optbench.optimizers.engine.batched_norms import tensor_means, tensor_norms
from optbench.optimizers.engine.buckets import Group, State
from optbench.optimizers.engine.flop_count import FlopCount
from optbench.optimizers.hyperparameters import NON_NEGATIVE, SHARED_BOUNDS, Bound, Constraint
from optbench.optimizers.kronecker import Factors, update_noise
from optbench.optimizers.linalg import full_float32
from optbench.space import SearchSpace, Value, choices, complement, geometric

BALANCE_EVERY = 100
RMS_LIMIT = 1.1
DAMPING = math.sqrt(2.0**-23)
NORM_EPS = 1e-16
FACTORS = ("factor_rows", "factor_columns")


@final
class Kron(BaseOptimizer):
    """Kron (PSGD) on all parameters.

    Args:
        params: tensors, named tensors or groups.
        lr: learning rate, ≥ 0.
        beta1: decay of the gradient average, in [0, 1).
        weight_decay: λ, ≥ 0, multiplied by the learning rate, for every parameter of the group. The
            authors decay no vectors: as in the groups of
            :func:`optbench.optimizers.parameter_groups`.
        preconditioner_lr: ℓ, step size of the factors, in [0, 1).
        preconditioner_init_scale: the preconditioner's root at the start, > 0.
        min_update_probability: share of steps, late in a run, that update the factors, ≥ 0.001.
        flat_steps: steps before that share begins to fall from 1, ≥ 0.
        normalize_grads: divide each gradient by its norm.
        max_size_triangular: longest side with a triangular factor, ≥ 0.
        block_size: longest side of a block, ≥ 0; 0 leaves matrices whole.
        seed: of the noise, ≥ 0.
    """

    structural: ClassVar[frozenset[str]] = frozenset(
        {"block_size", "max_size_triangular", "preconditioner_init_scale"}
    )
    # The study's grid, with the authors' 0.03 added to the probabilities, and ℓ = 0.5 because the
    # study's best was its largest.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.0005, 0.001, 0.002, 0.004, 0.008),
        beta1=complement(0.9, 0.95, 0.98),
        weight_decay=geometric(0.0, 0.5, 0.7, 0.9),
        preconditioner_lr=geometric(0.1, 0.2, 0.5, high=0.9),
        min_update_probability=geometric(0.03, 0.05, 0.1, high=1.0),
        flat_steps=geometric(500, 1000, 2000),
        normalize_grads=choices(False, True),
    )
    bounds: ClassVar[Mapping[str, Constraint]] = MappingProxyType(
        {
            **SHARED_BOUNDS,
            "preconditioner_lr": Bound(0.0, 1.0),
            "preconditioner_init_scale": Bound(1e-6),
            "min_update_probability": Bound(0.001),
            "flat_steps": NON_NEGATIVE,
            "max_size_triangular": NON_NEGATIVE,
            "block_size": NON_NEGATIVE,
            "seed": NON_NEGATIVE,
        }
    )
    paper: ClassVar[Mapping[str, Value]] = MappingProxyType(
        {
            "preconditioner_lr": 0.2,
            "min_update_probability": 0.05,
            "flat_steps": 2000,
            "normalize_grads": True,
            "max_size_triangular": 25_000,
            "block_size": 256,
        }
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.002,
        beta1: float = 0.95,
        weight_decay: float = 0.7,
        preconditioner_lr: float = 0.1,
        preconditioner_init_scale: float = 1.0,
        min_update_probability: float = 0.03,
        flat_steps: int = 500,
        normalize_grads: bool = False,
        max_size_triangular: int = 8192,
        block_size: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "beta1": beta1,
                "weight_decay": weight_decay,
                "preconditioner_lr": preconditioner_lr,
                "preconditioner_init_scale": preconditioner_init_scale,
                "min_update_probability": min_update_probability,
                "flat_steps": flat_steps,
                "normalize_grads": normalize_grads,
                "max_size_triangular": max_size_triangular,
                "block_size": block_size,
                "seed": seed,
            },
        )

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero momentum; factors that are multiples of the identity."""
        layout = _layout(like.shape[1:], group)
        scale = group["preconditioner_init_scale"] ** (1 / len(layout.triangular))
        blocks = layout.blocks
        state = {"momentum_buffer": torch.zeros_like(like)}
        for name, size, triangular in zip(
            FACTORS, (blocks.height, blocks.width), layout.triangular, strict=False
        ):
            lead = blocks.lead(len(like))
            # Filled in place, since sizes are also counted on the meta device, where products and
            # `diag` would import the compiler.
            factor = like.new_zeros(*lead, size, *([size] if triangular else []))
            (factor.diagonal(dim1=-2, dim2=-1) if triangular else factor).fill_(scale)
            state[name] = factor
        return state

    @classmethod
    def update_flops(cls, shape: tuple[int, ...], group: Group, num_steps: int) -> FlopCount:
        """Products with triangular factors, counted as if they were full, and their updates."""
        layout = _layout(shape, group)
        blocks = layout.blocks
        sides = (blocks.height, blocks.width)
        triangular = [s for s, is_one in zip(sides, layout.triangular, strict=False) if is_one]
        product = sum(1.0 * blocks.height * blocks.width * side for side in triangular)
        cubes = sum(float(side) ** 3 for side in triangular)
        schedule = (float(group["min_update_probability"]), int(group["flat_steps"]))
        update = FlopCount(fp32_flops=6 * product + 2 * cubes, factor_flops=product)
        step = FlopCount(fp32_flops=4 * product)
        updates = updates_until(num_steps, *schedule)
        return (step * num_steps + update * updates) * blocks.count

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """The preconditioned momentum of a stack (B, *shape), its root mean square limited."""
        if grad.numel() == 0:
            return torch.zeros_like(grad)
        layout = _layout(grad.shape[1:], group)
        momentum = _debiased_momentum(grad, state["momentum_buffer"], step, group, layout.blocks)
        factors = _factors(state, layout)
        schedule = (float(group["min_update_probability"]), int(group["flat_steps"]))
        count = updates_until(step, *schedule)
        with full_float32():
            if count > updates_until(step - 1, *schedule):
                _fit(factors, momentum, layout.blocks, count, group)
            whitened = factors.precondition(layout.blocks.tiles(momentum))
        return _limited(layout.blocks.join(whitened)).reshape(grad.shape)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a parameter is cut, and which of its one or two factors (rows first) are triangular."""

    blocks: Blocks
    triangular: tuple[bool, ...]


def _layout(shape: tuple[int, ...], group: Group) -> _Layout:
    stacked = is_stacked(shape, group)
    rows, columns = matrix_shape(shape, stacked=stacked)
    if len(shape) < 2:
        return _Layout(cut(shape, 0), (False,))
    longest = group["max_size_triangular"]
    vocabulary = group["role"] in (Role.EMBEDDING, Role.HEAD)
    triangular = (1 < rows <= longest and not vocabulary, 1 < columns <= longest)
    size = group["block_size"]
    blocks = cut(shape, size, rows=triangular[0], columns=triangular[1], stacked=stacked)
    return _Layout(blocks, triangular)


def _debiased_momentum(
    grad: Tensor, momentum: Tensor, step: int, group: Group, blocks: Blocks
) -> Tensor:
    """M̂ as a new tensor (matrices, rows, columns); M is brought up to date."""
    if group["normalize_grads"]:
        matrices = blocks.apart(grad)
        grad = (matrices / tensor_norms(matrices).add_(NORM_EPS)).view(grad.shape)
    momentum.lerp_(grad, 1 - group["beta1"])
    return blocks.apart(momentum / (1 - group["beta1"] ** step))


def _factors(state: State, layout: _Layout) -> Factors:
    """The state's factors, those of all blocks along one axis."""
    stacked = [
        state[name].view(-1, *state[name].shape[-2 if triangular else -1 :])
        for name, triangular in zip(FACTORS, layout.triangular, strict=False)
    ]
    return Factors(stacked[0], stacked[1] if len(stacked) == 2 else None)


def _fit(factors: Factors, momentum: Tensor, blocks: Blocks, count: int, group: Group) -> None:
    """One update of the factors, in place."""
    if count % BALANCE_EVERY == 0:
        factors.balance()
    noise = update_noise(momentum[:1], group["seed"], count)
    size = tensor_means(momentum.abs())
    damped = torch.addcmul(momentum, size, noise, value=DAMPING)
    smallest = math.sqrt(torch.finfo(size.dtype).tiny)
    rate = (size > smallest).to(size.dtype).flatten().mul_(group["preconditioner_lr"])
    factors.fit(
        factors.transform(blocks.tiles(damped)),
        factors.solve(blocks.tiles(noise.expand_as(momentum))),
        rate.repeat_interleave(blocks.per_matrix) if blocks.per_matrix > 1 else rate,
    )


def _limited(direction: Tensor) -> Tensor:
    """U with a root mean square of at most 1.1, matrix by matrix."""
    elements = direction[0].numel()
    scale = tensor_norms(direction).div_(RMS_LIMIT * math.sqrt(elements)).clamp_(min=1)
    return direction.div_(scale)
