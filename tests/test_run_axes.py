"""Axes and settings of a run, both ways: every axis, every type of value, every optimizer."""

import dataclasses
import io
import itertools

import pytest
from rich.console import Console

from optbench.cli.printing import print_records
from optbench.config import ModelConfig, RunConfig
from optbench.ladder import Cell
from optbench.optimizers import OPTIMIZERS
from optbench.run_axes import RUN_AXES, axis_values, share_of
from optbench.space import Configuration, Value
from optbench.study.config import OptimizerStudy, StudyConfig
from optbench.study.file import find_study, read_study
from optbench.study.progress import describe_configuration
from tests.builders import record_of

STUDY = read_study(find_study("nano"))
MODEL = ModelConfig(num_layers=1, d_model=4, d_ff=4, num_heads=1, vocab_size=64, seq_len=4)
VALUES: dict[str, tuple[Value, ...]] = {
    "batch_size": (1, 3, 16),
    "clip_norm": (0.0, 0.5, 1, 2.0),
    "warmup_frac": (0.0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.5, 1 / 3),
    "warmup_steps": (0, 1, 7, 100),
    "decay_frac": (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 2 / 3),
}


def run_of(configuration: Configuration, optimizer: str = "adamw", steps: int = 1000) -> RunConfig:
    batch = int(configuration.get("batch_size", 16))
    ratio = steps * batch * MODEL.seq_len / (20 * MODEL.num_nonembedding_params)
    cell = Cell("toy", MODEL, ratio)
    return STUDY.run_config(optimizer, cell, configuration, seed=0, fingerprint="")


def again(config: RunConfig, values: Configuration) -> RunConfig:
    """The run of a study that names these values and has other settings for all of them."""
    elsewhere = dataclasses.replace(
        STUDY.run, batch_size=99, clip_norm=9.0, warmup_frac=0.33, warmup_steps=3, decay_frac=0.44
    )
    other: StudyConfig = dataclasses.replace(STUDY, run=elsewhere, optimizers={})
    cell = Cell("toy", MODEL, config.num_tokens / (20 * MODEL.num_nonembedding_params))
    optimizer = config.optimizer.name
    return other.run_config(optimizer, cell, values, seed=0, fingerprint="")


def test_the_values_cover_every_axis() -> None:
    assert set(VALUES) == set(RUN_AXES)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 15, 41, 320, 5120])
def test_the_values_read_from_a_run_give_that_run(steps: int) -> None:
    for warmup, decay in itertools.product(VALUES["warmup_frac"], VALUES["decay_frac"]):
        config = run_of({"warmup_frac": warmup, "decay_frac": decay}, steps=steps)
        values = axis_values(config)
        assert again(config, values) == config
        for other in ("warmup_steps", "warmup_frac"):  # the two names of the warm-up
            one = {name: value for name, value in values.items() if name != other}
            assert again(config, one) == config


@pytest.mark.parametrize("axis", RUN_AXES)
def test_a_value_of_every_axis_reads_back_as_it_was_named(axis: str) -> None:
    for value in VALUES[axis]:
        config = run_of({"warmup_frac": 0.0, axis: value})
        found = axis_values(config)[axis]
        assert found == pytest.approx(value, abs=6e-4)  # a thousand steps tell no more
        if not isinstance(value, float) or value == round(value, 3):
            assert found == value


@pytest.mark.parametrize("steps", [7, 10, 15, 30, 41, 97])
@pytest.mark.parametrize("axis", ["warmup_frac", "decay_frac"])
def test_a_share_among_the_candidates_reads_back_although_others_give_the_same_steps(
    axis: str, steps: int
) -> None:
    candidates = (0.05, 0.1, 0.2, 0.35, 0.5, 0.8)
    for value in candidates:
        config = run_of({"warmup_frac": 0.0, axis: value}, steps=steps)
        found = axis_values(config, {axis: candidates})[axis]
        same = [c for c in candidates if round(c * steps) == round(value * steps)]
        assert found in same
        assert found == value or len(same) > 1


@pytest.mark.parametrize("steps", [15, 25, 41, 64])
def test_the_usual_schedule_reads_back_at_any_length(steps: int) -> None:
    values = axis_values(run_of({"warmup_frac": 0.1, "decay_frac": 0.9}, steps=steps))
    assert (values["warmup_frac"], values["decay_frac"]) == (0.1, 0.9)


def test_a_decay_that_the_warm_up_cuts_short_is_known_by_its_candidates() -> None:
    config = run_of({"warmup_steps": 200, "decay_frac": 1.0})
    assert axis_values(config)["decay_frac"] == 0.8
    assert axis_values(config, {"decay_frac": [0.2, 1.0]})["decay_frac"] == 1.0
    assert axis_values(config, {"decay_frac": [1.0, 0.8]})["decay_frac"] == 0.8


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_hyperparameter_of_every_optimizer_comes_back_unchanged(name: str) -> None:
    defaults = OPTIMIZERS[name].default_hyperparameters()
    declared = {axis: found.values for axis, found in OPTIMIZERS[name].space.items()}
    tried: dict[str, tuple[Value, ...]] = {
        axis: (value, *declared.get(axis, ()), *((True, False) if value in (True, False) else ()))
        for axis, value in defaults.items()
    }
    for axis, values in tried.items():
        for value in values:
            config = run_of({axis: value}, name)
            found = axis_values(config)
            assert found[axis] == value
            assert type(found[axis]) is type(value)
            assert again(config, found) == config
            text = describe_configuration(config, [axis])
            assert text.startswith(f"{axis}=")
            assert text != f"{axis}="


def test_a_choice_that_is_a_word_a_truth_value_or_zero_is_described() -> None:
    config = run_of({"clip_norm": 0.0, "warmup_frac": 0.0, "beta1": 0.0, "word": "norms"})
    flagged = dataclasses.replace(
        config,
        optimizer=dataclasses.replace(
            config.optimizer, hyperparameters={**config.optimizer.hyperparameters, "flag": True}
        ),
    )
    axes = ["clip_norm", "warmup_steps", "beta1", "word", "flag"]
    assert describe_configuration(flagged, axes) == (
        "clip_norm=0 warmup_steps=0 beta1=0 word=norms flag=True"
    )


def test_a_warm_up_that_is_named_replaces_the_other_name_of_it_in_the_settings() -> None:
    counted = dataclasses.replace(STUDY.run, warmup_steps=500)
    study = dataclasses.replace(STUDY, run=counted, optimizers={})
    cell = Cell("toy", MODEL, 1000 * 16 * 4 / (20 * MODEL.num_nonembedding_params))

    def warmup(**named: Value) -> int:
        run = study.run_config("adamw", cell, named, seed=0, fingerprint="")
        return run.schedule.warmup_steps

    assert warmup() == 500
    assert warmup(warmup_frac=0.05) == 50
    assert warmup(warmup_steps=0) == 0
    assert warmup(warmup_steps=0, warmup_frac=0.2) == 200
    assert warmup(warmup_steps=30, warmup_frac=0.2) == 30


def test_a_study_over_every_run_axis_describes_its_candidates_as_they_were_named() -> None:
    search: OptimizerStudy = read_study(find_study("paper")).optimizers["muon"]
    study = read_study(find_study("paper"))
    for axis in ("batch_size", "clip_norm", "warmup_steps", "decay_frac"):
        for value in search.space[axis].values:
            config = study.run_config(
                "muon", study.tuned_cell, {**search.start, axis: value}, seed=0, fingerprint=""
            )
            candidates = {name: found.values for name, found in search.space.items()}
            assert f"{axis}={value:g}" in describe_configuration(config, candidates).split()


def test_a_share_of_no_steps_is_none() -> None:
    assert share_of(0, 0) == 0
    assert share_of(3, 7) == 0.4


def test_the_list_of_runs_names_the_settings_that_tell_them_apart() -> None:
    runs = [run_of({"warmup_frac": 0.1, "batch_size": batch}, steps=40) for batch in (8, 16)]
    terminal = io.StringIO()
    print_records([record_of(run) for run in runs], Console(file=terminal, width=300))
    for run in runs:
        assert f"batch_size={run.batch_size} " in terminal.getvalue()
    for same in ("warmup", "decay_frac", "clip_norm"):
        assert same not in terminal.getvalue()
