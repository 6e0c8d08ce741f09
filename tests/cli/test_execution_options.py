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
        "--devices-per-run",
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


def test_more_devices_than_sequences_are_refused_before_anything_is_prepared() -> None:
    arguments = ["train", "--set", "batch_size=2", "--devices-per-run", "3"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: Each device takes sequences of every batch, but a batch of 2 was to be shared out "
        "among 3 devices. Use 2 devices per run at most.\n"
    )


def test_a_study_with_a_smaller_batch_than_devices_is_refused() -> None:
    done = CliRunner().invoke(main, ["run", "nano", "--devices-per-run", "1000"])
    assert done.exit_code == 2
    assert "was to be shared out among 1000 devices." in done.stderr
