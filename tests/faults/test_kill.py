"""``kill -9`` at random moments: no run is lost, none is trained twice, the table is the same."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disturbed import (
    TWO_RANKS,
    Disturbance,
    TinyStudy,
    Victim,
    a_rank,
    a_worker,
    disturb,
    outcome,
    the_driver,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")
FEW, MANY = 3, 50


def check(study: TinyStudy, done: Disturbance, undisturbed: Mapping[str, Any]) -> None:
    """The promises, one by one."""
    assert outcome(study) == undisturbed
    assert max(Counter(study.stored()).values()) == 1
    assert done.again == []
    ends = Counter(event.run_id for event in study.events() if event.what == "end")
    # A worker may die between the end of a run and the system call that keeps its record.
    assert ends == Counter(study.stored()) + done.unstored
    assert done.left == []


def disturb_often(
    folder: Path,
    victim: Victim,
    undisturbed: Mapping[str, Any],
    workers: int = 2,
    options: tuple[str, ...] = (),
    run_s: float = 0.4,
) -> list[Disturbance]:
    """As many kills as it takes, over several studies, because each comes to its end at last."""
    all_done: list[Disturbance] = []
    while (left := MANY - kills(all_done)) > 0:
        study = TinyStudy(folder / f"{left} left", workers, options)
        study.folder.mkdir()
        all_done.append(disturb(study, victim, left, left, run_s))
        check(study, all_done[-1], undisturbed)
        assert all_done[-1].killed
    return all_done


def kills(all_done: list[Disturbance]) -> int:
    return sum(len(done.killed) for done in all_done)


def test_a_driver_may_be_killed_at_any_moment(
    tmp_path: Path, undisturbed: Mapping[str, Any]
) -> None:
    study = TinyStudy(tmp_path)
    done = disturb(study, the_driver, FEW, seed=3)
    assert len(done.killed) == FEW
    assert done.lives == FEW + 1
    check(study, done, undisturbed)


def test_a_worker_may_be_killed_at_any_moment(
    tmp_path: Path, undisturbed: Mapping[str, Any]
) -> None:
    study = TinyStudy(tmp_path)
    done = disturb(study, a_worker, FEW, seed=4)
    assert len(done.killed) == FEW
    check(study, done, undisturbed)


@pytest.mark.slow
@pytest.mark.endurance
def test_a_driver_may_be_killed_at_fifty_moments(
    tmp_path: Path, undisturbed: Mapping[str, Any]
) -> None:
    assert kills(disturb_often(tmp_path, the_driver, undisturbed)) == MANY


@pytest.mark.slow
@pytest.mark.endurance
def test_a_worker_may_be_killed_at_fifty_moments(
    tmp_path: Path, undisturbed: Mapping[str, Any]
) -> None:
    assert kills(disturb_often(tmp_path, a_worker, undisturbed)) == MANY


@pytest.mark.slow
@pytest.mark.endurance
def test_a_rank_may_be_killed_at_fifty_moments(
    tmp_path: Path, undisturbed_on_two_ranks: Mapping[str, Any]
) -> None:
    all_done = disturb_often(tmp_path, a_rank, undisturbed_on_two_ranks, 1, TWO_RANKS, run_s=4.0)
    assert kills(all_done) == MANY
    assert {done.lives for done in all_done} == {1}  # the run's own agent starts its ranks again
