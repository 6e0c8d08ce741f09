"""Loading a checkpoint without a cast: torch gives loaded state the dtype of its parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optbench.optimizers.engine.buckets import Group, Rule


@dataclass(frozen=True, slots=True)
class NoCast:
    """A loaded tensor, hidden from torch, which would cast it to the dtype of the parameter."""

    tensor: Tensor


def check_groups(
    method: str, hyperparameters: Iterable[str], groups: Iterable[Mapping[str, Any]]
) -> None:
    """Refuse the groups of another method.

    Raises:
        ValueError: another method wrote them.
        KeyError: one lacks a hyperparameter.
    """
    for group in groups:
        writer = group.get("method", method)
        if writer != method:
            raise ValueError(
                f"The state was made by {writer}, and {method} keeps another one, even where the "
                f"names of its tensors are the same. Load it into {writer}, or let {method} start "
                f"without a state."
            )
        missing = sorted({*hyperparameters, "role"} - group.keys())
        if missing:
            raise KeyError(
                f"A loaded parameter group lacks {', '.join(missing)}, but has "
                f"{', '.join(sorted(group.keys() - {'params'}))}. Was the checkpoint written "
                f"by another optimizer than {method}? Those of torch.optim are not converted."
            )


def check_tensors(
    method: str,
    group: Group,
    state: Mapping[Tensor, Any],
    rule_of: Callable[[Group, Sequence[int]], Rule],
) -> None:
    """Refuse another method's state in a checkpoint that does not name the method.

    Raises:
        ValueError: a parameter of the group has other tensors than its rule keeps.
    """
    for param in group["params"]:
        found = {name for name, v in state.get(param, {}).items() if isinstance(v, Tensor)}
        like = torch.empty((1, *param.shape), device="meta")
        expected = set(rule_of(group, param.shape).init_state(like, group))
        if found and found - {"step"} != expected:
            raise ValueError(
                f"The state of a parameter of shape {tuple(param.shape)} has "
                f"{', '.join(sorted(found))}, but {method} keeps {', '.join(sorted(expected))}. "
                f"Was the checkpoint written by another optimizer than {method}?"
            )


def check_split_groups(
    own: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse a checkpoint from when a group without a role was kept as two.

    Its parameters are numbered group by group, so that their order is another one.

    Raises:
        ValueError: there are more groups than the optimizer has, and roles that it does not have.
    """
    roles: list[Any] = [group.get("role") for group in saved]
    if len(own) < len(saved) and None not in roles and any(g["role"] is None for g in own):
        raise ValueError(
            f"The checkpoint has {len(saved)} parameter groups with the roles {', '.join(roles)}, "
            f"but this optimizer has {len(own)}, some without a role. Muon, Scion and Mars used to "
            f"split such a group into its 2-D parameters and the others. To load the checkpoint, "
            f"build the optimizer with those groups: {{'params': matrices, 'role': 'matrix'}}, "
            f"{{'params': others, 'role': 'norm'}}."
        )


def wrap_state(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A copy of what ``state_dict`` gave with every state tensor as :class:`NoCast`."""
    state = {
        index: {name: NoCast(v) if isinstance(v, Tensor) else v for name, v in entry.items()}
        for index, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}
