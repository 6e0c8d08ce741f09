"""A whole study against a simulated trainer whose truth is known; nothing is trained here."""

import dataclasses
import errno
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest

from optbench.analysis.outcomes import RowVerdict
from optbench.analysis.summary import summarise
from optbench.config import RunConfig
from optbench.executors.processes import InlineExecutor
from optbench.optimizers import OPTIMIZERS
from optbench.store.store import RunRecord, RunStore, StoreError
from optbench.study.config import FIRST_CONFIRM_SEED, StudyConfig
from optbench.study.file import read_study
from optbench.study.planning.planned_runs import planned_runs
from optbench.study.study import Study, StudyError
from optbench.study.sweep import RunError, Sweep

TEXT = """
name = "simulated"
baseline = "adamw"
[cell]
size = "d32"
ratio = 1.0
[baseline_curve]
ratios = [0.5, 1.0, 2.0]
retune = ["lr"]
[run]
batch_size = 16
[protocol]
noise_seeds = 3
confirm_seeds = 3
max_runs = 30
[optimizers.adamw]
start = { lr = 0.004, beta2 = 0.98 }
space = { lr = [0.002, 0.004, 0.008], beta2 = [0.95, 0.98, 0.99] }
[optimizers.muon]
start = { lr = 0.016 }
space = { lr = [0.016, 0.032, 0.064] }
"""
BEST_LR = {"adamw": 0.016, "muon": 0.032}
EFFICIENCY = {"adamw": 1.0, "muon": 1.3}


class Quiet:
    """An observer that only counts."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.kept: list[str] = []

    def queued(self, configs: Any) -> None:
        pass

    def finished(self, record: RunRecord, *, from_store: bool) -> None:
        (self.kept if from_store else self.trained).append(record.run_id)

    def failed(self, config: RunConfig, error: str, *, final: bool) -> None:
        pass

    def tick(self) -> None:
        pass


def simulated(config: RunConfig, noise: float = 0.01) -> RunRecord:
    """A power law in tokens, a parabola in log lr, and reproducible noise per run."""
    name, hyperparameters = config.optimizer.name, config.optimizer.hyperparameters
    tokens = config.num_tokens * EFFICIENCY[name]
    distance = math.log2(float(hyperparameters["lr"]) / BEST_LR[name])
    wobble = random.Random(config.run_id).gauss(0, noise)
    loss = 2 + 30 * tokens**-0.2 + 0.1 * distance**2 + wobble
    return record_of(config, loss)


def record_of(config: RunConfig, loss: float | None) -> RunRecord:
    return RunRecord(
        run_id=config.run_id,
        config=config.to_dict(),
        status="diverged" if loss is None else "completed",
        val_loss=loss,
        test_loss=loss,
        train_curve=[],
        val_curve=[],
        num_steps=config.num_steps,
        num_tokens=config.num_tokens,
        step_s=0.01,
        optimizer_step_s=0.001,
        wall_s=1.0,
        state_bytes=1,
        started_at="2026-01-01T00:00:00+00:00",
        environment={},
    )


@pytest.fixture
def config() -> StudyConfig:
    return read_study(TEXT)


def run(config: StudyConfig, folder: Path, job: Any = simulated) -> tuple[RunStore, Quiet]:
    observer = Quiet()
    with RunStore.open(folder) as store:
        study = Study(config, store, fingerprint="f")
        study.claim_store()
        study.run(Sweep(store, InlineExecutor(), job, observer))
    return store, observer


def entries(store: RunStore, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in store.journal if entry["kind"] == kind]


def test_a_study_finds_the_known_optimum_and_extends_the_grid_to_it(
    config: StudyConfig, tmp_path: Path
) -> None:
    store, _ = run(config, tmp_path)
    tuned = {(e["optimizer"], e["cell"]["ratio"]): e for e in entries(store, "tuning")}
    assert tuned["adamw", 1.0]["incumbent"]["lr"] == 0.016  # outside of the given candidates
    assert tuned["muon", 1.0]["incumbent"]["lr"] == 0.032
    assert all(entry["certified"] for entry in tuned.values())


def test_the_tie_threshold_comes_from_the_measured_noise(
    config: StudyConfig, tmp_path: Path
) -> None:
    store, _ = run(config, tmp_path)
    (noise,) = entries(store, "noise")
    assert len(noise["run_ids"]) == 3
    assert noise["tie_threshold"] == noise["paired_sigma"] > config.protocol.tie_floor
    assert {e["tie_threshold"] for e in entries(store, "tuning")} == {noise["tie_threshold"]}
    silent = tmp_path / "silent"
    store, _ = run(config, silent, lambda c: simulated(c, noise=0.0))
    assert entries(store, "noise")[0]["tie_threshold"] == config.protocol.tie_floor


def test_what_a_seed_does_to_all_configurations_alike_is_not_noise_of_a_comparison(
    config: StudyConfig, tmp_path: Path
) -> None:
    def shared(run: RunConfig) -> RunRecord:
        quiet = simulated(run, noise=0.001)
        assert quiet.val_loss is not None
        return record_of(run, quiet.val_loss + random.Random(run.seed).gauss(0, 0.1))

    (noise,) = entries(run(config, tmp_path, shared)[0], "noise")
    assert noise["sigma"] > 0.02
    assert noise["paired_sigma"] < 0.005


def test_winners_are_confirmed_on_fresh_seeds_that_all_optimizers_share(
    config: StudyConfig, tmp_path: Path
) -> None:
    store, _ = run(config, tmp_path)
    for entry in entries(store, "confirmation"):
        records = [store.records[run_id] for run_id in entry["run_ids"]]
        assert [r.config["seed"] for r in records] == [FIRST_CONFIRM_SEED + i for i in range(3)]
        for record in records:
            searched = record.config["optimizer"]["hyperparameters"]
            assert {k: searched[k] for k in entry["configuration"]} == entry["configuration"]


def test_the_baseline_is_retuned_and_confirmed_at_every_budget(
    config: StudyConfig, tmp_path: Path
) -> None:
    store, _ = run(config, tmp_path)
    confirmed = {(e["optimizer"], e["cell"]["ratio"]) for e in entries(store, "confirmation")}
    assert confirmed == {("adamw", 0.5), ("adamw", 1.0), ("adamw", 2.0), ("muon", 1.0)}
    for entry in entries(store, "tuning"):
        if entry["cell"]["ratio"] != 1.0:
            assert entry["incumbent"]["beta2"] == 0.98  # held, only lr is searched again


def test_running_a_finished_study_again_trains_nothing_and_decides_the_same(
    config: StudyConfig, tmp_path: Path
) -> None:
    first, observer = run(config, tmp_path)
    again, second = run(config, tmp_path)
    assert second.trained == []
    assert sorted(second.kept) == sorted(observer.trained)
    assert again.journal == first.journal


@pytest.mark.parametrize("stop_after", [1, 2, 5, 9, 17, 26])
def test_a_study_stopped_anywhere_ends_like_an_undisturbed_one(
    config: StudyConfig, tmp_path: Path, stop_after: int
) -> None:
    trained: list[str] = []

    def stopping(run: RunConfig) -> RunRecord:
        if len(trained) == stop_after:
            raise KeyboardInterrupt
        trained.append(run.run_id)
        return simulated(run)

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "stopped", stopping)
    store, observer = run(config, tmp_path / "stopped")
    assert not set(trained) & set(observer.trained)
    undisturbed, _ = run(config, tmp_path / "undisturbed")
    assert store.records == undisturbed.records
    # Optimizers take turns as their runs end, so only the order of their entries may differ.
    assert sorted(store.journal, key=str) == sorted(undisturbed.journal, key=str)


def test_a_diverging_candidate_is_a_result_and_never_wins(
    config: StudyConfig, tmp_path: Path
) -> None:
    def diverging(run: RunConfig) -> RunRecord:
        too_high = float(run.optimizer.hyperparameters["lr"]) > 0.01
        return (
            record_of(run, None) if too_high and run.optimizer.name == "adamw" else simulated(run)
        )

    store, _ = run(config, tmp_path, diverging)
    (tuning,) = [
        e
        for e in entries(store, "tuning")
        if (e["optimizer"], e["cell"]["ratio"]) == ("adamw", 1.0)
    ]
    assert tuning["incumbent"]["lr"] == 0.008
    assert any(e["loss"] is None for e in tuning["evaluations"])


def test_a_descent_may_start_at_a_diverged_run(config: StudyConfig, tmp_path: Path) -> None:
    def diverging(run: RunConfig) -> RunRecord:
        start = run.optimizer.name == "muon" and run.optimizer.hyperparameters["lr"] == 0.016
        return record_of(run, None) if start else simulated(run)

    store, _ = run(config, tmp_path, diverging)
    (tuning,) = [e for e in entries(store, "tuning") if e["optimizer"] == "muon"]
    assert tuning["moves"][0]["loss_before"] is None
    assert tuning["incumbent"]["lr"] == 0.032


def test_a_baseline_that_diverges_at_its_start_stops_the_study_with_the_remedy(
    config: StudyConfig, tmp_path: Path
) -> None:
    with pytest.raises(
        StudyError, match=r"diverged next to its start point on 3 of 3 seeds.*Lower its"
    ):
        run(config, tmp_path, lambda run: record_of(run, None))


def test_a_store_of_another_study_is_refused_and_left_alone(
    config: StudyConfig, tmp_path: Path
) -> None:
    run(config, tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.name != "lock"}
    other = read_study(TEXT.replace("max_runs = 30", "max_runs = 31"))
    with pytest.raises(StoreError, match="holds a study 'simulated' with another study file"):
        run(other, tmp_path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.name != "lock"} == before


def test_a_study_does_not_go_on_under_other_defaults_than_its_runs(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    muon = OPTIMIZERS["muon"]
    before = {**muon.default_hyperparameters(), "momentum": 0.9, "nesterov": False}
    with monkeypatch.context() as older:
        older.setattr(muon, "default_hyperparameters", lambda: before)
        run(config, tmp_path)
        run(config, tmp_path)  # as often as one likes
    files = {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.name != "lock"}
    with pytest.raises(StoreError) as caught:
        run(config, tmp_path)
    assert str(caught.value) == (
        f"The runs in {tmp_path} were made with other defaults than those of this version "
        f"(muon: momentum = 0.9, now 0.95; muon: nesterov = False, now True). Choose another "
        f"folder with --out; nothing in this one was changed."
    )
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.name != "lock"} == files


def test_a_study_file_that_the_disk_refuses_leaves_no_half_of_it(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, contents: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("optbench.store.store.write_durably", refuse)
    with RunStore.open(tmp_path) as store:
        with pytest.raises(StoreError, match=r"study\.toml could not be written \(No space left"):
            Study(config, store, fingerprint="f").claim_store()
        assert not (tmp_path / "study.toml").exists()
        monkeypatch.undo()
        Study(config, store, fingerprint="f").claim_store()
    assert (tmp_path / "study.toml").read_text() == TEXT
    assert len(RunStore.read(tmp_path).journal) == 1


def test_an_optimizer_whose_runs_fail_stops_and_the_others_are_confirmed(
    config: StudyConfig, tmp_path: Path
) -> None:
    def failing(run: RunConfig) -> RunRecord:
        record = simulated(run)
        if run.optimizer.name == "adamw":
            return record
        return dataclasses.replace(record, status="failed", val_loss=None, error="no room")

    with pytest.raises(RunError, match=r"\(muon, .* failed 2 times"):
        run(config, tmp_path, failing)
    store = RunStore.read(tmp_path)
    confirmed = [(e["optimizer"], e["cell"]["ratio"]) for e in entries(store, "confirmation")]
    assert confirmed == [("adamw", 1.0), ("adamw", 2.0), ("adamw", 0.5)]
    summary = summarise(store)
    assert summary.row("muon").verdict is RowVerdict.NO_RESULT
    assert {(run.optimizer, run.status) for run in summary.failed_or_diverged} == {
        ("muon", "failed")
    }
    # The same command, once it goes well, ends as if nothing had been.
    undisturbed, _ = run(config, tmp_path / "undisturbed")
    again, _ = run(config, tmp_path)
    assert again.records.keys() == undisturbed.records.keys()
    assert sorted(again.journal, key=str) == sorted(undisturbed.journal, key=str)


def test_the_plan_counts_what_a_study_without_moves_trains(
    config: StudyConfig, tmp_path: Path
) -> None:
    flat, observer = run(config, tmp_path, lambda run: record_of(run, 3.0 + 1e-6 * run.seed))
    planned = planned_runs(config, "f")
    descents = {(p.optimizer, p.cell.ratio): p for p in planned if p.phase in ("tune", "baseline")}
    tuning = {(e["optimizer"], e["cell"]["ratio"]): e["runs"] for e in entries(flat, "tuning")}
    for (optimizer, ratio), runs in tuning.items():
        assert runs <= descents[optimizer, ratio].worst
    expected, worst = sum(p.expected for p in planned), sum(p.worst for p in planned)
    assert len(observer.trained) <= expected <= worst


def test_equal_budgets_cap_every_optimizer(tmp_path: Path) -> None:
    config = read_study(TEXT.replace("max_runs = 30", "max_runs = 3"))
    store, _ = run(config, tmp_path)
    for entry in entries(store, "tuning"):
        assert entry["runs"] <= 3
    capped = [e for e in entries(store, "tuning") if e["optimizer"] == "adamw"]
    assert not any(e["certified"] for e in capped)


def test_invalid_candidates_are_refused_with_their_reason(tmp_path: Path) -> None:
    text = TEXT.replace("beta2 = [0.95, 0.98, 0.99]", "beta2 = [0.5, 0.98, 0.99]")
    store, _ = run(read_study(text), tmp_path)
    (tuning,) = [
        e
        for e in entries(store, "tuning")
        if (e["optimizer"], e["cell"]["ratio"]) == ("adamw", 1.0)
    ]
    assert "`beta1 <= sqrt(beta2)` must hold" in tuning["rejected"][0]["reason"]


def test_a_changed_corpus_is_refused(config: StudyConfig, tmp_path: Path) -> None:
    run(config, tmp_path)
    with RunStore.open(tmp_path) as store, pytest.raises(StoreError, match="with another corpus"):
        Study(config, store, fingerprint="g").claim_store()


def test_records_hold_the_configuration_that_was_asked_for(
    config: StudyConfig, tmp_path: Path
) -> None:
    store, _ = run(config, tmp_path)
    for run_id, record in store.records.items():
        assert record.run_config.run_id == run_id
        assert dataclasses.asdict(record)["config"]["data"]["fingerprint"] == "f"
