r"""AdamW: Adam with decoupled weight decay, the baseline of the benchmark.

Loshchilov & Hutter (2019), "Decoupled Weight Decay Regularization", arXiv 1711.05101, Algorithm 2;
the moments are those of Kingma & Ba (2015), arXiv 1412.6980, Algorithm 1.

Update, for a parameter W of any shape with gradient g at step t = 1, 2, …:
    m ← β₁·m + (1 − β₁)·g
    v ← β₂·v + (1 − β₂)·g²
    u = m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
    W ← (1 − lr·λ)·W − lr·u
with β₁ = `beta1`, β₂ = `beta2`, ε = `eps`, λ = `weight_decay`.

State: exp_avg (shape of W) float32 = m; exp_avg_sq (shape of W) float32 = v.
Cost: 8 bytes per parameter; about 12 FLOPs per parameter and step.

Departures from Algorithm 2: decay is multiplied by the learning rate, as in PyTorch and in the
study (arXiv 2509.02046); the paper multiplies it by the schedule's factor alone. PyTorch's fused
kernel takes the step; `update` is the same in plain operations, for parameters whose dtype is not
that of the state, with the two bias corrections folded into the denominator.

Reference code: torch.optim.AdamW of PyTorch 2.13, equal to 1e-14 in float64.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor

from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.engine.buckets import FusedStep, Group, State, StepSize
from optbench.optimizers.engine.compiled import Scalars
from optbench.space import SearchSpace, complement, geometric


def fused_adamw(
    params: list[Tensor],
    grads: list[Tensor],
    state: dict[str, list[Tensor]],
    step: int,
    group: Group,
    step_size: StepSize,
) -> None:
    """The step of :class:`AdamW` by the kernel of ``torch.optim.AdamW(fused=True)``."""
    steps = [torch.tensor(float(step), device=params[0].device)] * len(params)
    torch._fused_adamw_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        params,
        grads,
        state["exp_avg"],
        state["exp_avg_sq"],
        [],
        steps,
        lr=step_size.lr,
        beta1=group["beta1"],
        beta2=group["beta2"],
        weight_decay=step_size.weight_decay,
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def adamw_kernel(grad: Tensor, state: State, s: Scalars) -> tuple[Tensor, State]:
    """AdamW's direction and moments, for kernels that contain it."""
    m = s["beta1"] * state["exp_avg"] + s["1 - beta1"] * grad
    v = s["beta2"] * state["exp_avg_sq"] + s["1 - beta2"] * grad * grad
    direction = m / (v.sqrt() * s["root scale"] + s["eps"])
    return direction, {"exp_avg": m, "exp_avg_sq": v}


def adamw_scalars(step: int, group: Group) -> dict[str, float]:
    """What :func:`adamw_kernel` reads: m̂ / (√v̂ + ε) is m / (√v·c₁/√c₂ + c₁·ε), cᵢ = 1 − βᵢᵗ."""
    beta1, beta2 = group["beta1"], group["beta2"]
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    return {
        "beta1": beta1,
        "1 - beta1": 1 - beta1,
        "beta2": beta2,
        "1 - beta2": 1 - beta2,
        "root scale": correction1 / math.sqrt(correction2),
        "eps": correction1 * group["eps"],
    }


@final
class AdamW(BaseOptimizer):
    """AdamW on all parameters.

    Args:
        params: tensors, named tensors or groups.
        lr: learning rate, ≥ 0.
        beta1: decay of the gradient average, in [0, 1).
        beta2: decay of the squared-gradient average, in [0, 1).
        eps: added to the root of the second moment, ≥ 0.
        weight_decay: λ, ≥ 0, multiplied by the learning rate.
    """

    elementwise: ClassVar[bool] = True
    fused: ClassVar[FusedStep | None] = staticmethod(fused_adamw)
    second_moment: ClassVar[bool] = True
    # The study's grid, with beta1 = 0.8 and beta2 = 0.99 added because its best values were the
    # ends 0.9 and 0.98 in all of its 12 regimes.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.002, 0.004, 0.008, 0.016, 0.032),
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
        beta1: float = 0.9,
        beta2: float = 0.98,
        eps: float = 1e-10,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay},
        )

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero moments."""
        return {"exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """m̂ / (√v̂ + ε)."""
        beta1, beta2 = group["beta1"], group["beta2"]
        m = state["exp_avg"].lerp_(grad, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        # (ε + √v̂)·correction1: one pass over memory instead of three.
        eps = torch.scalar_tensor(correction1 * group["eps"], dtype=grad.dtype)
        root = v.sqrt()
        denominator = torch.add(eps, root, alpha=correction1 / math.sqrt(correction2), out=root)
        return torch.div(m, denominator, out=denominator)
