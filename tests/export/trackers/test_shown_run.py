from __future__ import annotations

import dataclasses

from optbench.config import OptimizerConfig
from optbench.export.trackers.shown_run import shown_run
from tests.builders import TINY_CONFIG, config_with, record_of
from tests.export.trackers.conftest import CELL

TIMES = {
    "run/step_s": 0.25,
    "run/optimizer_step_s": 0.125,
    "run/wall_s": 4.0,
    "run/tokens_per_s": 256.0,  # 64 tokens per step
    "run/state_bytes": 1024,
}


def test_curves_are_joined_by_step_and_what_was_measured_once_is_at_the_end() -> None:
    assert shown_run(record_of(), [CELL]).points == [
        (5, {"train/loss": 4.0, "validation/loss": 3.75}),
        (10, {"train/loss": 3.5, "validation/loss": 3.25, "test/loss": 3.25, **TIMES}),
    ]


def test_a_run_that_diverged_at_once_has_no_losses() -> None:
    record = dataclasses.replace(record_of(loss=None, status="diverged"), train_curve=[])
    run = shown_run(record, [CELL])
    assert run.points == [(10, TIMES)]
    assert run.tags == ["tiny 0.00390625x", "seed 0", "diverged"]
    assert run.config["status"] == "diverged"


def test_points_are_in_the_order_of_the_steps() -> None:
    record = dataclasses.replace(
        record_of(), train_curve=[(2, 5.0), (7, 4.0)], val_curve=[(4, 4.5)], num_steps=7
    )
    assert [step for step, _ in shown_run(record, []).points] == [2, 4, 7]


def test_a_run_is_named_by_optimizer_cell_and_seed() -> None:
    run = shown_run(record_of(config_with(seed=3)), [CELL])
    assert run.name == "adamw tiny 0.00390625x seed 3"
    assert run.group == "adamw"
    assert run.tags == ["tiny 0.00390625x", "seed 3", "completed"]
    assert run.run_id == config_with(seed=3).run_id


def test_a_run_of_no_cell_of_the_study_is_named_by_its_numbers() -> None:
    assert shown_run(record_of(), []).tags[0] == "8192 parameters 640 tokens"
    other = dataclasses.replace(CELL, ratio=1.0)
    assert shown_run(record_of(), [other]).tags[0] == "8192 parameters 640 tokens"


def test_hyperparameters_have_their_own_names_and_tables_are_flat() -> None:
    optimizer = OptimizerConfig(name="muon", hyperparameters={"lr": 0.5, "nesterov": True})
    config = shown_run(record_of(config_with(optimizer=optimizer)), [CELL]).config
    assert list(config)[:5] == ["status", "cell", "optimizer", "lr", "nesterov"]
    assert config["optimizer"] == "muon"
    assert config["lr"] == 0.5
    assert config["nesterov"] is True
    assert config["batch_size"] == 4
    assert config["model.d_model"] == 16
    assert config["schedule.warmup_steps"] == 2
    assert config["data.corpus"] == "toy"
    assert all(isinstance(value, str | int | float) for value in config.values())


def test_steps_are_spread_evenly_over_the_time_of_the_run() -> None:
    run = shown_run(record_of(TINY_CONFIG), [])
    assert run.started_s == 1735787045.0  # 2025-01-02T03:04:05Z
    assert run.time_of(5) == 1735787047.0
    assert run.time_of(10) == 1735787049.0
