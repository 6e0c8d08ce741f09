"""How a run is executed: what can be asked for, and what a record says of it."""

import pytest

from optbench.config import ConfigError
from optbench.execution import DEFAULT_EXECUTION, Execution


def test_a_record_has_the_settings_and_the_micro_batch_that_was_used() -> None:
    assert Execution() == DEFAULT_EXECUTION
    assert Execution(memory_bytes=10**9, activation_checkpointing=True).record(3) == {
        "micro_batch_size": 3,
        "memory_bytes": 10**9,
        "activation_checkpointing": True,
        "compiled": False,
        "devices": 1,
        "checkpoint_interval": 10.0,
        "checkpoint_steps": None,
    }


def test_a_record_has_what_else_there_is_to_say() -> None:
    said = Execution(devices=2).record(3, backend="gloo")
    assert (said["devices"], said["backend"], said["micro_batch_size"]) == (2, "gloo", 3)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="micro_batch_size must be at least 1, but got 0"):
        Execution(micro_batch_size=0)
    with pytest.raises(ConfigError, match="memory_bytes must be at least 1, but got -5"):
        Execution(memory_bytes=-5)
    with pytest.raises(ConfigError, match="devices must be at least 1, but got 0"):
        Execution(devices=0)
    with pytest.raises(ConfigError, match=r"Give micro_batch_size or the memory .*, not both"):
        Execution(micro_batch_size=4, memory_bytes=10)


def test_times_between_checkpoints_that_cannot_be_are_refused() -> None:
    for minutes in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"checkpoint_interval must be above 0.* {minutes:g}"):
            Execution(checkpoint_interval=minutes)
    with pytest.raises(ConfigError, match="checkpoint_steps must be at least 1, but got 0"):
        Execution(checkpoint_steps=0)
    assert Execution(checkpoint_interval=None, checkpoint_steps=3).checkpoint_steps == 3
