"""run() after its process was killed: a new process goes on, and the record says so."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optbench.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from optbench.execution import Execution
from optbench.optimizers import OPTIMIZERS
from optbench.training.run import run
from optbench.training.trainer import Progress
from tests.data.synthetic import VOCAB_SIZE, prepared

module = importlib.import_module("optbench.training.run")
EVERY_SECOND = Execution(checkpoint_steps=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("cache")).directory


def config_of(optimizer: str) -> RunConfig:
    hyperparameters = OPTIMIZERS[optimizer].default_hyperparameters()
    return RunConfig(
        model=ModelConfig(
            num_layers=2, d_model=16, d_ff=32, num_heads=2, vocab_size=VOCAB_SIZE, seq_len=16
        ),
        data=DataConfig(corpus="toy"),
        optimizer=OptimizerConfig(name=optimizer, hyperparameters=hyperparameters),
        schedule=ScheduleConfig(warmup_steps=3, decay_steps=17),
        num_tokens=20 * 4 * 16,
        batch_size=4,
        eval_tokens=64,
        test_tokens=64,
        num_evals=4,
    )


def be_killed(optimizer: str, corpus: Path, checkpoints: str, step: int) -> None:
    """Train, and be killed as soon as a checkpoint is complete and ``step`` steps are taken."""

    def kill(at: Progress) -> None:
        complete = list(Path(checkpoints).glob("*/step-*/checkpoint.json"))
        if at.step >= step and complete:
            os.kill(os.getpid(), signal.SIGKILL)

    run(config_of(optimizer), corpus, kill, execution=EVERY_SECOND, checkpoints=checkpoints)


@pytest.mark.parametrize("optimizer", ["soap", "sophia"])
def test_a_run_whose_process_was_killed_twice_ends_as_if_it_had_not_been(
    optimizer: str, corpus: Path, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    for step in (5, 13):
        call = f"be_killed({optimizer!r}, Path({str(corpus)!r}), {str(root)!r}, {step})"
        code = f"from pathlib import Path; from tests.training.test_resumed_runs import *; {call}"
        done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
        assert done.returncode == -signal.SIGKILL
    whole = run(config_of(optimizer), corpus)
    resumed = run(config_of(optimizer), corpus, execution=EVERY_SECOND, checkpoints=root)
    assert resumed.status == "completed", resumed.error
    first, second = resumed.execution["resumed_at_steps"]
    assert 2 <= first < second <= 14
    assert {"resumed_at_steps", "checkpoints_written"}.isdisjoint(whole.execution)
    assert resumed.execution["checkpoints_written"] >= 6
    for name in ("run_id", "train_curve", "val_curve", "val_loss", "test_loss", "num_steps"):
        assert getattr(resumed, name) == getattr(whole, name), name
    assert resumed.num_tokens == whole.num_tokens
    assert resumed.state_bytes == whole.state_bytes


def test_the_default_costs_a_short_run_nothing(corpus: Path, tmp_path: Path) -> None:
    record = run(config_of("adamw"), corpus, checkpoints=tmp_path / "checkpoints")
    assert record.status == "completed"
    assert record.execution == Execution().record(4)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_raises_leaves_the_checkpoint_it_was_writing(
    corpus: Path, tmp_path: Path
) -> None:
    def stop(at: Progress) -> None:
        if at.step == 9:
            raise RuntimeError("out of luck")

    failed = run(config_of("adamw"), corpus, stop, execution=EVERY_SECOND, checkpoints=tmp_path)
    assert failed.status == "failed"
    assert "out of luck" in failed.error
    resumed = run(config_of("adamw"), corpus, execution=EVERY_SECOND, checkpoints=tmp_path)
    assert resumed.execution["resumed_at_steps"] == [8]
    assert resumed.test_loss == run(config_of("adamw"), corpus).test_loss
    assert resumed.wall_s > failed.wall_s * 0.1


def test_a_run_without_intervals_still_goes_on_from_what_is_there(
    corpus: Path, tmp_path: Path
) -> None:
    run(config_of("lion"), corpus, execution=EVERY_SECOND, checkpoints=tmp_path)
    resumed = run(
        config_of("lion"),
        corpus,
        execution=Execution(checkpoint_interval=0),
        checkpoints=tmp_path,
    )
    assert resumed.execution["resumed_at_steps"] == [20]
    assert resumed.execution["checkpoints_written"] == 10


def test_a_run_that_goes_on_elsewhere_says_what_differed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_at(step: int) -> Callable[[Progress], None]:
        def stop(at: Progress) -> None:
            if at.step == step:
                raise RuntimeError("out of luck")

        return stop

    def part(stop: int, **there: object) -> dict[str, Any]:
        with monkeypatch.context() as patch:
            patch.setattr(module, "environment", lambda: {**here, **there})
            listen = interrupted_at(stop)
            config = config_of("lion")
            return run(
                config, corpus, listen, execution=EVERY_SECOND, checkpoints=tmp_path
            ).execution

    here = module.environment()
    part(5, torch="1.0", device="another")
    part(9)
    part(13)
    execution = part(0, commit="abc")
    assert execution["resumed_at_steps"] == [4, 8, 12]
    assert execution["resumed_from"] == [
        {
            "step": 4,
            "differs": {"torch": ["1.0", here["torch"]], "device": ["another", here["device"]]},
        },
        {"step": 12, "differs": {"commit": [here["commit"], "abc"]}},
    ]
