"""A run between two steps as named tensors and plain JSON, and back into a model and an optimizer.

Tensors are named ``model/<parameter>``, ``optimizer/<parameter>/<state>``, ``loop/<rank>/<what>``
and ``random/<rank>/<what>``. The state of the optimizer goes by the names of the model's
parameters, not by their order, so that an optimizer takes up just the parameters that it holds: a
state written by k ranks, each of which steps some of them, can be read by any other number. It
passes through ``state_dict`` and ``load_state_dict`` alone, so every torch optimizer will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from optbench.checkpoints.jsonable_state import (
    NotJsonableError,
    from_jsonable,
    tensor_names,
    to_jsonable,
)
from optbench.checkpoints.loop_state import LoopState
from optbench.checkpoints.random_state import RandomState
from optbench.config import UserError

Facts: TypeAlias = Mapping[str, Any]
Tensors: TypeAlias = Mapping[str, Tensor]
LOOP_TENSORS = ("step_times", "optimizer_times", "recent_losses")
# Entries of a group that are the model's business: they come from the optimizer that is there.
_NOT_SAVED = ("params", "param_names", "method")


class TrainingStateError(UserError):
    """A state that cannot be kept, or that does not fit the run that is to take it up."""


@dataclass(frozen=True, slots=True)
class RankInfo:
    """Which rank this is, of how many."""

    rank: int = 0
    num_ranks: int = 1


SINGLE_RANK = RankInfo()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one rank keeps; the tensors are those in use, not copies."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


# Saving ---------------------------------------------------------------------------------------


def snapshot(
    model: nn.Module, optimizer: torch.optim.Optimizer, loop: LoopState, rank: int = 0
) -> Snapshot:
    """The state of a run; the model's part is the first rank's to keep.

    Raises:
        TrainingStateError: the optimizer holds a parameter that is not the model's, or a state that
            is neither tensors nor plain values.
    """
    tensors: dict[str, Tensor] = {}
    random = RandomState.current()
    states = {"python": random.python, "numpy": random.numpy, "torch": dict(random.torch)}
    try:
        facts = {
            "loop": _loop_facts(loop),
            "optimizer": _optimizer_facts(model, optimizer, rank, tensors),
            "random": to_jsonable(states, f"random/{rank}", tensors),
        }
    except NotJsonableError as error:
        raise TrainingStateError(
            f"The state of {type(optimizer).__name__} cannot be kept in a checkpoint: {error}"
        ) from None
    if rank == 0:
        tensors |= {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {loop_tensor(rank, name): getattr(loop, name) for name in LOOP_TENSORS}
    return Snapshot(tensors, facts)


def loop_tensor(rank: int, name: str) -> str:
    """The name in a checkpoint of a rank's own measurement."""
    return f"loop/{rank}/{name}"


def _loop_facts(loop: LoopState) -> dict[str, Any]:
    return {
        "steps_taken": loop.steps_taken,
        "train_curve": [list(point) for point in loop.train_curve],
        "val_curve": [list(point) for point in loop.val_curve],
        "first_micro_batch_size": loop.first_micro_batch_size,
        "micro_batch_size": loop.micro_batch_size,
    }


def _optimizer_facts(
    model: nn.Module, optimizer: torch.optim.Optimizer, rank: int, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    found, names = optimizer.state_dict(), held_names(model, optimizer)
    by_id = _names_by_id(found, names)
    entries = {
        by_id[key]: to_jsonable(entry, f"optimizer/{by_id[key]}", tensors)
        for key, entry in found["state"].items()
        if key in by_id
    }
    groups = [
        {"params": own, "values": to_jsonable(group_values(group), f"group/{rank}/{i}", tensors)}
        for i, (own, group) in enumerate(zip(names, found["param_groups"], strict=True))
    ]
    shared = {
        "state": {key: entry for key, entry in found["state"].items() if key not in by_id},
        "rest": {name: found[name] for name in found if name not in ("state", "param_groups")},
    }
    besides = to_jsonable(shared, f"shared/{rank}", tensors)
    return {"groups": groups, "state": entries, "shared": besides}


def held_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """The model's names of the parameters of each group.

    Raises:
        TrainingStateError: a parameter that is not the model's.
    """
    known = {id(param): name for name, param in model.named_parameters()}
    for group in optimizer.param_groups:
        for param in group["params"]:
            if id(param) not in known:
                raise TrainingStateError(
                    f"{type(optimizer).__name__} holds a parameter of shape {tuple(param.shape)} "
                    f"that is not the model's, so its state has no name in a checkpoint."
                )
    return [[known[id(param)] for param in group["params"]] for group in optimizer.param_groups]


def _names_by_id(state_dict: Mapping[str, Any], names: Sequence[Sequence[str]]) -> dict[Any, str]:
    """Which parameter an entry of a ``state_dict`` belongs to."""
    ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    return dict(zip(ids, chain.from_iterable(names), strict=True))


def group_values(group: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in a parameter group but which parameters it has."""
    return {name: value for name, value in group.items() if name not in _NOT_SAVED}


# Loading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SavedState:
    """The facts of all ranks that wrote a checkpoint, as one of those sees them that read it.

    Args:
        facts: in rank order, checked (see :mod:`optbench.checkpoints.state_checks`).
        rank_info: of the reader.
    """

    facts: Sequence[Facts]
    rank_info: RankInfo

    @property
    def same_layout(self) -> bool:
        """Whether as many ranks read as wrote."""
        return len(self.facts) == self.rank_info.num_ranks

    @property
    def own_rank(self) -> int:
        """The rank whose own measurements and random numbers the reader takes up."""
        return self.rank_info.rank if self.same_layout else 0

    def entry(self, parameter: str) -> Any:
        """The optimizer's state of a parameter, whoever wrote it; None without one."""
        found = (facts["optimizer"]["state"].get(parameter) for facts in self.facts)
        return next((entry for entry in found if entry is not None), None)

    def group_values(self, parameter: str) -> Any:
        """The hyperparameters of the group that a parameter was in; None where it was in none."""
        for facts in self.facts:
            for group in facts["optimizer"]["groups"]:
                if parameter in group["params"]:
                    return group["values"]
        return None

    @property
    def shared(self) -> Any:
        """The optimizer's state that belongs to no parameter."""
        return self.facts[self.own_rank]["optimizer"]["shared"]

    @property
    def random(self) -> Any:
        """The states of the random number generators."""
        return self.facts[self.own_rank]["random"]

    def wanted(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
        """The names of the tensors that the reader needs."""
        held = held_names(model, optimizer)
        plain = [self.entry(name) for name in chain.from_iterable(held)]
        plain += [self.group_values(group[0]) for group in held if group]
        own = {loop_tensor(self.own_rank, name) for name in LOOP_TENSORS}
        losses = {loop_tensor(rank, "recent_losses") for rank in range(len(self.facts))}
        return {
            *(f"model/{name}" for name in model.state_dict()),
            *tensor_names([*plain, self.shared, self.random]),
            *own,
            *(set() if self.same_layout else losses),
        }

    def loop(self, tensors: Tensors) -> LoopState:
        """What the loop goes on from.

        Each rank has its summand of every loss. Another number of ranks goes on from their sums,
        which the first of them takes.
        """
        facts = self.facts[self.own_rank]["loop"]
        own = {name: tensors[loop_tensor(self.own_rank, name)] for name in LOOP_TENSORS}
        if not self.same_layout:
            ranks = range(len(self.facts))
            losses = [tensors[loop_tensor(rank, "recent_losses")] for rank in ranks]
            whole = torch.stack(losses).sum(0)
            own["recent_losses"] = whole if self.rank_info.rank == 0 else torch.zeros_like(whole)
        return LoopState(
            steps_taken=facts["steps_taken"],
            train_curve=[(step, loss) for step, loss in facts["train_curve"]],
            val_curve=[(step, loss) for step, loss in facts["val_curve"]],
            first_micro_batch_size=facts["first_micro_batch_size"],
            micro_batch_size=facts["micro_batch_size"],
            **own,
        )

    def random_state(self, tensors: Tensors) -> RandomState:
        """The states of the random number generators, tried out.

        Raises:
            TrainingStateError: they are none.
        """
        try:
            state = RandomState(**from_jsonable(self.random, tensors))
            state.check()
        except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise TrainingStateError(
                f"It holds no state of the random number generators "
                f"({type(error).__name__}: {error})."
            ) from None
        return state

    def load_optimizer(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Tensors
    ) -> None:
        """Give an optimizer the state of the parameters that it holds, or leave it as it was.

        Raises:
            Exception: whatever the optimizer has against it.
        """
        now, names = optimizer.state_dict(), held_names(model, optimizer)
        entries = {
            key: from_jsonable(entry, tensors)
            for key, name in _names_by_id(now, names).items()
            if (entry := self.entry(name)) is not None
        }
        groups = [
            {**group, **(from_jsonable(self.group_values(own[0]), tensors) if own else {})}
            for own, group in zip(names, now["param_groups"], strict=True)
        ]
        shared = from_jsonable(self.shared, tensors)
        state = {**shared["state"], **entries}
        try:
            optimizer.load_state_dict({**shared["rest"], "state": state, "param_groups": groups})
            _undo_casts(optimizer, groups, entries)
        except Exception:
            optimizer.load_state_dict(now)
            raise


def _undo_casts(
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Mapping[str, Any]],
    entries: Mapping[Any, Mapping[str, Any]],
) -> None:
    """Torch gives loaded state the dtype of its parameter, whatever it was."""
    ids = chain.from_iterable(group["params"] for group in groups)
    params = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for key, param in zip(ids, params, strict=True):
        for name, value in entries.get(key, {}).items():
            if isinstance(value, Tensor) and optimizer.state[param][name].dtype != value.dtype:
                optimizer.state[param][name] = value.to(param.device)


@torch.no_grad()
def load_model(model: nn.Module, tensors: Tensors) -> None:
    """Give a model its parameters and buffers, in place."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(tensors[f"model/{name}"])
