"""`optbench recommend`: what it prints, and that what it prints can be used."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from optbench.cli import main
from optbench.optimizers import OPTIMIZERS, CurvatureOptimizer
from optbench.published import read_published
from optbench.recommend.recommendation import Recommendation, recommend
from optbench.recommend.sources import published_source, study_source
from optbench.recommend.target import Target
from optbench.report.recommend_formats import as_python, as_toml
from optbench.schedule import lr_factor
from optbench.store.store import RunStore
from optbench.study.file import read_study
from optbench.training import curvature_estimates
from optbench.training.model import Llama
from optbench.training.trainer import clipped_parameters

NANO_ALL = Path(__file__).parents[2] / "results" / "nano_all"
STUDY = """
name = "mine"
corpus = "nano"
baseline = "adamw"
[cell]
size = "520m"
ratio = 4.0
[run]
batch_size = 8
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["recommend", *arguments])


@pytest.fixture(scope="module")
def found() -> Recommendation:
    variants = {name: cls.paper for name, cls in OPTIMIZERS.items()}
    source = published_source(read_published(), variants)
    return recommend(source, Target(params=760e6, tokens=60e9))


def test_the_table_fits_a_terminal_and_flags_every_value() -> None:
    done = invoke("--params", "760M", "--tokens", "60B", "--optimizer", "muon")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("760M non-embedding parameters, 60B tokens: 3.95x Chinchilla.")
    row = next(line for line in lines if line.startswith("muon  "))
    assert re.search(r"1\.2\d \[1\.\d\d, 1\.\d\d\] +−0\.01\d\d \[−.*\] +3\.04 GB +1.42x size", row)
    rate = next(line for line in lines if line.startswith("lr "))
    assert rate.split() == [
        *("lr", "0.004", "[0.00286,", "0.00721]", "scaling", "fit"),
        *("12", "1.42x", "size"),
    ]
    assert "= batch in tokens" in done.output
    clip = next(line for line in lines if line.startswith("clip_norm"))
    assert " off, 1, 2 " in clip
    assert any(line.startswith("batch_size (seq. 4096) ") for line in lines)
    assert "…" not in done.output
    head = " ".join(" ".join(lines[:2]).split())
    flag = "hyperparameters extrapolated 1.42x in size, speed-up interpolated."
    assert head.endswith(f"From the published results: {flag}")
    assert "One seed was published" in done.output


def test_json_has_the_numbers_of_the_table() -> None:
    done = invoke("--params", "760M", "--tokens", "60B", "--optimizer", "adamw", "--format", "json")
    content = json.loads(done.output)
    assert content["place"] == {
        "params": 760e6,
        "tokens": 60e9,
        "ratio": pytest.approx(60e9 / 15.2e9),
    }
    (adamw,) = content["optimizers"]
    assert adamw["extrapolation"]["flag"] == "interpolated"
    assert adamw["plan"]["batch_tokens"] == 1_048_576
    rate = next(h for h in adamw["hyperparameters"] if h["axis"] == "lr")
    assert rate["low"] < rate["value"] == 0.004 < rate["high"]


def test_toml_is_a_part_of_a_study_file(found: Recommendation) -> None:
    text = as_toml(found)
    tables = tomllib.loads(text)["optimizers"]
    assert set(tables) == {one.optimizer for one in found.optimizers} <= set(OPTIMIZERS)
    study = read_study(STUDY + text)
    muon = study.optimizers["muon"]
    assert muon.start["lr"] == 0.004
    run = study.run_config("muon", study.tuned_cell, muon.start, seed=0, fingerprint="")
    assert (run.batch_size, run.schedule.warmup_steps, run.schedule.shape) == (256, 0, "linear")
    scion = study.optimizers["scion"]
    assert scion.start["radius_hidden"] == 1.0  # the variant that the rates are for
    assert study.optimizers["adamw"].run.warmup_steps == 2000
    assert (run.clip_norm, run.clip_scope) == (1.0, "no_matrices")
    lines = text.splitlines()
    at = lines.index("[optimizers.muon]")
    assert lines[at - 2 : at] == [
        "# muon: hyperparameters extrapolated 1.42x in size, speed-up interpolated.",
        "# Batches of 1.05M tokens: 256 sequences of 4096 tokens.",
    ]
    assert "# mars: clip_norm is set here" in text


@pytest.mark.parametrize("optimizer", read_published().optimizers)
def test_the_script_runs_and_prints_nothing(
    found: Recommendation, optimizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    one = found.find(optimizer)
    assert one is not None
    script = as_python(dataclasses.replace(found, optimizers=(one,)))
    names: dict[str, object] = {}
    exec(compile(script, f"{optimizer}.py", "exec"), names)
    assert capsys.readouterr().out == ""
    built = names["optimizer"]
    assert isinstance(built, OPTIMIZERS[optimizer])
    rates = {group["initial_lr"] for group in built.param_groups}
    assert max(rates) == pytest.approx(one.settings["lr"])
    assert ("clip_grad_norm_" in script) == (one.plan.clip_norm > 0)
    assert max(map(len, script.splitlines())) <= 100
    plan = one.plan
    schedule = names["scheduler"].lr_lambdas[0]  # type: ignore[attr-defined]
    steps = (0, 1000, plan.num_steps // 2, plan.num_steps - 5)
    assert names["NUM_STEPS"] == plan.num_steps
    assert [schedule(step) for step in steps] == [
        lr_factor(
            step,
            num_steps=plan.num_steps,
            warmup_steps=plan.warmup_steps,
            decay_steps=plan.decay_steps,
            shape=plan.decay_shape,
        )
        for step in steps
    ]
    if plan.clip_norm and plan.clip_scope != "all":
        model = names["model"]
        assert isinstance(model, Llama)
        ours, theirs = names["clipped"], clipped_parameters(model, plan.clip_scope)
        assert isinstance(ours, list)
        assert list(map(id, ours)) == list(map(id, theirs))


def test_curvature_is_estimated_along_another_direction_each_time(
    found: Recommendation, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    one = found.find("sophia")
    assert one is not None
    script = as_python(dataclasses.replace(found, optimizers=(one,)))
    states: list[bytes] = []
    give = curvature_estimates.update_curvature

    def record(
        optimizer: CurvatureOptimizer,
        model: Llama,
        tokens: torch.Tensor,
        generator: torch.Generator,
    ) -> None:
        states.append(generator.get_state().numpy().tobytes())
        give(optimizer, model, tokens, generator)

    monkeypatch.setattr(curvature_estimates, "update_curvature", record)
    exec(compile(script.replace("range(2)", "range(24)"), "sophia.py", "exec"), {})
    assert len(states) > 1
    assert len(set(states)) == len(states)


def test_the_script_of_the_first_says_what_is_not_told_from_it(found: Recommendation) -> None:
    text = " ".join(as_python(found).split())
    assert "muon is not distinguishable from soap, scion" in text
    assert "hyperparameters extrapolated 1.42x in size, speed-up" in text


def test_a_study_of_ones_own_is_answered_from_and_not_compared_from_afar() -> None:
    done = invoke(
        *("--params", "100k", "--tokens", "2M", "--optimizer", "muon", "--from", str(NANO_ALL))
    )
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "extrapolated 3.05x in size" in text
    assert "nearest cell 3.05x size" in text
    assert "No comparison with the published results: 100k parameters are 1.34k times" in text


def test_a_study_of_ones_own_is_compared_with_the_published_results(
    found: Recommendation, capsys: pytest.CaptureFixture[str]
) -> None:
    from optbench.cli.verbs import console
    from optbench.report.recommend_table import print_recommendation

    own = recommend(
        study_source(RunStore.read(NANO_ALL), "mine"), Target(params=32768, tokens=655360)
    )
    print_recommendation(own, found, console())
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    rows = [line.split() for line in text.splitlines()]
    assert ["muon", "lr", "0.064", "0.004", "16"] in rows
    assert ["scion", "radius_hidden", "50", "1", "50"] in rows


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ("--params", "760", "--tokens", "60B"),
            "'760' has no unit. Did you mean 760M (760 million)?",
        ),
        (
            ("--params", "760M", "--tokens", "60"),
            "'60' has no unit. Did you mean 60B (60 billion)?",
        ),
        (
            ("--params", "760M", "--tokens", "60B", "--optimizer", "mun"),
            "Unknown optimizer 'mun'. Did you mean 'muon'? Available: adam_mini, adamw, cautious, "
            "kron, lion, mars, muon, nadamw, scion, soap, sophia.",
        ),
        (
            ("--params", "760M", "--tokens", "60B", "--from", str(NANO_ALL)),
            f"760M parameters are 23.2k times outside of the sizes of {NANO_ALL} (32.8k), and a "
            f"recommendation goes 6 times outside at most. Ask for 5.46k to 197k.",
        ),
    ],
)
def test_errors_say_what_was_given_and_what_to_do(arguments: tuple[str, ...], problem: str) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.output) == (2, f"Error: {problem}\n")
