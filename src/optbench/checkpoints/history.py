"""History: what the earlier parts of a run leave to its later ones, by way of its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optbench.checkpoints.training_state import TrainingStateError


@dataclass(frozen=True, slots=True)
class History:
    """What a run's earlier parts leave to its later ones.

    Args:
        wall_s: seconds that all parts have taken together.
        resumed_at_steps: steps from which the run went on.
        written: checkpoints that were completed.
        failed: checkpoints that could not be written.
    """

    wall_s: float = 0.0
    resumed_at_steps: tuple[int, ...] = ()
    written: int = 0
    failed: int = 0

    @classmethod
    def from_facts(cls, raw: Mapping[str, Any]) -> History:
        """What a checkpoint says.

        Raises:
            TrainingStateError: times or counts that cannot be.
        """
        try:
            wall_s, resumed = float(raw["wall_s"]), tuple(raw["resumed_at_steps"])
            counts = (*resumed, raw["written"], raw["failed"])
            possible = all(type(count) is int and count >= 0 for count in counts)
            if possible and math.isfinite(wall_s) and wall_s >= 0:
                return cls(wall_s, resumed, raw["written"], raw["failed"])
        except (KeyError, TypeError, ValueError):
            pass
        raise TrainingStateError(f"Its history is {raw!r:.200}.")
