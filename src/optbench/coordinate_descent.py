"""Coordinate descent over a grid, as ask and tell: pure, no torch, no clock, no files.

Protocol §2. One coordinate at a time, all its candidates are asked for at once with the others held
at the incumbent. The incumbent moves to the best of them if that is better by more than the tie
threshold τ; a winner on the end of the candidates grows the axis by a step and asks again. When a
whole round over the coordinates has moved nothing, the incumbent is a *certified coordinate-wise
optimum*: every single change that the grid allows was tried and none is better by more than τ. An
incumbent that diverged is none.

What is asked for depends on the losses alone, never on the order in which they arrive, so a descent
that is built anew and told the same losses is at the same point: that is how a study resumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from optbench.space import Axis, Configuration, SearchSpace, Value

Key = tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A step of the incumbent along one axis."""

    axis: str
    before: Value
    after: Value
    loss_before: float
    loss_after: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A configuration and its loss; infinite if the run diverged."""

    configuration: Configuration
    loss: float


@dataclass(frozen=True, slots=True)
class Rejection:
    """A candidate that was refused before it cost anything."""

    configuration: Configuration
    reason: str


@dataclass(frozen=True, slots=True)
class Edge:
    """An incumbent that lies on the end of an axis, and why the axis did not grow past it."""

    axis: str
    value: Value
    note: str


@dataclass(slots=True)
class CoordinateDescent:
    """The search for one optimizer in one cell.

    Args:
        space: axes in the order in which they are visited, the most sensitive first.
        start: a value for every axis; a value that is not a candidate is added to its axis.
        tie_threshold: τ in nats; smaller improvements are ties and do not move the incumbent.
        invalid_reason: why a configuration cannot be run, or None.
        max_runs: stop asking once this many distinct configurations were asked for.

    Raises:
        ValueError: the start lacks an axis, names one that the space does not have or is invalid;
            τ is not a number of at least 0.
    """

    space: SearchSpace
    start: Configuration
    tie_threshold: float
    invalid_reason: Callable[[Configuration], str | None] = lambda _: None
    max_runs: int | None = None
    moves: list[Move] = field(default_factory=list, init=False)
    rejections: list[Rejection] = field(default_factory=list, init=False)
    certified: bool = field(default=False, init=False)
    exhausted: bool = field(default=False, init=False)
    _axes: dict[str, Axis] = field(init=False)
    _incumbent: dict[str, Value] = field(init=False)
    _evaluations: dict[Key, Evaluation] = field(default_factory=dict, init=False)
    _asked: dict[Key, Configuration] = field(default_factory=dict, init=False)
    _walk: Iterator[list[Configuration]] = field(init=False)

    def __post_init__(self) -> None:
        if not self.tie_threshold >= 0:
            raise ValueError(f"The tie threshold must be at least 0, but got {self.tie_threshold}.")
        if missing := [name for name in self.space if name not in self.start]:
            raise ValueError(f"The start point lacks a value for {', '.join(missing)}.")
        if extra := [name for name in self.start if name not in self.space]:
            raise ValueError(
                f"The start point names axes that are not searched: {', '.join(extra)}."
            )
        if reason := self.invalid_reason(self.start):
            raise ValueError(f"The start point cannot be run: {reason}")
        self._incumbent = dict(self.start)
        self._axes = {
            name: with_candidate(axis, self.start[name]) for name, axis in self.space.items()
        }
        self._walk = self._rounds()

    @property
    def incumbent(self) -> Configuration:
        """The best configuration so far."""
        return dict(self._incumbent)

    @property
    def incumbent_loss(self) -> float:
        """Loss of the incumbent; infinite before it is known."""
        evaluation = self._evaluations.get(key(self._incumbent))
        return evaluation.loss if evaluation else math.inf

    @property
    def evaluations(self) -> list[Evaluation]:
        """Everything told so far, in the order in which it was asked for."""
        return [self._evaluations[k] for k in self._asked if k in self._evaluations]

    @property
    def edges(self) -> list[Edge]:
        """Axes whose incumbent is an end of the candidates although a grid grows at its ends."""
        return [
            Edge(name, value, self._edge_note(axis, value))
            for name, value in self._incumbent.items()
            if (axis := self._axes[name]).growth != "fixed"
            and len(axis.values) > 1
            and value in (axis.values[0], axis.values[-1])
        ]

    def ask(self) -> list[Configuration]:
        """The configurations to evaluate next, all of which may run at once; empty at the end.

        Asking again before everything asked for was told returns what is still missing.
        """
        if pending := self._pending():
            return pending
        return next(self._walk, [])

    def tell(self, configuration: Configuration, loss: float) -> None:
        """The loss of a configuration that was asked for; NaN and infinity mean that it diverged.

        Raises:
            KeyError: the configuration was never asked for.
        """
        if key(configuration) not in self._asked:
            raise KeyError(f"{dict(configuration)} was not asked for.")
        loss = loss if math.isfinite(loss) else math.inf
        self._evaluations[key(configuration)] = Evaluation(dict(configuration), loss)

    def _edge_note(self, axis: Axis, value: Value) -> str:
        if axis.extended(value) is None:
            return "at the end of the candidates, which cannot be extended further"
        if self.exhausted:
            return (
                "at the end of the candidates; the runs were used up before they could be extended"
            )
        return "at the end of the candidates, which were not extended because the run diverged"

    def _pending(self) -> list[Configuration]:
        return [c for k, c in self._asked.items() if k not in self._evaluations]

    def _request(self, candidates: list[Configuration]) -> list[Configuration]:
        """Mark the new and valid ones among the candidates as asked for, within the budget."""
        for candidate in candidates:
            if key(candidate) in self._asked:
                continue
            if reason := self.invalid_reason(candidate):
                rejection = Rejection(candidate, reason)
                if rejection not in self.rejections:
                    self.rejections.append(rejection)
                continue
            if self.max_runs is not None and len(self._asked) >= self.max_runs:
                self.exhausted = True
                break
            self._asked[key(candidate)] = candidate
        return self._pending()

    def _rounds(self) -> Iterator[list[Configuration]]:
        """Rounds over the axes until one has moved nothing since every axis was last searched."""
        if start := self._request([self.incumbent]):
            yield start
        settled = 0
        while settled < len(self._axes) and not self.exhausted:
            for name in self._axes:
                moves_before = len(self.moves)
                yield from self._search_axis(name)
                settled = 1 if len(self.moves) > moves_before else settled + 1
                if settled >= len(self._axes) or self.exhausted:
                    break
        self.certified = not self.exhausted and math.isfinite(self.incumbent_loss)

    def _search_axis(self, name: str) -> Iterator[list[Configuration]]:
        """Try every candidate of one axis; grow the axis as long as the best is at its end."""
        while True:
            line = self.line(name)
            if request := self._request(line):
                yield request
            best = min(line, key=lambda c: (self._loss(c), line.index(c)))
            if self._loss(best) < self.incumbent_loss - self.tie_threshold or (
                math.isinf(self.incumbent_loss) and math.isfinite(self._loss(best))
            ):
                self._move(name, best)
            grown = self._axes[name].extended(self._incumbent[name])
            if grown is None or self.exhausted or math.isinf(self.incumbent_loss):
                return
            self._grow(name, grown)

    def _grow(self, name: str, grown: Axis) -> None:
        """Put the value past the end among the candidates, unless no run is left to try it."""
        tried = self._axes[name]
        self._axes[name] = grown
        self._request(self.line(name))
        if self.exhausted:
            self._axes[name] = tried

    def line(self, name: str) -> list[Configuration]:
        """Every candidate of an axis with the other values of the incumbent."""
        return [{**self._incumbent, name: value} for value in self._axes[name].values]

    def _loss(self, configuration: Configuration) -> float:
        evaluation = self._evaluations.get(key(configuration))
        return evaluation.loss if evaluation else math.inf

    def _move(self, name: str, best: Configuration) -> None:
        move = Move(name, self._incumbent[name], best[name], self.incumbent_loss, self._loss(best))
        self.moves.append(move)
        self._incumbent = dict(best)


def key(configuration: Configuration) -> Key:
    """Hashable form of a configuration."""
    return tuple(sorted(configuration.items()))


def with_candidate(axis: Axis, value: Value) -> Axis:
    """The axis with ``value`` among its candidates."""
    if value in axis.values:
        return axis
    if axis.growth == "fixed":
        return replace(axis, values=(*axis.values, value))
    return replace(axis, values=tuple(sorted((*axis.values, value), key=float)))


def count_first_round(space: SearchSpace, start: Mapping[str, Value]) -> int:
    """Runs of a descent that never moves: the start and every other candidate of every axis."""
    axes = (with_candidate(axis, start[name]) for name, axis in space.items())
    return 1 + sum(len(axis.values) - 1 for axis in axes)
