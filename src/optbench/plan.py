"""What a study will cost: runs, tokens, FLOPs and minutes, before anything is trained.

Step times are measured on this machine for every optimizer, on all workers at once, because
processes that share a memory bus slow each other down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optbench.bench import StepCost, mean_cost, measure_step
from optbench.executors import Executor
from optbench.planned_runs import PlannedRuns

# Share of the wall time in which the workers are busy: the last runs of a phase wait for others.
WORKER_USE = 0.93


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One phase of one optimizer in one cell."""

    phase: str
    optimizer: str
    cell: str
    runs: int
    runs_worst: int
    tokens: int
    flops: float
    core_s: float


@dataclass(frozen=True, slots=True)
class PlanTotals:
    """The whole study in six numbers; what the journal keeps and what is compared afterwards."""

    runs: int
    runs_worst: int
    tokens: int
    flops: float
    seconds: float
    workers: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a study; ``seconds`` is wall time with ``workers`` processes."""

    rows: tuple[PlanRow, ...]
    workers: int

    @property
    def runs(self) -> int:
        """Expected runs."""
        return sum(row.runs for row in self.rows)

    @property
    def runs_worst(self) -> int:
        """Runs if every descent spends its whole budget."""
        return sum(row.runs_worst for row in self.rows)

    @property
    def tokens(self) -> int:
        """Expected training tokens."""
        return sum(row.tokens for row in self.rows)

    @property
    def flops(self) -> float:
        """Expected training FLOPs."""
        return sum(row.flops for row in self.rows)

    @property
    def seconds(self) -> float:
        """Expected wall seconds."""
        return sum(row.core_s for row in self.rows) / self.workers / WORKER_USE

    @property
    def seconds_worst(self) -> float:
        """Wall seconds if every descent spends its whole budget."""
        core_s = sum(row.core_s * row.runs_worst / max(1, row.runs) for row in self.rows)
        return core_s / self.workers / WORKER_USE

    def totals(self) -> PlanTotals:
        """The sums over the rows."""
        return PlanTotals(
            self.runs, self.runs_worst, self.tokens, self.flops, self.seconds, self.workers
        )


def make_plan(planned: Sequence[PlannedRuns], executor: Executor) -> Plan:
    """Measure the step time of every optimizer and add everything up."""
    costs = measure_costs(planned, executor)
    rows = tuple(
        PlanRow(
            phase=p.phase,
            optimizer=p.optimizer,
            cell=p.cell.label,
            runs=p.expected,
            runs_worst=p.worst,
            tokens=p.expected * p.example.num_steps * p.example.tokens_per_step,
            flops=p.expected * p.example.train_flops,
            core_s=p.expected * costs[p.optimizer, p.cell.size].run_seconds(p.example),
        )
        for p in planned
    )
    return Plan(rows, executor.num_workers)


def measure_costs(
    planned: Sequence[PlannedRuns], executor: Executor
) -> Mapping[tuple[str, str], StepCost]:
    """The step cost of each (optimizer, size), measured while every worker is busy."""
    examples = {(p.optimizer, p.cell.size): p.example for p in planned}
    # As many copies as workers: the copies load the machine as the study will.
    futures = {
        key: [executor.submit(measure_step, config) for _ in range(executor.num_workers)]
        for key, config in examples.items()
    }
    return {
        key: mean_cost([future.result() for future in copies]) for key, copies in futures.items()
    }
