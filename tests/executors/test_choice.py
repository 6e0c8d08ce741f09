"""Where a study's jobs are executed: how many at a time, and what cannot be asked for."""

from __future__ import annotations

import pytest

from optbench.executors.choice import ExecutorChoice


@pytest.mark.parametrize(
    ("workers", "cores", "devices", "expected"),
    [(None, 8, 1, 8), (None, 8, 3, 2), (None, 2, 4, 1), (5, 8, 4, 5)],
)
def test_the_runs_at_a_time_leave_each_device_a_core_unless_told_otherwise(
    workers: int | None, cores: int, devices: int, expected: int
) -> None:
    with ExecutorChoice(workers=workers, cores=cores).opened(devices) as executor:
        assert executor.num_workers == expected


@pytest.mark.parametrize(
    ("gpus", "devices"), [(None, 4), (0, 4), (4, 4), (5, 4), (0.5, 1), (None, 1)]
)
def test_gpus_that_suffice_are_no_problem(gpus: float | None, devices: int) -> None:
    assert ExecutorChoice(kind="ray", gpus_per_run=gpus).device_problems(devices) == []


@pytest.mark.parametrize(("gpus", "devices"), [(2, 4), (0.5, 2)])
def test_fewer_gpus_than_devices_of_a_run_are_a_problem(gpus: float, devices: int) -> None:
    assert ExecutorChoice(kind="ray", gpus_per_run=gpus).device_problems(devices) == [
        f"A run was to use {devices} devices, but only {gpus:g} GPUs were to be kept for it, so "
        f"that it would find too few. Give --gpus-per-run {devices}, or leave it out, or 0 for "
        f"runs on CPUs; or use fewer --devices-per-run."
    ]
