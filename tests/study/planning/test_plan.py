"""The cost of a study: sums of what it will train, at step times measured here or computed."""

import dataclasses
import re

import pytest

from optbench.config import ConfigError, RunConfig
from optbench.executors.processes import InlineExecutor
from optbench.ladder import PAPER_SIZES
from optbench.optimizers import OPTIMIZERS
from optbench.study.file import find_study, read_study
from optbench.study.planning.device_costs import run_cost
from optbench.study.planning.devices import DEVICES, DeviceAllocation
from optbench.study.planning.plan import (
    RUNS_PER_BATCH,
    WORKER_USE,
    Plan,
    PlanRow,
    added,
    make_plan,
    plan_for,
    refuse_long_measurements,
)
from optbench.study.planning.planned_runs import PlannedRuns, planned_runs
from optbench.study.single_run import single_run_config
from optbench.training.bench import (
    STEPS_PER_BLOCK,
    StepCost,
    StepTimes,
    TimedTraining,
    matmul_flops_per_s,
    mean_cost,
    measure_interleaved,
    measure_optimizer,
    measure_step,
)


@pytest.fixture(scope="module")
def planned() -> list[PlannedRuns]:
    return planned_runs(read_study(find_study("nano"), smoke=True))


@pytest.fixture
def plan(planned: list[PlannedRuns], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A machine on which every step takes 10 ms and every evaluated token 1 µs."""

    def measured(_: RunConfig) -> StepCost:
        return StepCost(0.01, 1e-6)

    monkeypatch.setattr("optbench.study.planning.plan.measure_step", measured)
    return make_plan(planned, InlineExecutor())


def test_every_optimizer_has_its_tuning_and_its_confirmation(plan: Plan) -> None:
    phases = {(row.phase, row.optimizer, *row.cells) for row in plan.rows}
    for name in ("adamw", "nadamw", "lion", "muon"):
        assert ("tune", name, "d32 1x") in phases
        assert ("confirm", name, "d32 1x") in phases
    assert ("confirm", "adamw", "d32 2x") in phases


def test_tokens_flops_and_seconds_are_those_of_the_runs(
    plan: Plan, planned: list[PlannedRuns]
) -> None:
    row, runs = plan.rows[0], planned[0]
    config = runs.example
    assert row.tokens == runs.expected * config.num_steps * 16 * 16
    assert row.flops == runs.expected * config.train_flops
    evaluated = config.num_evals * config.eval_tokens + config.test_tokens
    one_run_s = config.num_steps * 0.01 + evaluated * 1e-6
    assert row.device_s == pytest.approx(runs.expected * one_run_s)
    assert plan.seconds == pytest.approx(sum(r.device_s for r in plan.rows) / WORKER_USE)


def test_totals_are_sums_and_the_worst_case_is_no_cheaper(plan: Plan) -> None:
    totals = plan.totals()
    assert totals.runs == sum(row.runs for row in plan.rows) <= totals.runs_worst
    assert totals.tokens == sum(row.tokens for row in plan.rows)
    assert plan.seconds <= plan.seconds_worst


H100 = DeviceAllocation(DEVICES["h100"], mfu=0.4, price=2.5, count=64)


@pytest.fixture(scope="module")
def paper() -> list[PlannedRuns]:
    return planned_runs(read_study(find_study("paper")))


@pytest.fixture(scope="module")
def rented(paper: list[PlannedRuns]) -> Plan:
    return plan_for(paper, H100)


def test_tokens_and_flops_of_a_large_study_are_those_of_the_closed_forms(
    rented: Plan, paper: list[PlannedRuns]
) -> None:
    for row, runs in zip(rented.rows, paper, strict=True):
        model = PAPER_SIZES[runs.cell.size]
        d = model.d_model
        tokens = 20 * runs.cell.ratio * 32 * 16 * d**2
        # 6 per weight of matrices and head, and causal attention, a token; embeddings cost nothing.
        flops = 6 * (32 * 16 * d**2 + 128_256 * d) + 6 * 32 * 4096 * d
        batch = runs.example.batch_size * 4096
        assert 0 <= runs.expected * tokens - row.tokens < runs.expected * batch
        assert row.flops == pytest.approx(row.tokens * flops)


def test_device_hours_are_flops_over_the_reached_peak_and_the_rest(
    rented: Plan, paper: list[PlannedRuns]
) -> None:
    for row, runs in zip(rented.rows, paper, strict=True):
        cost = run_cost(runs.example, H100.device, H100.mfu)
        update_s = runs.expected * cost.update_s
        assert row.update_s == update_s
        train_s = row.flops / (H100.device.bf16_flops * H100.mfu)
        expected = train_s + update_s + runs.expected * cost.eval_s
        assert row.device_s == pytest.approx(expected)
        assert row.device_s_worst == pytest.approx(expected * runs.worst / runs.expected)


def test_money_is_device_hours_times_the_price_and_absent_without_one(
    rented: Plan, paper: list[PlannedRuns]
) -> None:
    total = rented.total
    assert total.price == pytest.approx(total.device_s / 3600 * 2.5)
    assert total.price_worst == pytest.approx(total.device_s_worst / 3600 * 2.5)
    assert plan_for(paper, dataclasses.replace(H100, price=None)).total.price is None


def test_matrix_methods_cost_more_device_time_a_token_than_adamw(rented: Plan) -> None:
    tuned = {row.optimizer: row for row in rented.by_optimizer() if row.phase == "tune"}
    a_token = {name: row.device_s / row.tokens for name, row in tuned.items()}
    for name in ("muon", "scion", "kron", "soap", "sophia"):
        assert a_token[name] > 1.001 * a_token["adamw"], name
    assert a_token["lion"] == pytest.approx(a_token["adamw"], rel=2e-3)


def test_the_rows_of_an_optimizer_are_summed_over_cells_and_phases_stay_together(
    rented: Plan,
) -> None:
    rows = rented.by_optimizer()
    assert added(rows, "all", "").runs == rented.total.runs
    assert added(rows, "all", "").device_s == pytest.approx(rented.total.device_s)
    phases = [row.phase for row in rows]
    assert list(dict.fromkeys(phases)) == ["noise", "tune", "retune", "confirm"]
    assert phases == sorted(phases, key=["noise", "tune", "retune", "confirm"].index)
    muon = next(row for row in rows if (row.phase, row.optimizer) == ("retune", "muon"))
    assert muon.cells == ("300m 2x", "300m 4x", "300m 8x", "520m 2x", "520m 4x", "520m 8x")
    by_cell = [r for r in rented.rows if (r.phase, r.optimizer) == ("retune", "muon")]
    assert muon.runs == sum(r.runs for r in by_cell)


def row_of(phase: str, optimizer: str, runs: int, run_s: float, chain_s: float) -> PlanRow:
    return PlanRow(
        phase, optimizer, ("a",), runs, 2 * runs, 1, 1.0, runs * run_s, 2 * runs * run_s, chain_s
    )


def test_time_is_that_of_the_longest_chain_once_there_are_devices_enough() -> None:
    rows = (
        row_of("tune", "adamw", 17, 10.0, 100.0),
        row_of("confirm", "adamw", 3, 10.0, 10.0),
        row_of("tune", "muon", 17, 9.0, 90.0),
    )
    busy_s = (200 + 153) / WORKER_USE
    one, many = Plan(rows, 1), Plan(rows, 1000)
    assert one.seconds == one.seconds_busy == pytest.approx(busy_s)
    assert many.seconds_busy == pytest.approx(busy_s / 1000)
    assert many.seconds == 110.0
    assert many.seconds_worst == 220.0


def test_a_descent_waits_for_its_batches_and_other_runs_for_none(rented: Plan) -> None:
    for row in rented.rows:
        run_s = row.device_s / row.runs
        batches = row.runs / RUNS_PER_BATCH if row.phase in ("tune", "retune") else 1
        assert row.chain_s == pytest.approx(batches * run_s)


def test_json_has_every_cell_and_what_was_planned_for(rented: Plan) -> None:
    found = rented.to_dict()
    assert len(found["rows"]) == len(rented.rows)
    assert found["allocation"]["device"]["name"] == "h100"
    assert found["workers"] == 64
    for name in ("runs", "tokens", "flops", "device_s", "price", "update_s"):
        assert found[name] == pytest.approx(sum(row[name] for row in found["rows"]))


def test_steps_that_take_too_long_here_are_not_measured(paper: list[PlannedRuns]) -> None:
    with pytest.raises(
        ConfigError,
        match=r"Timing the steps of size 1\.2b \(batches of 128 × 4096 tokens\) would take at "
        r"least .* on this machine, .* --device: h100, h200, b200, a100, l40s, rtx4090\.",
    ):
        refuse_long_measurements(paper, InlineExecutor())


def test_small_steps_are_measured(planned: list[PlannedRuns]) -> None:
    refuse_long_measurements(planned, InlineExecutor())


def test_the_limit_is_half_a_minute_at_the_rate_of_a_matrix_product(
    planned: list[PlannedRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = planned[0].example
    flops = step.train_flops / step.num_steps
    steps = 10 + 60 + 20 / 3
    monkeypatch.setattr(
        "optbench.study.planning.plan.matmul_flops_per_s", lambda: steps * flops / 29.9
    )
    refuse_long_measurements(planned, InlineExecutor())
    monkeypatch.setattr(
        "optbench.study.planning.plan.matmul_flops_per_s", lambda: steps * flops / 30.1
    )
    with pytest.raises(ConfigError, match=re.escape("at least 30 s on this machine")):
        refuse_long_measurements(planned, InlineExecutor())


def test_a_matrix_product_has_a_plausible_rate() -> None:
    assert 1e8 < matmul_flops_per_s() < 1e16


def test_what_is_done_in_some_steps_only_is_in_the_time_of_a_step(
    planned: list[PlannedRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine quick steps and a slow one, and one block that something else disturbed."""
    times = [1.0] * (STEPS_PER_BLOCK - 1) + [11.0]
    script = iter([*times, *times, *[50.0] * STEPS_PER_BLOCK, *times, *times])

    def scripted(_: TimedTraining) -> StepTimes:
        return StepTimes(next(script), 0.0)

    monkeypatch.setattr(TimedTraining, "step", scripted)
    assert TimedTraining(planned[0].example).block_step_s(5 * STEPS_PER_BLOCK) == 2.0


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
    monkeypatch.setattr("optbench.training.bench.ROUNDS", 3)
    times = measure_interleaved([planned[0].example, planned[1].example])
    assert [len(rounds) for rounds in times] == [3, 3]
    assert min(map(min, times)) > 0


def test_memory_of_a_device_is_given_for_every_size_and_optimizer(
    rented: Plan, paper: list[PlannedRuns]
) -> None:
    rows = {(row.size, row.optimizer): row for row in rented.memory}
    assert {size for size, _ in rows} == set(PAPER_SIZES)
    assert {name for _, name in rows} == {runs.example.optimizer.name for runs in paper}
    for (size, name), row in rows.items():
        parameters = PAPER_SIZES[size].num_params
        assert row.plain.weights == row.plain.gradients == 4 * parameters
        assert row.plain.state == row.checkpointed.state
        if name in ("adamw", "nadamw", "cautious"):
            assert row.plain.state == 8 * parameters
        for memory, fits in (
            (row.plain, row.plain_micro_batch),
            (row.checkpointed, row.checkpointed_micro_batch),
        ):
            assert fits == memory.micro_batch(row.batch_size, int(0.9 * 80e9))
        assert row.checkpointed_micro_batch > row.plain_micro_batch
    assert rented.to_dict()["memory"][0]["plain"]["weights"] == 4 * PAPER_SIZES["130m"].num_params
    assert [row.size for row in rented.memory] == sorted(
        (row.size for row in rented.memory), key=list(PAPER_SIZES).index
    )


def test_a_size_that_does_not_fit_is_said_not_to(
    paper: list[PlannedRuns],
) -> None:
    small = dataclasses.replace(DEVICES["h100"], memory_bytes=24e9)
    (row,) = {
        r.size: r
        for r in plan_for(paper, DeviceAllocation(small)).memory
        if r.optimizer == "soap" and r.size == "1.2b"
    }.values()
    assert (row.plain_micro_batch, row.checkpointed_micro_batch) == (0, 0)
