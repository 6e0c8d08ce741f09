"""The training loop: what it measures, in which order, and when it stops."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from optbench.config import (
    ClipScope,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Role,
    RunConfig,
    ScheduleConfig,
)
from optbench.model import Llama
from optbench.optimizers import AdamW, parameter_groups
from optbench.schedule import lr_factor
from optbench.trainer import Progress, TrainResult, evaluate, train

CPU = torch.device("cpu")
MODEL = ModelConfig(num_layers=1, d_model=16, d_ff=32, num_heads=2, vocab_size=32, seq_len=8)


def run_config(**changes: object) -> RunConfig:
    settings: dict[str, object] = {
        "model": MODEL,
        "data": DataConfig(corpus="made up"),
        "optimizer": OptimizerConfig(name="adamw"),
        "schedule": ScheduleConfig(warmup_steps=2, decay_steps=8, shape="linear"),
        "num_tokens": 10 * 4 * 8,
        "batch_size": 4,
        "eval_tokens": 64,
        "test_tokens": 64,
        "num_evals": 2,
    }
    return RunConfig(**{**settings, **changes})  # type: ignore[arg-type]


class Cycle:
    """Tokens that count upwards: 0 1 2 … modulo the vocabulary, a text that can be learned."""

    def batch(self, step: int, *, seed: int, batch_size: int, seq_len: int) -> np.ndarray:
        generator = np.random.default_rng([seed, step])
        start = generator.integers(0, MODEL.vocab_size, (batch_size, 1))
        return (start + np.arange(seq_len + 1)) % MODEL.vocab_size

    def eval_batches(self, split: str, *, num_tokens: int, batch_size: int, seq_len: int):
        for step in range(num_tokens // (batch_size * seq_len)):
            yield self.batch(
                step, seed=1 + (split == "test"), batch_size=batch_size, seq_len=seq_len
            )


def trained(config: RunConfig, *, lr: float = 0.01) -> tuple[TrainResult, Llama]:
    model = Llama(config.model, seed=config.seed)
    optimizer = AdamW(parameter_groups(model, model.roles()), lr=lr)
    return train(config, model, optimizer, Cycle(), device=CPU), model


def test_the_loop_equals_the_same_steps_written_out() -> None:
    config = run_config()
    _, model = trained(config)
    expected = Llama(config.model, seed=0)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in expected.named_parameters() if decayed(n)]},
            {
                "params": [p for n, p in expected.named_parameters() if not decayed(n)],
                "weight_decay": 0,
            },
        ],
        betas=(0.9, 0.98),
        eps=1e-10,
        weight_decay=0.1,
    )
    for step in range(10):
        factor = lr_factor(step, num_steps=10, warmup_steps=2, decay_steps=8, shape="linear")
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * factor
        tokens = torch.from_numpy(Cycle().batch(step, seed=0, batch_size=4, seq_len=8))
        optimizer.zero_grad()
        logits = expected(tokens[:, :-1]).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
        optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(
            ours, theirs, atol=2e-6, rtol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def decayed(name: str) -> bool:
    return name.endswith("proj.weight") or name == "head.weight"


def test_two_runs_of_one_configuration_are_bitwise_equal() -> None:
    (first, one), (second, two) = trained(run_config()), trained(run_config())
    assert first.train_curve == second.train_curve
    assert first.val_curve == second.val_curve
    assert first.test_loss == second.test_loss
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_another_seed_is_another_run() -> None:
    assert trained(run_config())[0].val_loss != trained(run_config(seed=1))[0].val_loss


def test_the_curves_end_at_the_last_step_and_give_the_quoted_losses() -> None:
    result, model = trained(run_config(num_evals=3))
    assert [step for step, _ in result.val_curve] == [3, 7, 10]
    assert [step for step, _ in result.train_curve] == list(range(1, 11))
    assert result.val_loss == result.val_curve[-1][1]
    assert result.test_loss == evaluate(model, Cycle(), run_config(), "test", device=CPU)
    assert result.steps_taken == 10


def test_the_loss_of_a_split_is_the_mean_over_its_tokens() -> None:
    config = run_config(eval_tokens=4 * 8 * 2)
    model = Llama(config.model, seed=0)
    tokens = np.concatenate(
        list(Cycle().eval_batches("validation", num_tokens=64, batch_size=4, seq_len=8))
    )
    whole = model.loss(torch.from_numpy(tokens)).item()
    assert evaluate(model, Cycle(), config, "validation", device=CPU) == pytest.approx(
        whole, rel=1e-6
    )


def test_evaluation_leaves_no_trace_in_the_training() -> None:
    often, rarely = trained(run_config(num_evals=10))[1], trained(run_config(num_evals=1))[1]
    assert all(
        torch.equal(a, b) for a, b in zip(often.parameters(), rarely.parameters(), strict=True)
    )


def test_a_text_that_can_be_learned_is_learned() -> None:
    budget = 300 * 4 * 8
    schedule = ScheduleConfig(warmup_steps=20, decay_steps=280, shape="linear")
    result, _ = trained(run_config(num_tokens=budget, schedule=schedule), lr=0.03)
    assert result.val_loss is not None
    assert result.val_loss < 0.1 < math.log(MODEL.vocab_size)


def test_a_run_that_blows_up_ends_early_as_diverged_with_the_reason() -> None:
    result, _ = trained(run_config(num_tokens=100 * 4 * 8, clip_norm=0.0), lr=1e4)
    assert result.val_loss is None
    assert result.test_loss is None
    assert result.steps_taken < 100
    assert "of 100: the training loss" in result.reason


def test_progress_is_told_along_the_run() -> None:
    config = run_config()
    seen: list[Progress] = []
    model = Llama(config.model, seed=0)
    optimizer = AdamW(parameter_groups(model, model.roles()))
    result = train(config, model, optimizer, Cycle(), device=CPU, on_progress=seen.append)
    assert [(p.step, p.train_loss) for p in seen] == result.train_curve
    assert seen[-1].num_steps == 10


@pytest.mark.parametrize("scope", ["all", "no_matrices", "norms"])
def test_clipping_takes_the_norm_of_its_scope_and_leaves_the_rest_alone(scope: ClipScope) -> None:
    """With SGD at rate 1 the first step is the clipped gradient itself."""
    config = run_config(num_tokens=8 * 4, clip_norm=1e-3, clip_scope=scope)
    config = dataclasses.replace(
        config, schedule=ScheduleConfig(warmup_steps=0, decay_steps=0, shape="linear")
    )
    model, start = Llama(config.model, seed=0), Llama(config.model, seed=0)
    start.loss(torch.from_numpy(Cycle().batch(0, seed=0, batch_size=4, seq_len=8))).backward()
    train(config, model, torch.optim.SGD(model.parameters(), lr=1.0), Cycle(), device=CPU)
    roles = start.roles()
    clipped = {"all": set(Role), "norms": {Role.NORM}, "no_matrices": set(Role) - {Role.MATRIX}}
    grads = {name: p.grad for name, p in start.named_parameters() if p.grad is not None}
    inside = {name for name in grads if roles[name] in clipped[scope]}
    norm = torch.stack([grads[name].square().sum() for name in inside]).sum().sqrt()
    for (name, before), after in zip(start.named_parameters(), model.parameters(), strict=True):
        factor = 1e-3 / (norm + 1e-6) if name in inside else torch.tensor(1.0)
        torch.testing.assert_close(before - after, grads[name] * factor, atol=1e-6, rtol=1e-4)
