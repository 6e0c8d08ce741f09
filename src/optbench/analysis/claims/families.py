"""The families of the paper's claims, and to which of them each optimizer belongs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["matrix-based", "scalar-based"]
Family: TypeAlias = Kind | Literal["variance-reduced", "memory-efficient"]

ADAMW = "adamw"
# By their names in study files. Every optimizer is of one kind: a claim on "all others" is one on
# the scalar-based methods, and what is not in this table counts as neither, which the claim says.
OPTIMIZER_FAMILIES: Mapping[str, tuple[Family, ...]] = MappingProxyType(
    {
        "adamw": ("scalar-based",),
        "nadamw": ("scalar-based", "variance-reduced"),
        "mars": ("scalar-based", "variance-reduced"),
        "cautious": ("scalar-based", "variance-reduced"),
        "lion": ("scalar-based", "memory-efficient"),
        "adam_mini": ("scalar-based", "memory-efficient"),
        "muon": ("matrix-based",),
        "scion": ("matrix-based",),
        "kron": ("matrix-based",),
        "soap": ("matrix-based",),
        "sophia": ("scalar-based",),
    }
)


def members(family: Family) -> tuple[str, ...]:
    """The optimizers of a family, in the order of the table."""
    return tuple(name for name, families in OPTIMIZER_FAMILIES.items() if family in families)


def of_kind(kind: Kind, optimizers: Iterable[str]) -> list[str]:
    """Those of some optimizers that are of a kind, in their order."""
    return [name for name in optimizers if kind_of(name) == kind]


def kind_of(optimizer: str) -> Kind | None:
    """Which of the two kinds an optimizer is of; None where the table does not have it."""
    families = OPTIMIZER_FAMILIES.get(optimizer, ())
    if not families:
        return None
    return "matrix-based" if "matrix-based" in families else "scalar-based"
