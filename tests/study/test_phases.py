"""The three phases against a simulated trainer whose law of scale is known."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from optbench.analysis.summary import summarise
from optbench.config import ConfigError, RunConfig
from optbench.executors.processes import InlineExecutor
from optbench.ladder import SIZES, Cell
from optbench.optimizers import OPTIMIZERS
from optbench.space import choices, complement, geometric
from optbench.store.store import RunRecord, RunStore
from optbench.study.file import read_study
from optbench.study.phases import grid_step, rounding_of, tie_threshold
from optbench.study.planning.planned_runs import planned_runs
from optbench.study.study import Study
from optbench.study.sweep import Budget, BudgetSpentError, Sweep
from tests.study.test_study import Quiet, entries, record_of

TEXT = """
name = "scales"
baseline = "adamw"
[cell]
size = "d32"
ratio = 1.0
[phases]
tune = ["d32 4x", "d64 1x"]
retune = ["d64 4x"]
predict = ["d96 4x"]
noise = ["d64 1x"]
[run]
batch_size = 16
[protocol]
noise_seeds = 2
confirm_seeds = 2
max_runs = 40
[optimizers.adamw]
start = { lr = 0.016, beta1 = 0.9 }
space = { lr = [0.008, 0.016, 0.032], beta1 = [0.8, 0.9, 0.95] }
[optimizers.muon]
cells = ["d32 4x", "d64 1x", "d64 4x"]
start = { lr = 0.016 }
space = { lr = [0.016, 0.032, 0.064] }
"""
UNLIMITED = Budget()
N0 = SIZES["d32"].num_nonembedding_params


def best_lr(config: RunConfig) -> float:
    """α·N^−½·r^−½: a factor of two from d32 to d64 (N × 4) and from 1x to 4x."""
    ratio = config.num_tokens / (20 * config.model.num_nonembedding_params)
    return 0.032 * (config.model.num_nonembedding_params / N0) ** -0.5 * ratio**-0.5


def simulated(config: RunConfig) -> RunRecord:
    """Parabolas around the best lr, which depends on scale, and around beta1 = 0.9, which not."""
    values = config.optimizer.hyperparameters
    loss = 2 + 30 * config.num_tokens**-0.2 - 0.05 * (config.optimizer.name == "muon")
    loss += 0.1 * math.log2(float(values["lr"]) / best_lr(config)) ** 2
    if config.optimizer.name == "adamw":
        loss += 0.1 * math.log2((1 - float(values["beta1"])) / 0.1) ** 2
    return record_of(config, loss + 1e-4 * (config.seed % 3))


def run(folder: Path, text: str = TEXT, budget: Budget = UNLIMITED) -> RunStore:
    with RunStore.open(folder) as store:
        study = Study(read_study(text), store, fingerprint="f")
        study.claim_store()
        study.run(Sweep(store, InlineExecutor(), simulated, Quiet(), budget))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return run(tmp_path_factory.mktemp("scales"))


def found(store: RunStore, kind: str, optimizer: str) -> dict[str, dict[str, Any]]:
    """The entries of an optimizer by label of their cell."""
    return {
        f"{e['cell']['size']} {e['cell']['ratio']:g}x": e
        for e in entries(store, kind)
        if e["optimizer"] == optimizer
    }


def test_every_phase_tunes_its_cells_and_finds_the_optimum_there(store: RunStore) -> None:
    tunings = found(store, "tuning", "adamw")
    lrs = {label: (e["phase"], e["incumbent"]["lr"]) for label, e in tunings.items()}
    assert lrs == {
        "d32 1x": ("I", 0.032),
        "d32 4x": ("I", 0.016),
        "d64 1x": ("I", 0.016),
        "d64 4x": ("II", 0.008),
    }
    assert all(e["certified"] for e in tunings.values())
    assert all(e["incumbent"]["beta1"] == 0.9 for e in tunings.values())


def test_a_descent_starts_at_the_nearest_winner_and_says_so(store: RunStore) -> None:
    tunings = found(store, "tuning", "adamw")
    assert tunings["d32 1x"]["start_from"] == "start point"
    assert tunings["d32 4x"]["start_from"] == "winner in d32 1x"
    assert tunings["d32 4x"]["start"]["lr"] == 0.032
    assert tunings["d64 4x"]["start_from"] == "winner in d32 4x"  # ln 4 in N; as near as d64 1x


def test_only_the_sensitive_axis_is_searched_in_phase_ii(store: RunStore) -> None:
    (sensitivity,) = [e for e in entries(store, "sensitivity") if e["optimizer"] == "adamw"]
    assert sensitivity["cells"] == ["d32 1x", "d32 4x", "d64 1x"]
    axes = {axis["axis"]: axis for axis in sensitivity["axes"]}
    assert (axes["beta1"]["is_stable"], axes["beta1"]["candidates"]) == (True, [0.9])
    assert (axes["lr"]["is_stable"], axes["lr"]["candidates"]) == (False, [0.016, 0.032])
    again = found(store, "tuning", "adamw")["d64 4x"]
    assert again["fixed"] == {"beta1": 0.9}
    assert {e["configuration"]["lr"] for e in again["evaluations"]} >= {0.008, 0.016, 0.032}
    assert all("beta1" not in e["configuration"] for e in again["evaluations"])


def test_phase_iii_trains_what_the_law_predicts(store: RunStore) -> None:
    prediction = found(store, "prediction", "adamw")["d96 4x"]
    wanted = best_lr(simulated_config("d96", 4.0))
    assert prediction["configuration"]["lr"] == pytest.approx(wanted, rel=1e-6)
    assert prediction["configuration"]["beta1"] == 0.9
    (lr,) = prediction["axes"]
    assert (lr["axis"], lr["form"], lr["clamped"]) == ("lr", "power", False)
    assert lr["low"] < lr["value"] < lr["high"]
    assert lr["size_extrapolation"] == pytest.approx(9 / 4)
    assert prediction["refused"] is None
    confirmed = found(store, "confirmation", "adamw")["d96 4x"]
    assert confirmed["configuration"] == prediction["configuration"]


def simulated_config(size: str, ratio: float) -> RunConfig:
    config = read_study(TEXT)
    start = config.start_point("adamw")
    return config.run_config("adamw", Cell(size, SIZES[size], ratio), start, seed=0, fingerprint="")


def test_an_optimizer_stays_in_its_cells(store: RunStore) -> None:
    assert set(found(store, "confirmation", "muon")) == {"d32 1x", "d32 4x", "d64 1x", "d64 4x"}
    assert not found(store, "prediction", "muon")


def test_noise_is_measured_in_each_of_its_cells_and_the_nearest_counts(store: RunStore) -> None:
    noise = {e["cell"]["size"]: e["tie_threshold"] for e in entries(store, "noise")}
    assert set(noise) == {"d32", "d64"}
    far = Cell("d96", SIZES["d96"], 1.0)
    assert tie_threshold(store, far, 0.003) == noise["d64"]
    assert tie_threshold(store, Cell("d32", SIZES["d32"], 2.0), 0.003) == noise["d32"]


def test_a_repeated_study_decides_the_same_and_trains_nothing(
    store: RunStore, tmp_path: Path
) -> None:
    again = run(store.directory)
    assert again.records == store.records
    assert [e for e in again.journal if e["kind"] == "tuning"] == entries(store, "tuning")


def test_a_predicted_value_is_clamped_to_its_bounds(tmp_path: Path) -> None:
    text = TEXT.replace('predict = ["d96 4x"]', 'predict = ["d32 0.001x"]')
    with pytest.raises(ConfigError, match=r"d32 0\.001x"):  # no step fits into this budget
        read_study(text)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (Budget(runs=9), "9 runs, at most 9"),
        (Budget(core_hours=9 / 3600), "0.0025 core hours, at most 0.0025"),
        (Budget(tokens=3e6), "5.24e+06 tokens, at most 3e+06"),
    ],
)
def test_a_budget_stops_the_study_and_a_larger_one_goes_on(
    limit: Budget, message: str, store: RunStore, tmp_path: Path
) -> None:
    with pytest.raises(BudgetSpentError, match=re.escape(message)):
        run(tmp_path, budget=limit)
    assert 0 < len(RunStore.read(tmp_path).records) < len(store.records)
    assert run(tmp_path).records == store.records


def test_a_budget_that_is_enough_stops_nothing(store: RunStore, tmp_path: Path) -> None:
    exact = Budget(runs=len(store.records))
    assert run(tmp_path, budget=exact).records == store.records


def test_the_plan_names_every_cell_of_every_phase() -> None:
    planned = planned_runs(read_study(TEXT))
    cells = {(p.phase, p.optimizer, p.cell.label) for p in planned}
    assert {("noise", "adamw", "d64 1x"), ("retune", "adamw", "d64 4x")} <= cells
    assert ("confirm", "adamw", "d96 4x") in cells
    assert ("confirm", "muon", "d96 4x") not in cells
    assert all(0 < p.expected <= p.worst for p in planned)


def test_rounding_and_grid_steps_follow_the_axis() -> None:
    assert rounding_of("batch_size", geometric(8, 16)) == "power of two"
    assert rounding_of("flat_steps", geometric(500, 1000)) == "integer"
    assert rounding_of("lr", geometric(0.1, 0.2)) == "as is"
    assert rounding_of("nesterov", choices(True, False)) == "candidate"
    assert grid_step(geometric(0.0, 0.1, 0.4)) == 4
    assert grid_step(complement(0.8, 0.9, 0.95)) == pytest.approx(2)
    assert grid_step(choices(1, 10)) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"d64 1x"]\nretune', '"d64"]\nretune', "phases.tune must list cells such as 'd32 2x'"),
        ('"d64 1x"]\nretune', '"d65 1x"]\nretune', "Unknown model size in phases.tune 'd65'"),
        ('retune = ["d64 4x"]', 'retune = ["d64 1x"]', "d64 1x must be in one phase only"),
        ('tune = ["d32 4x", "d64 1x"]', "tune = []", "phases.retune needs at least 2 cells"),
        ('cells = ["d32 4x"', 'cells = ["d32 3x"', "Unknown cell in optimizers.muon.cells"),
        ("noise = ", "nois = ", "Unknown key 'phases.nois'. Did you mean 'phases.noise'?"),
        ("space = { lr = [0.016, 0.032, 0.064] }", "space = {}", "optimizers.muon.space is empty"),
        ("[optimizers.muon]", '[optimizers.muon]\npreset = "p"', "must be 'authors' or 'paper'"),
    ],
)
def test_impossible_phases_are_refused(old: str, new: str, message: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(ConfigError) as refused:
        read_study(TEXT.replace(old, new))
    assert message in str(refused.value)


def test_laws_need_cells(tmp_path: Path) -> None:
    text = TEXT.replace('tune = ["d32 4x", "d64 1x"]\nretune = ["d64 4x"]', 'tune = ["d32 4x"]')
    with pytest.raises(ConfigError, match=r"at least 3 tuned cells, but .* have 2"):
        read_study(text.replace('cells = ["d32 4x", "d64 1x", "d64 4x"]', ""))


def test_an_optimizers_own_settings_and_preset_reach_its_runs() -> None:
    text = TEXT.replace("[optimizers.muon]", '[optimizers.muon]\npreset = "paper"')
    study = read_study(text + '[optimizers.muon.run]\ndecay_shape = "linear"\nwarmup_steps = 7\n')
    assert study.optimizers["muon"].run.batch_size == 16
    start = study.optimizers["muon"].start
    run = study.run_config("muon", study.tuned_cell, start, seed=0, fingerprint="")
    assert (run.schedule.shape, run.schedule.warmup_steps) == ("linear", 7)
    other = simulated_config("d32", 1.0)
    assert other.schedule.shape == "cosine"
    scion = TEXT.replace("optimizers.muon]", 'optimizers.scion]\npreset = "paper"')
    assert read_study(scion).optimizers["scion"].start["norm_rule"] == "sign"


def test_an_optimizer_without_a_space_is_tuned_over_all_that_it_declares() -> None:
    study = read_study(TEXT.replace("space = { lr = [0.016, 0.032, 0.064] }", ""))
    assert list(study.optimizers["muon"].space) == list(OPTIMIZERS["muon"].space)


def test_with_one_seed_ties_are_those_of_the_floor_and_there_are_no_intervals(
    tmp_path: Path,
) -> None:
    text = TEXT.replace("noise_seeds = 2\nconfirm_seeds = 2", "noise_seeds = 1\nconfirm_seeds = 1")
    store = run(tmp_path, text)
    assert entries(store, "noise") == []
    tunings = found(store, "tuning", "adamw")
    assert {e["tie_threshold"] for e in tunings.values()} == {0.003}
    assert tunings["d64 4x"]["incumbent"] == {"lr": 0.008, "beta1": 0.9}
    summary = summarise(store)
    assert summary.noise is None
    muon = next(row for row in summary.rows if row.optimizer == "muon")
    assert muon.tokens is not None
    assert (muon.tokens.low, muon.tokens.high) == (None, None)
    planned = planned_runs(read_study(text))
    assert sum(p.expected for p in planned if p.phase == "noise") == 0


def test_grids_that_do_not_grow_end_at_their_edge(tmp_path: Path) -> None:
    text = TEXT.replace("max_runs = 40", "max_runs = 40\ngrow_grids = false").replace(
        "lr = [0.008, 0.016, 0.032]", "lr = [0.004, 0.008, 0.016]"
    )
    tuning = found(run(tmp_path, text), "tuning", "adamw")["d32 1x"]
    assert tuning["incumbent"]["lr"] == 0.016  # the best would be 0.032
    assert tuning["certified"]
    (edge,) = tuning["edges"]
    assert edge["note"] == "at the end of the candidates, which this search does not extend"
    assert tuning["grid"] == {"lr": [0.004, 0.008, 0.016], "beta1": [0.8, 0.9, 0.95]}
