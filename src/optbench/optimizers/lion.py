r"""Lion: the sign of an interpolated momentum (EvoLved sIgn mOmeNtum).

Chen et al. (2023), "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675, Algorithm 2.

Update, for a parameter W of any shape with gradient g:
    u = sign(β₁·m + (1 − β₁)·g)
    m ← β₂·m + (1 − β₂)·g
    W ← (1 − lr·λ)·W − lr·u
with β₁ = `beta1`, β₂ = `beta2`, λ = `weight_decay`; sign(0) = 0.

State: exp_avg (shape of W) float32 = m.
Cost: 4 bytes per parameter; about 9 FLOPs per parameter and step.

Departures: none from the paper. From the PyTorch code: a NaN gradient makes the parameter NaN, as
in the authors' JAX code, where PyTorch's sign(NaN) = 0 would hide it.

Every element moves by lr, so good learning rates are about a quarter of AdamW's and good weight
decays several times larger.

Reference code: https://github.com/google/automl/tree/master/lion, same signs at every step.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.engine.buckets import Group, State
from optbench.optimizers.engine.compiled import Kernel, Scalars
from optbench.space import SearchSpace, complement, geometric


def lion_kernel(grad: Tensor, state: State, s: Scalars) -> tuple[Tensor, State]:
    """:class:`Lion`'s direction and momentum."""
    before = state["exp_avg"]
    m = s["beta2"] * before + s["1 - beta2"] * grad
    direction = (s["beta1"] * before + s["1 - beta1"] * grad).sign()
    # NaN where `update` has it; 0·m would be simplified away.
    return torch.where(m.isfinite(), direction, torch.nan), {"exp_avg": m}


def lion_scalars(step: int, group: Group) -> dict[str, float]:
    """What :func:`lion_kernel` reads."""
    beta1, beta2 = group["beta1"], group["beta2"]
    return {"beta1": beta1, "1 - beta1": 1 - beta1, "beta2": beta2, "1 - beta2": 1 - beta2}


LION_KERNEL = Kernel(lion_kernel, lion_scalars)


@final
class Lion(BaseOptimizer):
    """Lion on all parameters.

    Args:
        params: tensors, named tensors or groups.
        lr: learning rate, ≥ 0: the size of every element's step.
        beta1: weight of the momentum in the direction, in [0, 1).
        beta2: decay of the momentum, in [0, 1).
        weight_decay: λ, ≥ 0, multiplied by the learning rate.
    """

    elementwise: ClassVar[bool] = True
    # The study's grid; its eleven weight decays from 0 to 1 thinned to six, beta2 = 0.99 (the
    # paper's own default) added.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.0005, 0.001, 0.002, 0.004, 0.008),
        beta1=complement(0.8, 0.9, 0.95, 0.98),
        beta2=complement(0.9, 0.95, 0.98, 0.99),
        weight_decay=geometric(0.0, 0.1, 0.3, 0.5, 0.7, 1.0),
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.002,
        beta1: float = 0.9,
        beta2: float = 0.95,
        weight_decay: float = 0.7,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay}
        )

    @staticmethod
    def kernel(group: Group) -> Kernel | None:
        """For every group."""
        return LION_KERNEL

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero momentum."""
        return {"exp_avg": torch.zeros_like(like)}

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """sign(β₁·m + (1 − β₁)·g), with the m of before this step."""
        m = state["exp_avg"]
        direction = torch.lerp(m, grad, 1 - group["beta1"]).sign_()
        m.lerp_(grad, 1 - group["beta2"])
        # sign(NaN) is 0 in torch: without this term a run that has diverged would seem to stand
        # still. It adds 0 to everything else.
        return direction.add_(m, alpha=0.0)
