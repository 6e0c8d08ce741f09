"""Settings of the sinks: the tables ``[sinks.NAME]`` of a study file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from optbench.export.trackers.sink import Sink

Mode: TypeAlias = Literal["offline", "online"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings(ABC):
    """What every sink has.

    Args:
        close_timeout_s: seconds that a study waits at its end for the sink to write the rest.
    """

    name: ClassVar[str]  # of its table and its folder
    title: ClassVar[str]  # of the product

    close_timeout_s: float = 10.0

    def problems(self) -> list[str]:
        """What cannot be, each beginning with the name of a setting."""
        if self.close_timeout_s >= 0:
            return []
        return [f"close_timeout_s must be at least 0, but got {self.close_timeout_s}."]

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
        from optbench.export.trackers.tensorboard import TensorBoardSink

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
        from optbench.export.trackers.weights_and_biases import WandbSink

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
        from optbench.export.trackers.trackio import TrackioSink

        return TrackioSink(self.project, self.space_id)

    def environment(self, inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
        """It writes where the study file has it, whatever its own variables are."""
        kept = {name: v for name, v in inherited.items() if not name.startswith("TRACKIO_")}
        # Without this it asks the hub for the name of the user whenever a token is found.
        offline = {} if self.space_id else {"HF_HUB_OFFLINE": "1"}
        return {**kept, **offline, "TRACKIO_DIR": str(folder)}


SINKS: dict[str, type[SinkSettings]] = {
    kind.name: kind for kind in (TensorBoardSettings, WandbSettings, TrackioSettings)
}
