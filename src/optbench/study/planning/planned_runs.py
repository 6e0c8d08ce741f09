"""Planned runs: what a study will train, by phase, optimizer and cell, before anything is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optbench.config import RunConfig
from optbench.ladder import Cell
from optbench.space import SearchSpace
from optbench.study.config import StudyConfig
from optbench.study.coordinate_descent import count_first_round

# Runs of a descent beyond its start, relative to one that never moves: medians from a start point
# and from a winner nearby (benchmarks/results/search_runs_202611.json).
ROUNDS_FROM_START = 1.6
ROUNDS_FROM_WINNER = 1.2
# Share of the axes that phase I finds sensitive to scale (23 of 79 in the published study), and the
# values tried of each besides the current best's: mostly one more candidate and one past an end.
SENSITIVE_SHARE = 0.3
RETUNED_VALUES = 2


@dataclass(frozen=True, slots=True)
class PlannedRuns:
    """Runs of one kind that a study expects, and at most.

    Args:
        phase: "noise", "tune" (I), "retune" (II), "baseline" or "confirm".
        example: the start point in this cell, for its cost.
    """

    phase: str
    optimizer: str
    cell: Cell
    example: RunConfig
    expected: int
    worst: int


def planned_runs(config: StudyConfig, fingerprint: str = "") -> list[PlannedRuns]:
    """What the study will train, in the order in which it will."""
    kinds = [*_noise(config)]
    for name in config.optimizers:
        kinds += _optimizer(config, name)
    kinds += _baseline_curve(config)
    return [
        PlannedRuns(
            phase,
            name,
            cell,
            config.run_config(
                name, cell, config.optimizers[name].start, seed=0, fingerprint=fingerprint
            ),
            expected,
            worst,
        )
        for phase, name, cell, expected, worst in kinds
        if worst
    ]


_Kind = tuple[str, str, Cell, int, int]


def _noise(config: StudyConfig) -> Iterator[_Kind]:
    # Two configurations on every seed; those on the tuning seed serve the descent as well.
    extra = 2 * (config.protocol.noise_seeds - 1)
    for cell in config.phases.noise:
        yield "noise", config.baseline, cell, extra, extra


def _optimizer(config: StudyConfig, name: str) -> Iterator[_Kind]:
    protocol, phases = config.protocol, config.phases
    axes = tuple(config.optimizers[name].space)
    sensitive = math.ceil(len(axes) * SENSITIVE_SHARE)
    retuned = 1 + round(sensitive * RETUNED_VALUES * ROUNDS_FROM_WINNER)
    for cell in config.cells_of(name, phases.tune):
        rounds = ROUNDS_FROM_START if cell == config.tuned_cell else ROUNDS_FROM_WINNER
        yield "tune", name, cell, _descent(config, name, axes, rounds), protocol.max_runs
        yield "confirm", name, cell, protocol.confirm_seeds, protocol.confirm_seeds
    for cell in config.cells_of(name, phases.retune):
        yield "retune", name, cell, min(retuned, protocol.max_runs), protocol.max_runs
        yield "confirm", name, cell, protocol.confirm_seeds, protocol.confirm_seeds
    for cell in config.cells_of(name, phases.predict):
        yield "confirm", name, cell, protocol.confirm_seeds, protocol.confirm_seeds


def _baseline_curve(config: StudyConfig) -> Iterator[_Kind]:
    retuned, protocol = config.baseline_retuned, config.protocol
    for cell in config.baseline_cells:
        worst = protocol.max_runs if retuned else 1
        expected = _descent(config, config.baseline, retuned, ROUNDS_FROM_WINNER)
        yield "baseline", config.baseline, cell, expected, worst
        seeds = protocol.confirm_seeds
        yield "confirm", config.baseline, cell, seeds, seeds


def _descent(config: StudyConfig, optimizer: str, axes: Sequence[str], rounds: float) -> int:
    """Runs that a descent over some axes of an optimizer is expected to take."""
    search = config.optimizers[optimizer]
    space = SearchSpace({name: search.space[name] for name in axes})
    first = count_first_round(space, {name: search.start[name] for name in space})
    return min(config.protocol.max_runs, round(1 + (first - 1) * rounds))
