"""Losses to search without training anything: synthetic, published tuning tables, nano journals.

A :class:`Problem` is complete: it has a loss for every configuration of its grid. Published tables
and journals have one only along some lines, so what lies off these is a sum of the axes' effects:
no interaction is in them but what a measured run shows.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from optbench.space import Axis, Configuration, SearchSpace, Value, choices, complement, geometric
from optbench.study.coordinate_descent import Evaluation, key

TAU = 0.003  # the paper's
DIVERGED = 4.5  # nats; published losses above it are of runs that diverged
BETAS = ("beta1", "beta2", "momentum", "shampoo_beta")
UNORDERED = ("block_size", "normalize_grads", "max_grad_norm", "precondition_frequency")


@dataclass(frozen=True)
class Problem:
    """A grid, a start, a loss for every configuration, and what a neighbouring cell has shown."""

    family: str
    name: str
    space: SearchSpace
    start: Configuration
    loss: Callable[[Configuration], float]
    tie_threshold: float = TAU
    known: Sequence[Evaluation] = field(default=())


def bounded(axis: Axis) -> Axis:
    """The axis without growth past its ends, so that samplers search the same grid."""
    if axis.growth == "fixed":
        return axis
    numbers = [float(value) for value in axis.values]
    return Axis(axis.values, axis.growth, numbers[0], numbers[-1])


def synthetic(family: str, seed: int) -> Problem:
    """Eight axes of three to five values: six parabolas of random place and steepness, two choices.

    Families: ``separable``; ``coupled``, pairs of axes with correlation 0.6; ``noisy``, normal
    noise of τ/2 on every configuration; ``cliff``, divergence one step above the best first axis.
    """
    rng = random.Random(f"{family} {seed}")
    space: dict[str, Axis] = {}
    place: dict[str, Callable[[float], float]] = {}
    for number in range(8):
        name, size = f"axis{number}", rng.choice((3, 4, 5))
        if number % 4 == 3:
            space[name] = choices(0, 1, 2)
        elif number % 4 == 2:
            space[name] = bounded(complement(*(0.8, 0.9, 0.95, 0.975, 0.9875)[:size]))
            place[name] = lambda beta: -math.log2((1 - beta) / 0.2)
        else:
            space[name] = bounded(geometric(*(0.001 * 2**step for step in range(size))))
            place[name] = lambda value: math.log2(value / 0.001)
    start = {name: rng.choice(axis.values) for name, axis in space.items()}
    best = {n: rng.uniform(-0.5, len(space[n].values) - 0.5) for n in place}
    root = {n: math.sqrt(TAU * 10 ** rng.uniform(-0.7, 1.7)) for n in place}
    effect = {
        n: {v: rng.choice((0, 0, 1)) * TAU * 10 ** rng.uniform(-0.5, 1.2) for v in (0, 1, 2)}
        for n in space
        if n not in place
    }
    pairs = list(itertools.pairwise(place))[::2] if family == "coupled" else []
    edge = max(best["axis0"] + 1, place["axis0"](float(start["axis0"]))) + 0.1

    def loss(c: Configuration) -> float:
        if family == "cliff" and place["axis0"](float(c["axis0"])) > edge:
            return math.inf
        u = {n: root[n] * (place[n](float(c[n])) - best[n]) for n in place}
        total = sum(x * x for x in u.values()) + sum(1.2 * u[a] * u[b] for a, b in pairs)
        total += sum(values[int(c[n])] for n, values in effect.items())
        noise = random.Random(f"{seed} {key(c)}").gauss(0, TAU / 2) if family == "noisy" else 0.0
        return 3.0 + 0.6 * math.tanh(total / 0.6) + noise

    return Problem(family, str(seed), SearchSpace(space), start, loss)


@dataclass(frozen=True)
class Table:
    """A published cell: its best configuration and the loss's change along each axis."""

    cell: tuple[str, str, str]
    base: float
    best: Mapping[str, Value]
    effects: Mapping[str, Mapping[Value, float]]

    def loss(self, c: Configuration) -> float:
        """The sum of the axes' effects; infinite where one diverged."""
        total = self.base + sum(effect[c[name]] for name, effect in self.effects.items())
        return total if total < DIVERGED else math.inf

    @property
    def space(self) -> SearchSpace:
        """The values that were published."""
        return SearchSpace({name: _axis(name, values) for name, values in self.effects.items()})


def _axis(name: str, values: Mapping[Value, float]) -> Axis:
    if name in UNORDERED:
        return choices(*values)
    ordered = tuple(sorted(values, key=float))
    growth = "complement" if name in BETAS else "geometric"
    return Axis(ordered, growth, float(ordered[0]), float(ordered[-1]))


def published_tables(path: Path) -> list[Table]:
    """The one-at-a-time ablations of every published cell whose best run is there."""
    bases: dict[tuple[str, str, str], tuple[float, dict[str, Value]]] = {}
    changed: dict[tuple[str, str, str], dict[str, dict[Value, float]]] = defaultdict(dict)
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cell = (row["optimizer"], row["model_size"], row["chinchilla"])
            if row["loss"] == "":
                continue
            loss = float(row["loss"])
            loss = loss if loss < DIVERGED else math.inf
            if row["changed_key"] == "":
                bases[cell] = loss, json.loads(row["config"])
            else:
                value = json.loads(row["config"])[row["changed_key"]]
                changed[cell].setdefault(row["changed_key"], {})[value] = loss
    return [_table(cell, *bases[cell], changed[cell]) for cell in changed if cell in bases]


def _table(
    cell: tuple[str, str, str],
    base: float,
    best: Mapping[str, Value],
    changed: Mapping[str, Mapping[Value, float]],
) -> Table:
    effects = {
        name: {best[name]: 0.0, **{value: loss - base for value, loss in losses.items()}}
        for name, losses in changed.items()
    }
    return Table(cell, base, {name: best[name] for name in effects}, effects)


def table_problems(tables: Sequence[Table]) -> Iterator[Problem]:
    """Published cells with at least five axes, from a random start unless that diverged."""
    for table in tables:
        rng = random.Random(str(table.cell))
        start: Configuration = {
            name: rng.choice([v for v, loss in effect.items() if math.isfinite(loss)])
            for name, effect in table.effects.items()
        }
        if len(table.effects) >= 5 and math.isfinite(table.loss(start)):
            yield Problem("published", " ".join(table.cell), table.space, start, table.loss)


def transfer_problems(tables: Sequence[Table]) -> Iterator[Problem]:
    """Published cells begun at the best of another cell of the same optimizer, which is known."""
    large = [table for table in tables if len(table.effects) >= 5]
    for source, target in itertools.permutations(large, 2):
        if source.cell[0] != target.cell[0]:
            continue
        start = {
            name: _nearest(source.best.get(name, best), target.effects[name], best)
            for name, best in target.best.items()
        }
        if not math.isfinite(target.loss(start)):
            continue
        single = [(n, v) for n, effect in source.effects.items() for v in effect if n in start]
        known = [
            Evaluation({**start, name: value}, source.base + source.effects[name][value])
            for name, value in single
        ]
        name = f"{' '.join(source.cell)} -> {' '.join(target.cell)}"
        yield Problem("transfer", name, target.space, start, target.loss, known=known)


def _nearest(wanted: Value, values: Mapping[Value, float], otherwise: Value) -> Value:
    if wanted in values:
        return wanted
    if isinstance(wanted, (bool, str)):
        return otherwise
    # Zero lies one tiny step below everything else.
    logs = {v: math.log(float(v) + 1e-30) for v in values if not isinstance(v, (bool, str))}
    return min(logs, key=lambda v: abs(logs[v] - math.log(float(wanted) + 1e-30)))


def journal_problems(path: Path) -> Iterator[Problem]:
    """Tunings of a nano study with at least nine runs, completed by a sum of the axes' effects."""
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "tuning" and len(entry["evaluations"]) >= 9:
            yield _journal_problem(entry)


def _journal_problem(entry: Mapping[str, object]) -> Problem:
    evaluations = entry["evaluations"]
    assert isinstance(evaluations, list)
    measured = {
        key(e["configuration"]): math.inf if e["loss"] is None else float(e["loss"])
        for e in evaluations
    }
    configurations = [dict(k) for k in measured]
    values = {n: sorted({c[n] for c in configurations}, key=float) for n in configurations[0]}
    space = SearchSpace(
        {n: bounded((complement if _is_beta(n) else geometric)(*v)) for n, v in values.items()}
    )
    columns = [(name, value) for name in values for value in values[name]]

    def features(c: Configuration) -> list[float]:
        return [1.0, *(float(c[name] == value) for name, value in columns)]

    finite = [(c, measured[key(c)]) for c in configurations if math.isfinite(measured[key(c)])]
    design = np.array([features(c) for c, _ in finite])
    losses = np.array([loss for _, loss in finite])
    weights = np.linalg.lstsq(design, losses, rcond=None)[0]

    def loss(c: Configuration) -> float:
        return measured.get(key(c), float(np.dot(features(c), weights)))

    start = dict(configurations[0])
    tau = float(str(entry["tie_threshold"]))
    return Problem("nano", str(entry["optimizer"]), space, start, loss, tau)


def _is_beta(name: str) -> bool:
    return name in BETAS
