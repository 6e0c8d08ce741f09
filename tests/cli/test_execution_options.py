"""How a run is carried out, on the command line."""

import click
import pytest
from click.testing import CliRunner

from optbench.cli import main
from optbench.cli.execution_options import execution_options
from optbench.execution import Execution


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
    for option in (
        "--micro-batch",
        "--memory-gb",
        "--checkpointing",
        "--compile",
        "--checkpoint-minutes",
        "--checkpoints",
    ):
        assert option in told
    assert ("--precision" in told) == (verb == "train")  # a study's file says its own


@pytest.mark.parametrize("verb", ["train", "run"])
def test_a_place_where_no_checkpoint_can_be_kept_is_refused_at_once(verb: str) -> None:
    done = CliRunner().invoke(main, [verb, "--checkpoints", "nosuch://bucket"])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: Checkpoints cannot be kept in 'nosuch://bucket' (")


@pytest.mark.parametrize(("minutes", "kept"), [("0", None), ("2.5", 2.5), (None, 10.0)])
def test_minutes_between_checkpoints_are_passed_on_and_none_is_never(
    minutes: str | None, kept: float | None
) -> None:
    seen: list[tuple[Execution, str | None]] = []

    @click.command()
    @execution_options
    def verb(execution: Execution, checkpoints: str | None) -> None:
        seen.append((execution, checkpoints))

    given = [] if minutes is None else ["--checkpoint-minutes", minutes, "--checkpoints", "s3://b"]
    assert CliRunner().invoke(verb, given).exit_code == 0
    place = None if minutes is None else "s3://b"
    assert seen == [(Execution(checkpoint_minutes=kept), place)]
