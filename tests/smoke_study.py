"""The shipped smoke study, finished: what many tests look at and none changes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock


@dataclass(frozen=True)
class SmokeStudy:
    """A finished ``optbench run nano --smoke``, and what it printed."""

    store: Path
    stdout: str
    stderr: str


def smoke_study_in(parent: Path) -> SmokeStudy:
    """Found there, or executed in a process of its own."""
    folder = parent / "smoke"
    folder.mkdir(exist_ok=True)
    store, stdout, stderr = folder / "store", folder / "stdout", folder / "stderr"
    with FileLock(folder / "lock"):
        if not stderr.exists():
            command = [sys.executable, "-m", "optbench.cli", "run", "nano", "--smoke"]
            done = subprocess.run(
                [*command, "--out", str(store)],
                capture_output=True,
                text=True,
                env={**os.environ, "COLUMNS": "200"},
            )
            assert done.returncode == 0, done.stdout + done.stderr
            stdout.write_text(done.stdout, encoding="utf-8")
            stderr.write_text(done.stderr, encoding="utf-8")
    return SmokeStudy(store, stdout.read_text("utf-8"), stderr.read_text("utf-8"))
