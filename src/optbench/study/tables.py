"""The tables of a study file: what keys they have, and the types of their values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from optbench.config import ModelConfig
from optbench.optimizers import OPTIMIZERS
from optbench.optimizers.hyperparameters import OneOf
from optbench.run_axes import RUN_AXES
from optbench.study.config import RunSettings, StudyProtocol
from optbench.typed_data import field_types

Preset: TypeAlias = Literal["authors", "paper"]  # a method's own variant, or the published study's


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTable:
    """``[cell]``: where all optimizers are tuned and compared."""

    size: str
    ratio: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveTable:
    """``[baseline_curve]``: further budgets of the baseline; without a size, that of the cell."""

    size: str = ""
    ratios: tuple[float, ...] = ()
    retune: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasesTable:
    """``[phases]``: labels of cells."""

    tune: tuple[str, ...] = ()
    retune: tuple[str, ...] = ()
    predict: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerTable:
    """``[optimizers.NAME]``; what its inner tables may have depends on the optimizer."""

    space: Mapping[str, Any] | None = None
    start: Mapping[str, Any] = field(default_factory=dict[str, Any])
    run: Mapping[str, Any] = field(default_factory=dict[str, Any])
    preset: Preset = "authors"
    cells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTables:
    """A whole study file but for its ``[smoke]``."""

    name: str = "study"
    title: str = ""
    corpus: str = "nano"
    baseline: str = ""
    cell: CellTable | None = None
    baseline_curve: CurveTable = CurveTable()
    phases: PhasesTable = PhasesTable()
    models: Mapping[str, ModelConfig] = field(default_factory=dict[str, ModelConfig])
    run: RunSettings | None = None
    protocol: StudyProtocol = field(default_factory=StudyProtocol)
    optimizers: Mapping[str, OptimizerTable] = field(default_factory=dict[str, OptimizerTable])
    execution: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sinks: Mapping[str, Any] = field(default_factory=dict[str, Any])


@functools.cache
def start_table(optimizer: str) -> type[Any]:
    """What a start may name: hyperparameters of the optimizer, and axes of the run."""
    return _optional("start", {**_hyperparameter_types(optimizer), **_axis_types()})


@functools.cache
def hyperparameter_table(optimizer: str) -> type[Any]:
    """What a run's optimizer may have: keywords of its constructor."""
    return _optional("hyperparameters", _hyperparameter_types(optimizer))


@functools.cache
def candidates_table(optimizer: str) -> type[Any]:
    """What a space may name: the same, each with a list of candidates."""
    types = {**_hyperparameter_types(optimizer), **_axis_types()}
    return _optional("space", {name: tuple[kind, ...] for name, kind in types.items()})


@functools.cache
def some_run_settings() -> type[Any]:
    """What an optimizer may have of its own: any settings of ``[run]``."""
    return _optional("run", field_types(RunSettings))


def _hyperparameter_types(optimizer: str) -> dict[str, Any]:
    """The types of an optimizer's hyperparameters, which are those of their defaults."""
    method = OPTIMIZERS[optimizer]
    own: dict[str, Any] = {}
    for name, default in method.default_hyperparameters().items():
        bound = method.bounds.get(name)
        own[name] = Literal[bound.choices] if isinstance(bound, OneOf) else type(default)
    return own


def _axis_types() -> dict[str, Any]:
    return {name: field_types(RunSettings)[name] for name in RUN_AXES}


def _optional(name: str, types: Mapping[str, Any]) -> type[Any]:
    """A dataclass of which every field may be left out."""
    return dataclasses.make_dataclass(
        name, [(key, kind, field(default=None)) for key, kind in types.items()]
    )
