"""Runs on devices that are not at hand: closed forms, and sizes that real optimizers have."""

import pytest
import torch

from optbench.config import RunConfig
from optbench.optimizers import OPTIMIZERS
from optbench.study.planning.device_costs import meta_model, run_cost, step_bytes
from optbench.study.planning.devices import DEVICES, Device
from optbench.study.single_run import single_run_config
from optbench.training.model import Llama
from optbench.training.run import build_optimizer, optimizer_state_bytes

MFU = 0.4
H100 = DEVICES["h100"]


def config_of(optimizer: str, size: str, batch_size: int = 128) -> RunConfig:
    settings = {"batch_size": batch_size}
    return single_run_config(optimizer, size=size, ratio=1.0, settings=settings, seed=0)


@pytest.mark.parametrize(
    ("size", "hours"), [("130m", 3.0), ("300m", 12.8), ("520m", 36.3), ("1.2b", 163.5)]
)
def test_training_takes_the_hours_that_the_published_study_counted(size: str, hours: float) -> None:
    """FLOPs at 40 % of an H100's bfloat16 peak, at one Chinchilla ratio."""
    cost = run_cost(config_of("adamw", size), H100, MFU)
    assert cost.train_s / 3600 == pytest.approx(hours, rel=0.01)
    assert cost.total_s == cost.train_s + cost.update_s + cost.eval_s


def test_an_elementwise_update_takes_its_bytes_over_the_bandwidth() -> None:
    config = config_of("adamw", "130m")
    moved = 28 * config.model.num_params  # parameter and two moments there and back, gradient once
    cost = run_cost(config, H100, MFU)
    assert cost.update_s == pytest.approx(config.num_steps * moved / H100.bytes_per_s)


def test_evaluated_tokens_take_a_third_of_trained_ones() -> None:
    config = config_of("adamw", "130m")
    tokens = config.num_evals * config.eval_tokens + config.test_tokens
    flops = tokens * config.model.train_flops_per_token / 3
    cost = run_cost(config, H100, MFU)
    assert cost.eval_s == pytest.approx(flops / (H100.bf16_flops * MFU))


def test_newton_schulz_is_the_documented_share_of_a_step() -> None:
    for size, batch_size, share in (("130m", 128, 0.0020), ("1.2b", 256, 0.0045)):
        config = config_of("muon", size, batch_size)
        optimizer = build_optimizer(config, meta_model(config.model))
        traffic_s = config.num_steps * step_bytes(optimizer) / H100.bytes_per_s
        cost = run_cost(config, H100, MFU)
        assert (cost.update_s - traffic_s) / cost.train_s == pytest.approx(share, rel=0.05)


def test_matrix_methods_cost_more_than_adamw_and_orders_are_as_expected() -> None:
    cost = {name: run_cost(config_of(name, "520m"), H100, MFU).update_s for name in OPTIMIZERS}
    assert cost["lion"] < cost["adamw"] < cost["mars"] < cost["muon"] < cost["kron"] < cost["soap"]


def test_a_device_twice_as_fast_in_everything_takes_half_the_time() -> None:
    rates = 2 * H100.bf16_flops, 2 * H100.fp32_flops, 2 * H100.bytes_per_s
    twice = Device("twice", *rates, H100.memory_bytes)
    for name in ("adamw", "muon", "soap", "kron", "sophia"):
        config = config_of(name, "130m")
        once = run_cost(config, H100, MFU).total_s
        assert run_cost(config, twice, MFU).total_s == pytest.approx(once / 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moved_bytes_are_those_of_the_state_that_training_makes(optimizer: str) -> None:
    config = single_run_config(optimizer, size="d32", ratio=0.05, settings={}, seed=0)
    model = Llama(config.model, seed=0)
    real = build_optimizer(config, model)
    model.loss(torch.zeros(1, 9, dtype=torch.long)).backward()
    real.step()
    moved = 3 * 4 * config.model.num_params + 2 * optimizer_state_bytes(real)
    assert step_bytes(build_optimizer(config, meta_model(config.model))) == moved


def test_every_device_is_faster_in_bfloat16_than_in_float32() -> None:
    assert all(d.name == name and d.bf16_flops > d.fp32_flops for name, d in DEVICES.items())
