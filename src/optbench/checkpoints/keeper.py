"""CheckpointKeeper: when a run keeps a checkpoint, from which it goes on, and what came of them.

The training loop asks it after every step and knows nothing of files.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from optbench.checkpoints.checkpoint import Place, naming
from optbench.checkpoints.loop_state import LoopState
from optbench.checkpoints.manifest import rank_file
from optbench.checkpoints.random_state import RandomState
from optbench.checkpoints.state_checks import check_saved
from optbench.checkpoints.training_state import (
    ONLY,
    SavedState,
    Seat,
    TrainingStateError,
    load_model,
    snapshot,
)
from optbench.checkpoints.writer import CheckpointWriter, Gather, alone
from optbench.config import UserError
from optbench.execution import Execution

_LOG = logging.getLogger(__name__)
# With several ranks the clock is asked every so many steps, because asking is a collective.
ASK_EVERY_STEPS = 10


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


@dataclass(frozen=True, slots=True)
class _Found:
    """A checkpoint that has been read and found good; its model is not loaded yet."""

    saved: SavedState
    history: History
    tensors: dict[str, Tensor]
    random: RandomState


@dataclass(slots=True)
class CheckpointKeeper:
    """The checkpoints of one run, for one rank of it.

    Args:
        place: where they lie (see :func:`optbench.checkpoints.checkpoint.place_of`).
        execution: how often one is kept.
        num_steps: of the whole run.
        seat: which rank this is.
        gather: the collective of all ranks.
        started: when this part of the run began, by ``time.perf_counter``.
    """

    place: Place
    execution: Execution
    num_steps: int
    seat: Seat = ONLY
    gather: Gather = alone
    started: float = field(default_factory=time.perf_counter)
    history: History = History()
    _writer: CheckpointWriter = field(init=False)
    _refused: list[str] = field(default_factory=list)
    _last: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        rank, num_ranks = self.seat.rank, self.seat.num_ranks
        self._writer = CheckpointWriter(
            self.place, rank=rank, num_ranks=num_ranks, gather=self.gather
        )

    # Going on ---------------------------------------------------------------------------------

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> LoopState | None:
        """Load the newest checkpoint that is good, on all ranks the same; None if there is none.

        Each that is not is named with its reason, and the one before it is tried. Nothing has been
        changed when there is none.
        """
        fresh = optimizer.state_dict()
        for step in self._steps():
            found = self._tried(step, model, optimizer)
            problems = [p for p in self.gather(found if isinstance(found, str) else "") if p]
            if not isinstance(found, str) and not problems:
                return self._take_up(step, found, model)
            if not isinstance(found, str):
                optimizer.load_state_dict(fresh)
            self._refuse(step, problems[0])
        return None

    def _tried(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> _Found | str:
        """A checkpoint with the optimizer's state loaded, or why it was refused."""
        try:
            return self._read(step, model, optimizer)
        except UserError as error:
            return str(error)
        except Exception as error:  # a store at a URL and somebody's optimizer raise any class
            return f"{type(error).__name__}: {error}"

    def _steps(self) -> list[int]:
        """As the first rank sees them."""
        steps: list[int] = []
        try:
            steps = self.place.steps()
        except Exception as error:
            self._say(f"{self.place.path} cannot be looked through for checkpoints: {error}")
        return self.gather(steps)[0]

    def _read(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> _Found:
        manifest = self.place.manifest(step)
        saved = SavedState(manifest.facts, self.seat)
        with self.place.streams(manifest) as streams:
            specs = [stream.specs for stream in streams]
            check_saved(saved, specs, model, optimizer, step=step, num_steps=self.num_steps)
            history = History.from_facts(manifest.facts[0].get("history", {}))
            wanted, tensors = saved.wanted(model, optimizer), dict[str, Tensor]()
            for rank, stream in enumerate(streams):
                with naming(rank_file(rank, manifest.num_ranks)):
                    tensors |= stream.read(wanted)
        random = saved.random_state(tensors)
        saved.load_optimizer(model, optimizer, tensors)
        return _Found(saved, history, tensors, random)

    def _take_up(self, step: int, found: _Found, model: nn.Module) -> LoopState:
        load_model(model, found.tensors)
        found.random.restore()
        before = found.history
        self.history = History(
            before.wall_s, (*before.resumed_at_steps, step), before.written, before.failed
        )
        return found.saved.loop(found.tensors)

    def _refuse(self, step: int, reason: str) -> None:
        self._writer.superseded.add(step)
        self._say(f"The checkpoint {self.place.folder(step)} is not used: {reason}")

    def _say(self, problem: str) -> None:
        self._refused.append(problem)
        _LOG.warning("%s", problem)

    # Keeping ----------------------------------------------------------------------------------

    def due(self, steps_taken: int) -> bool:
        """Whether a checkpoint is to be kept now; every rank has to ask after every step."""
        every = self.execution.checkpoint_steps
        by_steps = every is not None and steps_taken % every == 0
        if self.seat.num_ranks == 1:
            return by_steps or self._time_is_up()
        if not by_steps and steps_taken % ASK_EVERY_STEPS:
            return False
        self._writer.settle()
        return by_steps or self.gather(self._time_is_up())[0]

    def _time_is_up(self) -> bool:
        minutes = self.execution.checkpoint_minutes
        if minutes is None or self._writer.is_busy:
            return False
        return time.perf_counter() - self._last >= 60 * minutes

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, loop: LoopState) -> None:
        """Keep a checkpoint; it is written while the run goes on, the one before it has been."""
        self._writer.settle(wait=True)
        try:
            taken = snapshot(model, optimizer, loop, self.seat.rank)
        except TrainingStateError as error:
            taken = None
            self._writer.give_up(loop.steps_taken, str(error))
        if taken is not None:
            facts = {**taken.facts, "history": self._history_facts()}
            self._writer.save(loop.steps_taken, taken.tensors, facts)
        self._last = time.perf_counter()

    def _history_facts(self) -> dict[str, Any]:
        return {
            "wall_s": self.wall_s,
            "resumed_at_steps": list(self.history.resumed_at_steps),
            "written": self.history.written + self._writer.written + 1,
            "failed": self.history.failed + self._writer.failed,
        }

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.close()

    # What came of it --------------------------------------------------------------------------

    @property
    def wall_s(self) -> float:
        """Seconds that all parts of the run have taken so far."""
        return self.history.wall_s + time.perf_counter() - self.started

    def record(self) -> dict[str, Any]:
        """What a record says of checkpoints: nothing where nothing happened."""
        facts = {
            "resumed_at_steps": list(self.history.resumed_at_steps),
            "checkpoints_written": self.history.written + self._writer.written,
            "checkpoints_failed": self.history.failed + self._writer.failed,
            "checkpoint_problems": [*self._refused, *self._writer.problems],
        }
        return {name: value for name, value in facts.items() if value}
