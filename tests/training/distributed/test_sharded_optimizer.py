"""Sharded optimizers: who owns what, and an ordinary optimizer over the own part."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optbench.config import ConfigError
from optbench.optimizers import OPTIMIZERS, AdamW, Mars, Muon, parameter_groups
from optbench.training.distributed.process_group import ProcessGroup
from optbench.training.distributed.sharded_optimizer import SLACK, Load, owners_of, sharded
from optbench.training.model import Llama
from tests.builders import TINY_MODEL
from tests.training.distributed.rank_jobs import Case
from tests.training.distributed.ranks_together import CASES, SIZES, alone, together

LOADS = st.lists(st.builds(Load, st.floats(0, 1e9), st.floats(0, 1e12)), min_size=8, max_size=40)


@given(LOADS, st.integers(1, 8))
def test_everything_has_an_owner_and_everyone_owns_something(loads: list[Load], size: int) -> None:
    owners = owners_of(loads, size)
    assert len(owners) == len(loads)
    assert set(owners) == set(range(size))


@given(LOADS, st.integers(1, 8))
def test_state_is_even_but_for_the_largest_parameter(loads: list[Load], size: int) -> None:
    owners = owners_of(loads, size)
    total = sum(load.state for load in loads)
    largest = max(load.state for load in loads)
    most = max(sum_of(loads, owners, rank) for rank in range(size))
    trifles = 1e-3 * total + 1  # what has no state counts as a little
    assert most <= max((1 + SLACK) * total / size, total / size + largest) + trifles


def sum_of(loads: list[Load], owners: list[int], rank: int) -> float:
    return sum(load.state for load, owner in zip(loads, owners, strict=True) if owner == rank)


def test_small_parameters_make_the_shares_even() -> None:
    owners = owners_of([Load(5.0)] * 2 + [Load(1.0)] * 20, 3)
    states = [sum_of([Load(5.0)] * 2 + [Load(1.0)] * 20, owners, rank) for rank in range(3)]
    assert states == [10, 10, 10]


def test_work_is_shared_out_as_far_as_the_state_allows() -> None:
    """Two without work on ranks of their own; of the rest each rank takes what fits beside."""
    loads = [Load(100.0), Load(100.0), *[Load(1.0, 1.0)] * 90]
    owners = owners_of(loads, 2)
    assert [owners.count(rank) for rank in range(2)] == [46, 46]
    assert owners[0] != owners[1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_state_is_divided_by_the_number_of_ranks(case: Case, size: int) -> None:
    said = together(size).of(case)
    state_bytes = [one["state_bytes"] for one in said]
    assert sum(state_bytes) == alone(case).state_bytes
    assert max(state_bytes) <= 1.1 / size * alone(case).state_bytes
    assert sum(one["owned"] for one in said) == 21


def parts(cls: type[torch.optim.Optimizer], size: int) -> list[torch.optim.Optimizer]:
    """What each rank would have, built in one process: nothing is sent before the first step."""
    model = Llama(TINY_MODEL, seed=0)
    groups = parameter_groups(model, model.roles())
    return [sharded(cls, groups, ProcessGroup(rank, size)) for rank in range(size)]


@pytest.mark.parametrize("cls", [*OPTIMIZERS.values(), torch.optim.AdamW, torch.optim.SGD])
def test_a_rank_has_an_ordinary_optimizer_over_its_own_parameters(
    cls: type[torch.optim.Optimizer],
) -> None:
    found = parts(cls, 3)
    assert all(type(one) is cls for one in found)
    groups = [[group["params"] for group in one.param_groups] for one in found]
    owned = [id(param) for one in groups for params in one for param in params]
    assert len(owned) == len(set(owned)) == 21
    roles = [[group["role"] for group in one.param_groups] for one in found]
    assert roles[0] == roles[1] == roles[2]


def test_a_schedule_reaches_every_group_also_an_empty_one() -> None:
    for optimizer in parts(Muon, 8):
        assert any(not group["params"] for group in optimizer.param_groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        for group in optimizer.param_groups:
            group["params"] = []  # so that a step sends nothing of this test's
        peaks = [group["lr"] for group in optimizer.param_groups]
        optimizer._optimizer_step_post_hooks.clear()
        optimizer.step()
        schedule.step()
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * lr for lr in peaks]


def test_hyperparameters_of_a_group_stay_its_own() -> None:
    for optimizer in parts(AdamW, 2):
        decays = {group["role"]: group["weight_decay"] for group in optimizer.param_groups}
        assert decays["embedding"] == decays["norm"] == 0
        assert decays["matrix"] == AdamW.default_hyperparameters()["weight_decay"]


def test_only_what_is_shared_out_adds_up_over_owners() -> None:
    assert all(one.sum_over_owners is not None for one in parts(Mars, 2))  # type: ignore[attr-defined]
    assert Mars([torch.nn.Parameter(torch.zeros(2, 2))]).sum_over_owners is None


def test_more_ranks_than_parameters_are_refused() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]}]
    with pytest.raises(ConfigError, match=r"Each of the 3 devices .* has only 2. Use 2 devices"):
        sharded(torch.optim.SGD, groups, ProcessGroup(0, 3))
