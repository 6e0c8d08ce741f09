from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optbench.ladder import NANO_SIZES, Cell
from optbench.store.journal import CellEntry, read_journal
from optbench.store.journal_entries import cell_entry
from optbench.store.store import StoreError

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


DOUBLE = {**CELL, "ratio": 2.0, "num_tokens": 1_310_720}
LARGE = {"size": "d48", "ratio": 1.0, "num_tokens": 1_474_560, "num_nonembedding_params": 73_728}
PHASED = {**STUDY, "phases": {"tune": [CELL, LARGE], "retune": [DOUBLE], "predict": []}}


def test_cells_of_all_phases_stand_once_by_size_and_budget() -> None:
    study = read_journal([PHASED]).study
    assert [cell.label for cell in study.cells] == ["d32 0.5x", "d32 1x", "d32 2x", "d48 1x"]
    assert [cell.label for cell in study.curve_cells] == ["d32 0.5x", "d32 1x", "d32 2x"]


def test_a_cell_knows_its_phase() -> None:
    study = read_journal([PHASED]).study
    assert [study.phase_of(cell) for cell in study.cells] == ["baseline", "I", "II", "I"]
    predicted = {**STUDY, "phases": {"tune": [CELL], "retune": [], "predict": [LARGE]}}
    study = read_journal([predicted]).study
    assert [study.phase_of(cell) for cell in study.cells] == ["baseline", "I", "III"]


def test_without_phases_the_tuned_cell_is_phase_one() -> None:
    study = read_journal([STUDY]).study
    assert study.phases is None
    assert [study.phase_of(cell) for cell in study.cells] == ["baseline", "I"]


TUNING = {
    "kind": "tuning",
    "cell": CELL,
    "optimizer": "adamw",
    "start": {"lr": 0.01},
    "incumbent": {"lr": 0.02},
    "certified": True,
    "tie_threshold": 0.003,
    "moves": [],
    "evaluations": [{"configuration": {"lr": 0.02}, "run_id": "a", "loss": None}],
    "rejected": [],
    "edges": [],
    "runs": 1,
    "tokens": 10,
}


def test_a_tuning_of_the_first_version_has_no_phase() -> None:
    tuning = read_journal([STUDY, TUNING]).tunings[("d32", 1.0), "adamw"]
    assert (tuning.phase, tuning.start_from, tuning.fixed) == ("", "", {})


def test_a_tuning_says_its_phase_and_what_was_held() -> None:
    entry = {**TUNING, "phase": "II", "start_from": "winner in d32 1x", "fixed": {"eps": 1e-8}}
    tuning = read_journal([STUDY, entry]).tunings[("d32", 1.0), "adamw"]
    assert (tuning.phase, tuning.start_from) == ("II", "winner in d32 1x")
    assert tuning.fixed == {"eps": 1e-8}


def test_sensitivities_are_kept_by_optimizer() -> None:
    axis = {
        "axis": "lr",
        "is_stable": False,
        "stable_values": [],
        "candidates": [0.01, 0.02],
        "near_best": {"d32 1x": [0.01], "d48 1x": [0.02]},
        "silent_cells": ["d32 2x"],
    }
    entry = {"kind": "sensitivity", "optimizer": "adamw", "cells": ["d32 1x"], "axes": [axis]}
    journal = read_journal([STUDY, {**entry, "axes": []}, entry])
    (found,) = journal.sensitivities["adamw"].axes
    assert found.candidates == (0.01, 0.02)
    assert found.near_best == {"d32 1x": [0.01], "d48 1x": [0.02]}
    assert found.silent_cells == ("d32 2x",)


def test_predictions_are_kept_by_cell_and_optimizer() -> None:
    axis = {
        "axis": "lr",
        "form": "power",
        "reason": "four cells",
        "value": 0.0123,
        "low": 0.01,
        "high": 0.015,
        "outer_low": None,
        "outer_high": None,
        "snapped": 0.012,
        "clamped": False,
        "size_extrapolation": 2.25,
        "ratio_extrapolation": 1.0,
    }
    entry = {
        "kind": "prediction",
        "cell": LARGE,
        "optimizer": "muon",
        "configuration": {"lr": 0.012},
        "axes": [axis],
    }
    journal = read_journal([STUDY, entry, {**entry, "optimizer": "adamw", "refused": "too long"}])
    cell = CellEntry("d48", 1.0, 1_474_560, 73_728)
    found = journal.prediction(cell, "muon")
    assert found is not None
    assert (found.cell, found.axes[0].snapped, found.refused) == (cell, 0.012, None)
    assert journal.predictions[cell.key, "adamw"].refused == "too long"
    assert journal.prediction(journal.study.tuned_cell, "muon") is None


def test_lists_become_tuples_of_their_type() -> None:
    study = read_journal([STUDY]).study
    assert study.optimizers == ("adamw", "muon")
    assert study.baseline_cells == (CellEntry("d32", 0.5, 327_680, 32_768),)


def test_what_was_not_written_is_absent() -> None:
    journal = read_journal([STUDY])
    assert journal.plan is None
    assert journal.noise == journal.sessions == journal.session_ends == ()
    assert journal.sensitivities == journal.predictions == {}
    assert journal.tuning(journal.study.tuned_cell, "adamw") is None
    assert journal.confirmation(journal.study.tuned_cell, "adamw") is None


def test_kinds_and_fields_of_later_versions_are_left_out() -> None:
    journal = read_journal([{**STUDY, "digest": "x"}, {"kind": "weather", "sky": "blue"}])
    assert journal.study.name == "s"


def test_the_committed_journal_reads_as_before() -> None:
    path = Path(__file__).parents[2] / "results" / "nano" / "journal.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    journal = read_journal(json.loads(line) for line in lines)
    assert [cell.label for cell in journal.study.cells] == [
        "d32 0.5x",
        "d32 1x",
        "d32 1.5x",
        "d32 2x",
    ]
    assert len(journal.tunings) == len(journal.confirmations) == 7
    assert journal.predictions == {}


def test_a_journal_without_a_study_is_refused_with_the_remedy() -> None:
    with pytest.raises(StoreError, match=r"names no study.*'optbench run'"):
        read_journal([noise(0.1)])


def test_a_missing_field_is_named_with_its_entry() -> None:
    broken = {k: v for k, v in noise(0.1).items() if k != "sigma"}
    with pytest.raises(StoreError, match=r"journal entry 2 \('noise'\) lacks 'sigma'"):
        read_journal([STUDY, broken])


def test_the_entry_of_a_cell_has_its_budget_and_size() -> None:
    entry = cell_entry(Cell("d32", NANO_SIZES["d32"], 0.5))
    assert entry == CellEntry("d32", 0.5, num_tokens=327_680, num_nonembedding_params=32_768)
