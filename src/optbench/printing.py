"""Plans, costs and records as text on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from optbench.analysis.units import format_seconds
from optbench.store import RunRecord

if TYPE_CHECKING:  # both import torch, which listing records has no need of
    from optbench.bench import OptimizerCost
    from optbench.plan import Plan
    from optbench.study_config import StudyConfig


def print_plan(study: StudyConfig, plan: Plan, console: Console) -> None:
    """The plan by phase and optimizer, and its sums."""
    table = Table(
        title=f"Plan of study '{study.name}' with {plan.workers} workers", title_justify="left"
    )
    for name in ("phase", "optimizer", "cell", "runs", "at most", "tokens", "FLOPs", "core time"):
        table.add_column(
            name, justify="left" if name in ("phase", "optimizer", "cell") else "right"
        )
    for row in plan.rows:
        table.add_row(
            row.phase,
            row.optimizer,
            row.cell,
            str(row.runs),
            str(row.runs_worst),
            f"{row.tokens / 1e6:.1f}M",
            f"{row.flops:.2g}",
            format_seconds(row.core_s),
        )
    console.print(table)
    console.print(
        f"Expected: {plan.runs} runs, {plan.tokens / 1e6:.0f}M tokens, {plan.flops:.2g} FLOPs, "
        f"about {format_seconds(plan.seconds)} on {plan.workers} workers of this machine."
    )
    console.print(
        f"At most:  {plan.runs_worst} runs, {format_seconds(plan.seconds_worst)}, if every descent "
        f"spent its whole budget."
    )


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
    for record in records:
        config = record.run_config
        table.add_row(
            record.run_id[:10],
            config.optimizer.name,
            " ".join(f"{k}={v}" for k, v in sorted(config.optimizer.hyperparameters.items())),
            f"{config.num_tokens / 1e6:.2f}M",
            str(config.seed),
            record.status,
            _loss(record.val_loss),
            _loss(record.test_loss),
            f"{record.wall_s:.1f}",
        )
    console.print(table)
    console.print(f"{len(records)} runs. `optbench show RUN --store …` prints one.")


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
    if record.error:
        lines.append(f"error        {record.error}")
    console.print("\n".join(lines), highlight=False, markup=False)


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
