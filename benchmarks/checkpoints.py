"""What a checkpoint costs a run: written while the run waits, and while it goes on.

    python benchmarks/checkpoints.py --out rows.json        # 14.7 million parameters, AdamW

Rounds of steps are timed by the wall, in an order that turns from round to round: with no
checkpoint (twice, which shows what the machine's noise alone makes of a difference), with one that
is awaited at once (synchronous), and with one that is written while the steps go on (asynchronous,
as runs do it). A difference within the spread of the two rounds without checkpoint says nothing.
The snapshot and the writing are timed by themselves, by the wall and by the processor time of this
process, which other processes on the machine change little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optbench.checkpoints.checkpoint import checkpoint_directory
from optbench.checkpoints.loop_state import LoopState
from optbench.checkpoints.manifest import CheckpointManifest, rank_file
from optbench.checkpoints.training_state import snapshot
from optbench.checkpoints.writer import CheckpointWriter
from optbench.config import ModelConfig
from optbench.files.tensor_file import write_tensors
from optbench.optimizers import AdamW, parameter_groups
from optbench.training.model import Llama
from optbench.training.run import environment, use_one_thread

SEQ_LEN = 64
KINDS = ("none", "none again", "synchronous", "asynchronous")


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def processor_seconds(call: Callable[[], object]) -> float:
    """Of all threads of this process."""
    start = time.process_time()
    call()
    return time.process_time() - start


def quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"lower_quartile": low, "median": median, "upper_quartile": high}


@dataclass
class Training:
    """A model in training on one batch, and the writer of its checkpoints."""

    model: Llama
    batch_size: int
    folder: Path

    def __post_init__(self) -> None:
        self.optimizer = AdamW(parameter_groups(self.model, self.model.roles()))
        shape = (self.batch_size, SEQ_LEN + 1)
        self.tokens = torch.randint(0, self.model.config.vocab_size, shape)
        self.writer = CheckpointWriter(checkpoint_directory(self.folder, "benchmark"))
        self.steps_taken = 0

    def step(self) -> None:
        """One training step."""
        self.model.loss(self.tokens).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps_taken += 1

    def save(self, *, write: bool = True) -> None:
        """Take a snapshot, and begin to write it unless told otherwise."""
        times = torch.zeros(self.steps_taken, dtype=torch.float64)
        loop = LoopState(
            steps_taken=self.steps_taken,
            train_curve=[],
            val_curve=[],
            first_micro_batch_size=None,
            micro_batch_size=None,
            step_times=times,
            optimizer_times=times,
            recent_losses=torch.zeros(1),
        )
        taken = snapshot(self.model, self.optimizer, loop)
        self.num_bytes = sum(t.numel() * t.element_size() for t in taken.tensors.values())
        if write:
            self.writer.save(self.steps_taken, taken.tensors, taken.facts)
        else:
            self.copies = {name: tensor.clone() for name, tensor in taken.tensors.items()}

    def write_copies(self) -> None:
        """The last snapshot, in this thread."""
        writer = self.writer
        facts = writer.directory.write(
            self.steps_taken, rank_file(0, 1), lambda file: write_tensors(file, self.copies)
        )
        manifest = CheckpointManifest(writer.directory.run_id, self.steps_taken, (facts,), ({},))
        writer.directory.complete(manifest)
        writer.directory.remove(self.steps_taken)

    def wait(self) -> None:
        """Until the checkpoint is complete."""
        while not self.writer.is_free(60.0):
            pass

    def round(self, kind: str, steps: int) -> float:
        """Seconds of so many steps and of what the run itself waits for a checkpoint."""
        took = seconds(self.step)
        if kind in ("synchronous", "asynchronous"):
            took += seconds(self.save)
        if kind == "synchronous":
            took += seconds(self.wait)
        took += sum(seconds(self.step) for _ in range(steps - 1))
        self.wait()
        return took


def measure(training: Training, rounds: int, steps: int) -> dict[str, Any]:
    for _ in range(2):
        training.step()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    parts: dict[str, list[float]] = {
        f"{part}_{clock}_s": []
        for part in ("step", "snapshot", "write")
        for clock in ("wall", "cpu")
    }

    def note(part: str, call: Callable[[], object]) -> None:
        cpu: list[float] = []
        parts[f"{part}_wall_s"].append(seconds(lambda: cpu.append(processor_seconds(call))))
        parts[f"{part}_cpu_s"] += cpu

    for number in range(rounds):
        note("step", training.step)
        note("snapshot", lambda: training.save(write=False))
        note("write", training.write_copies)
        turned = KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]
        for kind in turned:
            times[kind].append(training.round(kind, steps))
    delays = {
        kind: quartiles([one - none for one, none in zip(times[kind], times["none"], strict=True)])
        for kind in KINDS[1:]
    }
    return {
        "checkpoint_bytes": training.num_bytes,
        "rounds": rounds,
        "steps_per_round": steps,
        "load_average": os.getloadavg(),
        "parts": {name: quartiles(found) for name, found in parts.items()},
        "run_delayed_by_s": delays,
        "round_s": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3, help="in a round")
    parser.add_argument("--folder", type=Path, help="where to write  [default: a temporary one]")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    use_one_thread()
    width = given.width
    config = ModelConfig(
        num_layers=given.layers,
        d_model=width,
        d_ff=4 * width,
        num_heads=max(1, width // 64),
        vocab_size=given.vocab,
        seq_len=SEQ_LEN,
    )
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        training = Training(Llama(config, seed=0), given.batch_size, Path(folder))
        row = measure(training, given.rounds, given.steps)
    facts = {
        "environment": environment(),
        "parameters": config.num_params,
        "optimizer": "adamw",
        "batch_tokens": given.batch_size * SEQ_LEN,
        **row,
    }
    print(f"{config.num_params:,} parameters, {row['checkpoint_bytes']:,} bytes")
    for name, found in {**row["parts"], **row["run_delayed_by_s"]}.items():
        print(
            f"{name:<16} {found['median']:7.3f} s "
            f"[{found['lower_quartile']:.3f}, {found['upper_quartile']:.3f}]"
        )
    if given.out:
        given.out.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
