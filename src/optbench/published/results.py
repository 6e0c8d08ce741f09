"""Reads the published results: best losses, tuning tables, tied sets, grids, extrapolations.

``results.json`` holds figures of the results published with arXiv 2509.02046 (Apache-2.0), carried
over digit by digit and arranged by cell: one model size trained for one Chinchilla ratio by one
optimizer, 150 cells in all. Hyperparameters have this project's names (see `names`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeAlias

from optbench.ladder import PAPER_SIZES, Cell
from optbench.published.names import our_name
from optbench.space import Configuration, Value

DIVERGED_ABOVE = 4.5  # nats; a tuning run that ends there has not learnt

_Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One row of a tuning table: the chosen configuration with one value changed.

    Args:
        axis: what was changed.
        value: to what.
        loss: on C4/EN, nats per token; None if none was published or the run diverged.
        diverged: whether it did.
    """

    axis: str
    value: Value
    loss: float | None
    diverged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCell:
    """One optimizer at one size and ratio.

    Args:
        optimizer: its name here.
        cell: size and ratio, with the model and the budget.
        loss: the least of the cell's sweep, on C4/EN, nats per token.
        configuration: the one that the source chose, within its noise threshold of the least; not
            always the one that gave ``loss``.
        table_loss: of ``configuration`` itself, from the tuning table, the reference of
            ``trials``; never below ``loss``. None without a table or without a figure.
        trials: the tuning table; empty without one.
        near_best: configurations listed as equally good; without a list, empty.
        grid: what was swept; empty where the cell was not tuned.
    """

    optimizer: str
    cell: Cell
    loss: float
    configuration: Configuration
    table_loss: float | None
    trials: tuple[Trial, ...]
    near_best: tuple[Configuration, ...]
    grid: Mapping[str, tuple[Value, ...]]

    @property
    def size(self) -> str:
        """Such as ``130m``."""
        return self.cell.size

    @property
    def ratio(self) -> float:
        """The Chinchilla ratio r of a budget of 20·r·N tokens."""
        return self.cell.ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPrediction:
    """Extrapolated hyperparameters of one optimizer, unrounded."""

    optimizer: str
    cell: Cell
    configuration: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedResults:
    """Everything that was carried over.

    Args:
        source: of the figures.
        licence: of the source.
        cells: by optimizer, size and ratio.
        sensitive: by optimizer and hyperparameter, the fewest values that serve all cells, for
            those that no single value serves.
        predictions: for 1.2b.
    """

    source: str
    licence: str
    cells: tuple[PublishedCell, ...]
    sensitive: Mapping[str, Mapping[str, tuple[Value, ...]]]
    predictions: tuple[PublishedPrediction, ...]

    @property
    def optimizers(self) -> tuple[str, ...]:
        """Names, in the order of the file."""
        return tuple(dict.fromkeys(cell.optimizer for cell in self.cells))

    def of(self, optimizer: str, size: str | None = None) -> tuple[PublishedCell, ...]:
        """The cells of an optimizer, at one size or at all, by size and ratio."""
        return tuple(
            cell for cell in self.cells if cell.optimizer == optimizer and size in (None, cell.size)
        )

    def find(self, optimizer: str, size: str, ratio: float) -> PublishedCell | None:
        """The cell of an optimizer at a size and ratio, if there is one."""
        return next((cell for cell in self.of(optimizer, size) if cell.ratio == ratio), None)


@functools.cache
def read_published() -> PublishedResults:
    """The results; read once, which takes a few milliseconds."""
    file = resources.files("optbench.published") / "results.json"
    content: _Json = json.loads(file.read_text(encoding="utf-8"))
    cells = sorted(
        (_cell(entry) for entry in content["cells"]),
        key=lambda c: (c.optimizer, c.cell.model.num_nonembedding_params, c.ratio),
    )
    sensitive: dict[str, dict[str, Sequence[Value]]] = content["sensitive"]
    return PublishedResults(
        source=content["source"],
        licence=content["licence"],
        cells=tuple(cells),
        sensitive={
            optimizer: {our_name(optimizer, name): tuple(values) for name, values in axes.items()}
            for optimizer, axes in sensitive.items()
        },
        predictions=tuple(_prediction(entry) for entry in content["predicted"]),
    )


def _cell(entry: _Json) -> PublishedCell:
    optimizer: str = entry["optimizer"]
    best = _renamed(optimizer, entry["configuration"])
    table_loss = entry.get("table_loss")
    return PublishedCell(
        optimizer=optimizer,
        cell=_place(entry),
        loss=entry["loss"],
        configuration=best,
        table_loss=table_loss,
        trials=tuple(_trial(optimizer, *row) for row in entry.get("trials", ())),
        near_best=tuple(
            {**best, **_renamed(optimizer, change)} for change in entry.get("near_best", ())
        ),
        grid={name: tuple(v) for name, v in _renamed(optimizer, entry.get("grid", {})).items()},
    )


def _prediction(entry: _Json) -> PublishedPrediction:
    configuration = _renamed(entry["optimizer"], entry["configuration"])
    return PublishedPrediction(
        optimizer=entry["optimizer"], cell=_place(entry), configuration=configuration
    )


def _trial(optimizer: str, name: str, value: Value, loss: float | str | None) -> Trial:
    """A loss is a number, ``null`` (none published) or ``"diverged"`` (published as NaN)."""
    diverged = isinstance(loss, str) or (loss is not None and loss > DIVERGED_ABOVE)
    finite = loss if isinstance(loss, float) and not diverged else None
    return Trial(axis=our_name(optimizer, name), value=value, loss=finite, diverged=diverged)


def _renamed(optimizer: str, configuration: Mapping[str, Any]) -> dict[str, Any]:
    return {our_name(optimizer, name): value for name, value in configuration.items()}


def _place(entry: _Json) -> Cell:
    return Cell(entry["size"], PAPER_SIZES[entry["size"]], float(entry["ratio"]))
