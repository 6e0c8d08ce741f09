"""The cost of a study: sums of what it will train, at step times that were measured here."""

import pytest

from optbench.bench import (
    StepCost,
    mean_cost,
    measure_interleaved,
    measure_optimizer,
    measure_step,
)
from optbench.executors import InlineExecutor
from optbench.optimizers import OPTIMIZERS
from optbench.plan import WORKER_USE, Plan, make_plan
from optbench.planned_runs import PlannedRuns, planned_runs
from optbench.session import single_run_config
from optbench.study_file import find_study, read_study


@pytest.fixture(scope="module")
def planned() -> list[PlannedRuns]:
    return planned_runs(read_study(find_study("nano"), smoke=True))


@pytest.fixture
def plan(planned: list[PlannedRuns], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A machine on which every step takes 10 ms and every evaluated token 1 µs."""
    monkeypatch.setattr("optbench.plan.measure_step", lambda _config: StepCost(0.01, 1e-6))
    return make_plan(planned, InlineExecutor())


def test_every_optimizer_has_its_tuning_and_its_confirmation(plan: Plan) -> None:
    phases = {(row.phase, row.optimizer, row.cell) for row in plan.rows}
    for name in ("adamw", "nadamw", "lion", "muon"):
        assert ("tune", name, "d32 0.05x") in phases
        assert ("confirm", name, "d32 0.05x") in phases
    assert ("confirm", "adamw", "d32 0.1x") in phases


def test_tokens_flops_and_seconds_are_those_of_the_runs(
    plan: Plan, planned: list[PlannedRuns]
) -> None:
    row, runs = plan.rows[0], planned[0]
    config = runs.example
    assert row.tokens == runs.expected * config.num_steps * 16 * 64
    assert row.flops == runs.expected * config.train_flops
    evaluated = config.num_evals * config.eval_tokens + config.test_tokens
    one_run_s = config.num_steps * 0.01 + evaluated * 1e-6
    assert row.core_s == pytest.approx(runs.expected * one_run_s)
    assert plan.seconds == pytest.approx(sum(r.core_s for r in plan.rows) / WORKER_USE)


def test_totals_are_sums_and_the_worst_case_is_no_cheaper(plan: Plan) -> None:
    totals = plan.totals()
    assert totals.runs == sum(row.runs for row in plan.rows) <= totals.runs_worst
    assert totals.tokens == sum(row.tokens for row in plan.rows)
    assert plan.seconds <= plan.seconds_worst


def test_workers_are_averaged() -> None:
    assert mean_cost([StepCost(1.0, 2.0), StepCost(3.0, 4.0)]) == StepCost(2.0, 3.0)


def test_a_measured_step_has_a_plausible_cost(planned: list[PlannedRuns]) -> None:
    cost = measure_step(planned[0].example)
    assert 1e-4 < cost.step_s < 10
    assert 0 < cost.eval_s_per_token < cost.step_s


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_can_be_measured(optimizer: str) -> None:
    config = single_run_config(optimizer, size="d32", ratio=0.05, settings={}, seed=0)
    cost = measure_optimizer(config, num_steps=2)
    assert cost.optimizer == optimizer
    assert 0 < cost.update_s <= cost.worst_update_s < cost.step_s * 10
    assert 0 < cost.share < 1
    assert 3.9 < cost.state_bytes_per_param < 40


def test_interleaved_rounds_are_as_many_for_every_configuration(
    planned: list[PlannedRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optbench.bench.ROUNDS", 3)
    times = measure_interleaved([planned[0].example, planned[1].example])
    assert [len(rounds) for rounds in times] == [3, 3]
    assert min(map(min, times)) > 0
