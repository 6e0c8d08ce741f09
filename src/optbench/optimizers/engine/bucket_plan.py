"""Which parameters are stepped together, and for how long a division of them holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optbench.optimizers.engine.buckets import (
    Bucket,
    FlatBucket,
    Group,
    Member,
    Rule,
    StackedBucket,
)


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """Buckets, and all that must stay as it was for them to serve the next step.

    Args:
        pointers: where the data of the parameters with gradients lie, group by group.
        partition: for each group the first group that it can share flat buckets with.
        batched: whether parameters share buckets at all.
        buckets: together every parameter with a gradient, once.
    """

    pointers: list[int]
    partition: list[int]
    batched: bool
    buckets: list[Bucket]

    def fits(
        self,
        pointers: list[int],
        partition: list[int],
        batched: bool,
        state: Mapping[Tensor, Any],
    ) -> bool:
        """Whether nothing has changed that the buckets depend on."""
        return (
            self.pointers == pointers
            and self.partition == partition
            and self.batched == batched
            and all(bucket.is_current(state) for bucket in self.buckets)
        )


def active_parameters(groups: Sequence[Group]) -> tuple[list[tuple[int, Tensor]], list[int]]:
    """Parameters with a gradient, each with its group's index; and where their data lie.

    Raises:
        ValueError: a gradient that is not a dense tensor.
    """
    active: list[tuple[int, Tensor]] = []
    pointers: list[int] = []
    for index, group in enumerate(groups):
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if grad.layout is not torch.strided:
                raise ValueError(
                    f"Gradients must be dense, but a parameter of shape {tuple(param.shape)} "
                    f"has one of layout {grad.layout}. Build the embedding with sparse=False."
                )
            active.append((index, param))
            pointers.append(param.data_ptr())
        pointers.append(-1 - index)
    return active, pointers


def partition_of(groups: Sequence[Group], names: Iterable[str]) -> list[int]:
    """For each group the first group with the same values of these hyperparameters."""
    keys = [tuple(group[name] for name in names) for group in groups]
    return [keys.index(key) for key in keys]


@dataclass(frozen=True, slots=True)
class Division:
    """How parameters are divided among buckets.

    Args:
        groups: of the optimizer.
        rule_of: the method that steps a parameter of a group, by its shape.
        partition: for each group the first group that it can share flat buckets with.
        batched: whether parameters share buckets at all.
    """

    groups: Sequence[Group]
    rule_of: Callable[[Group, Sequence[int]], Rule]
    partition: Sequence[int]
    batched: bool

    def buckets(
        self, active: Iterable[tuple[int, Tensor]], state: dict[Tensor, dict[str, Any]]
    ) -> list[Bucket]:
        """Buckets of parameters, each with its group's index; the state moves into them."""
        cohorts: dict[tuple[Any, ...], list[Member]] = {}
        active = list(active)
        for group_index, param in active:
            rule = self.rule_of(self.groups[group_index], param.shape)
            entry = state[param]
            step = int(entry.get("step", 0))
            where = (
                ("flat", self.partition[group_index])
                if self._is_flat(rule, param)
                else ("stacked", group_index, param.shape, None if self.batched else id(param))
            )
            key = (rule, param.dtype, param.device, step, *where)
            cohorts.setdefault(key, []).append(Member(param, group_index, entry))
        _release_idle(active, state)
        return [self._bucket(key[0], members) for key, members in cohorts.items()]

    def _is_flat(self, rule: Rule, param: Tensor) -> bool:
        return self.batched and rule.elementwise and param.is_contiguous()

    def _bucket(self, rule: Rule, members: list[Member]) -> Bucket:
        first = members[0]
        kind = FlatBucket if self._is_flat(rule, first.param) else StackedBucket
        if kind is FlatBucket:
            # Large tensors first within a group, so that pieces of them start at round offsets.
            members = sorted(members, key=lambda m: (m.group_index, -m.param.numel()))
        step = int(first.entry.get("step", 0))
        return kind(rule, members, step, self.groups[first.group_index])


def _release_idle(
    active: Iterable[tuple[int, Tensor]], state: Mapping[Tensor, dict[str, Any]]
) -> None:
    """Give parameters that now lack a gradient their own state, lest views pin old buffers."""
    current = {id(param) for _, param in active}
    for param, entry in state.items():
        if id(param) not in current:
            for name, value in entry.items():
                if isinstance(value, Tensor) and value._base is not None:
                    entry[name] = value.clone()
