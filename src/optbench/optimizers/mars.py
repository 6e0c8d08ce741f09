r"""Mars: AdamW on gradients corrected by their last change (variance reduction by recursion).

Yuan et al. (2024), "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
arXiv 2411.10438, Algorithm 2 (MARS-AdamW) in its approximate form, which compares gradients of two
batches instead of evaluating the last batch anew.

Update, for a matrix W with gradient g, the one before it g⁻ (zero at first) at step t = 1, 2, …:
    c = g + γ·β₁/(1 − β₁)·(g − g⁻)
    c ← c / max(1, ‖c‖)
    m ← β₁·m + (1 − β₁)·c
    v ← β₂·v + (1 − β₂)·c²
    u = m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
    W ← (1 − lr·λ)·W − lr·u
with γ = `gamma`, β₁ = `beta1`, β₂ = `beta2`, ε = `eps`, λ = `weight_decay`, and ‖c‖ the norm over
this matrix. Everything that is not a matrix is stepped by AdamW on g at learning rate
`aux_lr_ratio`·lr, or by the rule above with `optimize_1d`.

State: exp_avg (m, n) float32 = m; exp_avg_sq (m, n) float32 = v; previous_grad (m, n) float32 = g⁻,
as it came, neither corrected nor clipped; exp_avg and exp_avg_sq for the rest.
Cost: 12 bytes per parameter of a matrix, 8 of the rest; about 18 FLOPs per parameter and step.

Departures: g⁻ is a copy. The authors' code keeps a reference to `p.grad`, so that a buffer written
again turns the method into AdamW without a word. AdamW shares β₁, β₂ and λ with the matrices, where
the authors give it values of its own. The study clips all corrected gradients by one norm,
c · min(1, 1/(‖c‖ + 1e-6)), which is `clip_scope` = "global", and takes everything for a matrix,
which is `optimize_1d`.

Reference code: https://github.com/AGI-Arena/MARS at 4831e28, mars_type="mars-adamw".
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# (torch publishes its fused list operations, torch._foreach_*, under private names)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from optbench.config import Role
from optbench.optimizers.adamw import AdamW, adamw_kernel, adamw_scalars, fused_adamw
from optbench.optimizers.base import BaseOptimizer, Params
from optbench.optimizers.engine.batched_norms import tensor_norms
from optbench.optimizers.engine.buckets import Bucket, FusedStep, Group, State, StepSize
from optbench.optimizers.engine.compiled import Kernel, Scalars
from optbench.optimizers.engine.foreach_chunks import foreach_chunks
from optbench.optimizers.hyperparameters import NON_NEGATIVE, SHARED_BOUNDS, Constraint, OneOf
from optbench.space import SearchSpace, Value, complement, geometric


def fused_mars(
    params: list[Tensor],
    grads: list[Tensor],
    state: dict[str, list[Tensor]],
    step: int,
    group: Group,
    step_size: StepSize,
) -> None:
    """The step of :class:`Mars`; the part of it that is AdamW's by torch's fused kernel."""
    weight = _weight(group)
    lists = (params, grads, state["exp_avg"], state["exp_avg_sq"], state["previous_grad"])
    for p, g, m, v, previous in foreach_chunks(lists):
        corrected = torch._foreach_sub(g, previous)
        torch._foreach_mul_(corrected, weight)
        torch._foreach_add_(corrected, g)
        if group["clip_scope"] == "tensor":
            norms = torch._foreach_norm(corrected)
            torch._foreach_clamp_min_(norms, 1.0)
            torch._foreach_div_(corrected, norms)
        else:
            factor = group["clip_factor"].to(corrected[0])
            torch._foreach_mul_(corrected, factor)
        torch._foreach_copy_(previous, g)
        fused_adamw(p, list(corrected), {"exp_avg": m, "exp_avg_sq": v}, step, group, step_size)


def mars_kernel(grad: Tensor, state: State, s: Scalars) -> tuple[Tensor, State]:
    """:class:`Mars`'s direction and state, with clipping by tensor."""
    corrected = grad + s["weight"] * (grad - state["previous_grad"])
    clipped = corrected / torch.linalg.vector_norm(corrected).clamp(min=1)
    direction, moments = adamw_kernel(clipped, state, s)
    return direction, {**moments, "previous_grad": grad}


def mars_scalars(step: int, group: Group) -> dict[str, float]:
    """What :func:`mars_kernel` reads."""
    return {**adamw_scalars(step, group), "weight": _weight(group)}


MARS_KERNEL = Kernel(mars_kernel, mars_scalars)


@final
class Mars(BaseOptimizer):
    """Mars on matrices, embedding and head included; AdamW on everything else.

    Args:
        params: tensors, named tensors or groups; without roles every 2-D tensor counts as a matrix.
        lr: learning rate, ≥ 0.
        beta1: decay of the average of corrected gradients, in [0, 1).
        beta2: decay of the average of their squares, in [0, 1).
        eps: added to the root of the second moment, ≥ 0.
        weight_decay: λ, ≥ 0, multiplied by the learning rate of the parameter.
        gamma: γ, ≥ 0, weight of the correction; 0 leaves AdamW with clipping.
        clip_scope: what the norm of the corrected gradient is taken over before it is limited to 1:
            each "tensor", or all of them together ("global").
        optimize_1d: apply the rule to vectors too.
        aux_lr_ratio: learning rate of the AdamW parameters as a multiple of ``lr``, ≥ 0.
    """

    roles: ClassVar[frozenset[Role]] = frozenset({Role.MATRIX, Role.EMBEDDING, Role.HEAD})
    auxiliary: ClassVar[type[BaseOptimizer] | None] = AdamW
    fused: ClassVar[FusedStep | None] = staticmethod(fused_mars)
    second_moment: ClassVar[bool] = True
    structural: ClassVar[frozenset[str]] = frozenset({"optimize_1d"})
    # The study's grid, with lr = 0.004 added because it was best in its longest runs.
    space: ClassVar[SearchSpace] = SearchSpace(
        lr=geometric(0.004, 0.008, 0.016, 0.032),
        beta1=complement(0.8, 0.9, 0.95, 0.98),
        beta2=complement(0.9, 0.95, 0.98, 0.99),
        eps=geometric(1e-20, 1e-15, 1e-10, low=1e-20, high=1e-6),
        weight_decay=geometric(0.0, 0.1, 0.2),
        gamma=geometric(0.0125, 0.025, 0.05, 0.1),
    )
    bounds: ClassVar[Mapping[str, Constraint]] = MappingProxyType(
        {**SHARED_BOUNDS, "gamma": NON_NEGATIVE, "clip_scope": OneOf(("tensor", "global"))}
    )
    paper: ClassVar[Mapping[str, Value]] = MappingProxyType(
        {"clip_scope": "global", "optimize_1d": True}
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.016,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-10,
        weight_decay: float = 0.1,
        gamma: float = 0.025,
        clip_scope: str = "tensor",
        optimize_1d: bool = False,
        aux_lr_ratio: float = 1.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "beta1": beta1,
                "beta2": beta2,
                "eps": eps,
                "weight_decay": weight_decay,
                "gamma": gamma,
                "clip_scope": clip_scope,
                "optimize_1d": optimize_1d,
                "aux_lr_ratio": aux_lr_ratio,
            },
        )

    def rule_of(self, group: Group, shape: Sequence[int]) -> type[BaseOptimizer]:
        """AdamW for what is no matrix, unless the group has `optimize_1d`."""
        return type(self) if group["optimize_1d"] else super().rule_of(group, shape)

    def prepare_step(self, buckets: Sequence[Bucket]) -> Sequence[Group]:
        """Groups that also hold the factor of the common clip, where one asks for it."""
        groups = super().prepare_step(buckets)
        if not any(group["clip_scope"] == "global" for group in groups):
            return groups
        self._check_owners()
        squares = [
            square
            for bucket in buckets
            if bucket.rule is type(self) and bucket.group_of(groups)["clip_scope"] == "global"
            for square in bucket.measure(_squared_norm, groups)
        ]
        square = _sum(squares)
        norm = (square if self.sum_over_owners is None else self.sum_over_owners(square)).sqrt()
        factor = (1 / (norm + 1e-6)).clamp(max=1)
        return [{**group, "clip_factor": factor} for group in groups]

    def _check_owners(self) -> None:
        """Refuse a common norm where it is not known of which parameters.

        Raises:
            RuntimeError: there are several processes, and none has set how to add up.
        """
        if self.sum_over_owners is None and dist.is_initialized() and dist.get_world_size() > 1:
            raise RuntimeError(
                f"Mars with clip_scope='global' clips by a norm over all parameters, but of "
                f"{dist.get_world_size()} processes each may hold some of them only. Set "
                f"`optimizer.sum_over_owners` to a function that adds up a tensor over the "
                f"processes, or to `lambda own: own` where each holds all parameters "
                f"(DistributedDataParallel); or take clip_scope='tensor'."
            )

    @staticmethod
    def kernel(group: Group) -> Kernel | None:
        """Unless all parameters are clipped by one norm."""
        return MARS_KERNEL if group["clip_scope"] == "tensor" else None

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """Zero moments and a zero gradient before the first."""
        return {**AdamW.init_state(like, group), "previous_grad": torch.zeros_like(like)}

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """AdamW's direction for the corrected and clipped gradients of a stack (B, *shape)."""
        corrected = _corrected(grad, state, group)
        if group["clip_scope"] == "tensor":
            corrected.div_(tensor_norms(corrected).clamp(min=1))
        else:
            corrected.mul_(group["clip_factor"].to(corrected))
        state["previous_grad"].copy_(grad)
        return AdamW.update(corrected, state, step, group)


def _corrected(grad: Tensor, state: State, group: Group) -> Tensor:
    """The recursion c, before clipping; a new tensor."""
    change = grad - state["previous_grad"]
    return torch.add(grad, change, alpha=_weight(group), out=change)


def _weight(group: Group) -> float:
    """γ·β₁/(1 − β₁)."""
    return float(group["gamma"] * group["beta1"] / (1 - group["beta1"]))


def _squared_norm(grad: Tensor, state: State, group: Group) -> Tensor:
    return torch.linalg.vector_norm(_corrected(grad, state, group)).square()


def _sum(squares: Sequence[Tensor]) -> Tensor:
    if not squares:
        return torch.zeros(())
    return torch.stack([square.to(squares[0]) for square in squares]).sum()
