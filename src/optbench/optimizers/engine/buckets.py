"""Buckets: parameters that are stepped together on one tensor, and the state they share.

There are two kinds. A *flat* bucket serves elementwise methods: parameters of any shape and of
several groups lie end to end in one vector, which is worked off in pieces that fit the cache. A
*stacked* bucket serves all other methods: parameters of one shape and one group lie along a leading
axis of length B, so that a method written for ``(B, *shape)`` steps all of them at once.

Each state tensor is allocated once per bucket; ``optimizer.state[p]`` holds views of it in the
parameter's own shape, which is the layout torch's tools expect.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# (torch publishes its fused list operations, torch._foreach_*, under private names)
from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = dict[str, Tensor]
Group: TypeAlias = dict[str, Any]
Tensors: TypeAlias = list[Tensor] | tuple[Tensor, ...]

# One flat piece with its state and temporaries stays inside a CPU's second-level cache; an
# accelerator wants few large kernels instead. A stack is limited only to bound its temporaries.
FLAT_PIECE_CPU = 2**16
FLAT_PIECE_ACCELERATOR = 2**26
STACK_LIMIT_CPU = 2**18
STACK_LIMIT_ACCELERATOR = 2**28


class FusedStep(Protocol):
    """A whole step, decay and learning rate included, by torch's kernels or compiled ones."""

    def __call__(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        state: dict[str, list[Tensor]],
        step: int,
        group: Group,
        step_size: StepSize,
    ) -> None:
        """Step ``params``; every list has one tensor per parameter."""
        ...


class Rule(Protocol):
    """The mathematics of a method: what a bucket needs to know of it."""

    elementwise: bool
    fused: FusedStep | None

    @staticmethod
    def init_state(like: Tensor, group: Group) -> State:
        """State of a bucket whose gradients look like ``like``."""
        ...

    @staticmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """Direction of the step, before learning rate and weight decay."""
        ...


@dataclass(frozen=True, slots=True)
class StepSize:
    """How a group's parameters take a direction u: p ← (1 − lr · weight_decay) · p − lr · u."""

    lr: float
    weight_decay: float

    @property
    def decay(self) -> float:
        """The factor of the parameter."""
        return 1 - self.lr * self.weight_decay


@dataclass(frozen=True, slots=True)
class Member:
    """A parameter with the index of its group and its entry of ``optimizer.state``."""

    param: Tensor
    group_index: int
    entry: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive targets of a chunk that belong to one group."""

    group_index: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a bucket that one call of the rule steps.

    Args:
        pieces: (member, start, stop) in elements of the flattened parameter; stop −1 = all of it.
        targets: what is written, one view of a parameter per piece.
        state: the bucket's state tensors, narrowed to this chunk.
        sections: the targets by group.
    """

    pieces: list[tuple[int, int, int]]
    targets: list[Tensor]
    state: State
    sections: list[Section]


class Bucket(ABC):
    """Parameters of equal dtype, device and step count that one rule steps together.

    Args:
        rule: the method.
        members: at least one parameter.
        step: updates taken so far by every member; 0 = they have no state yet.
        group: hyperparameters that the initial state may depend on.

    Raises:
        KeyError: a member has taken steps but lacks a state tensor.
        ValueError: a member's state tensor has another shape than the rule's.
    """

    def __init__(self, rule: Rule, members: Sequence[Member], step: int, group: Group) -> None:
        first = members[0].param
        self.rule, self.members, self.step = rule, members, step
        # Half-precision moments lose small updates, so state is never narrower than float32.
        self.dtype = torch.promote_types(first.dtype, torch.float32)
        shape = self._shape()
        like = torch.empty(shape, dtype=self.dtype, device=first.device)
        self.state = rule.init_state(like, group)
        self._tie_entries()
        self.chunks = self._chunks()

    @abstractmethod
    def _shape(self) -> tuple[int, ...]:
        """Shape of the tensor that holds all gradients."""

    @abstractmethod
    def _view(self, buffer: Tensor, index: int) -> Tensor:
        """The part of a state buffer that belongs to a member, in the shape its entry shows."""

    @abstractmethod
    def _chunks(self) -> list[Chunk]:
        """The parts stepped by one call each."""

    @abstractmethod
    def _gradients(self) -> list[Tensor]:
        """One gradient per member, shaped for :meth:`_gather`."""

    @abstractmethod
    def _gather(self, gradients: list[Tensor], chunk: Chunk) -> Tensor:
        """The gradients of a chunk as one tensor, possibly a view of ``p.grad``."""

    @abstractmethod
    def _split(self, direction: Tensor, chunk: Chunk) -> Tensors:
        """One direction per target, in the target's shape."""

    def _tie_entries(self) -> None:
        """Make every entry show views of the shared buffers, carrying over what it held."""
        self._views: list[tuple[dict[str, Any], str, Tensor]] = []
        for index, member in enumerate(self.members):
            for name, buffer in self.state.items():
                view = self._view(buffer, index)
                if self.step:
                    view.copy_(_saved(member, name, view))
                member.entry[name] = view
                self._views.append((member.entry, name, view))
            member.entry["step"] = self.step

    def is_current(self, state: Mapping[Tensor, Any]) -> bool:
        """Whether ``optimizer.state`` still shows this bucket's tensors and step count."""
        for member in self.members:
            if state.get(member.param) is not member.entry or member.entry.get("step") != self.step:
                return False
        return all(entry.get(name) is view for entry, name, view in self._views)

    def group_of(self, groups: Sequence[Group]) -> Group:
        """The group whose hyperparameters hold for all members."""
        return groups[self.members[0].group_index]

    def measure(
        self, function: Callable[[Tensor, State, Group], Tensor], groups: Sequence[Group]
    ) -> list[Tensor]:
        """What ``function`` makes of gradients, state and group, chunk by chunk; it only reads."""
        group = self.group_of(groups)
        gradients = self._gradients()
        return [
            function(self._gather(gradients, chunk).to(self.dtype), chunk.state, group)
            for chunk in self.chunks
        ]

    def advance(
        self,
        groups: Sequence[Group],
        step_sizes: Sequence[StepSize],
        compiled: FusedStep | None = None,
    ) -> None:
        """Take one step of every member, by the compiled step or a fused kernel where one can."""
        self._count_step()
        if not any(member.param.numel() for member in self.members):
            return  # means, norms and ratios of sides are not defined for these
        group = self.group_of(groups)
        # Fused kernels want parameters and state of one dtype.
        same_dtype = self.members[0].param.dtype == self.dtype
        whole = compiled or (self.rule.fused if same_dtype else None)
        if whole is not None and self.is_in_order:
            self._advance_fused(whole, group, step_sizes)
            return
        gradients = self._gradients()
        for chunk in self.chunks:
            grad = self._gather(gradients, chunk).to(self.dtype)
            direction = self.rule.update(grad, chunk.state, self.step, group)
            parts = self._split(direction, chunk)
            for section in chunk.sections:
                part = slice(section.start, section.stop)
                _apply(chunk.targets[part], parts[part], step_sizes[section.group_index])

    @property
    def is_in_order(self) -> bool:
        """Whether whole steps can be taken: parameters lie in order in memory."""
        return all(member.param.is_contiguous() for member in self.members)

    def _advance_fused(
        self, fused: FusedStep, group: Group, step_sizes: Sequence[StepSize]
    ) -> None:
        for group_index, run in groupby(self.members, key=lambda member: member.group_index):
            members = list(run)
            grads = [_grad(member.param).contiguous() for member in members]
            state = {name: [member.entry[name] for member in members] for name in self.state}
            params = [member.param for member in members]
            fused(params, grads, state, self.step, group, step_sizes[group_index])

    def _count_step(self) -> None:
        self.step += 1
        for member in self.members:
            member.entry["step"] = self.step


class FlatBucket(Bucket):
    """Contiguous parameters of any shape, end to end."""

    def _shape(self) -> tuple[int, ...]:
        self._offsets = [0]
        for member in self.members:
            self._offsets.append(self._offsets[-1] + member.param.numel())
        return (self._offsets[-1],)

    def _view(self, buffer: Tensor, index: int) -> Tensor:
        part = buffer[self._offsets[index] : self._offsets[index + 1]]
        return part.view(self.members[index].param.shape)

    def _chunks(self) -> list[Chunk]:
        on_cpu = self.members[0].param.device.type == "cpu"
        size = FLAT_PIECE_CPU if on_cpu else FLAT_PIECE_ACCELERATOR
        starts = range(0, max(1, self._offsets[-1]), size)
        return [self._chunk(start, min(start + size, self._offsets[-1])) for start in starts]

    def _chunk(self, start: int, stop: int) -> Chunk:
        pieces: list[tuple[int, int, int]] = []
        targets: list[Tensor] = []
        begin, end = bisect_right(self._offsets, start) - 1, bisect_left(self._offsets, stop)
        for index in range(begin, end):
            low, high = self._offsets[index], self._offsets[index + 1]
            first, last = max(start, low) - low, min(stop, high) - low
            if first < last:  # not an empty parameter
                whole = last - first == high - low
                pieces.append((index, first, -1 if whole else last))
                targets.append(self.members[index].param.detach().view(-1)[first:last])
        state = {name: buffer[start:stop] for name, buffer in self.state.items()}
        return Chunk(pieces, targets, state, _sections(self.members, pieces))

    def _gradients(self) -> list[Tensor]:
        return [_grad(member.param).reshape(-1) for member in self.members]

    def _gather(self, gradients: list[Tensor], chunk: Chunk) -> Tensor:
        parts = [gradients[i] if b < 0 else gradients[i][a:b] for i, a, b in chunk.pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _split(self, direction: Tensor, chunk: Chunk) -> Tensors:
        if len(chunk.targets) == 1:
            return (direction,)
        return direction.split([target.numel() for target in chunk.targets])


class StackedBucket(Bucket):
    """Parameters of one shape and one group along a leading axis."""

    def _shape(self) -> tuple[int, ...]:
        return (len(self.members), *self.members[0].param.shape)

    def _view(self, buffer: Tensor, index: int) -> Tensor:
        return buffer[index]

    def _chunks(self) -> list[Chunk]:
        first = self.members[0].param
        limit = STACK_LIMIT_CPU if first.device.type == "cpu" else STACK_LIMIT_ACCELERATOR
        size = max(1, limit // max(1, first.numel()))
        starts = range(0, len(self.members), size)
        return [self._chunk(start, min(start + size, len(self.members))) for start in starts]

    def _chunk(self, start: int, stop: int) -> Chunk:
        pieces = [(index, 0, -1) for index in range(start, stop)]
        targets = [member.param.detach() for member in self.members[start:stop]]
        state = {name: buffer[start:stop] for name, buffer in self.state.items()}
        return Chunk(pieces, targets, state, _sections(self.members, pieces))

    def _gradients(self) -> list[Tensor]:
        return [_grad(member.param) for member in self.members]

    def _gather(self, gradients: list[Tensor], chunk: Chunk) -> Tensor:
        first, last = chunk.pieces[0][0], chunk.pieces[-1][0]
        if first == last:
            return gradients[first].unsqueeze(0)
        return torch.stack(gradients[first : last + 1])

    def _split(self, direction: Tensor, chunk: Chunk) -> Tensors:
        return direction.unbind()


def _grad(param: Tensor) -> Tensor:
    assert param.grad is not None  # the optimizer leaves parameters without gradient out
    return param.grad


def _sections(members: Sequence[Member], pieces: list[tuple[int, int, int]]) -> list[Section]:
    """Runs of consecutive pieces whose members share a group."""
    owners = [members[index].group_index for index, _, _ in pieces]
    sections: list[Section] = []
    start = 0
    for group_index, run in groupby(owners):
        stop = start + len(list(run))
        sections.append(Section(group_index, start, stop))
        start = stop
    return sections


def _saved(member: Member, name: str, view: Tensor) -> Tensor:
    """The state tensor that a member brings along, checked against the place it goes to."""
    shape = tuple(member.param.shape)
    if name not in member.entry:
        raise KeyError(
            f"The state of a parameter of shape {shape} lacks '{name}', but has "
            f"{sorted(member.entry)}. Was the checkpoint written by another optimizer?"
        )
    saved: Tensor = member.entry[name]
    if saved.shape != view.shape:
        raise ValueError(
            f"The state '{name}' of a parameter of shape {shape} must have shape "
            f"{tuple(view.shape)}, but got {tuple(saved.shape)}. Was the checkpoint written for "
            f"another model or with other settings?"
        )
    return saved


def _apply(targets: Tensors, directions: Tensors, step_size: StepSize) -> None:
    """Set p ← decay · p − lr · u for the directions of `update`.

    A :class:`FusedStep` takes decay and rate itself, from the same :class:`StepSize`: torch's
    kernels in AdamW, NAdamW and Mars, and the steps that are compiled.
    """
    if targets[0].dtype != directions[0].dtype:
        # Rounded once: in bfloat16 a factor 1 − lr·wd alone would round back to p.
        for target, direction in zip(targets, directions, strict=True):
            decayed = target.to(direction.dtype) * step_size.decay
            target.copy_(decayed.add_(direction, alpha=-step_size.lr))
        return
    if len(targets) == 1:  # most pieces of a large tensor; a list costs more than the tensor here
        if step_size.decay != 1:
            targets[0].mul_(step_size.decay)
        targets[0].add_(directions[0], alpha=-step_size.lr)
        return
    if step_size.decay != 1:
        torch._foreach_mul_(targets, step_size.decay)
    torch._foreach_add_(targets, directions, alpha=-step_size.lr)
