"""What a checkpoint must hold to be taken up by a run, asked before anything of it is read.

Every name, type and shape is known beforehand: of the model, of the loop, and of an optimizer of
this package. Any other torch optimizer has no state until it has stepped; of its state a checkpoint
may hold what it names, up to a generous size for each parameter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from optbench.checkpoints.jsonable_state import NotJsonableError, tensor_names, to_jsonable
from optbench.checkpoints.training_state import (
    LOOP_TENSORS,
    Facts,
    SavedState,
    TrainingStateError,
    group_values,
    held_names,
    loop_tensor,
)
from optbench.files.tensor_file import TensorSpec
from optbench.optimizers import BaseOptimizer

Specs: TypeAlias = Mapping[str, TensorSpec]
# The state of one parameter, of an optimizer that does not declare what it needs, takes at most
# this: eight times the parameter and the square matrices of both its sides, in double precision.
_BYTES_PER_ELEMENT = 64
_BYTES_BESIDES = 2**16
_MOST_CHARACTERS = 100  # of a name that is quoted


def check_saved(
    saved: SavedState,
    specs: Sequence[Specs],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    num_steps: int,
) -> None:
    """Refuse a checkpoint that is not of this run at ``step``.

    Args:
        saved: its manifest's facts; of no form that is known yet.
        specs: types and shapes in each file.
        num_steps: of the whole run.

    Raises:
        TrainingStateError: with what is missing, unknown, or of another type, shape or size.
    """
    try:
        loop = saved.facts[0]["loop"]
        _check_loop(loop, step, num_steps)
        for rank, facts in enumerate(saved.facts):
            if facts["loop"] != loop:
                raise TrainingStateError(f"The loop of rank {rank} is not that of the first one.")
        named = [_named(facts, rank) for rank, facts in enumerate(saved.facts)]
        _check_names(named, specs, set(model.state_dict()))
        merged = {name: spec for one in specs for name, spec in one.items()}
        _check_model(merged, model)
        since_point = step - max((at for at, _ in loop["train_curve"]), default=0)
        for rank in range(len(specs)):
            _check_measurements(merged, rank, step)
            _check_losses(loop_tensor(rank, "recent_losses"), merged, model, since_point)
        _check_optimizer(saved, merged, model, optimizer, step)
    except (KeyError, TypeError, AttributeError, ValueError, NotJsonableError) as error:
        raise TrainingStateError(
            f"Its manifest has not the form of a training state ({type(error).__name__}: {error})."
        ) from error


def _check_loop(loop: Facts, step: int, num_steps: int) -> None:
    steps_taken = loop["steps_taken"]
    if steps_taken != step or not 1 <= step <= num_steps:
        raise TrainingStateError(
            f"It is of step {steps_taken} by its loop and of step {step} by its name; the run has "
            f"{num_steps} steps."
        )
    for name in ("train_curve", "val_curve"):
        before = 0
        for at, loss in loop[name]:
            numbers = type(at) is int and type(loss) is float
            if not numbers or not before < at <= step or not math.isfinite(loss):
                raise TrainingStateError(f"Its {name} has the point ({at!r}, {loss!r}).")
            before = at
        if step == num_steps != before:
            raise TrainingStateError(f"It is of the last step, but its {name} ends at {before}.")
    for name in ("first_micro_batch_size", "micro_batch_size"):
        size = loop[name]
        if size is not None and (type(size) is not int or size < 1):
            raise TrainingStateError(f"Its {name} is {size!r}.")


def _named(facts: Facts, rank: int) -> list[str]:
    """The names of the tensors that a rank refers to and those that it always has."""
    own = facts["optimizer"]
    plain = [*own["state"].values(), *(group["values"] for group in own["groups"])]
    named = tensor_names([*plain, own["shared"], facts["random"]])
    return [*named, *(loop_tensor(rank, name) for name in LOOP_TENSORS)]


def _check_names(
    named: Sequence[Sequence[str]], specs: Sequence[Specs], in_model: Collection[str]
) -> None:
    for rank, (names, found) in enumerate(zip(named, specs, strict=True)):
        expected = {*names, *(f"model/{name}" for name in in_model if rank == 0)}
        wrong = {"lacks": expected - {*found}, "has the unknown": {*found} - expected}
        problems = [f"{what} {_few(some)}" for what, some in wrong.items() if some]
        if problems:
            raise TrainingStateError(f"The file of rank {rank} {' and '.join(problems)}.")
    files = Counter(name for one in specs for name in one)
    if several := [name for name, count in files.items() if count > 1]:
        raise TrainingStateError(f"More than one of its files has {_few(several)}.")


def _check_model(specs: Specs, model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        _check_spec(f"model/{name}", specs, TensorSpec.of(tensor))


def _check_measurements(specs: Specs, rank: int, step: int) -> None:
    for name in LOOP_TENSORS[:2]:
        _check_spec(loop_tensor(rank, name), specs, TensorSpec(torch.float64, (step,)))
    for name in (n for n in specs if n.startswith(f"random/{rank}/")):
        if specs[name].num_bytes > 2 * torch.get_rng_state().numel():
            raise TrainingStateError(f"'{_cut(name)}' is {specs[name]}, too much for a generator.")


def _check_losses(name: str, specs: Specs, model: nn.Module, count: int) -> None:
    """So many of the model's losses, which are float32 or wider."""
    wide = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    # Where there are none, there is none whose type could be kept.
    dtype = wide if count else specs[name].dtype
    _check_spec(name, specs, TensorSpec(dtype, (count,)))


def _check_spec(name: str, specs: Specs, expected: TensorSpec) -> None:
    if specs[name] != expected:
        raise TrainingStateError(f"'{name}' is {specs[name]}, but the run has {expected}.")


def _check_optimizer(
    saved: SavedState,
    specs: Specs,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    shapes = {name: tuple(param.shape) for name, param in model.named_parameters()}
    owners = Counter(name for facts in saved.facts for name in facts["optimizer"]["state"])
    if unknown := owners.keys() - shapes.keys():
        raise TrainingStateError(f"It has states of what the model does not have: {_few(unknown)}.")
    if several := [name for name, count in owners.items() if count > 1]:
        raise TrainingStateError(f"Several ranks have a state of {_few(several)}.")
    limits = {name: _most_bytes(shape) for name, shape in shapes.items()}
    for name in owners:
        _check_bytes(f"optimizer/{name}", saved.entry(name), specs, limits[name])
    for facts in saved.facts:
        rest = [facts["optimizer"]["shared"], *(g["values"] for g in facts["optimizer"]["groups"])]
        _check_bytes("shared", rest, specs, sum(limits.values()))
    parameters = dict(model.named_parameters())
    for own, group in zip(held_names(model, optimizer), optimizer.param_groups, strict=True):
        for name in own:
            _check_same_group(saved, name, own[0])
            if isinstance(optimizer, BaseOptimizer) and parameters[name].requires_grad:
                expected = dict(_own_specs(optimizer, group, shapes[name]))
                _check_own(saved.entry(name), name, specs, expected, step)
        if own:
            exact = isinstance(optimizer, BaseOptimizer)
            found = {**(optimizer.earlier if exact else {}), **saved.group_values(own[0])["dict"]}
            _check_group(found, group, exact=exact)


def _most_bytes(shape: Sequence[int]) -> int:
    squares = math.prod(shape) + sum(side**2 for side in shape)
    return _BYTES_BESIDES + _BYTES_PER_ELEMENT * squares


def _check_bytes(prefix: str, plain: Any, specs: Specs, limit: int) -> None:
    names = list(tensor_names(plain))
    total = sum(specs[name].num_bytes for name in names)
    if total > limit:
        raise TrainingStateError(
            f"The tensors of '{prefix}' take {total:,} bytes, but {limit:,} are the most that an "
            f"optimizer can need there."
        )


def _check_same_group(saved: SavedState, name: str, first: str) -> None:
    values = saved.group_values(name)
    if values is None:
        raise TrainingStateError(f"No optimizer that wrote it held '{name}'.")
    if values != saved.group_values(first):
        raise TrainingStateError(
            f"'{name}' had other hyperparameters than '{first}', but they share a group now."
        )


def _own_specs(
    optimizer: BaseOptimizer, group: dict[str, Any], shape: tuple[int, ...]
) -> Iterator[tuple[str, TensorSpec]]:
    """The state tensors of a parameter, from what the method itself makes."""
    dtype = torch.promote_types(group["params"][0].dtype, torch.float32)
    like = torch.empty((1, *shape), dtype=dtype, device="meta")
    for name, tensor in optimizer.rule_of(group, shape).init_state(like, group).items():
        yield name, TensorSpec(tensor.dtype, tuple(tensor.shape[1:]))


def _check_own(entry: Any, name: str, specs: Specs, expected: Specs, step: int) -> None:
    found = {} if entry is None else entry["dict"]
    tensors = {key: value["tensor"] for key, value in found.items() if isinstance(value, dict)}
    if tensors != {key: f"optimizer/{name}/{key}" for key in expected}:
        raise TrainingStateError(
            f"The state of '{name}' has the tensors {_few(tensors)}, but {_few(expected)} are "
            f"expected."
        )
    for key, spec in expected.items():
        _check_spec(tensors[key], specs, spec)
    for key in found.keys() - tensors.keys():
        if type(found[key]) is not int or not 0 <= found[key] <= step:
            raise TrainingStateError(f"The state '{_cut(key)}' of '{name}' is {found[key]!r:.200}.")


def _check_group(found: Mapping[str, Any], group: Mapping[str, Any], *, exact: bool) -> None:
    """Of an optimizer of this package nothing in a group changes but the learning rate."""
    now = to_jsonable(group_values(group), "group", {})["dict"]
    for key in now.keys() & found.keys() if not exact else now.keys():
        value = found[key]
        same = value == now[key] if exact and key != "lr" else _alike(value, now[key])
        if not same:
            raise TrainingStateError(
                f"It has {key} = {value!r:.200} for the group where the run has {now[key]!r}."
            )


def _alike(one: Any, other: Any) -> bool:
    """Both numbers, or of one type, or one of them not set."""
    if one is None or other is None:
        return True
    numbers = [isinstance(x, int | float) and not isinstance(x, bool) for x in (one, other)]
    return all(numbers) or type(one) is type(other)


def _few(names: Collection[str]) -> list[str]:
    """The first of some names, to be quoted."""
    return [_cut(name) for name in sorted(names)[:5]]


def _cut(name: str) -> str:
    """A name, or its beginning, to be quoted."""
    return name if len(name) <= _MOST_CHARACTERS else f"{name[: _MOST_CHARACTERS - 3]}..."
