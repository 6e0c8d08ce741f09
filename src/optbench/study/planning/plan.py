"""What a study will cost: runs, tokens, FLOPs, time and money, before anything is trained.

On this machine step times are measured for every optimizer, on all workers at once, because
processes that share a memory bus slow each other down. For a device you do not have they are
computed from its vendor's figures.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.config import ConfigError, RunConfig
from optbench.executors.processes import Executor
from optbench.store.journal_entries import PlanEntry
from optbench.study.planning.device_costs import MemoryRow, memory_row, run_cost
from optbench.study.planning.devices import DEVICES, Device, DeviceAllocation
from optbench.study.planning.planned_runs import PlannedRuns
from optbench.training.bench import (
    LONGEST_STEPS_S,
    MEASURED_STEPS,
    StepCost,
    matmul_flops_per_s,
    mean_cost,
    measure_step,
)
from optbench.units import format_seconds

# Share of the wall time in which the workers are busy: the last runs of a phase wait for others.
# The first nano study reached 0.94.
WORKER_USE = 0.93
# Runs that a descent has going at once, on average over the tuning tables of
# benchmarks/results/search_runs_202611.json: 36 runs in 21 batches.
RUNS_PER_BATCH = 1.7
DESCENTS = ("tune", "retune", "baseline")
PHASES = ("noise", *DESCENTS, "confirm")
LONGEST_MEASUREMENT_S = 30.0
ALL_MEASUREMENTS_S = 45.0  # before the first run; what was begun may end a little later
MEASURED_SHARE = 0.05  # of a study's time, at most
SLOWEST = 10.0  # times slower than a plain matrix product, a step of unknown speed is taken to be


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One phase of one optimizer in one cell, or in several summed up.

    Args:
        cells: labels of the cells.
        flops: of the training passes, as records count them.
        device_s: seconds of one device; of one worker where step times were measured here.
        update_s: the optimizer's part of that; None where it was measured as a part of the step.
        chain_s: the least time it takes, however many devices there are.
        price: of the device time; None without a price per hour.
    """

    phase: str
    optimizer: str
    cells: tuple[str, ...]
    runs: int
    runs_worst: int
    tokens: int
    flops: float
    device_s: float
    device_s_worst: float
    chain_s: float
    update_s: float | None = None
    price: float | None = None
    price_worst: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a study.

    Args:
        rows: by phase, optimizer and cell, in the study's order.
        workers: runs at a time.
        allocation: the device that was planned for; None where step times were measured here.
        memory: of that device, by size and optimizer.
        estimated: sizes of which not all steps were timed here; their time is by FLOPs.
    """

    rows: tuple[PlanRow, ...]
    workers: int
    allocation: DeviceAllocation | None = None
    memory: tuple[MemoryRow, ...] = ()
    estimated: tuple[str, ...] = ()

    @property
    def total(self) -> PlanRow:
        """The sum of all rows."""
        return added(self.rows, "all", "")

    @property
    def seconds(self) -> float:
        """Expected wall seconds, one run on each worker."""
        return max(self.seconds_busy, self._longest_chain_s(lambda row: row.device_s))

    @property
    def seconds_busy(self) -> float:
        """Expected wall seconds if there is always a run for every worker."""
        return self.total.device_s / self.workers / WORKER_USE

    @property
    def seconds_worst(self) -> float:
        """As :attr:`seconds`, if every descent spends its whole budget."""
        busy = self.total.device_s_worst / self.workers / WORKER_USE
        return max(busy, self._longest_chain_s(lambda row: row.device_s_worst))

    def by_optimizer(self) -> list[PlanRow]:
        """One row for each phase and optimizer, the cells summed up."""
        groups: dict[tuple[str, str], list[PlanRow]] = defaultdict(list)
        for row in self.rows:
            groups[row.phase, row.optimizer].append(row)
        order = {phase: place for place, phase in enumerate(PHASES)}
        ordered = sorted(groups, key=lambda key: order.get(key[0], len(PHASES)))
        return [added(groups[key], *key) for key in ordered]

    def totals(self) -> PlanEntry:
        """What the journal keeps."""
        total = self.total
        return PlanEntry(
            total.runs, total.runs_worst, total.tokens, total.flops, self.seconds, self.workers
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        total = {k: v for k, v in dataclasses.asdict(self.total).items() if k in _SUMMED}
        return {
            **total,
            **dataclasses.asdict(self.totals()),
            "seconds_busy": self.seconds_busy,
            "seconds_worst": self.seconds_worst,
            "allocation": None if self.allocation is None else dataclasses.asdict(self.allocation),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "memory": [dataclasses.asdict(row) for row in self.memory],
            "estimated": list(self.estimated),
        }

    def _longest_chain_s(self, device_s: Callable[[PlanRow], float]) -> float:
        """Seconds of the optimizer whose runs wait for each other the longest."""
        chains: dict[str, float] = defaultdict(float)
        for row in self.rows:
            if row.device_s:
                chains[row.optimizer] += row.chain_s * device_s(row) / row.device_s
        return max(chains.values(), default=0.0)


_SUMMED = (
    "runs",
    "runs_worst",
    "tokens",
    "flops",
    "device_s",
    "device_s_worst",
    "update_s",
    "price",
    "price_worst",
)


def added(rows: Sequence[PlanRow], phase: str, optimizer: str) -> PlanRow:
    """The sum of some rows under a name."""
    sums = {name: _sum(getattr(row, name) for row in rows) for name in (*_SUMMED, "chain_s")}
    cells = tuple(dict.fromkeys(cell for row in rows for cell in row.cells))
    return PlanRow(phase, optimizer, cells, **sums)


def _sum(values: Iterable[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def make_plan(planned: Sequence[PlannedRuns], executor: Executor) -> Plan:
    """Measure the step time of every optimizer, within a minute, and add everything up."""
    measured = measure_costs(planned, executor)
    costs = measured.costs
    rows = (_row(p, _run_s(p, costs)) for p in planned)
    return Plan(tuple(rows), executor.num_workers, estimated=measured.estimated)


def _run_s(planned: PlannedRuns, costs: Mapping[tuple[str, str], StepCost]) -> float:
    return costs[planned.optimizer, planned.cell.size].run_seconds(planned.example)


def untimed_plan(planned: Sequence[PlannedRuns], workers: int) -> Plan:
    """Add everything up but the time, which is 0."""
    return Plan(tuple(_row(p, 0.0) for p in planned), workers)


def plan_for(planned: Sequence[PlannedRuns], allocation: DeviceAllocation) -> Plan:
    """Add everything up at the step times that a device's figures give."""
    rows = tuple(_allocated_row(p, allocation) for p in planned)
    memory = tuple(_memory_rows(planned, allocation.device))
    return Plan(rows, allocation.count, allocation, memory)


def _memory_rows(planned: Sequence[PlannedRuns], device: Device) -> list[MemoryRow]:
    """By size, the smallest first, and optimizer."""
    examples = {(p.cell.size, p.optimizer): p.example for p in planned}
    rows = [memory_row(config, size, device) for (size, _), config in examples.items()]
    return sorted(rows, key=lambda row: row.plain.weights)


def _allocated_row(planned: PlannedRuns, allocation: DeviceAllocation) -> PlanRow:
    cost = run_cost(planned.example, allocation.device, allocation.mfu)
    row = _row(planned, cost.total_s)
    row = dataclasses.replace(row, update_s=planned.expected * cost.update_s)
    if allocation.price is None:
        return row
    prices = [s / 3600 * allocation.price for s in (row.device_s, row.device_s_worst)]
    return dataclasses.replace(row, price=prices[0], price_worst=prices[1])


def _row(planned: PlannedRuns, run_s: float) -> PlanRow:
    config, runs = planned.example, planned.expected
    batches = max(1.0, runs / RUNS_PER_BATCH) if planned.phase in DESCENTS else 1.0
    return PlanRow(
        phase=planned.phase,
        optimizer=planned.optimizer,
        cells=(planned.cell.label,),
        runs=runs,
        runs_worst=planned.worst,
        tokens=runs * config.num_steps * config.tokens_per_step,
        flops=runs * config.train_flops,
        device_s=runs * run_s,
        device_s_worst=planned.worst * run_s,
        chain_s=batches * run_s,
    )


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """The step cost of each (optimizer, size), and the sizes that were estimated in part."""

    costs: Mapping[tuple[str, str], StepCost]
    estimated: tuple[str, ...]


def measure_costs(planned: Sequence[PlannedRuns], executor: Executor) -> MeasuredCosts:
    """The step cost of each (optimizer, size), measured while every worker is busy.

    The smallest steps first, as long as the next one is expected to end in time: within 45 seconds
    and a twentieth of what the study will take. Of the others the cost is estimated from their
    FLOPs, at the rate that the largest measured step of the optimizer reached, or of any optimizer;
    where nothing could be measured, at that of a plain matrix product, which no step exceeds.
    """
    examples = {(p.optimizer, p.cell.size): p.example for p in planned}
    started, limit_s = time.monotonic(), ALL_MEASUREMENTS_S
    peak = executor.submit(matmul_flops_per_s).result()
    costs: dict[tuple[str, str], StepCost] = {}
    took = slowest = 0.0  # seconds of the last measurement, and its seconds per FLOP
    smallest_first = sorted(examples, key=lambda key: _step_flops(examples[key]))
    for key in smallest_first:
        flops = _step_flops(examples[key])
        step_s = flops * (slowest or SLOWEST / peak)
        expected = max(took, min(MEASURED_STEPS * step_s, LONGEST_STEPS_S) + step_s)
        before = time.monotonic()
        if before - started + expected > limit_s:
            break
        # As many copies as workers: the copies load the machine as the study will.
        copies = [executor.submit(measure_step, examples[key]) for _ in range(executor.num_workers)]
        costs[key] = mean_cost([copy.result() for copy in copies])
        took, slowest = time.monotonic() - before, costs[key].step_s / flops
        if len(costs) == 1:  # the first tells how long the study will be
            known = {k: _estimated_cost(k, examples, costs, peak) for k in examples}
            busy_s = sum(_run_s(p, known) * p.expected for p in planned)
            limit_s = min(limit_s, MEASURED_SHARE * busy_s / executor.num_workers)
    left = [key for key in smallest_first if key not in costs]
    known = dict(costs)
    costs |= {key: _estimated_cost(key, examples, known, peak) for key in left}
    return MeasuredCosts(costs, tuple(dict.fromkeys(size for _, size in left)))


def _estimated_cost(
    key: tuple[str, str],
    examples: Mapping[tuple[str, str], RunConfig],
    known: Mapping[tuple[str, str], StepCost],
    peak: float,
) -> StepCost:
    """By FLOPs; of a step the forward pass, which an evaluation is, is a third."""
    own = [other for other in known if other[0] == key[0]] or list(known)
    rate = peak
    if own:
        largest = max(own, key=lambda other: _step_flops(examples[other]))
        rate = _step_flops(examples[largest]) / max(known[largest].step_s, 1e-9)
    config = examples[key]
    step_s = _step_flops(config) / rate
    return StepCost(step_s, step_s / 3 / config.tokens_per_step)


def refuse_long_measurements(planned: Sequence[PlannedRuns], executor: Executor) -> None:
    """Say so where measuring a step of the largest model would take longer than a plan may.

    Raises:
        ConfigError: it would take more than 30 s, at a worker's rate of a plain matrix product.
    """
    size, largest = max(
        ((p.cell.size, p.example) for p in planned), key=lambda pair: _step_flops(pair[1])
    )
    seconds = MEASURED_STEPS * _step_flops(largest) / executor.submit(matmul_flops_per_s).result()
    if seconds > LONGEST_MEASUREMENT_S:
        raise ConfigError(
            [
                f"Timing the steps of size {size} (batches of {largest.batch_size} × "
                f"{largest.model.seq_len} tokens) would take at least {format_seconds(seconds)} "
                f"on this machine, for each optimizer. Name the device to plan for with --device: "
                f"{', '.join(DEVICES)}."
            ]
        )


def _step_flops(config: RunConfig) -> float:
    return config.model.train_flops_per_token * config.tokens_per_step
