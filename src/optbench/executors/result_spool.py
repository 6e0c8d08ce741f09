"""Ended runs: a record is kept by its worker until the driver has stored it.

Between the end of a training and the driver's line in ``runs.jsonl`` either process may be killed.
The record then lies in the store's folder ``ended``, and whoever is asked for that run again gives
it back instead of training. A worker on another machine that cannot reach the store does without,
and itself removes the checkpoints of an ended run from the folder there: the driver cannot.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from optbench.checkpoints.root import CheckpointRoot
from optbench.config import RunConfig
from optbench.files.durable import replacing
from optbench.store.store import RUNS, RunRecord, StoreError, spooled_record


def run_or_load(
    job: Callable[[RunConfig], RunRecord],
    store: Path,
    checkpoints: CheckpointRoot,
    config: RunConfig,
) -> RunRecord:
    """Do a job, unless its record is there already.

    Args:
        store: the folder of the store.
        checkpoints: where the job keeps them.
    """
    # Elsewhere there may be a folder of that name, which nobody would ever clear.
    if not (store / RUNS).exists():
        record = job(config)
        if checkpoints.is_in(store):
            checkpoints.discard(record)
        return record
    path = spooled_record(store, config.run_id)
    if (kept := _read(path)) is not None and kept.run_id == config.run_id:
        return kept
    record = job(config)
    if record.status != "failed":
        _keep(path, record)
    return record


def _read(path: Path) -> RunRecord | None:
    # A power cut may have left half a record, because nothing here waits for the disk.
    with contextlib.suppress(OSError, ValueError, StoreError):
        raw = json.loads(path.read_bytes())
        return RunRecord.from_dict(raw) if isinstance(raw, dict) else None
    return None


def _keep(path: Path, record: RunRecord) -> None:
    """Before the driver hears of it; it is in no haste to be on the disk, as the driver will be."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with replacing(path, flush=False) as draft:
            draft.write_text(record.to_json(), encoding="utf-8")
