"""Ranks that train together: what they say to each other, and that they train as one process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from optbench.optimizers import OPTIMIZERS
from optbench.training.distributed import elastic
from optbench.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from tests.training.distributed.rank_jobs import NUM_STEPS, START_NOISE, Case
from tests.training.distributed.ranks_together import (
    CASES,
    SIZES,
    Alone,
    alone,
    ranks_can_import_the_jobs,
    together,
)


def test_one_process_says_nothing_and_changes_nothing() -> None:
    tensor = torch.tensor([0.1, 0.2])
    assert SINGLE_PROCESS.sum(tensor) is tensor
    assert torch.equal(tensor, torch.tensor([0.1, 0.2]))
    assert (SINGLE_PROCESS.total(0.1), SINGLE_PROCESS.mean(0.1)) == (0.1, 0.1)
    assert (SINGLE_PROCESS.any(True), SINGLE_PROCESS.any(False)) == (True, False)
    assert SINGLE_PROCESS.gather({"a": 1}) == [{"a": 1}]
    assert SINGLE_PROCESS.span(7) == (0, 7)
    assert (SINGLE_PROCESS.is_first, SINGLE_PROCESS.backend) == (True, "")
    SINGLE_PROCESS.barrier()


@pytest.mark.parametrize("count", [1, 5, 16, 17])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_are_contiguous_and_differ_by_one_at_most(size: int, count: int) -> None:
    spans = [ProcessGroup(rank, size).span(count) for rank in range(size)]
    assert [place for span in spans for place in range(*span)] == list(range(count))
    lengths = [stop - start for start, stop in spans]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", SIZES)
def test_ranks_agree_on_what_they_say(size: int) -> None:
    found = together(size).said["talk"]
    values = [0.1 * (rank + 1) for rank in range(size)]
    assert found["sum"] == pytest.approx([sum(values), size], rel=1e-15)
    assert found["gradient"] == [size * (size + 1) / 2] * 2
    assert found["total"] == [found["total"][0]] * size  # on all ranks the same, in any order
    assert found["total"][0] == pytest.approx(sum(values), rel=1e-15)
    assert found["mean"] == pytest.approx(sum(values) / size, rel=1e-15)
    assert found["any"] == [True, False]
    assert found["nan"]
    assert found["gather"] == [{"rank": rank, "text": "ä" * rank} for rank in range(size)]
    assert [place for span in found["spans"] for place in range(*span)] == list(range(7))
    assert found["backend"] == "gloo"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_ranks_train_as_one_process_does(case: Case, size: int) -> None:
    found, wanted = together(size), alone(case)
    losses = found.of(case)[0]["losses"]
    assert len(losses) == NUM_STEPS + 2 + 2  # every step's, two validations, what is quoted
    assert losses == pytest.approx(wanted.losses, rel=tolerance(case))
    if case.dtype == "float64":
        for name, parameter in found.parameters[CASES.index(case)].items():
            atol = 1e-8 if case.optimizer == "soap" else 1e-10  # see below
            torch.testing.assert_close(parameter, wanted.parameters[name], rtol=0, atol=atol)


# In float32: of ten roundings of 6e-8, which NAdamW magnifies thirty times and the others less; and
# where a sign, a mask or a sampled label turns, or Soap divides by what hardly has a gradient.
CONTINUOUS, WITH_JUMPS = 2e-5, 1e-2
JUMPING = ("cautious", "lion", "scion", "soap", "sophia")


def tolerance(case: Case) -> float:
    if case.dtype == "float64":
        return 1e-10
    return WITH_JUMPS if case.optimizer in JUMPING else CONTINUOUS


@pytest.mark.parametrize("optimizer", JUMPING)
def test_some_methods_magnify_what_the_start_is_off_by(optimizer: str) -> None:
    """In float64 and by far more than is rounded, so that it is the method's doing."""
    moved = [alone(Case(optimizer, start_noise=seed)) for seed in range(1, 5)]
    assert max(difference(one, alone(Case(optimizer))) for one in moved) > 6 * START_NOISE


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_micro_batches_of_one_process_differ_by_rounding(optimizer: str) -> None:
    cases = [Case(optimizer, dtype="float32", micro_batch_size=size) for size in (None, 1, 2)]
    whole, *pieces = map(alone, cases)
    assert all(difference(one, whole) < tolerance(cases[0]) for one in pieces)


def difference(one: Alone, other: Alone) -> float:
    return max(abs(a / b - 1) for a, b in zip(one.losses, other.losses, strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_all_ranks_end_with_the_same_bits(size: int) -> None:
    for case in CASES:
        said = together(size).of(case)
        assert len({one["parameters"] for one in said}) == 1, case.label
        assert all(one["losses"] == said[0]["losses"] for one in said), case.label
        rows = math.ceil(case.batch_size / size)
        assert {one["micro_batch_size"] for one in said} == {case.micro_batch_size or rows}


@pytest.mark.parametrize("size", SIZES)
def test_ranks_shrink_their_micro_batches_together_when_one_has_no_room(size: int) -> None:
    found = together(size).said["memory"]
    assert found["sizes"] == [[1, 1]] * size
    assert found["loss"] == pytest.approx(found["alone"], rel=1e-14)
    assert found["compared"] == 21
    assert found["difference"] < 1e-14
    assert all(one == found["curvature"][0] for one in found["curvature"])


@pytest.mark.slow
def test_three_ranks_go_on_with_the_bits_of_those_that_were_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three, unlike two, the order of a sum depends on a gradient's place in its bucket."""
    ranks_can_import_the_jobs(monkeypatch)
    job = {"name": "go_on_at", "folder": str(tmp_path), "stops": [2, 6]}
    found = elastic.run_ranks("tests.training.distributed.rank_jobs", job, 3, max_restarts=0)
    (before, bits), (after, others) = (x.rsplit(" ", 1) for x in (found["first"], found["last"]))
    assert (before, after) == ("[]", "[1, 5]")
    assert bits == others
