"""`optbench train` after it was killed: the same command goes on, and tidies up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SETTINGS = ("train", "--optimizer", "lion", "--size", "d32", "--ratio", "0.3")


def command(store: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "optbench.cli", *SETTINGS, "--store", str(store), *more]


def record_of(store: Path) -> dict[str, object]:
    (line,) = (store / "runs.jsonl").read_text().splitlines()
    return json.loads(line)


@pytest.mark.slow
def test_a_killed_training_goes_on_and_its_checkpoints_go_when_its_record_comes(
    tmp_path: Path,
) -> None:
    store, kept = tmp_path / "store", tmp_path / "kept"
    often = command(store, "--checkpoint-interval", "0.0001", "--checkpoint-dir", str(kept))
    process = subprocess.Popen(often, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not list(kept.glob("*/step-*/checkpoint.json")):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = subprocess.run(often, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    resumed = record_of(store)
    (step,) = resumed["execution"]["resumed_at_steps"]  # type: ignore[index]
    assert step >= 1
    assert list(kept.iterdir()) == []
    plain = tmp_path / "plain"
    done = subprocess.run(command(plain), capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    whole = record_of(plain)
    for name in ("run_id", "train_curve", "val_curve", "val_loss", "test_loss", "num_steps"):
        assert resumed[name] == whole[name], name
    assert not (plain / "checkpoints").exists()
