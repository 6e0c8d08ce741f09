"""How a run is carried out, on the command line."""

import pytest
from click.testing import CliRunner

from optbench.cli import main


@pytest.mark.parametrize("verb", ["train", "run"])
def test_a_micro_batch_and_the_memory_it_follows_from_are_not_both_given(verb: str) -> None:
    done = CliRunner().invoke(main, [verb, "--micro-batch", "2", "--memory-gb", "1"])
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: Give micro_batch_size or the memory that it follows from, not both.\n"
    )


@pytest.mark.parametrize("verb", ["train", "run"])
def test_the_help_says_how_the_device_can_be_used(verb: str) -> None:
    told = CliRunner().invoke(main, [verb, "--help"]).output
    for option in ("--micro-batch", "--memory-gb", "--checkpointing", "--compile"):
        assert option in told
    assert ("--precision" in told) == (verb == "train")  # a study's file says its own
