"""Optimizers of the benchmark: drop-in ``torch.optim.Optimizer`` classes, one method per file."""

from optbench.optimizers.adam_mini import AdamMini
from optbench.optimizers.adamw import AdamW
from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.cautious import Cautious
from optbench.optimizers.curvature import CurvatureOptimizer, CurvatureSource
from optbench.optimizers.groups import describe_groups, infer_roles, parameter_groups
from optbench.optimizers.kron import Kron
from optbench.optimizers.lion import Lion
from optbench.optimizers.mars import Mars
from optbench.optimizers.muon import Muon
from optbench.optimizers.nadamw import NAdamW
from optbench.optimizers.scion import Scion
from optbench.optimizers.soap import Soap
from optbench.optimizers.sophia import Sophia
from optbench.space import did_you_mean

OPTIMIZERS: dict[str, type[BaseOptimizer]] = {
    "adamw": AdamW,
    "nadamw": NAdamW,
    "mars": Mars,
    "cautious": Cautious,
    "lion": Lion,
    "adam_mini": AdamMini,
    "muon": Muon,
    "scion": Scion,
    "kron": Kron,
    "soap": Soap,
    "sophia": Sophia,
}


def optimizer_class(name: str) -> type[BaseOptimizer]:
    """The optimizer called ``name`` in studies and records.

    Raises:
        ValueError: there is none of that name; the nearest and all names are given.
    """
    if name not in OPTIMIZERS:
        raise ValueError(did_you_mean(name, OPTIMIZERS, what="optimizer"))
    return OPTIMIZERS[name]


__all__ = [
    "OPTIMIZERS",
    "AdamMini",
    "AdamW",
    "BaseOptimizer",
    "Cautious",
    "CurvatureOptimizer",
    "CurvatureSource",
    "Kron",
    "Lion",
    "Mars",
    "Muon",
    "NAdamW",
    "Scion",
    "Soap",
    "Sophia",
    "describe_groups",
    "infer_roles",
    "optimizer_class",
    "parameter_groups",
]
