"""run(): a configuration in, a complete record out, whatever happens in between."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from optbench.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from optbench.execution import Execution
from optbench.optimizers import OPTIMIZERS
from optbench.store.installed import git_state_of
from optbench.store.store import RunRecord
from optbench.training.run import optimizer_problems, run
from tests.data.synthetic import VOCAB_SIZE, prepared


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("cache")).directory


def run_config(optimizer: str = "adamw", **changes: object) -> RunConfig:
    hyperparameters = OPTIMIZERS[optimizer].default_hyperparameters()
    settings: dict[str, object] = {
        "model": ModelConfig(
            num_layers=1, d_model=16, d_ff=32, num_heads=2, vocab_size=VOCAB_SIZE, seq_len=16
        ),
        "data": DataConfig(corpus="toy"),
        "optimizer": OptimizerConfig(name=optimizer, hyperparameters=hyperparameters),
        "schedule": ScheduleConfig(warmup_steps=1, decay_steps=9),
        "num_tokens": 10 * 4 * 16,
        "batch_size": 4,
        "eval_tokens": 64,
        "test_tokens": 64,
        "num_evals": 2,
    }
    return RunConfig(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_runs_of_one_configuration_give_bit_identical_losses(
    optimizer: str, corpus: Path
) -> None:
    first, second = run(run_config(optimizer), corpus), run(run_config(optimizer), corpus)
    assert first.status == "completed", first.error
    assert (first.train_curve, first.val_curve) == (second.train_curve, second.val_curve)
    assert first.test_loss == second.test_loss is not None


def test_a_record_survives_its_json_and_holds_what_a_repetition_needs(corpus: Path) -> None:
    config = run_config()
    record = run(config, corpus)
    restored = RunRecord.from_dict(json.loads(record.to_json()))
    assert restored == record
    assert restored.run_config == config
    assert restored.run_id == config.run_id
    assert restored.num_tokens == config.num_steps * config.tokens_per_step
    assert {
        "optbench",
        "commit",
        "dirty",
        "torch",
        "numpy",
        "python",
        "device",
        "num_threads",
    } <= set(restored.environment)
    assert 0 < restored.optimizer_step_s < restored.step_s < restored.wall_s


def test_adamw_keeps_eight_bytes_of_state_for_each_parameter(corpus: Path) -> None:
    config = run_config()
    assert run(config, corpus).state_bytes == 8 * config.model.num_params


def test_a_divergence_is_a_result_with_its_reason(corpus: Path) -> None:
    config = run_config()
    hyperparameters = {**config.optimizer.hyperparameters, "lr": 1e6}
    exploding = RunConfig.from_dict(
        {**config.to_dict(), "optimizer": {"name": "adamw", "hyperparameters": hyperparameters}}
    )
    record = run(exploding, corpus)
    assert record.status == "diverged"
    assert record.val_loss is None
    assert "the training loss" in record.error
    assert record.num_steps < exploding.num_steps


def test_a_failure_becomes_a_record_with_its_traceback(tmp_path: Path) -> None:
    record = run(run_config(), tmp_path / "nowhere")
    assert record.status == "failed"
    assert "Traceback" in record.error
    assert "nowhere" in record.error


def test_a_corpus_with_other_text_is_not_trained_on(corpus: Path) -> None:
    config = run_config().with_fingerprint("0123456789abcdef")
    record = run(config, corpus)
    assert record.status == "failed"
    assert "but the run was configured for 0123456789abcdef" in record.error


def test_an_optimizer_that_cannot_be_built_says_why() -> None:
    assert optimizer_problems("adamw", {"lr": 0.1}) == []
    assert optimizer_problems("adamw", {"lr": -1.0}) == [
        "`lr` must be at least 0 and be finite, but got lr=-1.0."
    ]
    (problem,) = optimizer_problems("adamv", {})
    assert problem.startswith("Unknown optimizer 'adamv'. Did you mean 'adamw'?")
    (problem,) = optimizer_problems("adamw", {"learning_rate": 0.1})
    assert "learning_rate" in problem


def test_how_a_run_is_carried_out_changes_neither_its_identity_nor_its_losses(
    corpus: Path,
) -> None:
    plain = run(run_config(), corpus)
    frugal = run(
        run_config(), corpus, execution=Execution(micro_batch=3, activation_checkpointing=True)
    )
    assert frugal.run_id == plain.run_id
    assert frugal.test_loss == pytest.approx(plain.test_loss, rel=1e-5)
    assert (plain.execution["micro_batch_size"], frugal.execution["micro_batch_size"]) == (4, 3)
    assert (
        plain.execution["checkpointing"],
        frugal.execution["checkpointing"],
    ) == (False, True)
    recomputed = run(run_config(), corpus, execution=Execution(activation_checkpointing=True))
    assert recomputed.train_curve == plain.train_curve
    assert recomputed.test_loss == plain.test_loss


def test_a_limit_of_memory_that_holds_no_sequence_is_a_failure_with_a_remedy(corpus: Path) -> None:
    record = run(run_config(), corpus, execution=Execution(memory_gb=1e-6))
    assert record.status == "failed"
    assert "or checkpoint activations (--activation-checkpointing)" in record.error


def test_precision_is_another_run_with_nearly_the_same_losses(corpus: Path) -> None:
    full, low = run(run_config(), corpus), run(run_config(precision="bfloat16"), corpus)
    assert low.status == "completed", low.error
    assert low.run_id != full.run_id
    assert low.test_loss != full.test_loss
    assert low.test_loss == pytest.approx(full.test_loss, rel=3e-3)


def test_records_of_before_execution_was_recorded_are_read(corpus: Path) -> None:
    raw = json.loads(run(run_config(), corpus).to_json())
    del raw["execution"]
    assert RunRecord.from_dict(raw).execution == {}


def test_the_code_state_is_read_without_writing_to_the_repository(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "first")
    os.utime(tmp_path / "code.py", (1, 1))  # what a status would note in the index
    before = (tmp_path / ".git" / "index").stat().st_mtime_ns
    state = git_state_of(tmp_path)
    assert (tmp_path / ".git" / "index").stat().st_mtime_ns == before
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "code.py").write_text("2")
    assert git_state_of(tmp_path)["dirty"] is True
