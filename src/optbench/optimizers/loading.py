"""Loading a checkpoint without a cast: torch gives loaded state the dtype of its parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AsSaved:
    """A loaded tensor, hidden from torch, which would cast it to the dtype of the parameter."""

    tensor: Tensor


def protect(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A copy of what ``state_dict`` gave with every state tensor as :class:`AsSaved`."""
    state = {
        index: {name: AsSaved(v) if isinstance(v, Tensor) else v for name, v in entry.items()}
        for index, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}
