"""How runs are executed, as a user says it."""

from __future__ import annotations

import math

import pytest

from optbench.config import ConfigError
from optbench.execution import Execution
from optbench.execution_settings import UNSET, ExecutionSettings
from optbench.study.file import find_study, read_study

NANO = find_study("nano")


def test_nothing_said_is_the_default() -> None:
    assert UNSET.execution() == Execution()
    assert read_study(NANO).execution == UNSET


def test_every_setting_arrives() -> None:
    asked = ExecutionSettings(
        memory_gb=1.5,
        activation_checkpointing=True,
        compile=True,
        checkpoint_interval=0,
        devices_per_run=3,
    )
    assert asked.execution() == Execution(
        memory_bytes=1_500_000_000,
        activation_checkpointing=True,
        compiled=True,
        checkpoint_interval=None,
        devices=3,
    )
    assert ExecutionSettings(micro_batch=2, checkpoint_interval=0.5).execution() == Execution(
        micro_batch_size=2, checkpoint_interval=0.5
    )


def test_what_is_said_goes_before_the_table() -> None:
    table = ExecutionSettings(activation_checkpointing=True, compile=True, devices_per_run=2)
    said = ExecutionSettings(
        activation_checkpointing=False, devices_per_run=4, checkpoint_interval=0
    )
    assert said.over(table) == ExecutionSettings(
        activation_checkpointing=False,
        compile=True,
        devices_per_run=4,
        checkpoint_interval=0,
    )
    assert UNSET.over(table) == table
    assert table.over(UNSET) == table


def test_a_micro_batch_takes_the_place_of_the_memory_that_it_followed_from() -> None:
    batch, memory = ExecutionSettings(micro_batch=4), ExecutionSettings(memory_gb=2)
    assert batch.over(memory) == batch
    assert memory.over(batch) == memory


def test_a_study_file_says_it_in_a_table_of_its_own() -> None:
    text = """
[execution]
devices_per_run = 2
memory_gb = 3
compile = true
checkpoint_interval = 2.5
"""
    assert read_study(NANO + text, smoke=True).execution == ExecutionSettings(
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


def test_what_is_said_outside_of_a_file_is_refused_too() -> None:
    with pytest.raises(ConfigError) as caught:
        ExecutionSettings(memory_gb=math.inf, devices_per_run=0).execution()
    assert caught.value.problems == [
        "devices_per_run must be at least 1, but got 0.",
        "memory_gb must be above 0 and finite, but got inf.",
    ]


def test_an_unknown_key_and_a_value_in_place_of_the_table_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'execution.devices_per_run'\?"):
        read_study(f"{NANO}\n[execution]\ndevice_per_run = 2\n")
    with pytest.raises(ConfigError, match=r"^execution must be a table of keys and values, but"):
        read_study(f"execution = 3\n{NANO}")


def test_a_key_s_old_name_is_answered_by_its_new_one() -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(f"{NANO}\n[execution]\ncheckpointing = true\ncheckpoint_minutes = 5\n")
    assert caught.value.problems == [
        "execution.checkpointing is now execution.activation_checkpointing.",
        "execution.checkpoint_minutes is now execution.checkpoint_interval.",
    ]
