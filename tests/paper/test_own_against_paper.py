"""A study at the paper's sizes, simulated, beside the published losses."""

from __future__ import annotations

import dataclasses
import math

import pytest

from optbench.config import ScheduleConfig
from optbench.ladder import PAPER_SIZES
from optbench.paper.own_against_paper import (
    NotThePapersSizeError,
    OwnAgainstPaper,
    OwnCell,
    compare_with_paper,
)
from optbench.published import read_published
from optbench.store.store import RunStore
from tests.statistics.synthetic import SimulatedStudy


def at_size(study: SimulatedStudy, size: str = "130m") -> RunStore:
    """The same study, said to be of another size: only configurations and cells are changed."""
    model = PAPER_SIZES["130m"]
    known = dict(study.store.records)
    ids: dict[str, str] = {}
    study.store.records.clear()
    for run_id, record in known.items():
        config = dataclasses.replace(record.run_config, model=model)
        ids[run_id] = config.run_id
        changed = dataclasses.replace(record, run_id=config.run_id, config=config.to_dict())
        study.store.records[config.run_id] = changed

    def moved(value: object) -> object:
        if isinstance(value, dict):
            found = {key: moved(item) for key, item in value.items()}
            if "num_nonembedding_params" in found:
                found["size"] = size
                found["num_nonembedding_params"] = model.num_nonembedding_params
                found["num_tokens"] = round(20 * found["ratio"] * model.num_nonembedding_params)
            return found
        if isinstance(value, (list, tuple)):
            return [moved(item) for item in value]
        return ids.get(value, value) if isinstance(value, str) else value

    study.store.journal[:] = [moved(entry) for entry in study.store.journal]
    return study.store


def study_of(*optimizers: str) -> SimulatedStudy:
    study = SimulatedStudy(optimizers=optimizers, ratios=(1.0,))
    study.begin()
    for name in optimizers:
        study.confirm(name, {"lr": 0.016, "beta2": 0.98, "nesterov": True}, 1.0)
    return study


def row(found: OwnAgainstPaper, optimizer: str) -> OwnCell:
    (only,) = [row for row in found.rows if row.optimizer == optimizer]
    return only


def test_own_means_stand_beside_the_published_losses() -> None:
    study = study_of("adamw", "muon")
    store = at_size(study)
    found = compare_with_paper(store, read_published())
    assert [r.cell.label for r in found.rows] == ["130m 1x"] * 2
    assert found.corpora == ("nano",)
    muon = row(found, "muon")
    losses = [
        r.test_loss for r in store.records.values()
        if r.config["optimizer"]["name"] == "muon" and r.test_loss is not None
    ]  # fmt: skip
    assert muon.own.value == pytest.approx(math.fsum(losses) / len(losses))
    assert muon.own.half_width is not None
    assert muon.published == 3.4626309871673584
    assert muon.difference == pytest.approx(muon.own.value - 3.4626309871673584)
    assert muon.published_over_baseline == pytest.approx(3.46263 - 3.52914, abs=1e-5)
    adamw = row(found, "adamw")
    assert adamw.over_baseline == 0
    assert muon.over_baseline == pytest.approx(muon.own.value - adamw.own.value)


def test_differing_hyperparameters_are_named() -> None:
    found = compare_with_paper(at_size(study_of("adamw")), read_published())
    adamw = row(found, "adamw")
    assert adamw.differing == ("lr", "nesterov", "batch_tokens", "warmup_share", "decay_share")
    assert (adamw.own_configuration["lr"], adamw.published_configuration["lr"]) == (0.016, 0.008)


def test_settings_of_the_run_are_compared_in_tokens_and_shares_of_the_steps() -> None:
    store = at_size(study_of("adamw"))
    for run_id, record in store.records.items():
        config = dataclasses.replace(
            record.run_config,
            num_tokens=1_000 * 16 * 4_096,
            schedule=ScheduleConfig(warmup_steps=100, decay_steps=500),
        )
        store.records[run_id] = dataclasses.replace(record, config=config.to_dict())
    adamw = row(compare_with_paper(store, read_published()), "adamw")
    own = adamw.own_configuration
    assert (own["batch_tokens"], own["warmup_share"], own["decay_share"]) == (65_536, 0.1, 0.5)
    # 128 sequences of 4,096 tokens: 5,120 steps, of which 2,000 warm up and all others decay
    published = adamw.published_configuration
    assert published["batch_tokens"] == 128 * 4_096
    assert (published["warmup_share"], published["decay_share"]) == (0.3906, 0.6094)
    assert not {"batch_size", "warmup_steps", "decay_frac"} & published.keys()


def test_a_decay_that_the_source_names_is_taken_from_it() -> None:
    muon = row(compare_with_paper(at_size(study_of("adamw", "muon")), read_published()), "muon")
    assert muon.published_configuration["decay_share"] == 0.8


def test_another_clipping_is_named() -> None:
    study = study_of("adamw")
    store = at_size(study)
    for run_id, record in store.records.items():
        config = dataclasses.replace(record.run_config, clip_norm=0.5)
        store.records[run_id] = dataclasses.replace(record, config=config.to_dict())
    adamw = row(compare_with_paper(store, read_published()), "adamw")
    assert "clip_norm" in adamw.differing
    named = (adamw.own_configuration["clip_norm"], adamw.published_configuration["clip_norm"])
    assert named == (0.5, 1)


def test_the_interval_of_a_difference_counts_the_noise_of_both_losses() -> None:
    store = at_size(study_of("adamw"))
    for sigma in (2e-3, 0.1):
        adamw = row(compare_with_paper(store, read_published(), sigma), "adamw")
        assert adamw.own.half_width is not None
        assert adamw.difference_half_width == pytest.approx(
            math.sqrt(adamw.own.half_width**2 + (1.959964 * sigma) ** 2), rel=1e-5
        )


def test_an_optimizer_that_was_not_published_has_no_difference() -> None:
    study = study_of("adamw")
    for entry in study.store.journal:
        if "optimizer" in entry:
            entry["optimizer"] = "mine"
        if entry["kind"] == "study":
            entry["optimizers"] = ["mine"]
    found = compare_with_paper(at_size(study), read_published())
    mine = row(found, "mine")
    assert (mine.published, mine.difference, mine.differing) == (None, None, ())


def test_a_study_of_other_sizes_is_told_its_sizes_and_the_papers() -> None:
    with pytest.raises(
        NotThePapersSizeError,
        match=r"the study has d32 \(32.8k\); the paper has 130m \(134M\), .*1.2b \(1.21B\)",
    ):
        compare_with_paper(study_of("adamw").store, read_published())


def test_a_size_of_the_same_name_with_other_parameters_is_not_the_papers() -> None:
    study = study_of("adamw")
    store = at_size(study)
    for entry in store.journal:
        for cell in _cells(entry):
            cell["num_nonembedding_params"] += 1
    with pytest.raises(NotThePapersSizeError, match=r"the study has 130m \(134M\)"):
        compare_with_paper(store, read_published())


def _cells(value: object) -> list[dict[str, int]]:
    if isinstance(value, dict):
        own = [value] if "num_nonembedding_params" in value else []
        return own + [c for item in value.values() for c in _cells(item)]
    return [c for item in value for c in _cells(item)] if isinstance(value, list) else []


def test_a_study_without_confirmations_is_told_so() -> None:
    study = SimulatedStudy(optimizers=("adamw",))
    study.begin()
    with pytest.raises(NotThePapersSizeError, match="nothing of the study is confirmed yet"):
        compare_with_paper(study.store, read_published())
