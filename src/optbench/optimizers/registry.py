"""The registry of optimizers: one line per method, read without torch.

Readers of records need the families of the methods and do without torch, so a line names the class
instead of importing it; :data:`optbench.optimizers.OPTIMIZERS` imports it on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["matrix-based", "scalar-based"]
Family: TypeAlias = Kind | Literal["variance-reduced", "memory-efficient"]


@dataclass(frozen=True, slots=True)
class Method:
    """Where a method is defined, and what the paper's claims count it as.

    Args:
        class_name: its class, in the module of this package that is called as the method is.
        families: one kind at most, and further families; a method without a kind is compared with
            the baseline alone, and claims on kinds name it as not counted.
    """

    class_name: str
    families: tuple[Family, ...] = ()


# By their names in study files and records.
METHODS: dict[str, Method] = {
    "adamw": Method("AdamW", ("scalar-based",)),
    "nadamw": Method("NAdamW", ("scalar-based", "variance-reduced")),
    "mars": Method("Mars", ("scalar-based", "variance-reduced")),
    "cautious": Method("Cautious", ("scalar-based", "variance-reduced")),
    "lion": Method("Lion", ("scalar-based", "memory-efficient")),
    "adam_mini": Method("AdamMini", ("scalar-based", "memory-efficient")),
    "muon": Method("Muon", ("matrix-based",)),
    "scion": Method("Scion", ("matrix-based",)),
    "kron": Method("Kron", ("matrix-based",)),
    "soap": Method("Soap", ("matrix-based",)),
    "sophia": Method("Sophia", ("scalar-based",)),
}
