"""The members of the families that the paper's claims are about."""

from __future__ import annotations

from collections.abc import Iterable

from optbench.optimizers.registry import METHODS, Family, Kind

ADAMW = "adamw"


def members(family: Family) -> tuple[str, ...]:
    """The optimizers of a family, in the order of the registry."""
    return tuple(name for name, method in METHODS.items() if family in method.families)


def of_kind(kind: Kind, optimizers: Iterable[str]) -> list[str]:
    """Those of some optimizers that are of a kind, in their order."""
    return [name for name in optimizers if kind_of(name) == kind]


def kind_of(optimizer: str) -> Kind | None:
    """Which of the two kinds an optimizer is of; None where it states none, or is not known.

    A claim on "all others" is one on the scalar-based methods, and names what is of neither kind.
    """
    method = METHODS.get(optimizer)
    if method is None:
        return None
    kinds: tuple[Kind, ...] = ("matrix-based", "scalar-based")
    return next((kind for kind in kinds if kind in method.families), None)
