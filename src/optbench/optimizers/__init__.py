"""Optimizers of the benchmark: drop-in ``torch.optim.Optimizer`` classes, one method per file.

What is exported is imported on first use, because readers of records need
:mod:`optbench.optimizers.registry` and do without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from optbench.optimizers.registry import METHODS
from optbench.space import did_you_mean

if TYPE_CHECKING:
    from optbench.optimizers.adam_mini import AdamMini as AdamMini
    from optbench.optimizers.adamw import AdamW as AdamW
    from optbench.optimizers.base import BaseOptimizer as BaseOptimizer
    from optbench.optimizers.cautious import Cautious as Cautious
    from optbench.optimizers.curvature import CurvatureOptimizer as CurvatureOptimizer
    from optbench.optimizers.curvature import CurvatureSource as CurvatureSource
    from optbench.optimizers.groups import describe_groups as describe_groups
    from optbench.optimizers.groups import infer_roles as infer_roles
    from optbench.optimizers.groups import parameter_groups as parameter_groups
    from optbench.optimizers.kron import Kron as Kron
    from optbench.optimizers.lion import Lion as Lion
    from optbench.optimizers.mars import Mars as Mars
    from optbench.optimizers.muon import Muon as Muon
    from optbench.optimizers.nadamw import NAdamW as NAdamW
    from optbench.optimizers.scion import Scion as Scion
    from optbench.optimizers.soap import Soap as Soap
    from optbench.optimizers.sophia import Sophia as Sophia
else:

    def __getattr__(name: str) -> Any:
        for key, method in METHODS.items():
            if name == method.class_name:
                return OPTIMIZERS[key]
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


# Where the exports that are no methods are defined.
_MODULES = {
    "BaseOptimizer": "base",
    "CurvatureOptimizer": "curvature",
    "CurvatureSource": "curvature",
    "describe_groups": "groups",
    "infer_roles": "groups",
    "parameter_groups": "groups",
}


class _Classes(Mapping[str, "type[BaseOptimizer]"]):
    """The class of each method by its name, imported when it is asked for."""

    def __getitem__(self, name: str) -> type[BaseOptimizer]:
        class_name = METHODS[name].class_name
        return getattr(import_module(f"{__name__}.{name}"), class_name)

    def __contains__(self, name: object) -> bool:
        return name in METHODS

    def __iter__(self) -> Iterator[str]:
        return iter(METHODS)

    def __len__(self) -> int:
        return len(METHODS)


OPTIMIZERS = _Classes()


def optimizer_class(name: str) -> type[BaseOptimizer]:
    """The optimizer called ``name`` in studies and records.

    Raises:
        ValueError: there is none of that name; the nearest and all names are given.
    """
    if name not in OPTIMIZERS:
        raise ValueError(did_you_mean(name, OPTIMIZERS, what="optimizer"))
    return OPTIMIZERS[name]
