"""The study files of the package: all of them parse, and the large ones say what they must."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optbench.analysis.explanation import explain, find_cell
from optbench.cli import main
from optbench.ladder import Cell
from optbench.optimizers import OPTIMIZERS
from optbench.report.explain_text import explanation_sections
from optbench.run_axes import RUN_AXES, axis_values
from optbench.space import Axis, Value
from optbench.store.journal import read_journal
from optbench.store.store import RunStore
from optbench.study.config import OptimizerStudy, StudyConfig, run_problems
from optbench.study.file import find_study, read_study
from tests.smoke_study import SmokeStudy

SHIPPED = sorted(
    file.name.removesuffix(".toml")
    for file in (resources.files("optbench") / "studies").iterdir()
    if file.name.endswith(".toml")
)
PHASE_1 = ["130m 1x", "130m 2x", "130m 4x", "130m 8x", "300m 1x", "520m 1x"]
PHASE_2 = ["300m 2x", "300m 4x", "300m 8x", "520m 2x", "520m 4x", "520m 8x"]
AT_1B = ["1.2b 1x", "1.2b 2x", "1.2b 4x", "1.2b 8x"]
IN_PHASE_3 = {"adamw", "nadamw", "muon", "soap"}

BATCHES = [128, 256, 512, 1024]
WARMUPS = [500, 1000, 2000, 4000]
CLIPS = [0, 1, 2]
BETAS = [0.9, 0.95, 0.98]
WIDE_BETAS = [0.8, *BETAS]
EPSILONS = [1e-20, 1e-15, 1e-10]
DECAYS = [0, 0.1, 0.2]
MATRIX_RATES = [0.008, 0.016, 0.032, 0.064, 0.128]
ADAM = {"eps": EPSILONS, "weight_decay": DECAYS, "batch_size": BATCHES, "warmup_steps": WARMUPS}
CLIPPED_ADAM = {**ADAM, "clip_norm": CLIPS}
# What the study swept in its smallest cell (arXiv 2509.02046, appendix), in this project's names.
PUBLISHED: dict[str, Mapping[str, Sequence[Value]]] = {
    "adamw": {**CLIPPED_ADAM, "lr": [0.004, 0.008, 0.016, 0.032], "beta1": BETAS, "beta2": BETAS},
    "nadamw": {**CLIPPED_ADAM, "lr": [0.008, 0.016, 0.032], "beta1": WIDE_BETAS, "beta2": BETAS},
    "mars": {
        **ADAM,
        "lr": [0.008, 0.016, 0.032],
        "beta1": WIDE_BETAS,
        "beta2": [*BETAS, 0.99],
        "gamma": [0.0125, 0.025, 0.05, 0.1],
    },
    "cautious": {**CLIPPED_ADAM, "lr": [0.008, 0.016, 0.032], "beta1": WIDE_BETAS, "beta2": BETAS},
    "lion": {
        "lr": [0.0005, 0.001, 0.002, 0.004, 0.008],
        "beta1": WIDE_BETAS,
        "beta2": BETAS,
        "weight_decay": [n / 10 for n in range(11)],
        "batch_size": BATCHES,
        "clip_norm": CLIPS,
        "warmup_steps": WARMUPS,
    },
    "adam_mini": {
        **CLIPPED_ADAM,
        "lr": [0.004, 0.008, 0.016, 0.032],
        "beta1": BETAS,
        "beta2": BETAS,
    },
    "muon": {
        "lr": MATRIX_RATES,
        "momentum": WIDE_BETAS,
        "aux_lr_ratio": [0.1, 0.2, 0.3],
        "beta1": WIDE_BETAS,
        "beta2": BETAS,
        "eps": EPSILONS,
        "weight_decay": DECAYS,
        "batch_size": BATCHES,
        "clip_norm": CLIPS,
        "decay_frac": [0.2, 0.4, 0.6, 0.8, 1.0],
    },
    "scion": {
        "lr": MATRIX_RATES,
        "momentum": WIDE_BETAS,
        "beta1": WIDE_BETAS,
        "aux_lr_ratio": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "weight_decay": DECAYS,
        "batch_size": BATCHES,
        "clip_norm": CLIPS,
        "decay_frac": [0, 0.2, 0.4, 0.6, 0.8, 1.0],
    },
    "kron": {
        "lr": [0.0005, 0.001, 0.002, 0.004, 0.008],
        "beta1": BETAS,
        "preconditioner_lr": [0.1, 0.2],
        "min_update_probability": [0.05, 0.1],
        "flat_steps": [500, 1000, 2000],
        "normalize_grads": [False, True],
        "block_size": [128, 256, 512],
        "weight_decay": [0, 0.5, 0.7, 0.9],
        "batch_size": BATCHES,
        "clip_norm": CLIPS,
        "warmup_steps": [1000, 2000, 4000],
    },
    "soap": {
        "lr": [0.004, 0.008, 0.016],
        "beta1": [0.8, 0.9, 0.95],
        "beta2": [*BETAS, 0.99],
        "eps": EPSILONS,
        "shampoo_beta": [*BETAS, 0.99],
        "precondition_frequency": [1, 5, 10],
        "block_size": [128, 256, 512],
        "weight_decay": DECAYS,
        "batch_size": [128, 256, 512],
        "warmup_steps": [500, 1000, 2000],
    },
    "sophia": {
        "lr": [0.002, 0.004, 0.008, 0.016, 0.032],
        "beta1": WIDE_BETAS,
        "beta2": [*BETAS, 0.99, 0.995],
        "rho": [0.00625, 0.0125, 0.025, 0.05],
        "eps": [1e-17, 1e-12, 1e-7],
        "weight_decay": [0, 0.1, 0.2, 0.3],
        "batch_size": BATCHES,
        "warmup_steps": WARMUPS,
    },
}


@pytest.fixture(scope="module")
def paper() -> StudyConfig:
    return read_study(find_study("paper"))


@pytest.fixture(scope="module")
def original() -> StudyConfig:
    return read_study(find_study("paper-original"))


def candidates(study: StudyConfig, optimizer: str) -> dict[str, list[Value]]:
    space = study.optimizers[optimizer].space
    return {name: list(axis.values) for name, axis in space.items()}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_study_is_valid_under_its_own_name(name: str) -> None:
    study = read_study(find_study(name))
    assert study.name == name
    for optimizer, search in study.optimizers.items():
        run = study.run_config(optimizer, study.tuned_cell, search.start, seed=0, fingerprint="")
        assert run_problems(run) == []


def test_the_large_studies_have_all_optimizers_and_cells(
    paper: StudyConfig, original: StudyConfig
) -> None:
    for study in (paper, original):
        assert set(study.optimizers) == set(PUBLISHED) <= set(OPTIMIZERS)
        assert [c.label for c in study.phases.tune] == PHASE_1
        assert [c.label for c in study.phases.retune] == PHASE_2
        assert [c.label for c in study.phases.predict][:4] == AT_1B
        for name in study.optimizers:
            cells = [*study.phases.tune, *study.phases.retune, *study.phases.predict]
            visited = [c.label for c in study.cells_of(name, cells)]
            expected = PHASE_1 if name == "sophia" else [*PHASE_1, *PHASE_2]
            if name in IN_PHASE_3:
                expected = [c.label for c in cells]
            assert visited == expected, name
    assert [c.label for c in paper.phases.predict][4:] == ["130m 16x", "300m 16x", "520m 16x"]
    assert [c.label for c in original.phases.predict][4:] == ["130m 16x", "300m 16x"]


def test_in_the_paper_study_every_optimizer_has_its_own_grid_and_the_same_choices_of_a_run(
    paper: StudyConfig,
) -> None:
    run_axes = {
        "batch_size": BATCHES,
        "clip_norm": CLIPS,
        "warmup_steps": WARMUPS,
        "decay_frac": [0.2, 0.4, 0.6, 0.8, 1.0],
    }
    for name, method in ((name, OPTIMIZERS[name]) for name in PUBLISHED):
        own = {axis: list(found.values) for axis, found in method.space.items()}
        assert candidates(paper, name) == {**own, **run_axes}, name
        search = paper.optimizers[name]
        assert search.run == paper.run
        assert {axis: search.start[axis] for axis in run_axes} == {
            axis: getattr(paper.run, axis) for axis in run_axes
        }
        defaults = method.default_hyperparameters()
        assert all(value == defaults[key] for key, value in search.start.items() if key in own)


def test_in_the_original_study_every_optimizer_has_the_published_grid(
    original: StudyConfig,
) -> None:
    for name in PUBLISHED:
        assert candidates(original, name) == PUBLISHED[name], name


def test_in_the_original_study_every_optimizer_is_the_variant_of_that_study(
    original: StudyConfig,
) -> None:
    for name, method in ((name, OPTIMIZERS[name]) for name in PUBLISHED):
        start = {**method.default_hyperparameters(), **original.optimizers[name].start}
        assert {key: start[key] for key in method.paper} == method.paper, name


def test_the_original_study_has_one_seed_and_grids_that_do_not_grow(original: StudyConfig) -> None:
    protocol = original.protocol
    assert (protocol.noise_seeds, protocol.confirm_seeds, protocol.grow_grids) == (1, 1, False)


def test_in_the_original_study_schedules_and_clipping_go_by_family(original: StudyConfig) -> None:
    for name, search in original.optimizers.items():
        run = search.run
        if name in ("muon", "scion"):
            assert (run.decay_shape, run.warmup_steps, run.warmup_frac) == ("linear", 0, 0.0)
        else:
            assert (run.decay_shape, run.decay_frac) == ("cosine", 1.0)
            assert run.warmup_steps in WARMUPS
        assert run.clip_norm == (0.0 if name == "mars" else 1.0)  # Mars clips by itself
        assert not (name == "mars" and "clip_norm" in search.space)
        scopes = {"muon": "no_matrices", "scion": "no_matrices", "adam_mini": "norms"}
        assert run.clip_scope == scopes.get(name, "all")
        config = original.run_config(
            name, original.tuned_cell, search.start, seed=0, fingerprint=""
        )
        warmup, decay = config.schedule.warmup_steps, config.schedule.decay_steps
        assert (warmup, decay) == (
            (0, 4096) if name in ("muon", "scion") else (run.warmup_steps, 5120 - run.warmup_steps)
        )


@pytest.mark.parametrize("name", SHIPPED)
def test_the_smoke_version_has_everything_that_the_study_has(name: str) -> None:
    full, smoke = (read_study(find_study(name), smoke=small) for small in (False, True))

    def labels(cells: Sequence[Cell]) -> list[str]:
        return [cell.label for cell in cells]

    for phase in ("tune", "retune", "predict", "noise"):
        assert labels(getattr(smoke.phases, phase)) == labels(getattr(full.phases, phase))
    assert labels(smoke.baseline_cells) == labels(full.baseline_cells)
    assert (smoke.baseline, smoke.baseline_retuned) == (full.baseline, full.baseline_retuned)
    assert smoke.corpus == "nano"
    assert list(smoke.optimizers) == list(full.optimizers)
    for optimizer, search in full.optimizers.items():
        toy = smoke.optimizers[optimizer]
        assert list(toy.space) == list(search.space)
        assert all(len(axis.values) > 1 for axis in toy.space.values())
        assert toy.cells == search.cells
        run_axes = {"batch_size", "warmup_steps"}
        assert {k: v for k, v in toy.start.items() if k not in run_axes} == {
            k: v for k, v in search.start.items() if k not in run_axes
        }
        for setting in ("clip_norm", "clip_scope", "precision", "decay_shape", "decay_frac"):
            assert getattr(toy.run, setting) == getattr(search.run, setting)
        assert (toy.run.warmup_steps > 0) == (search.run.warmup_steps > 0)
    assert smoke.protocol.grow_grids == full.protocol.grow_grids
    assert (smoke.protocol.noise_seeds > 1) == (full.protocol.noise_seeds > 1)
    assert (smoke.protocol.confirm_seeds > 1) == (full.protocol.confirm_seeds > 1)
    assert all(cell.num_tokens < 50_000 for cell in smoke.cells)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_smoke_version_runs_to_its_end_and_every_axis_is_tried(
    name: str, tmp_path: Path, smoke_study: SmokeStudy
) -> None:
    """From nothing to the report, then every explanation, as a user would."""
    out = tmp_path / "store"
    if name == "nano":  # many other tests look at it too
        shutil.copytree(smoke_study.store, out)
        printed = smoke_study.stdout + smoke_study.stderr
    else:
        done = optbench("run", name, "--smoke", "--out", str(out))
        printed = done.stdout + done.stderr
        assert done.returncode == 0, printed
    assert "Traceback" not in printed
    store, study = RunStore.read(out), read_study(find_study(name), smoke=True)
    journal, records = read_journal(store.journal), dict(store.records)  # parsed once
    page = (out / "report.html").read_text(encoding="utf-8")
    for optimizer, search in study.optimizers.items():
        assert optimizer in page
        assert_every_axis_is_tried(store, optimizer, search)
        phases = study.phases
        cells = study.cells_of(optimizer, [*phases.tune, *phases.retune, *phases.predict])
        if optimizer == study.baseline:
            cells += study.baseline_cells
        for cell in cells:
            place = find_cell(journal, cell.label)
            assert journal.confirmation(place, optimizer), (optimizer, cell.label)
            assert (journal.prediction(place, optimizer) is None) == (cell not in phases.predict)
            found = explain(journal, records, cell.label, optimizer, known_axes(optimizer))
            text = "\n".join(
                str(block) for _, blocks in explanation_sections(found) for block in blocks
            )
            assert f"{optimizer} in {cell.label}" in text
            assert ": ," not in text
            assert json.dumps(found.to_dict(), allow_nan=False)
    if study.phases.retune:  # something was found to depend on scale, searched and predicted
        in_phase_2 = [t for t in journal.tunings.values() if t.phase == "II"]
        assert any(tuning.grid for tuning in in_phase_2)
        assert any(prediction.axes for prediction in journal.predictions.values())
    for verb in (
        ("show",),
        ("show", next(iter(store.records))),
        ("report", "--format", "markdown"),
    ):
        told = invoke(*verb, "--store", str(out))
        assert told.exit_code == 0, told.output


def known_axes(optimizer: str) -> Mapping[str, Axis]:
    return {**RUN_AXES, **OPTIMIZERS[optimizer].space}


def assert_every_axis_is_tried(store: RunStore, optimizer: str, search: OptimizerStudy) -> None:
    tried: dict[str, set[Value]] = {axis: set() for axis in search.space}
    for record in store.records.values():
        config = record.run_config
        if config.optimizer.name == optimizer:
            candidates = {axis: found.values for axis, found in search.space.items()}
            values = axis_values(config, candidates)
            for axis in tried:
                tried[axis].add(values[axis])
    assert [axis for axis, values in tried.items() if len(values) < 2] == [], optimizer


def optbench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optbench.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)
