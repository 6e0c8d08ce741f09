"""Step time and optimizer state of one run on one and on several devices of this machine.

Each number of devices is one short run of the same configuration, started as a user starts it; the
record says what it took. Rounds take turns, so that a change of the machine's load hits all alike,
and the medians over rounds are printed.

    python benchmarks/data_parallel.py --optimizer muon --devices 1 2
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

from optbench.data.corpus import NANO
from optbench.data.shards import corpus_dir, default_cache_dir
from optbench.execution import Execution
from optbench.store.store import RunRecord
from optbench.study.single_run import single_run_config
from optbench.training.run import run, use_one_thread


def measured(optimizer: str, size: str, batch_size: int, steps: int, devices: int) -> RunRecord:
    config = single_run_config(
        optimizer, size=size, ratio=None, settings={"batch_size": batch_size}, seed=0
    )
    tokens = steps * batch_size * config.model.seq_len
    schedule = dataclasses.replace(config.schedule, warmup_steps=1, decay_steps=1)
    config = dataclasses.replace(
        config, num_tokens=tokens, schedule=schedule, eval_tokens=4096, test_tokens=4096
    )
    corpus = corpus_dir(NANO, config.model.vocab_size, default_cache_dir())
    record = run(config, corpus, execution=Execution(devices_per_run=devices))
    if record.status == "failed":
        raise SystemExit(record.error)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optimizer", nargs="+", default=["adamw", "muon", "soap"])
    parser.add_argument("--size", default="d64")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    use_one_thread()
    rows: list[dict[str, object]] = []
    for optimizer in given.optimizer:
        found: dict[int, list[RunRecord]] = {devices: [] for devices in given.devices}
        for _ in range(given.rounds):
            for devices, records in found.items():
                records.append(
                    measured(optimizer, given.size, given.batch_size, given.steps, devices)
                )
        for devices, records in found.items():
            last = records[-1]
            rows.append(
                {
                    "optimizer": optimizer,
                    "devices": devices,
                    "step_ms": 1e3 * statistics.median(r.step_s for r in records),
                    "update_ms": 1e3 * statistics.median(r.optimizer_step_s for r in records),
                    "state_bytes": last.state_bytes,
                    "by_rank": last.execution.get("state_bytes_by_rank", [last.state_bytes]),
                    "test_loss": last.test_loss,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    if given.out is not None:
        facts = {"environment": last.environment, "size": given.size, "rows": rows}
        given.out.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
