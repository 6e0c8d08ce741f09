r"""Cautious: AdamW that moves only the elements whose direction agrees with the present gradient.

Liang et al. (2024), "Cautious Optimizers: Improving Training with One Line of Code",
arXiv 2411.16085, Algorithm 1 applied to AdamW (C-AdamW).

Update, for a parameter W of any shape with gradient g at step t = 1, 2, …:
    m ← β₁·m + (1 − β₁)·g
    v ← β₂·v + (1 − β₂)·g²
    u = m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
    φ = 1 where u·g > 0, else 0
    W ← (1 − lr·λ)·W − lr·u·φ / max(mean(φ), 1e-3)
with β₁ = `beta1`, β₂ = `beta2`, ε = `eps`, λ = `weight_decay`, and the mean over this tensor.

State: exp_avg (shape of W) float32 = m; exp_avg_sq (shape of W) float32 = v.
Cost: 8 bytes per parameter; about 16 FLOPs per parameter and step.

Departures: none from the authors' default code, but that φ is that of m·g there, the same but where
the product underflows; their path for `foreach=False` adds ε to √v before the bias correction. The
floor 1e-3 of the mean is that of their code; their paper and the study divide by mean(φ) + ε, which
is `clamp_mask` = False. The study also takes the mean over all layers of a
weight together, an effect of how it stores them, which is not reproduced.

An element without gradient is masked, so the rows of rare tokens do not drift on old momentum and
beta1 > √beta2 is harmless.

Reference code: https://github.com/kyleliang919/C-Optim at 2c0517c, c_adamw.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from optbench.optimizers.adamw import AdamW, adamw_kernel, adamw_scalars
from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.engine.batched_norms import tensor_means
from optbench.optimizers.engine.buckets import Group, State
from optbench.optimizers.engine.compiled import Kernel, Scalars
from optbench.space import SearchSpace, Value, complement, geometric

MASK_FLOOR = 1e-3


def cautious_kernel(grad: Tensor, state: State, s: Scalars) -> tuple[Tensor, State]:
    """:class:`Cautious`'s direction and moments."""
    direction, after = adamw_kernel(grad, state, s)
    m = after["exp_avg"]
    # The signs of m and u are equal, and those of m are there before any division.
    mask = (((m > 0) & (grad > 0)) | ((m < 0) & (grad < 0))).to(grad.dtype)
    scale = (mask.mean() + s["mask eps"]).maximum(s["mask floor"])
    return direction * (mask / scale), after


def cautious_scalars(step: int, group: Group) -> dict[str, float]:
    """What :func:`cautious_kernel` reads: the least divisor is a floor, or a summand."""
    clamp = group["clamp_mask"]
    return {
        **adamw_scalars(step, group),
        "mask eps": 0.0 if clamp else group["eps"],
        "mask floor": MASK_FLOOR if clamp else torch.finfo(torch.float32).tiny,
    }


CAUTIOUS_KERNEL = Kernel(cautious_kernel, cautious_scalars)


@final
class Cautious(BaseOptimizer):
    """Cautious AdamW on all parameters.

    Args:
        params: tensors, named tensors or groups.
        lr: learning rate, ≥ 0.
        beta1: decay of the gradient average, in [0, 1).
        beta2: decay of the squared-gradient average, in [0, 1).
        eps: added to the root of the second moment, ≥ 0.
        weight_decay: λ, ≥ 0, multiplied by the learning rate; never masked.
        clamp_mask: divide by at least 1e-3 where few elements agree; otherwise by their share plus
            ``eps``.
    """

    # The study's grid, with beta2 = 0.99 added because 0.98 was best in all of its 12 regimes, and
    # lr = 0.004 because it was best in its longest runs.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.004, 0.008, 0.016, 0.032),
        beta1=complement(0.8, 0.9, 0.95, 0.98),
        beta2=complement(0.9, 0.95, 0.98, 0.99),
        eps=geometric(1e-20, 1e-15, 1e-10, low=1e-20, high=1e-6),
        weight_decay=geometric(0.0, 0.1, 0.2),
    )
    paper: ClassVar[Mapping[str, Value]] = MappingProxyType({"clamp_mask": False})

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.008,
        beta1: float = 0.95,
        beta2: float = 0.98,
        eps: float = 1e-10,
        weight_decay: float = 0.1,
        clamp_mask: bool = True,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "beta1": beta1,
                "beta2": beta2,
                "eps": eps,
                "weight_decay": weight_decay,
                "clamp_mask": clamp_mask,
            },
        )

    @staticmethod
    def kernel(group: Group) -> Kernel | None:
        """For every group."""
        return CAUTIOUS_KERNEL

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero moments."""
        return AdamW.init_state(like, group)

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """AdamW's direction, masked and rescaled tensor by tensor for a stack (B, *shape)."""
        direction = AdamW.update(grad, state, step, group)
        # u·g and not m·g: the direction is of order one, so the product does not underflow.
        mask = direction * grad
        torch.gt(mask, 0, out=mask)
        kept = tensor_means(mask)
        floor = MASK_FLOOR if group["clamp_mask"] else torch.finfo(grad.dtype).tiny
        scale = (kept if group["clamp_mask"] else kept + group["eps"]).clamp(min=floor)
        return direction.mul_(mask.div_(scale))
