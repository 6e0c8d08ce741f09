"""How a run is executed, on the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from optbench.cli import main
from optbench.cli.execution_options import execution_options
from optbench.study.file import find_study


@pytest.mark.parametrize("verb", ["train", "run"])
def test_a_micro_batch_and_the_memory_it_follows_from_are_not_both_given(verb: str) -> None:
    done = CliRunner().invoke(main, [verb, "--micro-batch", "2", "--memory-gb", "1"])
    assert done.exit_code == 2
    assert done.stderr == ("Error: micro_batch and memory_gb must not both be given.\n")


@pytest.mark.parametrize("verb", ["train", "run"])
def test_the_help_has_every_option(verb: str) -> None:
    output = CliRunner().invoke(main, [verb, "--help"]).output
    for option in (
        "--micro-batch",
        "--memory-gb",
        "--activation-checkpointing",
        "--compile",
        "--checkpoint-interval",
        "--checkpoint-dir",
        "--devices-per-run",
    ):
        assert option in output
    assert "checkpoint-steps" not in output
    assert "[default: 10]  [x>=0]" in output
    assert ("--precision" in output) == (verb == "train")  # a study's file says its own


@pytest.mark.parametrize("verb", ["train", "run"])
def test_a_place_where_no_checkpoint_can_be_kept_is_refused_at_once(verb: str) -> None:
    done = CliRunner().invoke(main, [verb, "--checkpoint-dir", "nosuch://bucket"])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: Checkpoints cannot be kept in 'nosuch://bucket' (")


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


@pytest.mark.parametrize(
    ("options", "given", "place"),
    [
        ([], {}, None),
        (
            [
                "--compile",
                "--activation-checkpointing",
                "--devices-per-run",
                "2",
                "--memory-gb",
                "1.5",
            ],
            {
                "compile": True,
                "activation_checkpointing": True,
                "devices_per_run": 2,
                "memory_gb": 1.5,
            },
            None,
        ),
        (
            ["--no-compile", "--no-activation-checkpointing", "--micro-batch", "4"],
            {"compile": False, "activation_checkpointing": False, "micro_batch": 4},
            None,
        ),
        (
            ["--checkpoint-interval", "0", "--checkpoint-dir", "s3://b"],
            {"checkpoint_interval": 0.0},
            "s3://b",
        ),
    ],
)
def test_only_what_is_given_is_passed_on(
    options: list[str], given: dict[str, Any], place: str | None
) -> None:
    seen: list[tuple[Mapping[str, Any], str | None]] = []

    @click.command()
    @execution_options
    def verb(execution: Mapping[str, Any], checkpoints: str | None) -> None:
        seen.append((execution, checkpoints))

    assert CliRunner().invoke(verb, options).exit_code == 0
    assert seen == [(given, place)]


def test_the_table_of_a_study_file_holds_and_an_option_goes_before_it(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(find_study("nano") + "\n[execution]\ndevices_per_run = 1000\n")
    done = CliRunner().invoke(main, ["run", str(study), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "was to be shared out among 1000 devices." in done.stderr
    arguments = ["run", str(study), "--devices-per-run", "2000"]
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
    assert "was to be shared out among 2000 devices." in done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--checkpointing"], "--activation-checkpointing"),
        (["--no-checkpointing"], "--no-activation-checkpointing"),
        (["--checkpoint-minutes", "0"], "--checkpoint-interval"),
        (["--checkpoints", "s3://bucket"], "--checkpoint-dir"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "run"])
def test_an_option_s_old_name_is_answered_by_its_new_one(
    verb: str, old: list[str], new: str
) -> None:
    result = CliRunner().invoke(main, [verb, *old])
    assert result.exit_code == 2
    assert f"{old[0]} is now {new}." in result.output
