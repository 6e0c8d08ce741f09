"""A sharded optimizer: each rank steps the parameters that it owns, and keeps their state alone.

This is ZeroRedundancyOptimizer's scheme. Every parameter has one owner, so a method sees whole
matrices and needs no change; the owner broadcasts what it has stepped, so all ranks go on with the
same bits, those that one process would have got from the same gradients.

What a rank gets is an ordinary instance of the optimizer's class over its own parameters: learning
rate schedules, curvature estimates and ``state_dict`` work as always, each on the own part. No
parameter is ever in two states and no state depends on the number of ranks.

The state of a rank is at most 1/k of the whole and 5 % of that, as long as parameters are small
enough: a rank that owns one larger than that has more, such as an embedding that makes up a half
of a small model. An optimizer that couples parameters, such as by a common norm, has to add the
others' part (:attr:`~optbench.optimizers.base.BaseOptimizer.sum_over_owners`); one that does not
takes the norm over the rank's own.

torch's own ZeroRedundancyOptimizer (2.13) is not used. It deals out elements, group after group,
and has no public way to do otherwise; on the 130m model and three ranks its fullest has 1.25 times
an even share of AdamW's state and 1.33 times one of Muon's, where 1.00 and 1.05 are possible. It
wraps the optimizer, which then is no curvature optimizer any more. Its import compiles deprecated
TorchScript, whose warnings are errors in the tests, and it calls itself experimental.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from optbench.config import ConfigError
from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.engine.buckets import Group
from optbench.training.distributed.process_group import ProcessGroup
from optbench.training.memory import state_bytes_of

AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)

WORK_STEPS = 1000  # over which work that is not done in every step is averaged
SLACK = 0.05  # of a rank's even share of the state, to even out the work


@dataclass(frozen=True, slots=True)
class Load:
    """What a parameter costs its owner.

    Args:
        state: bytes, or anything in proportion.
        work: FLOPs of an update besides its memory traffic, or anything in proportion.
    """

    state: float
    work: float = 0.0


def sharded(
    build: Callable[[list[Group]], AnyOptimizer], groups: Iterable[Group], ranks: ProcessGroup
) -> AnyOptimizer:
    """The optimizer of the parameters that this rank owns; a step of it updates all parameters.

    All ranks must call ``step`` together.

    Args:
        build: makes the optimizer from parameter groups, some of which may be empty; a class, or a
            function that adds the hyperparameters.
        groups: of all parameters, the same on every rank.

    Raises:
        ConfigError: there are fewer parameters than ranks.
    """
    groups = [{**group, "params": list(group["params"])} for group in groups]
    params: list[Tensor] = [param for group in groups for param in group["params"]]
    if len(params) < ranks.size:
        raise ConfigError(
            [
                f"Each of the {ranks.size} devices of a run steps whole parameters, but the model "
                f"has only {len(params)}. Use {len(params)} devices at most."
            ]
        )
    # torch puts the defaults into the groups that it is given.
    whole = build([dict(group) for group in groups])
    owners = owners_of(_loads(whole, params), ranks.size)
    owner_of = dict(zip(map(id, params), owners, strict=True))
    optimizer = build(
        [
            {**group, "params": [p for p in group["params"] if owner_of[id(p)] == ranks.rank]}
            for group in groups
        ]
    )
    if isinstance(optimizer, BaseOptimizer):
        optimizer.sum_over_owners = lambda own: _sum(own, ranks)
    parts = _parts(params, owners)

    def exchange(*_: object) -> None:
        _exchange(parts, ranks)

    optimizer.register_step_post_hook(exchange)
    return optimizer


def owners_of(loads: Sequence[Load], size: int) -> list[int]:
    """The owner of each parameter, 0 to ``size`` − 1; every one owns something.

    The largest state goes first, each to the rank with the least work among those whose state stays
    within an even share and :data:`SLACK`; where there is none, to the rank with the least state.

    Args:
        loads: at least ``size`` of them.
    """
    # What has no state weighs a little, so that it is dealt out too.
    trifle = sum(load.state for load in loads) / (1000 * len(loads)) or 1.0
    weights = [max(load.state, trifle) for load in loads]
    limit = (1 + SLACK) * sum(weights) / size
    state, work = [0.0] * size, [0.0] * size
    owners = [0] * len(loads)
    for index in sorted(range(len(loads)), key=lambda i: -weights[i]):
        weight = weights[index]
        fitting = [rank for rank in range(size) if state[rank] + weight <= limit]
        # Of equal ranks the first; one that has nothing yet has the least of both.
        if fitting:
            owner = min(fitting, key=lambda rank: (work[rank], state[rank]))
        else:
            owner = min(range(size), key=lambda rank: state[rank])
        owners[index] = owner
        state[owner] += weight
        work[owner] += loads[index].work
    return owners


def _loads(optimizer: torch.optim.Optimizer, params: Iterable[Tensor]) -> list[Load]:
    """The load of each parameter; of an optimizer that is not ours, state as large as elements."""
    loads = {id(param): Load(float(param.numel())) for param in params}
    if isinstance(optimizer, BaseOptimizer):
        for group in optimizer.param_groups:
            for param in group["params"]:
                shape = tuple(param.shape)
                work = optimizer.rule_of(group, shape).update_flops(shape, group, WORK_STEPS)
                loads[id(param)] = Load(
                    state=float(state_bytes_of(optimizer, group, shape)),
                    work=work.bf16_flops + work.fp32_flops + work.factor_flops,
                )
    return list(loads.values())


def _parts(params: Sequence[Tensor], owners: Sequence[int]) -> list[tuple[int, list[Tensor]]]:
    """Parameters of one owner and one dtype, which travel together."""
    parts: dict[tuple[int, torch.dtype], list[Tensor]] = defaultdict(list)
    for param, owner in zip(params, owners, strict=True):
        parts[owner, param.dtype].append(param.detach())
    return [(owner, tensors) for (owner, _), tensors in parts.items()]


def _exchange(parts: Sequence[tuple[int, list[Tensor]]], ranks: ProcessGroup) -> None:
    """Give all ranks what each owner has stepped, in one message per owner."""
    for owner, tensors in parts:
        sizes = [tensor.numel() for tensor in tensors]
        if owner == ranks.rank:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        else:
            flat = tensors[0].new_empty(sum(sizes))
        dist.broadcast(flat, src=owner)
        if owner != ranks.rank:
            for tensor, piece in zip(tensors, flat.split(sizes), strict=True):
                tensor.copy_(piece.view_as(tensor))


def _sum(own: Tensor, ranks: ProcessGroup) -> Tensor:
    """The sum over the ranks, whose tensors may be of several dtypes."""
    return ranks.sum(own.to(ranks.device, torch.float64, copy=True)).to(own.dtype)
