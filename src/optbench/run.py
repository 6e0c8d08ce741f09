"""run(RunConfig) → RunRecord: the only function that crosses a process boundary.

Plain data in, plain data out. A run that diverges is a result; any exception becomes a ``failed``
record with its traceback, so that one bad run never takes a study down.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

import optbench
from optbench.config import ConfigError, RunConfig
from optbench.data.prepared import AnyBatches, batches_of, open_prepared
from optbench.execution import PLAIN, Execution
from optbench.memory import fitting_micro_batch
from optbench.model import Llama
from optbench.optimizers import optimizer_class
from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.groups import parameter_groups
from optbench.store import RunRecord, Status
from optbench.trainer import Progress, TrainResult, train


def run(
    config: RunConfig,
    corpus_directory: Path,
    on_progress: Callable[[Progress], None] = lambda _: None,
    weights_path: Path | None = None,
    execution: Execution = PLAIN,
) -> RunRecord:
    """Train one configuration to its end and describe what happened.

    Args:
        config: complete and valid.
        corpus_directory: folder of the prepared corpus that ``config.data`` names.
        on_progress: called about fifty times along the run.
        weights_path: where the final weights are kept (see :mod:`optbench.weights`); a diverged
            run has none.
        execution: how the device is used; no part of what the run is.
    """
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    clock = time.perf_counter()
    result, error, state_bytes = TrainResult(), "", 0
    try:
        device = default_device()
        batches = corpus_batches(corpus_directory, config.data.fingerprint)
        model = build_model(config, execution).to(device)
        optimizer = build_optimizer(config, model)
        result = train(
            config,
            model,
            optimizer,
            batches,
            device=device,
            micro_batch_size=fitting_micro_batch(config, execution, optimizer, device),
            on_progress=on_progress,
        )
        state_bytes = optimizer_state_bytes(optimizer)
        if weights_path is not None and result.test_loss is not None:
            _keep_weights(weights_path, model, corpus_directory, config, result.test_loss)
    except Exception:
        error = traceback.format_exc()
    status: Status = "failed" if error else "diverged" if result.reason else "completed"
    return RunRecord(
        run_id=config.run_id,
        config=config.to_dict(),
        status=status,
        val_loss=result.val_loss,
        test_loss=result.test_loss,
        train_curve=result.train_curve,
        val_curve=result.val_curve,
        num_steps=result.steps_taken,
        num_tokens=result.steps_taken * config.tokens_per_step,
        step_s=result.step_s,
        optimizer_step_s=result.optimizer_step_s,
        wall_s=time.perf_counter() - clock,
        state_bytes=state_bytes,
        started_at=started_at,
        environment=environment(),
        error=error or result.reason,
        execution=execution.record(result.micro_batch_size),
    )


def _keep_weights(
    path: Path, model: Llama, corpus_directory: Path, config: RunConfig, test_loss: float
) -> None:
    from optbench.weights import save_weights  # most runs keep nothing

    save_weights(
        path,
        model,
        open_prepared(corpus_directory),
        run_id=config.run_id,
        test_loss=test_loss,
        code=environment(),
    )


def build_model(config: RunConfig, execution: Execution) -> Llama:
    """The untrained model of ``config``."""
    model = Llama(
        config.model,
        seed=config.seed,
        precision=config.precision,
        checkpointing=execution.checkpointing,
    )
    if execution.compiled:
        model.compile_blocks()
    return model


def build_optimizer(config: RunConfig, model: Llama) -> BaseOptimizer:
    """The optimizer of ``config`` over the model's parameters, grouped by role."""
    factory = _factory(config.optimizer.name)
    by_head = "head_dim" in optimizer_class(config.optimizer.name).default_hyperparameters()
    groups = parameter_groups(model, model.roles(), heads=model.heads() if by_head else None)
    return factory(groups, **dict(config.optimizer.hyperparameters))


def _factory(name: str) -> Callable[..., BaseOptimizer]:
    """The class by name; the base's own constructor lacks the keywords that every method has."""
    return cast("Callable[..., BaseOptimizer]", optimizer_class(name))


def optimizer_problems(name: str, hyperparameters: dict[str, Any]) -> list[str]:
    """Why an optimizer cannot be built with these hyperparameters; empty if it can."""
    try:
        _factory(name)([torch.nn.Parameter(torch.zeros(2, 2))], **hyperparameters)
    except (ValueError, TypeError, KeyError) as error:
        return [str(error.args[0]) if error.args else repr(error)]
    return []


@functools.lru_cache(maxsize=4)
def corpus_batches(directory: Path, fingerprint: str) -> AnyBatches:
    """The batches of a prepared corpus, opened once per process.

    Raises:
        ConfigError: the corpus on this disk is not the one that the configuration names.
    """
    corpus = open_prepared(directory)
    if fingerprint and corpus.manifest.fingerprint != fingerprint:
        raise ConfigError(
            [
                f"The corpus in {directory} has fingerprint {corpus.manifest.fingerprint}, but the "
                f"run was configured for {fingerprint}: its text has changed, for nano with the "
                f"installed packages that it comes from. Start a new study folder with --out."
            ]
        )
    return batches_of(corpus)


def optimizer_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_one_thread() -> None:
    """Small tensors on a CPU: two processes of one thread beat one process of two threads."""
    torch.set_num_threads(1)


@functools.cache
def environment() -> dict[str, Any]:
    """Versions, device and code state: what somebody needs to repeat a run."""
    device = default_device()
    return {
        "optbench": optbench.__version__,
        **_git_state(Path(__file__).parent),
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "num_threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
    }


def _git_state(directory: Path) -> dict[str, Any]:
    """Commit and dirty flag of the source tree, or None for an installed package."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                # A status that was cut off would leave its lock in the user's repository.
                ["git", "--no-optional-locks", *arguments],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(git("status", "--porcelain")) if commit else None}


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
