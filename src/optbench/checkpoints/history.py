"""History: what the earlier parts of a run leave to its later ones, by way of its checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optbench.checkpoints.training_state import TrainingStateError

_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class History:
    """What a run's earlier parts leave to its later ones.

    Args:
        wall_s: seconds that all parts have taken together.
        resumed_at_steps: steps from which the run went on.
        written: checkpoints that were completed.
        failed: checkpoints that could not be written.
        resumed_from: where a part went on in another environment than the one before it: the step,
            and under ``differs`` what each fact that differs was and then became.
    """

    wall_s: float = 0.0
    resumed_at_steps: tuple[int, ...] = ()
    written: int = 0
    failed: int = 0
    resumed_from: tuple[dict[str, Any], ...] = ()

    def to_facts(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in facts.items()}

    @classmethod
    def from_facts(cls, raw: Mapping[str, Any]) -> History:
        """Inverse of :meth:`to_facts`.

        Raises:
            TrainingStateError: times or counts that cannot be.
        """
        try:
            wall_s, resumed = float(raw["wall_s"]), tuple(raw["resumed_at_steps"])
            counts = (*resumed, raw["written"], raw["failed"])
            possible = all(type(count) is int and count >= 0 for count in counts)
            origins = tuple(raw.get("resumed_from", ()))
            possible = possible and all(isinstance(origin, dict) for origin in origins)
            if possible and math.isfinite(wall_s) and wall_s >= 0:
                return cls(wall_s, resumed, raw["written"], raw["failed"], origins)
        except (KeyError, TypeError, ValueError):
            pass
        raise TrainingStateError(f"Its history is {raw!r:.200}.")

    def resumed(self, step: int, then: object, now: Mapping[str, Any]) -> History:
        """With one part more, from a step.

        Args:
            then: the environment that the checkpoint names, of no form that is known.
            now: that of this process.
        """
        there = then if isinstance(then, dict) else {}
        differs = {
            name: [_short(there[name]), value]
            for name, value in now.items()
            if name in there and there[name] != value
        }
        origin = ({"step": step, "differs": differs},) if differs else ()
        return dataclasses.replace(
            self,
            resumed_at_steps=(*self.resumed_at_steps, step),
            resumed_from=(*self.resumed_from, *origin),
        )


def _short(value: object) -> object:
    """A fact that a checkpoint names, or the beginning of one that is too long to be a fact."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:_MOST_CHARACTERS]
