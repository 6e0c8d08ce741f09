"""The families that the paper's claims speak of, and to which of them each optimizer belongs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from optbench.config import UserError

Kind: TypeAlias = Literal["matrix-based", "scalar-based"]
Family: TypeAlias = Kind | Literal["variance-reduced", "memory-efficient"]

ADAMW = "adamw"
# By their names in study files. Every optimizer is of one kind: a claim on "all others" is one on
# the scalar-based methods, and what is in no family here is refused instead of counted among them.
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
    """Those of some optimizers that are of a kind, in their order.

    Raises:
        UserError: of one or more it is not known; all of them are named.
    """
    names = list(optimizers)
    if unknown := sorted({name for name in names if name not in OPTIMIZER_FAMILIES}):
        raise UserError(
            f"It is not known whether {', '.join(unknown)} is matrix-based or scalar-based, so the "
            f"claims on these families cannot be judged. State it in OPTIMIZER_FAMILIES of "
            f"optbench/analysis/families.py, which has {', '.join(OPTIMIZER_FAMILIES)}."
        )
    return [name for name in names if kind in OPTIMIZER_FAMILIES[name]]


def kind_of(optimizer: str) -> Kind:
    """Which of the two kinds an optimizer is of.

    Raises:
        UserError: it is not known.
    """
    return "matrix-based" if of_kind("matrix-based", [optimizer]) else "scalar-based"
