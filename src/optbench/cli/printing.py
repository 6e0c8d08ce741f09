"""Plans, costs and records as text on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from optbench.run_axes import RUN_AXES, WARMUPS, axis_values
from optbench.space import Configuration
from optbench.store.store import RunRecord
from optbench.units import format_count, format_seconds

if TYPE_CHECKING:  # both import torch, which listing records has no need of
    from optbench.study.config import StudyConfig
    from optbench.study.planning.device_costs import MemoryRow
    from optbench.study.planning.devices import DeviceAllocation
    from optbench.study.planning.plan import Plan, PlanRow
    from optbench.training.bench import OptimizerCost
    from optbench.training.memory import StepMemory


def print_text(console: Console, text: str) -> None:
    """Print a message as it is; a terminal breaks its lines, nothing else does."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_plan(study: StudyConfig, plan: Plan, console: Console, *, by_cell: bool = False) -> None:
    """The plan by phase and optimizer, or by cell too, and its sums."""
    allocation = plan.allocation
    times = ["CPU time"] if allocation is None else ["device-hours", "in updates"]
    money = ["price"] if allocation is not None and allocation.price is not None else []
    table = Table(title=_plan_title(study, plan), title_justify="left")
    for name in ("phase", "optimizer", "cells", "runs", "at most", "tokens", "FLOPs"):
        left = name in ("phase", "optimizer", "cells")
        table.add_column(name, justify="left" if left else "right")
    for name in (*times, *money):
        table.add_column(name, justify="right")
    rows = plan.rows if by_cell else plan.by_optimizer()
    for i, row in enumerate(rows):
        is_last = i + 1 == len(rows) or (rows[i + 1].phase != row.phase and not by_cell)
        table.add_row(*_plan_cells(row), end_section=is_last)
    table.add_row(*_plan_cells(plan.total))
    console.print(table)
    if plan.allocation is not None:
        _print_memory(plan.memory, plan.allocation, console)
    console.print(_plan_summary(plan), highlight=False)


def _plan_title(study: StudyConfig, plan: Plan) -> str:
    allocation = plan.allocation
    if allocation is None:
        return f"Plan of study '{study.name}' with {plan.workers} workers"
    return (
        f"Plan of study '{study.name}' on {allocation.device.name}: "
        f"{allocation.device.bf16_flops / 1e12:.0f} TFLOP/s in bfloat16, of which "
        f"{allocation.mfu:.0%} are reached"
    )


def _print_memory(
    rows: Sequence[MemoryRow], allocation: DeviceAllocation, console: Console
) -> None:
    """Of each size the optimizers that keep the least and the most."""
    table = Table(title=_memory_title(allocation), title_justify="left")
    for name in (
        "size",
        "optimizer",
        "weights, gradients, optimizer memory",
        "at a time",
        "activation checkpointing",
    ):
        left = name in ("size", "optimizer")
        table.add_column(name, justify="left" if left else "right")
    for size in dict.fromkeys(row.size for row in rows):
        by_state = sorted((r for r in rows if r.size == size), key=lambda r: r.plain.state)
        for row in by_state if len(by_state) == 1 else (by_state[0], by_state[-1]):
            table.add_row(
                size,
                row.optimizer,
                _gigabytes(row.plain.kept),
                _fit(row.plain, row.plain_micro_batch, row.batch_size),
                _fit(row.checkpointed, row.checkpointed_micro_batch, row.batch_size),
            )
    console.print(table)


def _memory_title(allocation: DeviceAllocation) -> str:
    gigabytes = allocation.device.memory_bytes / 1e9
    return f"Memory on one {allocation.device.name} ({gigabytes:.0f} GB), computed, not measured"


def _fit(memory: StepMemory, micro_batch: int, batch_size: int) -> str:
    """Sequences at a time and the peak, or that not even one fits."""
    if not micro_batch:
        return f"none: {_gigabytes(memory.peak(1))}"
    return f"{micro_batch} of {batch_size}: {_gigabytes(memory.peak(micro_batch))}"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e9:.2g} GB"


def _plan_cells(row: PlanRow) -> list[str]:
    cells = row.cells[0] if len(row.cells) == 1 else f"{len(row.cells)} cells"
    texts = [
        row.phase,
        row.optimizer,
        cells,
        f"{row.runs:,}",
        f"{row.runs_worst:,}",
        format_count(row.tokens),
        f"{row.flops:.2g}",
    ]
    if row.update_s is None:
        return [*texts, format_seconds(row.device_s)]
    share = f"{row.update_s / row.device_s:.1%}" if row.device_s else "–"
    money = [] if row.price is None else [_amount(row.price)]
    return [*texts, _hours(row.device_s), share, *money]


def _on_estimates(plan: Plan) -> str:
    if not plan.estimated:
        return ""
    sizes = ", ".join(plan.estimated)
    return f"\nSome or all steps of {sizes} were not timed; their time is estimated from FLOPs."


def _plan_summary(plan: Plan) -> str:
    total, allocation = plan.total, plan.allocation
    expected = f"Expected: {total.runs:,} runs, {format_count(total.tokens)} tokens, "
    worst = f"At most:  {total.runs_worst:,} runs, "
    if allocation is None:
        return (
            f"{expected}{total.flops:.2g} FLOPs, about {format_seconds(plan.seconds)} on "
            f"{plan.workers} workers of this machine.\n"
            f"{worst}{format_seconds(plan.seconds_worst)}, if every descent spent its whole budget."
            f"{_on_estimates(plan)}"
        )
    hours, hours_worst = _hours(total.device_s), _hours(total.device_s_worst)
    device = allocation.device.name
    return (
        f"{expected}{total.flops:.2g} FLOPs, {hours} {device}-hours{_money(total.price)}.\n"
        f"{worst}{hours_worst} {device}-hours{_money(total.price_worst)}, if every descent "
        f"spent its whole budget.\n"
        f"{_wall_time(plan, allocation)}"
    )


def _wall_time(plan: Plan, allocation: DeviceAllocation) -> str:
    devices = f"{allocation.count:,} {allocation.device.name}" + (
        "s" if allocation.count > 1 else ""
    )
    time = f"Time:     {format_seconds(plan.seconds_busy)} on {devices}"
    if plan.seconds == plan.seconds_busy:
        return f"{time}."
    return (
        f"{time} that are always busy; {format_seconds(plan.seconds)} with one run on each, "
        f"because the runs of a descent wait for each other."
    )


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _money(price: float | None) -> str:
    return "" if price is None else f" for {_amount(price)}"


def _amount(price: float) -> str:
    return f"{price:,.0f}" if price >= 100 else f"{price:.2f}"


def print_costs(costs: list[OptimizerCost], console: Console) -> None:
    """One row for each optimizer."""
    table = Table()
    titles = (
        "optimizer",
        "update ms",
        "worst ms",
        "step ms",
        "share of steps",
        "state bytes/param",
    )
    for title in titles:
        table.add_column(title, justify="left" if title == "optimizer" else "right")
    for cost in costs:
        table.add_row(
            cost.optimizer,
            f"{cost.update_s * 1e3:.2f}",
            f"{cost.worst_update_s * 1e3:.2f}",
            f"{cost.step_s * 1e3:.2f}",
            f"{cost.share:.1%}",
            f"{cost.state_bytes_per_param:.1f}",
        )
    console.print(table)


def print_records(records: list[RunRecord], console: Console) -> None:
    """One row for each run."""
    table = Table()
    for name in (
        "run",
        "optimizer",
        "hyperparameters",
        "tokens",
        "seed",
        "status",
        "val",
        "test",
        "s",
    ):
        table.add_column(
            name, justify="right" if name in ("tokens", "val", "test", "s") else "left"
        )
    configs = [record.run_config for record in records]
    values = [axis_values(config) for config in configs]
    shared = set(RUN_AXES) - set(_varying_axes(values))
    for record, config, axes in zip(records, configs, values, strict=True):
        named = {axis: value for axis, value in axes.items() if axis not in shared}
        table.add_row(
            record.run_id[:10],
            config.optimizer.name,
            " ".join(f"{name}={value}" for name, value in sorted(named.items())),
            f"{config.num_tokens / 1e6:.2f}M",
            str(config.seed),
            record.status,
            _loss(record.val_loss),
            _loss(record.test_loss),
            f"{record.wall_s:.1f}",
        )
    console.print(table)
    console.print(f"{len(records)} runs. `optbench show RUN --store …` prints one.")


def _varying_axes(runs: Sequence[Configuration]) -> list[str]:
    """Axes of a run that tell the runs of a list apart; of the warm-up's names the steadier."""
    values = {axis: {run[axis] for run in runs} for axis in RUN_AXES}
    steps, share = (len(values[name]) for name in WARMUPS)
    del values[WARMUPS[1] if steps <= share else WARMUPS[0]]
    return [axis for axis, found in values.items() if len(found) > 1]


def print_record(record: RunRecord, console: Console) -> None:
    """Everything a person wants to know of one run."""
    config = record.run_config
    hyperparameters = ", ".join(
        f"{k}={v}" for k, v in sorted(config.optimizer.hyperparameters.items())
    )
    model, schedule = config.model, config.schedule
    step_ms, optimizer_ms = record.step_s * 1e3, record.optimizer_step_s * 1e3
    lines = [
        f"run          {record.run_id}  ({record.status})",
        f"optimizer    {config.optimizer.name}: {hyperparameters}",
        f"model        {model.num_layers} layers, d={model.d_model}, "
        f"{model.num_nonembedding_params:,} non-embedding of {model.num_params:,} parameters",
        f"budget       {config.num_tokens:,} tokens, {config.num_steps} steps of "
        f"{config.batch_size} × {model.seq_len}, warm-up {schedule.warmup_steps}, "
        f"decay {schedule.decay_steps} ({schedule.shape}), seed {config.seed}",
        f"losses       validation {_loss(record.val_loss)}, test {_loss(record.test_loss)} "
        f"nats/token",
        "validation   " + ", ".join(f"{loss:.4f} at {step}" for step, loss in record.val_curve),
        f"time         {record.wall_s:.1f} s; step {step_ms:.2f} ms, of which optimizer "
        f"{optimizer_ms:.2f} ms; {record.tokens_per_s:,.0f} tokens/s",
        f"state        {record.state_bytes:,} bytes",
        f"environment  {', '.join(f'{k} {v}' for k, v in record.environment.items())}",
    ]
    if config.precision != "float32":
        lines.insert(3, f"precision    products in {config.precision}, all else in float32")
    if record.execution:
        settings = ", ".join(f"{k} {v}" for k, v in record.execution.items() if v)
        lines.append(f"execution    {settings}")
    if record.error:
        lines.append(f"error        {record.error}")
    console.print("\n".join(lines), highlight=False, markup=False)


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
