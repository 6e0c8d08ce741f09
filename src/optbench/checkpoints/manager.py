"""CheckpointManager: when a run keeps a checkpoint, from which it goes on, and their outcomes.

The training loop asks it after every step and knows nothing of files.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from optbench.checkpoints.checkpoint import CheckpointDirectory, naming
from optbench.checkpoints.history import History
from optbench.checkpoints.loop_state import LoopState
from optbench.checkpoints.manifest import NewerSchemaError, rank_file
from optbench.checkpoints.random_state import RandomState
from optbench.checkpoints.state_checks import check_saved
from optbench.checkpoints.training_state import (
    SINGLE_RANK,
    RankInfo,
    SavedState,
    load_model,
    snapshot,
)
from optbench.checkpoints.writer import CheckpointWriter, Gather, alone
from optbench.config import UserError
from optbench.execution import Execution

_LOG = logging.getLogger(__name__)
# With several ranks the clock is asked every so many steps, because asking is a collective.
ASK_EVERY_STEPS = 10
# By steps, a checkpoint waits this long, since the one before it was begun, until that is written.
PATIENCE_S = 10.0
# A store may be away for a moment: between one try to read it and the next, and then it is left.
PAUSES_S = (0.5, 2.0)
# What was wrong with a checkpoint, of which only the first is a reason to remove it.
_BAD, _NEWER, _UNREAD = "bad", "newer", "unread"
_MOST_CHARACTERS = 1000  # of a reason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Found:
    """A checkpoint that has been read and found good; its model is not loaded yet.

    Args:
        environment: that of the process that wrote it, as recorded there.
        initial_state: the optimizer's state before.
    """

    loop: LoopState
    history: History
    environment: object
    tensors: dict[str, Tensor]
    random: RandomState
    initial_state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a rank does not take a checkpoint, and what kind of reason that is."""

    kind: str
    reason: str


@dataclass(slots=True)
class CheckpointManager:
    """The checkpoints of one run, for one rank of it.

    Args:
        directory: where they lie (see
            :func:`optbench.checkpoints.checkpoint.checkpoint_directory`).
        execution: how often one is kept.
        num_steps: of the whole run.
        rank_info: which rank this is.
        gather: the collective of all ranks.
        environment: versions and device, of which a checkpoint keeps a note; plain JSON. One that
            was made in another is used all the same, and the record has what differed.
        started: when this part of the run began, by ``time.perf_counter``.
    """

    directory: CheckpointDirectory
    execution: Execution
    num_steps: int
    rank_info: RankInfo = SINGLE_RANK
    gather: Gather = alone
    started: float = field(default_factory=time.perf_counter)
    environment: Mapping[str, Any] = field(default_factory=dict)
    history: History = field(default_factory=History)
    _writer: CheckpointWriter = field(init=False)
    _refused: list[str] = field(default_factory=list)
    _last: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        rank, num_ranks = self.rank_info.rank, self.rank_info.num_ranks
        self._writer = CheckpointWriter(
            self.directory, rank=rank, num_ranks=num_ranks, gather=self.gather
        )

    # Going on ---------------------------------------------------------------------------------

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> LoopState | None:
        """Load the newest checkpoint that is good, on all ranks the same; None if there is none.

        Each that is not is named with its reason, and the one before it is tried. Nothing has been
        changed when there is none.
        """
        for step in self._steps():
            found = self._load_on_all_ranks(step, model, optimizer)
            if found is not None:
                return self._restore(step, found, model)
        return None

    def _steps(self) -> list[int]:
        """As the first rank sees them."""
        steps: list[int] = []
        if self.rank_info.rank == 0:
            try:
                steps = _patiently(self.directory.steps)
            except Exception as error:
                self._warn(
                    f"{self.directory.path} cannot be looked through for checkpoints: {error}"
                )
        return self.gather(steps)[0]

    def _load_on_all_ranks(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> _Found | None:
        """A checkpoint that all ranks find good, its optimizer loaded; else all refuse it alike."""
        for pause_s in (*PAUSES_S, None):
            found = self._try_load(step, model, optimizer)
            own = [found.kind, found.reason] if isinstance(found, _Refusal) else None
            refusals = [_Refusal(*one) for one in self.gather(own) if one is not None]
            if isinstance(found, _Found) and not refusals:
                return found
            if isinstance(found, _Found):
                optimizer.load_state_dict(found.initial_state)
            worst = min(refusals, key=lambda one: (_BAD, _NEWER, _UNREAD).index(one.kind))
            if worst.kind != _UNREAD or pause_s is None:
                self._refuse(step, worst)
                return None
            time.sleep(pause_s)
        return None

    def _try_load(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> _Found | _Refusal:
        """A checkpoint with the optimizer's state loaded, or why it was refused."""
        try:
            return self._read(step, model, optimizer)
        except NewerSchemaError as error:
            return _Refusal(_NEWER, _message(error))
        except UserError as error:
            return _Refusal(_BAD, _message(error))
        except Exception as error:  # a store at a URL and somebody's optimizer raise any class
            return _Refusal(_UNREAD, _message(error))

    def _read(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> _Found:
        manifest = self.directory.manifest(step)
        saved = SavedState(manifest.facts, self.rank_info)
        with self.directory.streams(manifest) as streams:
            specs = [stream.specs for stream in streams]
            check_saved(saved, specs, model, optimizer, step=step, num_steps=self.num_steps)
            history = History.from_facts(manifest.facts[0].get("history", {}))
            wanted, tensors = saved.wanted(model, optimizer), dict[str, Tensor]()
            for rank, stream in enumerate(streams):
                with naming(rank_file(rank, manifest.num_ranks)):
                    tensors |= stream.read(wanted)
        loop, random = saved.loop(tensors), saved.random_state(tensors)
        initial_state = optimizer.state_dict()
        saved.load_optimizer(model, optimizer, tensors)
        environment = manifest.facts[0].get("environment")
        return _Found(loop, history, environment, tensors, random, initial_state)

    def _restore(self, step: int, found: _Found, model: nn.Module) -> LoopState:
        load_model(model, found.tensors)
        found.random.restore()
        self.history = found.history.resumed(step, found.environment, self.environment)
        return found.loop

    def _refuse(self, step: int, refusal: _Refusal) -> None:
        if refusal.kind == _BAD:
            self._writer.superseded.add(step)
        self._warn(f"The checkpoint {self.directory.folder(step)} is not used: {refusal.reason}")

    def _warn(self, problem: str) -> None:
        self._refused.append(problem)
        _LOG.warning("%s", problem)

    # Keeping ----------------------------------------------------------------------------------

    def should_save(self, steps_taken: int) -> bool:
        """Whether a checkpoint is to be kept now; every rank has to ask after every step."""
        every = self.execution.checkpoint_steps
        by_steps = every is not None and steps_taken % every == 0
        self._writer.settle()  # while one is under way, which all ranks know
        if by_steps or (self.rank_info.num_ranks > 1 and steps_taken % ASK_EVERY_STEPS):
            return by_steps
        # By the first rank's clock, if no rank is still writing the checkpoint before.
        asked = self.gather([self._time_is_up(), self._writer.is_busy])
        return asked[0][0] and not any(is_busy for _, is_busy in asked)

    def _time_is_up(self) -> bool:
        minutes = self.execution.checkpoint_interval
        return minutes > 0 and time.perf_counter() - self._last >= 60 * minutes

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, loop: LoopState) -> None:
        """Keep a checkpoint, which is written while the run goes on.

        None is kept, on all ranks, while the one before it is still being written on any.
        """
        step = loop.steps_taken
        patience_s = max(0.0, self._last + PATIENCE_S - time.perf_counter())
        if not self._writer.is_free(patience_s):
            self._writer.note_failed(step, "the one before it was still being written.")
            return
        try:
            taken = snapshot(model, optimizer, loop, self.rank_info.rank)
        except Exception as error:  # an optimizer's state_dict raises any class
            self._writer.save_nothing(step, _message(error))
        else:
            besides = {"history": self._history_facts(), "environment": self.environment}
            facts = {**taken.facts, **besides}
            self._writer.save(step, taken.tensors, facts)
        self._last = time.perf_counter()

    def _history_facts(self) -> dict[str, Any]:
        """As of the end of the checkpoint that is being made."""
        so_far = dataclasses.replace(
            self.history,
            wall_s=self.wall_s,
            written=self.history.written + self._writer.written + 1,
            failed=self.history.failed + self._writer.failed,
        )
        return so_far.to_facts()

    def close(self) -> None:
        """Wait for what is being written, for a minute at most."""
        self._writer.close()

    # Outcome ----------------------------------------------------------------------------------

    @property
    def wall_s(self) -> float:
        """Seconds that all parts of the run have taken so far."""
        return self.history.wall_s + time.perf_counter() - self.started

    def record(self) -> dict[str, Any]:
        """A record's entries on checkpoints: none where nothing happened."""
        facts = {
            "resumed_at_steps": list(self.history.resumed_at_steps),
            "resumed_from": list(self.history.resumed_from),
            "checkpoints_written": self.history.written + self._writer.written,
            "checkpoints_failed": self.history.failed + self._writer.failed,
            "checkpoint_problems": [*self._refused, *self._writer.problems],
        }
        return {name: value for name, value in facts.items() if value}


def _patiently(job: Callable[[], T]) -> T:
    """What a job gives at last; its error if it fails again and again."""
    for pause_s in PAUSES_S:
        try:
            return job()
        except Exception:  # a store at a URL raises any class
            time.sleep(pause_s)
    return job()


def _message(error: Exception) -> str:
    """A reason of ours as it is, any other with its class."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return text[:_MOST_CHARACTERS]
