"""ShownRun: what a sink shows of a finished run, in plain numbers and words."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optbench.config import RunConfig
from optbench.ladder import Cell
from optbench.space import Value
from optbench.store.store import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRun:
    """A run in the terms of experiment trackers.

    Args:
        name: for people, such as ``muon d32 1x seed 3``.
        group: runs that belong together, the optimizer.
        tags: cell, seed and status.
        config: hyperparameters by their names and all other settings, those of nested tables as
            ``table.key``.
        points: values at training steps, in ascending order of the steps; the last one has what
            was measured once, at the end.
        started_s: when the run started, seconds since 1970.
        wall_s: seconds that it took.
    """

    run_id: str
    name: str
    group: str
    tags: list[str]
    config: dict[str, Value]
    points: list[tuple[int, dict[str, float]]]
    started_s: float
    wall_s: float

    def time_of(self, step: int) -> float:
        """When a step was taken, seconds since 1970, had all steps taken as long."""
        return self.started_s + self.wall_s * step / max(1, self.points[-1][0])


def shown_run(record: RunRecord, cells: Sequence[Cell]) -> ShownRun:
    """What is shown of a record.

    Args:
        cells: of the study, for the name of the run's own.
    """
    config = record.run_config
    cell = _label(config, cells)
    return ShownRun(
        run_id=record.run_id,
        name=f"{config.optimizer.name} {cell} seed {config.seed}",
        group=config.optimizer.name,
        tags=[cell, f"seed {config.seed}", record.status],
        config={"status": record.status, "cell": cell, **_flat(config)},
        points=_points(record),
        started_s=datetime.datetime.fromisoformat(record.started_at).timestamp(),
        wall_s=record.wall_s,
    )


def _label(config: RunConfig, cells: Sequence[Cell]) -> str:
    for cell in cells:
        if cell.model == config.model and cell.num_tokens == config.num_tokens:
            return cell.label
    return f"{config.model.num_nonembedding_params} parameters {config.num_tokens} tokens"


def _flat(config: RunConfig) -> dict[str, Value]:
    """All settings in one table, the hyperparameters first and by their own names."""
    flat: dict[str, Value] = {"optimizer": config.optimizer.name}
    flat |= config.optimizer.hyperparameters
    for key, value in config.to_dict().items():
        if key == "optimizer":
            continue
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": setting for inner, setting in value.items()}
        else:
            flat[key] = value
    return flat


def _points(record: RunRecord) -> list[tuple[int, dict[str, float]]]:
    points: dict[int, dict[str, float]] = {}
    curves = (("train/loss", record.train_curve), ("validation/loss", record.val_curve))
    for name, curve in curves:
        for step, loss in curve:
            points.setdefault(step, {})[name] = loss
    last = points.setdefault(max([record.num_steps, *points]), {})
    if record.test_loss is not None:
        last["test/loss"] = record.test_loss
    last |= {
        "run/step_s": record.step_s,
        "run/optimizer_step_s": record.optimizer_step_s,
        "run/wall_s": record.wall_s,
        "run/tokens_per_s": record.tokens_per_s,
        "run/state_bytes": record.state_bytes,
    }
    return sorted(points.items())
