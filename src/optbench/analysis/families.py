"""The families that the paper's claims speak of, by the optimizers' names in study files."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

Family: TypeAlias = Literal["matrix-based", "variance-reduced", "memory-efficient"]

FAMILIES: Mapping[Family, tuple[str, ...]] = MappingProxyType(
    {
        "matrix-based": ("muon", "scion", "kron", "soap"),
        "variance-reduced": ("nadamw", "mars", "cautious"),
        "memory-efficient": ("lion", "adam_mini"),
    }
)
ADAMW = "adamw"
