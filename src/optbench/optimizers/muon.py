r"""Muon: momentum orthogonalized by Newton–Schulz, for hidden matrices.

Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks",
https://kellerjordan.github.io/posts/muon/.

Update, for a hidden matrix W of shape (m, n) = (out, in) with gradient G:
    M ← μ·M + (1 − μ)·G
    U = μ·M + (1 − μ)·G   with Nesterov, else M
    W ← (1 − lr·λ)·W − lr·√max(1, m/n)·NS(U)
with μ = `momentum`, Nesterov = `nesterov`, λ = `weight_decay`, and NS the `ns_steps` iterations of
:func:`optbench.optimizers.linalg.newton_schulz`. Embedding, head and vectors are stepped by AdamW
with `beta1`, `beta2`, `eps` at learning rate `aux_lr_ratio`·lr.

A tensor of three dimensions is a stack of matrices, such as experts (E, m, n), each with an update
of its own; one of more is the filters of a convolution (out, in, *kernel), taken as one matrix
(out, in·kernel). A group chooses otherwise by `matrix_layout`: "experts" or "filters", the latter
for one-dimensional convolutions.

State: momentum_buffer (m, n) float32 = M for matrices; exp_avg and exp_avg_sq for the rest.
Cost: 4 bytes per parameter of a hidden matrix, 8 of the rest; ns_steps·(4·r²·c + 2·r³) FLOPs per
matrix and step, r = min(m, n), c = max(m, n).

Departures: by default (`ns_dtype` = "auto") NS runs in bfloat16 on CUDA, as the authors' does
everywhere, and in the state's dtype on other devices, where bfloat16 costs accuracy and is only on
some faster. NS divides by max(‖U‖, 1e-7), as torch.optim.Muon does; the authors divide by
‖U‖ + 1e-7, which changes the direction by less than 1e-6/‖U‖ at five iterations
(:func:`optbench.optimizers.linalg.newton_schulz`). That 1e-7 is no hyperparameter: the study found
every value alike. For filters the authors take the factor √max(1, m/n) from the last two sides of
the kernel, which makes it 1; here it is that of the matrix which is orthogonalized.

Reference code: https://github.com/KellerJordan/Muon at 857d1ad, and torch.optim.Muon of PyTorch
2.13 with adjust_lr_fn="original", equal to 1e-12 in float64 once its bfloat16 cast is taken out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from optbench.config import Role
from optbench.optimizers.adamw import AdamW
from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.blocks import as_matrices, is_stacked, matrix_shape
from optbench.optimizers.engine.buckets import Group, State
from optbench.optimizers.engine.flop_count import FlopCount, newton_schulz_flops
from optbench.optimizers.hyperparameters import SHARED_BOUNDS, Constraint, OneOf
from optbench.optimizers.linalg import NS_DTYPES, newton_schulz, newton_schulz_dtype
from optbench.space import SearchSpace, complement, geometric


@final
class Muon(BaseOptimizer):
    """Muon on hidden matrices, AdamW on everything else.

    Args:
        params: tensors, named tensors or groups; without roles every tensor of two or more
            dimensions counts as a matrix, or as several.
        lr: learning rate of the matrices, ≥ 0.
        momentum: μ, in [0, 1).
        nesterov: look one step ahead.
        ns_steps: Newton–Schulz iterations, ≥ 1.
        ns_dtype: what they are computed in: "bfloat16", the "state"'s dtype, or "auto", which is
            the first on CUDA and the second elsewhere.
        aux_lr_ratio: learning rate of the AdamW parameters as a multiple of ``lr``, ≥ 0.
        beta1: AdamW's decay of the gradient average, in [0, 1).
        beta2: AdamW's decay of the squared-gradient average, in [0, 1).
        eps: AdamW's ε, ≥ 0.
        weight_decay: λ, ≥ 0, multiplied by the learning rate of the parameter.
    """

    roles: ClassVar[frozenset[Role]] = frozenset({Role.MATRIX})
    auxiliary: ClassVar[type[BaseOptimizer] | None] = AdamW
    takes_tensors: ClassVar[bool] = True
    bounds: ClassVar[Mapping[str, Constraint]] = MappingProxyType(
        {**SHARED_BOUNDS, "ns_dtype": OneOf(NS_DTYPES)}
    )
    # The study's grid; added because its best values were ends: momentum 0.99, aux_lr_ratio above
    # 0.3, beta2 0.99 (beta1 grows downwards by itself).
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.008, 0.016, 0.032, 0.064, 0.128),
        momentum=complement(0.8, 0.9, 0.95, 0.98, 0.99),
        aux_lr_ratio=geometric(0.1, 0.2, 0.3, 0.6, 1.0),
        beta1=complement(0.8, 0.9, 0.95, 0.98),
        beta2=complement(0.9, 0.95, 0.98, 0.99),
        eps=geometric(1e-20, 1e-15, 1e-10, low=1e-20, high=1e-6),
        weight_decay=geometric(0.0, 0.1, 0.2),
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.016,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_dtype: str = "auto",
        aux_lr_ratio: float = 0.2,
        beta1: float = 0.8,
        beta2: float = 0.98,
        eps: float = 1e-10,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_steps": ns_steps,
                "ns_dtype": ns_dtype,
                "aux_lr_ratio": aux_lr_ratio,
                "beta1": beta1,
                "beta2": beta2,
                "eps": eps,
                "weight_decay": weight_decay,
            },
        )

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero momentum."""
        return {"momentum_buffer": torch.zeros_like(like)}

    @classmethod
    def update_flops(cls, shape: tuple[int, ...], group: Group, num_steps: int) -> FlopCount:
        """The Newton–Schulz iterations."""
        stacked = _is_stacked(shape, group)
        work = newton_schulz_flops(
            matrix_shape(shape, stacked=stacked), group["ns_steps"], group["ns_dtype"]
        )
        return work * (num_steps * (math.prod(shape[:-2]) if stacked else 1))

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """√max(1, m/n) · NS(U) for a stack (B, *shape)."""
        momentum = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        if group["nesterov"]:
            momentum = torch.lerp(momentum, grad, 1 - group["momentum"])
        matrices = as_matrices(momentum, stacked=_is_stacked(grad.shape[1:], group))
        rows, columns = matrices.shape[-2:]
        direction = newton_schulz(
            matrices,
            steps=group["ns_steps"],
            compute_dtype=newton_schulz_dtype(group["ns_dtype"], grad),
        ).reshape(grad.shape)
        return direction.mul_(math.sqrt(rows / columns)) if rows > columns else direction


def _is_stacked(shape: Sequence[int], group: Group) -> bool:
    return is_stacked(shape, group, three_axes="experts")
