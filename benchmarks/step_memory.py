"""Compare the counted memory of a training step with what a GPU's allocator hands out at most.

    python benchmarks/step_memory.py                          # the four published sizes
    python benchmarks/step_memory.py --size 130m --micro-batch 2 --optimizer soap --out rows.json

Each row is one process's step of two micro-batches and an update, in bfloat16, with and without
recomputed activations. Without a GPU nothing is measured: rows have the counted bytes alone.
Random tokens; nothing is trained to any end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from optbench.config import RunConfig
from optbench.execution import Execution
from optbench.ladder import PAPER_SIZES, SIZES
from optbench.study.planning.device_costs import meta_model
from optbench.study.single_run import single_run_config
from optbench.training.accumulation import Accumulation
from optbench.training.memory import state_bytes, step_memory
from optbench.training.micro_batches import Batch
from optbench.training.run import build_model, build_optimizer, default_device, environment


def main() -> None:
    options = parsed()
    device = default_device()
    rows = []
    for size in options.size or PAPER_SIZES:
        settings = {"batch_size": 2 * options.micro_batch}
        config = single_run_config(
            options.optimizer, size=size, ratio=1.0, settings=settings, seed=0
        )
        config = dataclasses.replace(config, precision="bfloat16")
        for activation_checkpointing in (False, True):
            row = {
                "size": size,
                "activation_checkpointing": activation_checkpointing,
                **counted(config, activation_checkpointing),
            }
            if device.type == "cuda":
                row["measured_gb"] = measured(config, activation_checkpointing, device) / 1e9
            rows.append(row)
            print(json.dumps(row))
    if options.out:
        facts = {"environment": environment(), "options": vars(options), "rows": rows}
        options.out.write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")


def counted(config: RunConfig, activation_checkpointing: bool) -> dict[str, Any]:
    kept = state_bytes(build_optimizer(config, meta_model(config.model)))
    memory = step_memory(
        config.model,
        config.precision,
        activation_checkpointing=activation_checkpointing,
        state_bytes=kept,
    )
    return {"counted_gb": memory.peak(config.batch_size // 2) / 1e9}


def measured(config: RunConfig, activation_checkpointing: bool, device: torch.device) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    model = build_model(config, Execution(activation_checkpointing=activation_checkpointing)).to(
        device
    )
    optimizer = build_optimizer(config, model)
    shape = (config.batch_size, config.model.seq_len + 1)
    tokens = torch.randint(0, config.model.vocab_size, shape, device=device)
    accumulation = Accumulation(model, config.batch_size // 2)
    for _ in range(2):  # the first step makes the state
        accumulation.accumulate_gradients(Batch(tokens))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated(device)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", action="append", choices=list(SIZES))
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
