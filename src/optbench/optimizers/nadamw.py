r"""NAdamW: AdamW whose first moment looks one step ahead (Nesterov).

Dozat (2016), "Incorporating Nesterov Momentum into Adam", ICLR workshop, Algorithm 2 with constant
β₁; decoupled decay after arXiv 1711.05101.

Update, for a parameter W of any shape with gradient g at step t = 1, 2, …:
    m ← β₁·m + (1 − β₁)·g
    v ← β₂·v + (1 − β₂)·g²
    m̃ = β₁·m/(1 − β₁ᵗ⁺¹) + (1 − β₁)·g/(1 − β₁ᵗ)
    u = m̃ / (√(v/(1 − β₂ᵗ)) + ε)
    W ← (1 − lr·λ)·W − lr·u
with β₁ = `beta1`, β₂ = `beta2`, ε = `eps`, λ = `weight_decay`.

State: exp_avg (shape of W) float32 = m; exp_avg_sq (shape of W) float32 = v.
Cost: 8 bytes per parameter; about 15 FLOPs per parameter and step.

Departures from Algorithm 2: β₁ is constant, where the paper lets it rise by a schedule of its own
(`momentum_decay` of torch.optim.NAdam); the study (arXiv 2509.02046) ran the constant form. Decay
is decoupled and multiplied by the learning rate. PyTorch's fused kernel of AdamW takes the part of
the step that is along m, and three operations on cache-sized pieces the part along g; `update` is
the same in plain operations.

Reference code: torch.optim.NAdam of PyTorch 2.13 with momentum_decay=1e6, at which its schedule is
constant, and decoupled_weight_decay=True; equal to 1e-13 in float64.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# (torch publishes its fused list operations, torch._foreach_*, under private names)
from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor

from optbench.optimizers.adamw import fused_adamw
from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.engine.buckets import FLAT_PIECE_CPU, FusedStep, Group, State, StepSize
from optbench.optimizers.engine.compiled import Kernel, Scalars
from optbench.optimizers.engine.foreach_chunks import foreach_chunks
from optbench.space import SearchSpace, complement, geometric


def fused_nadamw(
    params: list[Tensor],
    grads: list[Tensor],
    state: dict[str, list[Tensor]],
    step: int,
    group: Group,
    step_size: StepSize,
) -> None:
    """The step of :class:`NAdamW` as a step of AdamW along m and one along g."""
    beta1, correction2 = group["beta1"], math.sqrt(1 - group["beta2"] ** step)
    along_m = step_size.lr * beta1 * (1 - beta1**step) / (1 - beta1 ** (step + 1))
    along_g = step_size.lr * (1 - beta1) / (1 - beta1**step)
    # The kernel multiplies its two rates; the weight decay is to be that of the whole step.
    decay = step_size.lr * step_size.weight_decay / along_m if along_m else 0.0
    if not along_m:
        torch._foreach_mul_(params, step_size.decay)
    lists = (params, grads, state["exp_avg"], state["exp_avg_sq"])
    for p, g, m, v in foreach_chunks(lists, FLAT_PIECE_CPU):
        moments = {"exp_avg": m, "exp_avg_sq": v}
        fused_adamw(p, g, moments, step, group, StepSize(along_m, decay))
        # g / (√v̂ + ε) = g·c / (√v + c·ε) with c = √(1 − β₂ᵗ).
        roots = torch._foreach_sqrt(v)
        torch._foreach_add_(roots, correction2 * group["eps"])
        torch._foreach_addcdiv_(p, g, roots, value=-along_g * correction2)


def nadamw_kernel(grad: Tensor, state: State, s: Scalars) -> tuple[Tensor, State]:
    """:class:`NAdamW`'s direction and moments."""
    m = s["beta1"] * state["exp_avg"] + s["1 - beta1"] * grad
    v = s["beta2"] * state["exp_avg_sq"] + s["1 - beta2"] * grad * grad
    ahead = s["along m"] * m + s["along g"] * grad
    direction = ahead / (v.sqrt() * s["root scale"] + s["eps"])
    return direction, {"exp_avg": m, "exp_avg_sq": v}


def nadamw_scalars(step: int, group: Group) -> dict[str, float]:
    """What :func:`nadamw_kernel` reads; the corrections of m̃ = "along m"·m + "along g"·g apart."""
    beta1, beta2 = group["beta1"], group["beta2"]
    return {
        "beta1": beta1,
        "1 - beta1": 1 - beta1,
        "beta2": beta2,
        "1 - beta2": 1 - beta2,
        "along m": beta1 / (1 - beta1 ** (step + 1)),
        "along g": (1 - beta1) / (1 - beta1**step),
        "root scale": 1 / math.sqrt(1 - beta2**step),
        "eps": group["eps"],
    }


NADAMW_KERNEL = Kernel(nadamw_kernel, nadamw_scalars)


@final
class NAdamW(BaseOptimizer):
    """NAdamW on all parameters.

    Args:
        params: tensors, named tensors or groups.
        lr: learning rate, ≥ 0.
        beta1: decay of the gradient average, in [0, 1).
        beta2: decay of the squared-gradient average, in [0, 1).
        eps: added to the root of the second moment, ≥ 0.
        weight_decay: λ, ≥ 0, multiplied by the learning rate.
    """

    elementwise: ClassVar[bool] = True
    fused: ClassVar[FusedStep | None] = staticmethod(fused_nadamw)
    second_moment: ClassVar[bool] = True
    # The study's grid, with beta2 = 0.99 added because 0.98 was best in all of its 12 regimes.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.004, 0.008, 0.016, 0.032),
        beta1=complement(0.8, 0.9, 0.95, 0.98),
        beta2=complement(0.9, 0.95, 0.98, 0.99),
        eps=geometric(1e-20, 1e-15, 1e-10, low=1e-20, high=1e-6),
        weight_decay=geometric(0.0, 0.1, 0.2),
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.008,
        beta1: float = 0.95,
        beta2: float = 0.98,
        eps: float = 1e-10,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay},
        )

    @staticmethod
    def kernel(group: Group) -> Kernel | None:
        """For every group."""
        return NADAMW_KERNEL

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero moments."""
        return {"exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """m̃ / (√v̂ + ε)."""
        beta1, beta2 = group["beta1"], group["beta2"]
        m = state["exp_avg"].lerp_(grad, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        ahead = (m * (beta1 / (1 - beta1 ** (step + 1)))).add_(
            grad, alpha=(1 - beta1) / (1 - beta1**step)
        )
        eps = torch.scalar_tensor(group["eps"], dtype=grad.dtype)
        root = v.sqrt()
        # ε + √v̂ in one pass over memory.
        denominator = torch.add(eps, root, alpha=1 / math.sqrt(1 - beta2**step), out=root)
        return ahead.div_(denominator)
