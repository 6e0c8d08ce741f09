"""Coordinate descent over a grid, as ask and tell: pure, no torch, no clock, no files.

Protocol §2. A neighbour of the current best differs from it in one value. The current best moves to
its best neighbour as soon as that is known to be better by more than the noise threshold τ; while
none is, neighbours are tried in the order of their chance to be
(:mod:`optbench.study.search_order`). A current best on the end of an axis has a further neighbour,
one step past the end. When every neighbour was tried and none is better by more than τ, the current
best is a *certified coordinate-wise optimum*. A current best that diverged is none.

The order of trials saves runs; it does not shorten the list of neighbours that must have been tried
at the end. What is asked for depends on the losses alone, never on the order in which they arrive,
so a descent that is built anew and given the same losses is at the same point: that is how a study
resumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from optbench.space import Axis, Configuration, SearchSpace, Value
from optbench.store.journal_entries import EdgeEntry, RejectionEntry
from optbench.study.search_order import improvement_probability, lines_along

Key: TypeAlias = tuple[tuple[str, Value], ...]
Certificate: TypeAlias = Literal["line", "bracket"]

# A batch is filled until an improvement among its candidates is as likely as not: what is asked for
# besides the candidate that moves the current best is mostly lost.
BATCH_PROBABILITY = 0.5


@dataclass(frozen=True, slots=True)
class Move:
    """A step of the current best along one axis."""

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


@dataclass(slots=True)
class CoordinateDescent:
    """The search for one optimizer in one cell.

    Args:
        space: the axes; of equally promising ones the first is tried first.
        start: a value for every axis; a value that is not a candidate is added to its axis.
        tie_threshold: τ in nats; smaller improvements are ties and do not move the current best.
        invalid_reason: why a configuration cannot be run, or None.
        max_runs: stop asking once this many distinct configurations were asked for.
        parallel: at most this many configurations are asked for at once. Where a descent goes
            depends on it, so a descent that is resumed needs the same.
        certificate: which neighbours must have been tried. ``"line"``: every candidate of every
            axis. ``"bracket"``: on axes that grow, only the candidates from the current best
            outwards up to the first on either side that is worse by more than τ; sound where no
            second valley lies behind it.
        grow: whether an axis grows by a step past its end where the current best lies there.
        known: evaluations of a neighbouring cell. They influence what is tried first, nothing else;
            those that lack an axis are passed over.

    Raises:
        ValueError: the start lacks an axis, names one that the space does not have or is invalid;
            τ is not a number of at least 0; `parallel` is less than 1.
    """

    space: SearchSpace
    start: Configuration
    tie_threshold: float
    invalid_reason: Callable[[Configuration], str | None] = lambda _: None
    max_runs: int | None = None
    parallel: int = 4
    certificate: Certificate = "line"
    grow: bool = True
    known: Sequence[Evaluation] = ()
    moves: list[Move] = field(default_factory=list, init=False)
    rejections: list[RejectionEntry] = field(default_factory=list, init=False)
    certified: bool = field(default=False, init=False)
    exhausted: bool = field(default=False, init=False)
    _axes: dict[str, Axis] = field(init=False)
    _incumbent: dict[str, Value] = field(init=False)
    _evaluations: dict[Key, Evaluation] = field(default_factory=dict, init=False)
    _asked: dict[Key, Configuration] = field(default_factory=dict, init=False)
    _refused: set[Key] = field(default_factory=set, init=False)
    _known: list[tuple[Configuration, float]] = field(init=False)
    _walk: Iterator[list[Configuration]] = field(init=False)

    def __post_init__(self) -> None:
        if not self.tie_threshold >= 0:
            raise ValueError(
                f"The noise threshold must be at least 0, but got {self.tie_threshold}."
            )
        if self.parallel < 1:
            raise ValueError(f"`parallel` must be at least 1, but got {self.parallel}.")
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
        self._known = [
            ({name: e.configuration[name] for name in self.space}, _number_or_infinity(e.loss))
            for e in self.known
            if all(name in e.configuration for name in self.space)
        ]
        self._walk = self._steps()

    @property
    def incumbent(self) -> Configuration:
        """The best configuration so far."""
        return dict(self._incumbent)

    @property
    def incumbent_loss(self) -> float:
        """Loss of the current best; infinite before it is known."""
        evaluation = self._evaluations.get(key(self._incumbent))
        return evaluation.loss if evaluation else math.inf

    @property
    def evaluations(self) -> list[Evaluation]:
        """Every evaluation so far, in the order in which it was asked for."""
        return [self._evaluations[k] for k in self._asked if k in self._evaluations]

    @property
    def edges(self) -> list[EdgeEntry]:
        """Axes whose current best is an end of the candidates although a grid grows at its ends."""
        return [
            EdgeEntry(name, value, self._edge_note(axis, value))
            for name, value in self._incumbent.items()
            if (axis := self._axes[name]).growth != "fixed"
            and len(axis.values) > 1
            and value in (axis.values[0], axis.values[-1])
        ]

    def ask(self) -> list[Configuration]:
        """The configurations to evaluate next, all of which may run at once; empty at the end.

        Asking again before every answer has come returns what is still missing.
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
        loss = _number_or_infinity(loss)
        self._evaluations[key(configuration)] = Evaluation(dict(configuration), loss)

    def _edge_note(self, axis: Axis, value: Value) -> str:
        if not self.grow:
            return "at the end of the candidates, which this search does not extend"
        if axis.extended(value) is None:
            return "at the end of the candidates, which cannot be extended further"
        if self.exhausted:
            why = "; the runs were used up before they could be extended"
        else:
            why = ", which were not extended because the run diverged"
        return f"at the end of the candidates{why}"

    def _pending(self) -> list[Configuration]:
        return [c for k, c in self._asked.items() if k not in self._evaluations]

    def _steps(self) -> Iterator[list[Configuration]]:
        """Batches of trials until no neighbour is left to try or no run to try it."""
        self._asked[key(self._incumbent)] = self.incumbent
        yield self._pending()
        while not self.exhausted:
            self._move_while_better()
            if not (ranked := self._ranked()):
                break
            if self._request(ranked):
                yield self._pending()
        self._move_while_better()
        self.certified = not self.exhausted and math.isfinite(self.incumbent_loss)

    def _request(self, ranked: Sequence[tuple[float, str, Value]]) -> bool:
        """Ask for the first valid ones of ranked neighbours, within the budget; False if none."""
        batch_probability, count = 0.0, 0
        for probability, name, value in ranked:
            if count == self.parallel or (
                count and batch_probability + probability > BATCH_PROBABILITY
            ):
                break
            candidate = self._at(name, value)
            if reason := self.invalid_reason(candidate):
                self._refused.add(key(candidate))
                self.rejections.append(RejectionEntry(candidate, reason))
            elif self.max_runs is not None and len(self._asked) >= self.max_runs:
                self.exhausted = True
                break
            else:
                self._asked[key(candidate)] = candidate
                batch_probability, count = batch_probability + probability, count + 1
            # Only now: a grid that has grown in vain costs a run at every later current best.
            if value not in self._axes[name].values:
                self._axes[name] = self._widened(name)
        return count > 0

    def _ranked(self) -> list[tuple[float, str, Value]]:
        """Chance, axis and value of the neighbours still to be tried, the most promising first.

        Of equally promising ones, the value past an end is the last: it makes later lines longer.
        """
        ranked = [
            (probability, name, value)
            for name in self._axes
            if (untried := self._untried(name))
            for value, probability in self._improvement_probability(name).items()
            if value in untried
        ]
        return sorted(ranked, key=lambda n: (-n[0], n[2] not in self._axes[n[1]].values))

    def _improvement_probability(self, name: str) -> Mapping[Value, float]:
        observed = [(e.configuration, e.loss) for e in self.evaluations]
        lines = lines_along(name, self._incumbent, observed, self._known)
        at, start = self._incumbent[name], self.start[name]
        return improvement_probability(self._widened(name), at, start, lines, self.tie_threshold)

    def _widened(self, name: str) -> Axis:
        """The axis with the value past its end, if the current best lies on one and is finite."""
        axis = self._axes[name]
        if math.isinf(self.incumbent_loss):
            return axis
        return (axis.extended(self._incumbent[name]) if self.grow else None) or axis

    def _untried(self, name: str) -> set[Value]:
        """Values of an axis that the certificate still asks for."""
        axis = self._widened(name)
        here = axis.values.index(self._incumbent[name])
        sides = (axis.values[here + 1 :], axis.values[:here][::-1])
        if self.certificate == "bracket" and axis.growth != "fixed":
            sides = tuple(self._bracket(name, side) for side in sides)
        return {value for side in sides for value in side if self._is_untried(name, value)}

    def _bracket(self, name: str, outwards: Sequence[Value]) -> Sequence[Value]:
        """The values up to the first that is untried or worse by more than τ."""
        limit = self.incumbent_loss + self.tie_threshold
        for count, value in enumerate(outwards, start=1):
            neighbour = self._at(name, value)
            # What cannot be run shows nothing about what lies beyond it.
            if key(neighbour) not in self._refused and self._loss(neighbour) > limit:
                return outwards[:count]
        return outwards

    def _is_untried(self, name: str, value: Value) -> bool:
        neighbour = key(self._at(name, value))
        return neighbour not in self._asked and neighbour not in self._refused

    def _at(self, name: str, value: Value) -> Configuration:
        return {**self._incumbent, name: value}

    def line(self, name: str) -> list[Configuration]:
        """Every candidate of an axis with the other values of the current best."""
        return [self._at(name, value) for value in self._axes[name].values]

    def _loss(self, configuration: Configuration) -> float:
        evaluation = self._evaluations.get(key(configuration))
        return evaluation.loss if evaluation else math.inf

    def _move_while_better(self) -> None:
        """Move to the best neighbour known, as long as it is better by more than τ."""
        while self._move() or self._correct_last_move():
            pass

    def _move(self) -> bool:
        """Move to the best neighbour that is known if it is better by more than τ."""
        neighbours = [(name, c) for name in self._axes for c in self.line(name)]
        if not neighbours:
            return False
        name, best = min(neighbours, key=lambda neighbour: self._loss(neighbour[1]))
        loss, before = self._loss(best), self.incumbent_loss
        from_diverged = math.isinf(before) and math.isfinite(loss)
        if not (loss < before - self.tie_threshold or from_diverged):
            return False
        self.moves.append(Move(name, self._incumbent[name], best[name], before, loss))
        self._incumbent = dict(best)
        return True

    def _correct_last_move(self) -> bool:
        """Let the last move end at the best of its line, as if all of it had been tried before.

        What is better than where the move ended, by however little, is better than where it began
        by more than τ.
        """
        if not self.moves:
            return False
        last = self.moves[-1]
        best = min(self.line(last.axis), key=self._loss)
        if not self._loss(best) < self.incumbent_loss:
            return False
        self.moves[-1] = replace(last, after=best[last.axis], loss_after=self._loss(best))
        self._incumbent = dict(best)
        return True


def _number_or_infinity(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


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
