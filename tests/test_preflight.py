"""What stands between the command and the first run: the corpus, and a measurement that ends."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from optbench.cli import main
from optbench.cli import run as session
from optbench.config import RunConfig
from optbench.data.preparation import prepare_mixture
from optbench.executors.choice import ExecutorChoice
from optbench.executors.processes import InlineExecutor
from optbench.store.store import RunRecord
from optbench.study.file import find_study, read_study
from optbench.study.planning import plan
from optbench.study.planning.planned_runs import planned_runs
from optbench.training.bench import StepCost, TimedTraining, measure_step
from tests.builders import record_of
from tests.data.folders import toy_recipe

LARGE = """
name = "large"
corpus = "dclm-mix"
baseline = "adamw"
[models.130m]
num_layers = 32
d_model = 512
d_ff = 2048
num_heads = 8
vocab_size = 300
seq_len = 16
[cell]
size = "130m"
[run]
batch_size = 4096
eval_tokens = 16
test_tokens = 16
[protocol]
noise_seeds = 1
confirm_seeds = 1
max_runs = 2
[optimizers.adamw]
space = { lr = [0.001, 0.002] }
"""


def must_not(*_: object) -> Any:
    raise AssertionError("nothing is measured")


class Clock:
    """Time that passes where a step is measured only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("optbench.study.planning.plan.time.monotonic", lambda: self.now)


@pytest.mark.parametrize("study", ["paper", "paper-original"])
def test_a_missing_corpus_is_one_sentence_before_anything_else(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("device_problems", "make_plan", "prepared_corpus"):
        monkeypatch.setattr(session, name, must_not)
    result = CliRunner().invoke(main, ["run", study])
    assert result.exit_code == 2
    assert result.output == (
        f"Error: The corpus 'dclm-mix' is not prepared in {tmp_path / 'cache'}; prepare it first: "
        f"optbench data prepare dclm-mix\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_with_its_corpus_a_large_study_comes_to_its_first_run_without_measuring_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    recipe = dataclasses.replace(toy_recipe(tmp_path / "text"), name="dclm-mix")
    prepare_mixture(recipe, cache)
    monkeypatch.setenv("OPTBENCH_CACHE", str(cache))
    monkeypatch.setattr(plan, "measure_step", must_not)
    monkeypatch.setattr(session, "measure_interleaved", lambda configs: [[1e-5] for _ in configs])

    def trained(config: RunConfig, **_: object) -> RunRecord:
        return record_of(config, loss=4.0)

    monkeypatch.setattr(session, "run", trained)
    terminal = io.StringIO()
    session.run_study(
        read_study(LARGE),
        tmp_path / "out",
        ExecutorChoice(kind="inline"),
        Console(file=terminal, width=300),
        session.SessionOptions(),
    )
    said = terminal.getvalue()
    assert "Timing training steps for the plan, for less than a minute." in said
    assert "part of those of 130m are estimated from FLOPs." in said
    assert "on 1 workers." in said


def test_the_large_studies_measure_for_less_than_a_minute_whatever_a_step_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = planned_runs(read_study(find_study("paper")))
    clock = Clock(monkeypatch)
    for speed in (1e9, 1e11, 1e13, 3e14, 1e15, 1e17):  # from a slow core to no device yet

        def measured(config: RunConfig, speed: float = speed) -> StepCost:
            step_s = config.model.train_flops_per_token * config.tokens_per_step / speed
            clock.now += 2.0 + max(step_s, min(10.0, 77 * step_s))  # the model is built first
            return StepCost(step_s, step_s / 3 / config.tokens_per_step)

        monkeypatch.setattr(plan, "measure_step", measured)
        monkeypatch.setattr(plan, "matmul_flops_per_s", lambda speed=speed: 3 * speed)
        clock.now = 0.0
        found = plan.make_plan(planned, InlineExecutor())
        assert clock.now < 60
        assert found.seconds > 0
        assert found.estimated  # never all of 44
        flops = sum(row.flops for row in found.rows)
        assert found.total.device_s == pytest.approx(flops / speed, rel=3)


def test_what_is_not_measured_is_estimated_by_the_flops_of_the_optimizers_own_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = planned_runs(read_study(find_study("nano_ladder")))
    clock = Clock(monkeypatch)
    per_flop = {"adamw": 1e-10, "muon": 2e-10}

    def flops(config: RunConfig) -> float:
        return config.model.train_flops_per_token * config.tokens_per_step

    def measured(config: RunConfig) -> StepCost:
        clock.now += 3.0
        return StepCost(flops(config) * per_flop.get(config.optimizer.name, 1.5e-10), 1e-6)

    monkeypatch.setattr(plan, "measure_step", measured)
    found = plan.measure_costs(planned, InlineExecutor())
    assert clock.now <= 45 + 3
    assert found.estimated == ("d48", "d64")
    for one in planned:
        cost = found.costs[one.optimizer, one.cell.size]
        assert cost.step_s == pytest.approx(
            flops(one.example) * per_flop.get(one.optimizer, 1.5e-10)
        )


def test_slow_steps_are_timed_by_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def step_s(_: TimedTraining, num_steps: int) -> float:
        asked.append(num_steps)
        return 3.0

    monkeypatch.setattr(TimedTraining, "step_s", step_s)
    config = planned_runs(read_study(find_study("nano")))[0].example
    assert measure_step(config).step_s == 3.0
    assert sum(asked) * 3.0 <= 10
    monkeypatch.setattr(
        TimedTraining, "step_s", lambda _, num_steps: asked.append(num_steps) or 50.0
    )
    asked.clear()
    assert measure_step(config).step_s == 50.0
    assert asked == [1]
