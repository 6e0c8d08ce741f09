from __future__ import annotations

from pathlib import Path

import pytest

from optbench.sinks.settings import (
    TensorBoardSettings,
    TrackioSettings,
    WandbSettings,
    read_sinks,
)


def test_a_table_of_its_name_chooses_a_sink_and_says_its_settings() -> None:
    raw = {
        "wandb": {"project": "p", "entity": "e", "mode": "online"},
        "tensorboard": {"close_timeout_s": 2},
        "trackio": {"project": "q", "space_id": "me/mine"},
    }
    assert read_sinks(raw) == (
        (
            WandbSettings(project="p", entity="e", mode="online"),
            TensorBoardSettings(close_timeout_s=2),
            TrackioSettings(project="q", space_id="me/mine"),
        ),
        [],
    )
    assert read_sinks({}) == ((), [])


def test_nothing_goes_over_the_network_unless_the_file_says_so() -> None:
    assert read_sinks({"wandb": {}, "trackio": {}}) == (
        (WandbSettings(mode="offline"), TrackioSettings(space_id="")),
        [],
    )


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (
            {"tensorbord": {}},
            "Unknown sink 'tensorbord'. Did you mean 'tensorboard'? Available: tensorboard, "
            "wandb, trackio.",
        ),
        (
            {"wandb": {"projekt": "x"}},
            "Unknown key 'sinks.wandb.projekt'. Did you mean 'sinks.wandb.project'? Available: "
            "sinks.wandb.close_timeout_s, sinks.wandb.project, sinks.wandb.entity, "
            "sinks.wandb.mode.",
        ),
        (
            {"wandb": {"mode": "on"}},
            "sinks.wandb.mode must be 'offline' or 'online', but got 'on'.",
        ),
        ({"wandb": {"mode": True}}, "sinks.wandb.mode must be text, but got True."),
        ({"trackio": {"project": 3}}, "sinks.trackio.project must be text, but got 3."),
        (
            {"tensorboard": {"close_timeout_s": "long"}},
            "sinks.tensorboard.close_timeout_s must be a number of seconds of at least 0, but got "
            "'long'.",
        ),
        (
            {"tensorboard": {"close_timeout_s": -1}},
            "sinks.tensorboard.close_timeout_s must be a number of seconds of at least 0, but got "
            "-1.",
        ),
        (
            {"tensorboard": True},
            "'sinks.tensorboard' must be a table of keys and values, but got True.",
        ),
        ("wandb", "'sinks' must be tables such as [sinks.tensorboard], but got 'wandb'."),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(raw: object, problem: str) -> None:
    assert read_sinks(raw)[1] == [problem]


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
