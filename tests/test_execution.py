"""How a run is executed: what can be asked for, where, and what a record has of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from optbench.config import ConfigError
from optbench.execution import DEFAULT_EXECUTION, Execution
from optbench.study.file import find_study, read_study

NANO = find_study("nano")


def test_a_record_has_the_settings_and_the_micro_batch_that_was_used() -> None:
    assert Execution() == DEFAULT_EXECUTION
    record = Execution(memory_gb=1.5, activation_checkpointing=True).record(3)
    assert list(record.items()) == [
        ("micro_batch_size", 3),
        ("memory_bytes", 1_500_000_000),
        ("checkpointing", True),
        ("compiled", False),
        ("checkpoint_minutes", 10.0),
        ("checkpoint_steps", None),
        ("devices", 1),
    ]
    record = Execution(compile=True, checkpoint_interval=0, checkpoint_steps=3).record(4)
    assert record == {
        "micro_batch_size": 4,
        "memory_bytes": None,
        "checkpointing": False,
        "compiled": True,
        "checkpoint_minutes": None,
        "checkpoint_steps": 3,
        "devices": 1,
    }


def test_a_record_has_what_else_there_is_to_say() -> None:
    record = Execution(devices_per_run=2).record(3, backend="gloo")
    assert (record["devices"], record["backend"], record["micro_batch_size"]) == (2, "gloo", 3)


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({"micro_batch": 0}, ["micro_batch must be at least 1, but got 0."]),
        ({"checkpoint_steps": 0}, ["checkpoint_steps must be at least 1, but got 0."]),
        ({"memory_gb": -5}, ["memory_gb must be above 0 and finite, but got -5."]),
        *(
            (
                {"checkpoint_interval": minutes},
                [f"checkpoint_interval must be at least 0 and finite, but got {minutes:g}."],
            )
            for minutes in (-1.0, math.nan, math.inf)
        ),
        (
            {"micro_batch": 4, "memory_gb": math.inf, "devices_per_run": 0},
            [
                "devices_per_run must be at least 1, but got 0.",
                "memory_gb must be above 0 and finite, but got inf.",
                "micro_batch and memory_gb must not both be given.",
            ],
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_all_at_once(
    settings: dict[str, Any], problems: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        Execution(**settings)
    assert caught.value.problems == problems


def test_what_is_given_is_laid_over_the_table() -> None:
    table = Execution(activation_checkpointing=True, compile=True, devices_per_run=2)
    given = {"activation_checkpointing": False, "devices_per_run": 4, "checkpoint_interval": 0}
    assert table.overlaid(given) == Execution(
        compile=True, devices_per_run=4, checkpoint_interval=0
    )
    assert table.overlaid({}) == table


def test_a_micro_batch_and_the_memory_it_follows_from_replace_each_other() -> None:
    batch, memory = Execution(micro_batch=4), Execution(memory_gb=2)
    assert memory.overlaid({"micro_batch": 4}) == batch
    assert batch.overlaid({"memory_gb": 2}) == memory
    with pytest.raises(ConfigError, match="must not both be given"):
        batch.overlaid({"micro_batch": 4, "memory_gb": 2})


# In a study file ------------------------------------------------------------------------------


def test_a_study_file_has_them_in_a_table_of_its_own() -> None:
    text = """
[execution]
devices_per_run = 2
memory_gb = 3
compile = true
checkpoint_interval = 2.5
"""
    assert read_study(NANO).execution == DEFAULT_EXECUTION
    assert read_study(NANO + text, smoke=True).execution == Execution(
        devices_per_run=2,
        memory_gb=3,
        compile=True,
        checkpoint_interval=2.5,
    )


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("devices_per_run = 2.0", "execution.devices_per_run must be a whole number, but got 2.0."),
        ("micro_batch = true", "execution.micro_batch must be a whole number, but got True."),
        (
            "memory_gb = '4'",
            "execution.memory_gb must be a number, but got '4'. Write it out, without quotes.",
        ),
        ("compile = 1", "execution.compile must be true or false, but got 1."),
        ("devices_per_run = 0", "execution.devices_per_run must be at least 1, but got 0."),
        ("micro_batch = -1", "execution.micro_batch must be at least 1, but got -1."),
        ("memory_gb = 0", "execution.memory_gb must be above 0 and finite, but got 0."),
        ("memory_gb = inf", "execution.memory_gb must be a finite number, but got inf."),
        ("memory_gb = 1e300", "execution.memory_gb must be above 0 and finite, but got 1e+300."),
        ("memory_gb = nan", "execution.memory_gb must be a finite number, but got nan."),
        (
            "checkpoint_interval = -1",
            "execution.checkpoint_interval must be at least 0 and finite, but got -1.",
        ),
        (
            "micro_batch = 1\nmemory_gb = 2",
            "execution.micro_batch and memory_gb must not both be given.",
        ),
    ],
)
def test_a_bad_table_is_refused_by_its_key(table: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(f"{NANO}\n[execution]\n{table}\n")
    assert caught.value.problems == [problem]


def test_an_unknown_key_and_a_value_in_place_of_the_table_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'execution.devices_per_run'\?"):
        read_study(f"{NANO}\n[execution]\ndevice_per_run = 2\n")
    with pytest.raises(ConfigError, match=r"Unknown key 'execution.checkpoint_steps'"):
        read_study(f"{NANO}\n[execution]\ncheckpoint_steps = 2\n")
    with pytest.raises(ConfigError, match=r"^execution must be a table of keys and values, but"):
        read_study(f"execution = 3\n{NANO}")


def test_a_key_s_old_name_is_answered_by_its_new_one() -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(f"{NANO}\n[execution]\ncheckpointing = true\ncheckpoint_minutes = 5\n")
    assert caught.value.problems == [
        "execution.checkpointing is now execution.activation_checkpointing.",
        "execution.checkpoint_minutes is now execution.checkpoint_interval.",
    ]
