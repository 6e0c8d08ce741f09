"""Small configurations and records, for tests of everything that passes them around."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Mapping
from typing import Any

from optbench.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from optbench.store.store import RunRecord, Status

TINY_MODEL = ModelConfig(num_layers=2, d_model=16, d_ff=64, num_heads=2, vocab_size=64, seq_len=16)

TINY_CONFIG = RunConfig(
    model=TINY_MODEL,
    data=DataConfig(corpus="toy", fingerprint="f0"),
    optimizer=OptimizerConfig(name="adamw", hyperparameters={"lr": 0.01, "beta1": 0.9}),
    schedule=ScheduleConfig(warmup_steps=2, decay_steps=6),
    num_tokens=10 * 4 * 16,
    batch_size=4,
    eval_tokens=128,
    test_tokens=128,
    num_evals=2,
)


def config_with(**changes: Any) -> RunConfig:
    """The tiny run with some of its top-level settings changed."""
    return dataclasses.replace(TINY_CONFIG, **changes)


def config_with_lr(lr: float) -> RunConfig:
    """The tiny run with another learning rate: the cheapest way to another run."""
    return config_with(optimizer=OptimizerConfig(name="adamw", hyperparameters={"lr": lr}))


def record_of(
    config: RunConfig = TINY_CONFIG,
    *,
    loss: float | None = 3.25,
    status: Status = "completed",
    error: str = "",
) -> RunRecord:
    """A record of a run that nobody trained."""
    return RunRecord(
        run_id=config.run_id,
        config=config.to_dict(),
        status=status,
        val_loss=loss,
        test_loss=loss,
        train_curve=[(5, 4.0), (10, 3.5)],
        val_curve=[] if loss is None else [(5, 3.75), (10, loss)],
        num_steps=config.num_steps,
        num_tokens=config.num_steps * config.tokens_per_step,
        step_s=0.25,
        optimizer_step_s=0.125,
        wall_s=4.0,
        state_bytes=1024,
        started_at="2025-01-02T03:04:05+00:00",
        environment={"torch": "2.13.0", "dirty": False},
        error=error,
    )


def toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def document(tables: Mapping[str, Any]) -> str:
    """A TOML file of these tables, each a line."""
    return "".join(f"{key} = {toml(value)}\n" for key, value in tables.items())
