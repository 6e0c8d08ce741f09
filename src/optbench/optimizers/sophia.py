r"""Sophia: momentum divided by a curvature estimate and clipped element by element.

Liu et al. (2023), "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
Pre-training", arXiv 2305.14342, Algorithm 3 with the Gauss-Newton-Bartlett estimator of
Algorithm 2 (Sophia-G).

Update, for a parameter W of any shape with gradient g:
    m ← β₁·m + (1 − β₁)·g
    u = sign(m)·min(|m| / (ρ·h + ε), 1)
    W ← (1 − lr·λ)·W − lr·u
and after every k steps
    h ← β₂·h + (1 − β₂)·B·ĝ²
with ĝ the gradient of the mean cross-entropy over B tokens, on labels drawn from the model's own
predictions; β₁ = `beta1`, β₂ = `beta2`, ρ = `rho`, ε = `eps`, λ = `weight_decay`,
k = `curvature_interval`, B = the argument of `update_curvature`.

With `estimator` = "hutchinson" (Sophia-H, Algorithm 1), at step t:
    u = clamp(m/(1 − β₁ᵗ) / max(ρ·h, ε), −1, 1)
    h ← β₂·h + (1 − β₂)·ẑ                          after every k steps
with ẑ = z ⊙ ∇²L·z for a standard normal z. Its ρ (the study's γ) is on another scale.

State: exp_avg (shape of W) float32 = m; hessian (shape of W) float32 = h.
Cost: 8 bytes per parameter; about 9 FLOPs per parameter and step, and one more forward and backward
pass per k steps.

Departures: Algorithm 3 estimates before step 1 already; here, as in the authors' code, h is zero
until step k and the method is momentum by sign. B enters h when the estimate is taken, as in
Algorithm 2; the authors' code multiplies by it at every step, the same thing for constant B. The
authors' training script also clips ĝ by its norm, their description and Algorithm 2 do not: that
is left to the caller. Sophia-H has no floor of zero on h and corrects the bias of m, both as in the
study (arXiv 2509.02046), which ran this form. The study takes the estimate of steps k, 2k, … at the
weights before the step, on its batch; here, as in the authors' code, it is taken at those after it.
In both it acts from the next step on.

Reference code: https://github.com/Liuhong99/Sophia at a7e1572.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from optbench.optimizers.base import Params
from optbench.optimizers.curvature import CurvatureOptimizer, CurvatureSource
from optbench.optimizers.engine.buckets import Group, State
from optbench.optimizers.engine.compiled import Kernel, Scalars
from optbench.optimizers.hyperparameters import (
    NON_NEGATIVE,
    POSITIVE_INTEGER,
    SHARED_BOUNDS,
    Constraint,
    OneOf,
)
from optbench.space import SearchSpace, Value, complement, geometric

SOURCES = {
    "gnb": CurvatureSource.SAMPLED_LABELS,
    "hutchinson": CurvatureSource.HESSIAN_PRODUCT,
}


def sophia_kernel(grad: Tensor, state: State, s: Scalars) -> tuple[Tensor, State]:
    """:class:`Sophia`'s direction and momentum, for both estimators."""
    m = s["beta1"] * state["exp_avg"] + s["1 - beta1"] * grad
    curvature = (s["rho"] * state["hessian"] + s["eps"]).maximum(s["floor"])
    return (m / (s["correction"] * curvature)).clamp(-1, 1), {"exp_avg": m}


def sophia_scalars(step: int, group: Group) -> dict[str, float]:
    """What :func:`sophia_kernel` reads: ε is a summand without floor, or a floor alone."""
    beta1, eps, gnb = group["beta1"], group["eps"], group["estimator"] == "gnb"
    return {
        "beta1": beta1,
        "1 - beta1": 1 - beta1,
        "rho": group["rho"],
        "eps": eps if gnb else 0.0,
        "floor": -math.inf if gnb else eps,
        "correction": 1.0 if gnb else 1 - beta1**step,
    }


SOPHIA_KERNEL = Kernel(sophia_kernel, sophia_scalars)


@final
class Sophia(CurvatureOptimizer):
    """Sophia on all parameters; the caller must give a curvature estimate every so many steps.

    Args:
        params: tensors, named tensors or groups.
        lr: learning rate, ≥ 0: the largest step of an element.
        beta1: decay of the gradient average, in [0, 1).
        beta2: decay of the average of curvature estimates, in [0, 1).
        eps: keeps the divisor from zero, ≥ 0.
        weight_decay: λ, ≥ 0, multiplied by the learning rate.
        rho: ρ, ≥ 0; the larger, the fewer elements are clipped.
        curvature_interval: steps between two estimates, ≥ 1.
        estimator: "gnb" or "hutchinson"; the same for all groups.
    """

    elementwise: ClassVar[bool] = True
    structural: ClassVar[frozenset[str]] = frozenset({"estimator"})
    # The study's grid of beta1 and weight decay, and of lr with smaller ones added because its
    # longest runs chose 0.002; rho around the authors' values, since the study ran Sophia-H.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.001, 0.002, 0.004, 0.008, 0.016),
        beta1=complement(0.8, 0.9, 0.95, 0.965, 0.98),
        beta2=complement(0.9, 0.95, 0.98, 0.99, 0.995),
        weight_decay=geometric(0.0, 0.1, 0.2, 0.3),
        rho=geometric(0.02, 0.04, 0.08, 0.16),
    )
    bounds: ClassVar[Mapping[str, Constraint]] = MappingProxyType(
        {
            **SHARED_BOUNDS,
            "rho": NON_NEGATIVE,
            "curvature_interval": POSITIVE_INTEGER,
            "estimator": OneOf(tuple(SOURCES)),
        }
    )
    paper: ClassVar[Mapping[str, Value]] = MappingProxyType(
        {"estimator": "hutchinson", "rho": 0.0125, "eps": 1e-7}
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.004,
        beta1: float = 0.965,
        beta2: float = 0.99,
        eps: float = 1e-15,
        weight_decay: float = 0.2,
        rho: float = 0.04,
        curvature_interval: int = 10,
        estimator: str = "gnb",
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "beta1": beta1,
                "beta2": beta2,
                "eps": eps,
                "weight_decay": weight_decay,
                "rho": rho,
                "curvature_interval": curvature_interval,
                "estimator": estimator,
            },
        )

    @classmethod
    def extra_passes(cls, group: Group, num_steps: int) -> float:
        """One pass per estimate on sampled labels, three for a product with the Hessian.

        The latter is a forward and a backward pass and the derivative of both, which takes twice as
        long as they do.
        """
        passes = 1.0 if group["estimator"] == "gnb" else 3.0
        return passes * (num_steps // group["curvature_interval"])

    @property
    def curvature_source(self) -> CurvatureSource:
        """Sampled labels for Sophia-G, a Hessian product for Sophia-H.

        Raises:
            ValueError: the groups have both.
        """
        estimators = {group["estimator"] for group in self.param_groups}
        if len(estimators) > 1:
            raise ValueError(
                f"All groups must have one `estimator`, but got {', '.join(sorted(estimators))}. "
                f"Build an optimizer for each."
            )
        return SOURCES[estimators.pop()]

    @staticmethod
    def kernel(group: Group) -> Kernel | None:
        """For every group."""
        return SOPHIA_KERNEL

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero momentum and zero curvature."""
        return {"exp_avg": torch.zeros_like(like), "hessian": torch.zeros_like(like)}

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """The momentum over the curvature, within [−1, 1]."""
        m = state["exp_avg"].lerp_(grad, 1 - group["beta1"])
        if group["estimator"] == "gnb":
            # h is never negative, so that clipping keeps the sign of m.
            eps = torch.scalar_tensor(group["eps"], dtype=grad.dtype)
            curvature = torch.add(eps, state["hessian"], alpha=group["rho"])
            ratio = torch.div(m, curvature, out=curvature)
        else:
            curvature = (state["hessian"] * group["rho"]).clamp_(min=group["eps"])
            ratio = m / curvature.mul_(1 - group["beta1"] ** step)
        return ratio.clamp_(-1, 1)

    @staticmethod
    def update_curvature_state(
        estimate: Tensor, state: State, batch_tokens: int, group: Group
    ) -> None:
        """One step of the average h."""
        beta2 = group["beta2"]
        if group["estimator"] == "gnb":
            weight = (1 - beta2) * batch_tokens
            state["hessian"].mul_(beta2).addcmul_(estimate, estimate, value=weight)
        else:
            state["hessian"].lerp_(estimate, 1 - beta2)
