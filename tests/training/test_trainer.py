"""The training loop: what it measures, in which order, and when it stops."""

import dataclasses
import math
from dataclasses import dataclass

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
from optbench.optimizers import AdamW, parameter_groups
from optbench.schedule import lr_factor
from optbench.training.batch_sources import DocumentBatches
from optbench.training.model import Llama
from optbench.training.run import build_optimizer
from optbench.training.trainer import Progress, TrainResult, evaluate, train

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


@pytest.mark.parametrize("name", ["adamw", "muon", "sophia"])
def test_the_size_of_micro_batches_changes_no_loss_but_by_rounding(name: str) -> None:
    config = run_config(optimizer=OptimizerConfig(name=name))

    def result(size: int | None) -> TrainResult:
        model = Llama(config.model, seed=0)
        optimizer = build_optimizer(config, model)
        return train(config, model, optimizer, Cycle(), device=CPU, micro_batch_size=size)

    whole, parts = result(None), result(3)
    assert (whole.micro_batch_size, parts.micro_batch_size) == (4, 3)
    for (step, loss), (other_step, other) in zip(whole.train_curve, parts.train_curve, strict=True):
        assert step == other_step
        # Sophia's labels are drawn anew for other chunks; its first estimate acts from step 2 on.
        assert other == pytest.approx(loss, rel=1e-5 if name != "sophia" or step < 3 else 0.05)
    assert parts.val_loss == pytest.approx(whole.val_loss, rel=0.05 if name == "sophia" else 1e-4)


def test_bfloat16_sees_the_same_tokens_and_keeps_everything_in_float32() -> None:
    class Noted(Cycle):
        def __init__(self) -> None:
            self.seen: list[np.ndarray] = []

        def batch(self, step: int, *, seed: int, batch_size: int, seq_len: int) -> np.ndarray:
            self.seen.append(super().batch(step, seed=seed, batch_size=batch_size, seq_len=seq_len))
            return self.seen[-1]

    batches = [Noted(), Noted()]
    losses: list[TrainResult] = []
    for noted, precision in zip(batches, ("float32", "bfloat16"), strict=True):
        config = run_config(precision=precision, optimizer=OptimizerConfig(name="soap"))
        model = Llama(config.model, seed=0, precision=config.precision)
        optimizer = build_optimizer(config, model)
        losses.append(train(config, model, optimizer, noted, device=CPU))
        kept = [*model.parameters(), *(t for s in optimizer.state.values() for t in s.values())]
        assert {t.dtype for t in kept if isinstance(t, torch.Tensor)} == {torch.float32}
    assert all(map(np.array_equal, batches[0].seen, batches[1].seen))
    full, low = losses
    assert low.test_loss != full.test_loss
    assert low.test_loss == pytest.approx(full.test_loss, rel=0.01)


@dataclass
class Sequences:
    tokens: np.ndarray
    doc_ids: np.ndarray


class DocumentCycle(Cycle):
    """The same tokens, each sequence of two documents."""

    def _two(self, tokens: np.ndarray) -> Sequences:
        half = np.arange(tokens.shape[1] - 1) >= 3
        return Sequences(tokens, np.broadcast_to(half, tokens[:, :-1].shape).astype(np.int32))

    def batch_with_documents(
        self, step: int, *, seed: int, batch_size: int, seq_len: int
    ) -> Sequences:
        return self._two(self.batch(step, seed=seed, batch_size=batch_size, seq_len=seq_len))

    def eval_batches_with_documents(
        self, split: str, *, num_tokens: int, batch_size: int, seq_len: int
    ):
        return map(
            self._two,
            self.eval_batches(split, num_tokens=num_tokens, batch_size=batch_size, seq_len=seq_len),
        )


def test_batches_that_know_their_documents_are_trained_on_and_judged_within_them() -> None:
    assert isinstance(DocumentCycle(), DocumentBatches)
    assert not isinstance(Cycle(), DocumentBatches)
    config = run_config(num_tokens=4 * 8)
    config = dataclasses.replace(
        config, schedule=ScheduleConfig(warmup_steps=0, decay_steps=0), num_evals=1
    )
    model, start = Llama(MODEL, seed=0), Llama(MODEL, seed=0)
    result = train(
        config, model, torch.optim.SGD(model.parameters(), lr=0.1), DocumentCycle(), device=CPU
    )
    found = DocumentCycle().batch_with_documents(0, seed=0, batch_size=4, seq_len=8)
    tokens, doc_ids = torch.from_numpy(found.tokens), torch.from_numpy(found.doc_ids)
    within, across = start.loss(tokens, doc_ids).item(), start.loss(tokens).item()
    assert result.train_curve == [(1, pytest.approx(within, rel=1e-6))]
    assert result.train_curve != [(1, pytest.approx(across, rel=1e-4))]
    judged = evaluate(model, DocumentCycle(), config, "validation", device=CPU)
    assert result.val_loss == judged != evaluate(model, Cycle(), config, "validation", device=CPU)


def test_attention_may_be_let_across_documents() -> None:
    config = run_config(attention_scope="sequence")
    result, _ = trained(config)
    model = Llama(MODEL, seed=0)
    optimizer = AdamW(parameter_groups(model, model.roles()), lr=0.01)
    found = train(config, model, optimizer, DocumentCycle(), device=CPU)
    assert found.train_curve == result.train_curve
    assert found.test_loss == result.test_loss
