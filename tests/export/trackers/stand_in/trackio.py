"""Stands in for trackio 0.43: init, log and finish with its parameters, writing down the calls.

`STAND_IN` in the environment makes a stage hang: import, init, log or finish.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_folder = Path(os.environ["TRACKIO_DIR"])


def _note(call: str, **facts: Any) -> None:
    if os.environ.get("STAND_IN") == call:
        time.sleep(3600)
    with (_folder / "calls.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"call": call, **facts}) + "\n")


_note(
    "import", environment={k: v for k, v in os.environ.items() if k[:7] in ("TRACKIO", "HF_HUB_")}
)


def init(
    project: str,
    name: str | None = None,
    group: str | None = None,
    space_id: str | None = None,
    server_url: str | None = None,
    dataset_id: str | None = None,
    bucket_id: str | None = None,
    config: dict[str, Any] | None = None,
    resume: str = "never",
    settings: Any = None,
    private: bool | None = None,
    embed: bool = True,
    auto_log_gpu: bool | None = None,
    gpu_log_interval: float = 10.0,
    auto_log_cpu: bool | None = None,
    cpu_log_interval: float = 10.0,
    webhook_url: str | None = None,
    webhook_min_level: str | None = None,
) -> None:
    sys.stdout.write(f"* Trackio project initialized: {project}\n")
    _note(
        "init",
        project=project,
        name=name,
        group=group,
        space_id=space_id,
        config=config,
        resume=resume,
        embed=embed,
        auto_log=[auto_log_gpu, auto_log_cpu],
    )


def log(metrics: dict[str, Any], step: int | None = None) -> None:
    _note("log", metrics=metrics, step=step)


def finish() -> None:
    _note("finish")
