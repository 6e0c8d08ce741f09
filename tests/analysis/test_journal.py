from __future__ import annotations

from typing import Any

import pytest

from optbench.analysis.journal import CellEntry, read_journal
from optbench.store import StoreError

CELL = {"size": "d32", "ratio": 1.0, "num_tokens": 655_360, "num_nonembedding_params": 32_768}
HALF = {**CELL, "ratio": 0.5, "num_tokens": 327_680}
STUDY = {
    "kind": "study",
    "name": "s",
    "title": "",
    "smoke": False,
    "baseline": "adamw",
    "optimizers": ["adamw", "muon"],
    "confirm_seeds": 2,
    "tuned_cell": CELL,
    "baseline_cells": [HALF],
    "axes": {"adamw": ["lr"]},
}


def noise(sigma: float, cell: dict[str, Any] = CELL) -> dict[str, Any]:
    return {
        "kind": "noise",
        "cell": cell,
        "optimizer": "adamw",
        "run_ids": ["a", "b"],
        "neighbour_run_ids": ["c", "d"],
        "sigma": sigma,
        "paired_sigma": 0.002,
        "tie_threshold": 0.003,
    }


def test_the_last_entry_about_a_cell_and_optimizer_holds() -> None:
    journal = read_journal([STUDY, noise(0.1), noise(0.3, HALF), noise(0.2)])
    assert {entry.cell.label: entry.sigma for entry in journal.noise} == {
        "d32 1x": 0.2,
        "d32 0.5x": 0.3,
    }


def test_the_last_study_entry_holds() -> None:
    journal = read_journal([STUDY, {**STUDY, "name": "renamed"}])
    assert journal.study.name == "renamed"


@pytest.mark.parametrize("cells", [[HALF], [HALF, CELL]])
def test_the_tuned_cell_is_on_the_curve_once(cells: list[dict[str, Any]]) -> None:
    study = read_journal([{**STUDY, "baseline_cells": cells}]).study
    assert [cell.label for cell in study.curve_cells] == ["d32 0.5x", "d32 1x"]


def test_lists_become_tuples_of_their_type() -> None:
    study = read_journal([STUDY]).study
    assert study.optimizers == ("adamw", "muon")
    assert study.baseline_cells == (CellEntry("d32", 0.5, 327_680, 32_768),)


def test_what_was_not_written_is_absent() -> None:
    journal = read_journal([STUDY])
    assert journal.plan is None
    assert journal.noise == journal.sessions == journal.session_ends == ()
    assert journal.tuning(journal.study.tuned_cell, "adamw") is None
    assert journal.confirmation(journal.study.tuned_cell, "adamw") is None


def test_kinds_and_fields_of_later_versions_are_left_out() -> None:
    journal = read_journal([{**STUDY, "digest": "x"}, {"kind": "weather", "sky": "blue"}])
    assert journal.study.name == "s"


def test_a_journal_without_a_study_is_refused_with_the_remedy() -> None:
    with pytest.raises(StoreError, match=r"names no study.*'optbench run'"):
        read_journal([noise(0.1)])


def test_a_missing_field_is_named_with_its_entry() -> None:
    broken = {k: v for k, v in noise(0.1).items() if k != "sigma"}
    with pytest.raises(StoreError, match=r"journal entry 2 \('noise'\) lacks 'sigma'"):
        read_journal([STUDY, broken])
