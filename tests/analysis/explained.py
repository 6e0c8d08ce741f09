"""A small study whose every decision can be followed by hand, as entries of its journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optbench.space import Configuration

N = 32_768
TAU = 0.01
START: Configuration = {"lr": 0.016, "beta2": 0.98}
FIXED: Configuration = {"weight_decay": 0.1}

# Two moves up the learning rate, then one axis that ties on one side and is refused on the other.
LOSSES: tuple[tuple[float, float, float | None], ...] = (
    (0.016, 0.98, 4.0),
    (0.008, 0.98, 4.05),
    (0.032, 0.98, 3.97),
    (0.064, 0.98, 3.955),
    (0.128, 0.98, None),
    (0.064, 0.95, 3.96),
)


def cell(ratio: float = 1.0, size: str = "d32", params: int = N) -> dict[str, Any]:
    return {
        "size": size,
        "ratio": ratio,
        "num_tokens": round(20 * ratio * params),
        "num_nonembedding_params": params,
    }


def study_entry(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "study",
        "name": "small",
        "title": "",
        "smoke": False,
        "baseline": "adamw",
        "optimizers": ["adamw", "muon"],
        "confirm_seeds": 2,
        "tuned_cell": cell(),
        "baseline_cells": [cell(2.0)],
        "axes": {"adamw": ["lr", "beta2"], "muon": ["lr"]},
        **changes,
    }


def noise_entry(at: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "noise",
        "cell": at or cell(),
        "optimizer": "adamw",
        "run_ids": ["n0", "n1"],
        "neighbour_run_ids": ["m0", "m1"],
        "sigma": 0.02,
        "paired_sigma": 0.01,
        "tie_threshold": 0.01,
        **changes,
    }


def tuning_entry(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "tuning",
        "cell": cell(),
        "optimizer": "adamw",
        "start": {**START, **FIXED},
        "incumbent": {"lr": 0.064, "beta2": 0.98, **FIXED},
        "certified": True,
        "tie_threshold": TAU,
        "moves": [move("lr", 0.016, 0.032, 4.0, 3.97), move("lr", 0.032, 0.064, 3.97, 3.955)],
        "evaluations": [evaluation({"lr": lr, "beta2": beta2}, loss) for lr, beta2, loss in LOSSES],
        "rejected": [{"configuration": {"lr": 0.064, "beta2": 0.99}, "reason": "β2 is too large."}],
        "edges": [],
        "runs": len(LOSSES),
        "tokens": 655_360 * len(LOSSES),
        **changes,
    }


def move(
    axis: str, before: float, after: float, loss_before: float | None, loss_after: float
) -> dict[str, Any]:
    return {
        "axis": axis,
        "before": before,
        "after": after,
        "loss_before": loss_before,
        "loss_after": loss_after,
    }


def evaluation(configuration: Configuration, loss: float | None) -> dict[str, Any]:
    name = "-".join(str(value) for value in configuration.values())
    return {"configuration": configuration, "run_id": f"run-{name}", "loss": loss}


def line_tuning(
    ratio: float,
    losses: Mapping[float, float | None],
    *,
    axis: str = "lr",
    size: str = "d32",
    params: int = N,
    optimizer: str = "adamw",
) -> dict[str, Any]:
    """A descent over one axis that began at its winner."""
    best = min((loss, value) for value, loss in losses.items() if loss is not None)[1]
    return tuning_entry(
        cell=cell(ratio, size, params),
        optimizer=optimizer,
        start={axis: best},
        incumbent={axis: best},
        moves=[],
        rejected=[],
        evaluations=[evaluation({axis: value}, loss) for value, loss in losses.items()],
    )


def around(best: float, others: Sequence[float] = (0.5, 2.0)) -> dict[float, float | None]:
    """A line whose best value is clear."""
    return {best: 4.0, **{best * factor: 4.1 for factor in others}}


def prediction_entry(**changes: Any) -> dict[str, Any]:
    axis = {
        "axis": "lr",
        "form": "power",
        "reason": "an offset does not improve the fit (F-test, p = 0.4)",
        "value": 0.0123,
        "low": 0.008,
        "high": 0.019,
        "outer_low": 0.006,
        "outer_high": 0.021,
        "snapped": 0.0123,
        "clamped": False,
        "size_extrapolation": 2.25,
        "ratio_extrapolation": 1.0,
    }
    return {
        "kind": "prediction",
        "cell": cell(1.0, "d48", 73_728),
        "optimizer": "adamw",
        "configuration": {"lr": 0.0123, "beta2": 0.98},
        "axes": [{**axis, **changes}],
    }


def sensitivity_entry() -> dict[str, Any]:
    return {
        "kind": "sensitivity",
        "optimizer": "adamw",
        "cells": ["d32 1x", "d32 2x"],
        "axes": [
            {
                "axis": "lr",
                "is_stable": False,
                "stable_values": [],
                "candidates": [0.032, 0.064],
                "near_best": {"d32 1x": [0.064], "d32 2x": [0.032]},
                "silent_cells": [],
            },
            {
                "axis": "beta2",
                "is_stable": True,
                "stable_values": [0.98],
                "candidates": [0.98],
                "near_best": {"d32 1x": [0.95, 0.98], "d32 2x": [0.98]},
                "silent_cells": [],
            },
            {
                "axis": "eps",
                "is_stable": True,
                "stable_values": [1e-8],
                "candidates": [1e-8],
                "near_best": {"d32 1x": [1e-8]},
                "silent_cells": ["d32 2x"],
            },
        ],
    }
