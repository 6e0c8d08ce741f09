"""Settings of the sinks: the tables ``[sinks.NAME]`` of a study file."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, get_args

from optbench.config import ConfigError, build_dataclass
from optbench.sinks.sink import Sink
from optbench.space import did_you_mean

Mode: TypeAlias = Literal["offline", "online"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings(ABC):
    """What every sink has.

    Args:
        close_timeout_s: seconds that a study waits at its end for the sink to write the rest.
    """

    name: ClassVar[str]  # of its table and its folder
    title: ClassVar[str]  # of the product

    close_timeout_s: float = 10.0

    @abstractmethod
    def sink(self) -> Sink:
        """The sink, not opened yet; its library is not imported by this."""

    def environment(self, inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
        """The environment variables of its process."""
        del folder
        return dict(inherited)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorBoardSettings(SinkSettings):
    """Event files, read by ``tensorboard --logdir``."""

    name: ClassVar[str] = "tensorboard"
    title: ClassVar[str] = "TensorBoard"

    def sink(self) -> Sink:
        """See `SinkSettings`."""
        from optbench.sinks.tensorboard import TensorBoardSink

        return TensorBoardSink()


@dataclass(frozen=True, slots=True, kw_only=True)
class WandbSettings(SinkSettings):
    """Weights & Biases.

    Args:
        project: "" is the study's name.
        entity: user or team; "" is the account's own.
        mode: offline runs are files, which ``wandb sync`` uploads; online ones need the network.
    """

    name: ClassVar[str] = "wandb"
    title: ClassVar[str] = "Weights & Biases"

    project: str = ""
    entity: str = ""
    mode: Mode = "offline"

    def sink(self) -> Sink:
        """See `SinkSettings`."""
        from optbench.sinks.weights_and_biases import WandbSink

        return WandbSink(self.project, self.entity, self.mode)

    def environment(self, inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
        """Without crash reports, which would go over the network from offline runs too."""
        return {
            **inherited,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_MODE": self.mode,
            "WANDB_CACHE_DIR": str(folder / "cache"),
            "WANDB_DATA_DIR": str(folder / "cache"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackioSettings(SinkSettings):
    """Trackio, a local database read by ``trackio show``.

    Args:
        project: "" is the study's name.
        space_id: Hugging Face Space that gets the runs; "" is none, and then no network is used.
    """

    name: ClassVar[str] = "trackio"
    title: ClassVar[str] = "trackio"

    project: str = ""
    space_id: str = ""

    def sink(self) -> Sink:
        """See `SinkSettings`."""
        from optbench.sinks.trackio import TrackioSink

        return TrackioSink(self.project, self.space_id)

    def environment(self, inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
        """Where it writes is what the study file says, whatever its own variables say."""
        kept = {name: v for name, v in inherited.items() if not name.startswith("TRACKIO_")}
        # Without this it asks the hub for the name of the user whenever a token is found.
        offline = {} if self.space_id else {"HF_HUB_OFFLINE": "1"}
        return {**kept, **offline, "TRACKIO_DIR": str(folder)}


SINKS: dict[str, type[SinkSettings]] = {
    kind.name: kind for kind in (TensorBoardSettings, WandbSettings, TrackioSettings)
}


def read_sinks(raw: object) -> tuple[tuple[SinkSettings, ...], list[str]]:
    """The sinks of a study file and all problems of their tables.

    Args:
        raw: the table ``sinks``.
    """
    if not isinstance(raw, Mapping):
        return (), [f"'sinks' must be tables such as [sinks.tensorboard], but got {raw!r}."]
    sinks: list[SinkSettings] = []
    problems: list[str] = []
    for name, table in raw.items():
        if name not in SINKS:
            problems.append(did_you_mean(str(name), SINKS, what="sink"))
            continue
        try:
            settings = build_dataclass(SINKS[name], table, path=f"sinks.{name}")
        except ConfigError as error:
            problems += error.problems
            continue
        problems += _problems(settings)
        sinks.append(settings)
    return tuple(sinks), problems


def _problems(settings: SinkSettings) -> list[str]:
    path, problems = f"sinks.{settings.name}", list[str]()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name == "close_timeout_s":
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                problems.append(
                    f"{path}.close_timeout_s must be a number of seconds of at least 0, but got "
                    f"{value!r}."
                )
        elif not isinstance(value, str):
            problems.append(f"{path}.{field.name} must be text, but got {value!r}.")
        elif field.name == "mode" and value not in MODES:
            problems.append(f"{path}.mode must be 'offline' or 'online', but got {value!r}.")
    return problems
