r"""Scion: steps of fixed length in a norm chosen per layer, inside a ball around zero.

Pethick et al. (2025), "Training Deep Learning Models with Norm-Constrained LMOs",
arXiv 2502.07529, Algorithms 1 (unconstrained) and 2 (constrained, SCG).

Update, for a parameter W with gradient G:
    M ← μ·M + (1 − μ)·G
    W ← (1 − lr·λ)·W − lr·ρ·d(M)
where −d(M) minimizes ⟨M, ·⟩ over the unit ball of the layer's norm, and ρ is a radius:
    hidden matrix (m, n) = (out, in)    d = √(m/n)·NS(M)     ρ = `radius_hidden`
    embedding (vocabulary, n)           d = sign(M)          ρ = `radius_embedding`
    head (vocabulary, n)                d = sign(M)/n        ρ = `radius_head`
    norm weights and other vectors      d = M/(rms(M) + ε)   ρ = `radius_hidden`
with μ = `momentum` for matrices and `beta1` for the rest, λ = `weight_decay`, ε = 1e-8, sign(0) = 0
and NS the `ns_steps` iterations of :func:`optbench.optimizers.linalg.newton_schulz`. All but the
matrices are stepped at learning rate `aux_lr_ratio`·lr.

A tensor of more than two dimensions is the filters of a convolution (out, in, *kernel): the matrix
(out, in·k) of the k places of the kernel is orthogonalized and d = √(out/in)/k·NS(M), the authors'
SpectralConv. A group of stacked experts (E, m, n) has `matrix_layout` = "experts": each is a
matrix. Where a tensor of several dimensions counts as a vector by its role, d is divided by n.

λ = 1 is the constrained form, a convex combination of W and the ball's point −ρ·d: W stays in the
ball of radius ρ wherever lr ≤ 1 (in 1.2·ρ, by the error of NS). λ = 0 is the unconstrained form.
Another λ makes the radius ρ/λ. A group's own weight_decay rules it alone: with
:func:`optbench.optimizers.parameter_groups`, matrices and head are constrained, embedding and gains
are not. The step is lr·ρ, so lr is a third of Muon's.

State: momentum_buffer (shape of W) float32 = M.
Cost: 4 bytes per parameter; ns_steps·(4·r²·c + 2·r³) FLOPs per hidden matrix and step,
r = min(m, n), c = max(m, n), and about 6 per parameter of the rest.

The defaults are the authors' recipe for a language model whose embedding and head are two matrices
(`examples/shallow-nanogpt`): radii 1, 3 and 10, μ = 0.9. For tied weights their recipe is another:
the shared matrix is stepped as a head, at radii 50 and 3000, and lr is about 1/50 of Muon's.
`embedding_rule` = "head" steps an embedding of its own by that rule, at `radius_head`.

Departures: the authors constrain embedding and gains like the rest, and start from weights that lie
on the balls' surface; here the model's own initialization stays. Their language models have no
gains; a vector gets the rule they give a bias (BiasRMS), which is the matrix rule for a single
column. NS runs in bfloat16 on CUDA only, and the norm in it has a floor where they add to it: as in
:mod:`optbench.optimizers.muon`. The study (`paper`) has √max(1, m/n), which is `shrink_wide` =
False; signs without 1/n for embedding and head, which is `embedding_rule` = "head" with
`per_input` = False; signs for the gains, which is `norm_rule` = "sign"; ten iterations; and radii
of 1 with an ordinary weight decay.

Reference code: https://github.com/LIONS-EPFL/scion at f58a393.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from optbench.config import EARLIER_HYPERPARAMETERS, Role
from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.blocks import as_matrices, is_stacked, matrix_shape
from optbench.optimizers.engine.batched_norms import tensor_means
from optbench.optimizers.engine.buckets import Group, State
from optbench.optimizers.engine.flop_count import FlopCount, newton_schulz_flops
from optbench.optimizers.hyperparameters import NON_NEGATIVE, SHARED_BOUNDS, Constraint, OneOf
from optbench.optimizers.linalg import NS_DTYPES, newton_schulz, newton_schulz_dtype
from optbench.space import SearchSpace, Value, choices, complement, geometric

RMS_EPS = 1e-8


class SignScion(BaseOptimizer):
    """Scion's rules for everything that is not a hidden matrix; :class:`Scion` routes to them."""

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero momentum."""
        return {"momentum_buffer": torch.zeros_like(like)}

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """ρ·d(M) by the role of the group, for a stack (B, *shape)."""
        momentum = state["momentum_buffer"].lerp_(grad, 1 - group["beta1"])
        _, columns = matrix_shape(grad.shape[1:])
        if group["role"] not in (Role.EMBEDDING, Role.HEAD):  # without a role, what is no matrix
            if group["norm_rule"] == "rms":
                # √(m/n)·M/‖M‖ is in the ball of the matrix rule whatever M is; n = 1 for vectors.
                root = tensor_means(momentum.square()).sqrt_().add_(RMS_EPS).mul_(columns)
                return momentum * (group["radius_hidden"] / root)
            return _signs(momentum, group["radius_hidden"])
        if group["role"] == Role.EMBEDDING and group["embedding_rule"] == "sign":
            return _signs(momentum, group["radius_embedding"])
        return _signs(momentum, group["radius_head"] / (columns if group["per_input"] else 1))


def _signs(momentum: Tensor, size: float) -> Tensor:
    # sign(NaN) is 0 in torch: without the last term a run that has diverged would seem to stand
    # still. It adds 0 to everything else.
    return momentum.sign().mul_(size).add_(momentum, alpha=0.0)


@final
class Scion(BaseOptimizer):
    """Scion on all parameters.

    Args:
        params: tensors, named tensors or groups; without roles every tensor of two or more
            dimensions counts as a matrix, or as several, and all else as a vector.
        lr: learning rate, ≥ 0: the part of the way to the ball's surface that a step goes.
        momentum: μ of hidden matrices, in [0, 1).
        radius_embedding: ρ of the embedding, ≥ 0, unless it is stepped as the head.
        radius_hidden: ρ of hidden matrices and of vectors, ≥ 0.
        radius_head: ρ of the head, ≥ 0.
        ns_steps: Newton–Schulz iterations, ≥ 1.
        ns_dtype: what they are computed in: "bfloat16", the "state"'s dtype, or "auto", which is
            the first on CUDA and the second elsewhere.
        aux_lr_ratio: learning rate of everything but hidden matrices as a multiple of ``lr``, ≥ 0.
        beta1: μ of everything but hidden matrices, in [0, 1).
        weight_decay: λ, ≥ 0: 1 is the constrained form, 0 the unconstrained one.
        shrink_wide: scale matrices with fewer rows than columns down by √(m/n).
        per_input: divide the signs of the head by its width n.
        embedding_rule: step the embedding by its "sign", or by rule and radius of the "head", as
            where the two are tied.
        norm_rule: scale vectors to a root mean square of 1 ("rms") or take their "sign".
    """

    roles: ClassVar[frozenset[Role]] = frozenset({Role.MATRIX})
    auxiliary: ClassVar[type[BaseOptimizer] | None] = SignScion
    takes_tensors: ClassVar[bool] = True
    # Powers of two around the authors' best for this recipe, 2⁻⁷ and 2⁻⁵. The steps of matrices,
    # lr·radius_hidden from 0.006 to 0.1, are about the study's. Radii within a factor of two of the
    # authors', and the two forms of the method in place of a weight decay.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.002, 0.004, 0.008, 0.016, 0.032),
        momentum=complement(0.8, 0.9, 0.95, 0.98),
        radius_embedding=geometric(0.5, 1.0, 2.0),
        radius_hidden=geometric(1.5, 3.0, 6.0),
        radius_head=geometric(5.0, 10.0, 20.0),
        beta1=complement(0.8, 0.9, 0.95, 0.98),
        weight_decay=choices(0.0, 1.0),
    )
    bounds: ClassVar[Mapping[str, Constraint]] = MappingProxyType(
        {
            **SHARED_BOUNDS,
            "radius_embedding": NON_NEGATIVE,
            "radius_hidden": NON_NEGATIVE,
            "radius_head": NON_NEGATIVE,
            "embedding_rule": OneOf(("sign", "head")),
            "norm_rule": OneOf(("rms", "sign")),
            "ns_dtype": OneOf(NS_DTYPES),
        }
    )
    paper: ClassVar[Mapping[str, Value]] = MappingProxyType(
        {
            "lr": 0.016,
            "momentum": 0.95,
            "radius_hidden": 1.0,
            "radius_head": 1.0,
            "ns_steps": 10,
            "aux_lr_ratio": 0.2,
            "beta1": 0.95,
            "weight_decay": 0.1,
            "shrink_wide": False,
            "per_input": False,
            "embedding_rule": "head",
            "norm_rule": "sign",
        }
    )
    earlier: ClassVar[Mapping[str, Value]] = EARLIER_HYPERPARAMETERS["scion"]

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.008,
        momentum: float = 0.9,
        radius_embedding: float = 1.0,
        radius_hidden: float = 3.0,
        radius_head: float = 10.0,
        ns_steps: int = 5,
        ns_dtype: str = "auto",
        aux_lr_ratio: float = 1.0,
        beta1: float = 0.9,
        weight_decay: float = 1.0,
        shrink_wide: bool = True,
        per_input: bool = True,
        embedding_rule: str = "sign",
        norm_rule: str = "rms",
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "radius_embedding": radius_embedding,
                "radius_hidden": radius_hidden,
                "radius_head": radius_head,
                "ns_steps": ns_steps,
                "ns_dtype": ns_dtype,
                "aux_lr_ratio": aux_lr_ratio,
                "beta1": beta1,
                "weight_decay": weight_decay,
                "shrink_wide": shrink_wide,
                "per_input": per_input,
                "embedding_rule": embedding_rule,
                "norm_rule": norm_rule,
            },
        )

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero momentum."""
        return {"momentum_buffer": torch.zeros_like(like)}

    @classmethod
    def update_flops(cls, shape: tuple[int, ...], group: Group, num_steps: int) -> FlopCount:
        """The Newton–Schulz iterations."""
        stacked = is_stacked(shape, group)
        work = newton_schulz_flops(
            matrix_shape(shape, stacked=stacked), group["ns_steps"], group["ns_dtype"]
        )
        return work * (num_steps * (math.prod(shape[:-2]) if stacked else 1))

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """ρ·√(m/n)·NS(M) for a stack (B, *shape)."""
        momentum = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        stacked = is_stacked(grad.shape[1:], group)
        matrices = as_matrices(momentum, stacked=stacked)
        rows, columns = matrices.shape[-2:]
        # Of filters, the norm is that of the matrix at each place of the kernel, summed over them.
        places = 1 if stacked else math.prod(grad.shape[3:])
        ratio = rows / max(1, columns)
        factor = math.sqrt(ratio / places if group["shrink_wide"] else max(1.0, ratio))
        direction = newton_schulz(
            matrices,
            steps=group["ns_steps"],
            compute_dtype=newton_schulz_dtype(group["ns_dtype"], grad),
        ).reshape(grad.shape)
        return direction.mul_(group["radius_hidden"] * factor)
