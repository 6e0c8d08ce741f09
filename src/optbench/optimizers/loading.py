"""Loading a checkpoint without a cast: torch gives loaded state the dtype of its parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AsSaved:
    """A loaded tensor, hidden from torch, which would cast it to the dtype of the parameter."""

    tensor: Tensor


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


def protect(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A copy of what ``state_dict`` gave with every state tensor as :class:`AsSaved`."""
    state = {
        index: {name: AsSaved(v) if isinstance(v, Tensor) else v for name, v in entry.items()}
        for index, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}
