"""Numbers that are none, text that is none, and memory that runs out, as a whole run takes them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from optbench.config import RunConfig
from optbench.data.corpus import DataError
from optbench.data.prepared import open_prepared
from optbench.executors.processes import InlineExecutor
from optbench.optimizers import OPTIMIZERS
from optbench.store.store import RunRecord, RunStore
from optbench.study.sweep import RunError, Sweep, Task
from optbench.training import trainer
from optbench.training.accumulation import Accumulation
from optbench.training.model import Llama
from optbench.training.run import run
from tests.data.synthetic import VOCAB_SIZE, prepared
from tests.study.test_sweep import Observer
from tests.training.test_run import run_config


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("cache")).directory


def sweep(store: RunStore, job: Callable[[RunConfig], RunRecord], *configs: RunConfig) -> Observer:
    """Carry runs out, each for a task of its own."""

    def task(config: RunConfig) -> Task:
        yield [config]

    observer = Observer()
    Sweep(store, InlineExecutor(), job, observer).run([task(one) for one in configs])
    return observer


@pytest.mark.parametrize("noticed", ["at once", "at the end"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_that_are_no_numbers_make_a_run_diverge(
    optimizer: str, noticed: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the method goes on for some steps before the loss is looked at."""
    plain, steps = Accumulation.accumulate_gradients, iter(range(1000))

    def poisoned(self: Accumulation, batch: object) -> torch.Tensor:
        loss = plain(self, batch)  # type: ignore[arg-type]
        if next(steps) == 2:
            for parameter in self._model.parameters():
                assert parameter.grad is not None
                parameter.grad.fill_(torch.nan)
        return loss

    monkeypatch.setattr(Accumulation, "accumulate_gradients", poisoned)
    if noticed == "at the end":
        monkeypatch.setattr(trainer, "CURVE_POINTS", 1)
    config = run_config(optimizer, num_tokens=25 * 4 * 16, clip_norm=0.0, num_evals=1)
    with RunStore.open(tmp_path) as store:
        observer = sweep(store, lambda one: run(one, corpus), config)
        (record,) = store.records.values()
    assert record.status == "diverged", record.error
    assert record.error.endswith("the training loss is nan")
    assert observer.failures == []  # a divergence is a result, so it is not tried again
    assert next(steps) <= 26


def test_a_test_loss_that_is_no_number_is_a_divergence(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trainer.evaluate

    def poisoned(
        model: Llama, batches: object, config: RunConfig, split: str, **rest: object
    ) -> float:
        return float("inf") if split == "test" else plain(model, batches, config, split, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "evaluate", poisoned)
    with RunStore.open(tmp_path) as store:
        sweep(store, lambda one: run(one, corpus), run_config())
        (record,) = store.records.values()
    assert (record.status, record.val_loss, record.test_loss) == ("diverged", None, None)
    assert record.error == "step 10 of 10: the test loss is inf"


@pytest.fixture
def damaged(corpus: Path, tmp_path: Path) -> Path:
    """The corpus with the bits of some tokens set."""
    copy = tmp_path / "damaged"
    shutil.copytree(corpus, copy)
    for path in copy.glob("train*.bin"):
        tokens = np.fromfile(path, dtype="<u2")
        tokens[::50] = 0xFFFF
        tokens.tofile(path)
    return copy


def test_tokens_that_are_none_are_found_by_the_checksum(damaged: Path) -> None:
    with pytest.raises(DataError, match="does not match its checksum"):
        open_prepared(damaged, verify_checksums=True)


def test_tokens_that_are_none_make_a_run_fail_with_its_log_and_no_other(
    damaged: Path, corpus: Path, tmp_path: Path
) -> None:
    good, bad = run_config(seed=1), run_config(seed=2)

    def job(config: RunConfig) -> RunRecord:
        return run(config, damaged if config == bad else corpus)

    with RunStore.open(tmp_path / "store") as store:
        with pytest.raises(RunError, match=rf"Run {bad.run_id} .* failed 2 times\. Its log: "):
            sweep(store, job, bad, good)
        assert store.has_finished(good.run_id)
        assert not store.has_finished(bad.run_id)
    log = (tmp_path / "store" / "failed" / f"{bad.run_id}.log").read_text()
    assert "IndexError: index out of range" in log
    assert VOCAB_SIZE < 0xFFFF


def out_of_memory(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, torch.Tensor], bool]
) -> None:
    """Have the model's loss run out of memory where ``fails(call, tokens)`` says so."""
    plain, calls = Llama.loss, iter(range(10**6))

    def limited(self: Llama, tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        if fails(next(calls), tokens):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, tokens, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Llama, "loss", limited)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sophia"])
@pytest.mark.parametrize("when", [0, 13])
def test_memory_that_runs_out_once_costs_a_smaller_micro_batch_and_nothing_else(
    optimizer: str, when: int, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(optimizer, num_tokens=20 * 4 * 16, schedule=dataclasses.replace(
        run_config().schedule, decay_steps=19))  # fmt: skip
    plain = run(config, corpus)
    out_of_memory(monkeypatch, lambda call, _: call == when)
    with RunStore.open(tmp_path) as store:
        observer = sweep(store, lambda one: run(one, corpus), config)
        (short,) = store.records.values()
    assert observer.failures == []  # the step was made again, not the run
    assert short.status == "completed", short.error
    assert (plain.execution["micro_batch_size"], short.execution["micro_batch_size"]) == (4, 2)
    assert [step for step, _ in short.train_curve] == [step for step, _ in plain.train_curve]
    for (_, mine), (_, wanted) in zip(short.train_curve, plain.train_curve, strict=True):
        assert mine == pytest.approx(wanted, rel=1e-4)
    assert short.val_loss == pytest.approx(plain.val_loss, rel=1e-4)
    assert short.test_loss == pytest.approx(plain.test_loss, rel=1e-4)


def test_a_sequence_that_never_fits_is_given_up_with_the_remedy_and_the_others_go_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = run_config(num_tokens=10 * 4 * 16), run_config(num_tokens=11 * 4 * 16)

    def job(config: RunConfig) -> RunRecord:
        with pytest.MonkeyPatch.context() as patch:
            if config == large:
                out_of_memory(patch, lambda *_: True)
            return run(config, corpus)

    with RunStore.open(tmp_path) as store:
        with pytest.raises(RunError) as caught:
            sweep(store, job, large, small)
        assert store.has_finished(small.run_id)
    remedy = "A single sequence of 16 tokens does not fit. Checkpoint activations"
    assert remedy in str(caught.value)
