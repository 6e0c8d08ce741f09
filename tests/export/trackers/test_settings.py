from __future__ import annotations

from pathlib import Path

import pytest

from optbench.config import ConfigError
from optbench.export.trackers.settings import (
    SinkSettings,
    TensorBoardSettings,
    TrackioSettings,
    WandbSettings,
)
from optbench.study.file import find_study, read_study

NANO = find_study("nano")


def sinks_of(tables: str) -> tuple[SinkSettings, ...]:
    return read_study(f"{NANO}\n{tables}").sinks


def test_a_table_of_its_name_chooses_a_sink_and_says_its_settings() -> None:
    tables = """
[sinks.wandb]
project = "p"
entity = "e"
mode = "online"
[sinks.tensorboard]
close_timeout_s = 2
[sinks.trackio]
project = "q"
space_id = "me/mine"
"""
    assert sinks_of(tables) == (
        WandbSettings(project="p", entity="e", mode="online"),
        TensorBoardSettings(close_timeout_s=2),
        TrackioSettings(project="q", space_id="me/mine"),
    )
    assert sinks_of("") == ()


def test_nothing_goes_over_the_network_unless_the_file_says_so() -> None:
    assert sinks_of("[sinks.wandb]\n[sinks.trackio]\n") == (
        WandbSettings(mode="offline"),
        TrackioSettings(space_id=""),
    )


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        (
            "tensorbord",
            "",
            "Unknown sink 'tensorbord'. Did you mean 'tensorboard'? Available: tensorboard, "
            "wandb, trackio.",
        ),
        (
            "wandb",
            'projekt = "x"',
            "Unknown key 'sinks.wandb.projekt'. Did you mean 'sinks.wandb.project'? Available: "
            "sinks.wandb.close_timeout_s, sinks.wandb.project, sinks.wandb.entity, "
            "sinks.wandb.mode.",
        ),
        ("wandb", 'mode = "on"', "sinks.wandb.mode must be 'offline' or 'online', but got 'on'."),
        ("wandb", "mode = true", "sinks.wandb.mode must be 'offline' or 'online', but got True."),
        ("trackio", "project = 3", "sinks.trackio.project must be text, but got 3."),
        (
            "tensorboard",
            "close_timeout_s = 'long'",
            "sinks.tensorboard.close_timeout_s must be a number, but got 'long'. Write it out, "
            "without quotes.",
        ),
        (
            "tensorboard",
            "close_timeout_s = -1",
            "sinks.tensorboard.close_timeout_s must be at least 0, but got -1.",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(name: str, line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sinks_of(f"[sinks.{name}]\n{line}\n")
    assert [p.replace(" Did you mean 'online'?", "") for p in caught.value.problems] == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sinks = { tensorboard = true }", "sinks.tensorboard must be a table of keys and values"),
        ('sinks = "wandb"', "sinks must be a table of keys and values, but got 'wandb'."),
    ],
)
def test_what_is_no_table_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(f"{text}\n{NANO}")
    assert [p[: len(problem)] for p in caught.value.problems] == [problem]


def test_where_trackio_writes_is_not_changed_by_its_own_variables() -> None:
    inherited = {"PATH": "/bin", "TRACKIO_SPACE_ID": "me/mine", "TRACKIO_DIR": "/elsewhere"}
    local = TrackioSettings().environment(inherited, Path("/here"))
    assert local == {"PATH": "/bin", "HF_HUB_OFFLINE": "1", "TRACKIO_DIR": "/here"}
    space = TrackioSettings(space_id="me/mine").environment(inherited, Path("/here"))
    assert space == {"PATH": "/bin", "TRACKIO_DIR": "/here"}


def test_wandb_reports_no_crashes_and_has_the_mode_of_the_file() -> None:
    inherited = {"WANDB_MODE": "online", "WANDB_API_KEY": "k"}
    assert WandbSettings().environment(inherited, Path("/here")) == {
        "WANDB_API_KEY": "k",
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CACHE_DIR": "/here/cache",
        "WANDB_DATA_DIR": "/here/cache",
    }
