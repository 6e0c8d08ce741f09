"""run(RunConfig) → RunRecord: the only function that crosses a process boundary.

Plain data in, plain data out. A run that diverges is a result; any exception becomes a ``failed``
record with its traceback, so that one bad run never takes a study down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import os
import platform
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

import optbench
from optbench.config import ConfigError, RunConfig
from optbench.data.prepared import AnyBatches, batches_of, directory_here, open_prepared
from optbench.execution import DEFAULT_EXECUTION, Execution
from optbench.optimizers import optimizer_class
from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.groups import parameter_groups
from optbench.store.installed import git_state
from optbench.store.store import RunRecord, Status
from optbench.training.distributed import elastic
from optbench.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from optbench.training.distributed.sharded_optimizer import sharded
from optbench.training.memory import fitting_micro_batch
from optbench.training.model import Llama
from optbench.training.trainer import Progress, TrainResult, train

if TYPE_CHECKING:
    from optbench.checkpoints.manager import CheckpointManager


def run(
    config: RunConfig,
    corpus_directory: Path,
    on_progress: Callable[[Progress], None] = lambda _: None,
    weights_path: Path | None = None,
    execution: Execution = DEFAULT_EXECUTION,
    checkpoints: Path | str | None = None,
) -> RunRecord:
    """Train one configuration to its end and describe what happened.

    Args:
        config: complete and valid.
        corpus_directory: folder of the prepared corpus that ``config.data`` names; where this
            machine does not have it, its own cache is asked.
        on_progress: called about fifty times along the run, with several devices from a thread.
        weights_path: where final weights are kept (:mod:`optbench.training.weights`); a diverged
            run has none.
        execution: how the device is used, or how many are; no part of what the run is.
        checkpoints: a folder or an fsspec URL, where the run keeps its state from time to time and
            from where it goes on if it was interrupted (:mod:`optbench.checkpoints`).
    """
    started = _Start.now()
    try:
        corpus_directory = directory_here(
            corpus_directory, config.data.corpus, config.model.vocab_size
        )
        if execution.devices_per_run > 1:
            return _run_on_devices(
                config, corpus_directory, on_progress, weights_path, execution, checkpoints
            )
        return run_as(
            SINGLE_PROCESS,
            config,
            corpus_directory,
            on_progress=on_progress,
            weights_path=weights_path,
            execution=execution,
            checkpoints=checkpoints,
        )
    except Exception:
        return _record(config, started, TrainResult(), execution.record(0), traceback.format_exc())


def _run_on_devices(
    config: RunConfig,
    corpus_directory: Path,
    on_progress: Callable[[Progress], None],
    weights_path: Path | None,
    execution: Execution,
    checkpoints: Path | str | None,
) -> RunRecord:
    """The record that the first of several ranks leaves."""
    if problems := device_problems(execution, config.batch_size):
        raise ConfigError(problems)
    directory = checkpoints.resolve() if isinstance(checkpoints, Path) else checkpoints
    corpus_batches(corpus_directory, config.data.fingerprint)  # refused here, not by every rank
    job = {
        "config": config.to_dict(),
        "corpus_directory": str(corpus_directory.resolve()),
        "weights_path": None if weights_path is None else str(weights_path.resolve()),
        "execution": dataclasses.asdict(execution),
        "checkpoints": None if directory is None else str(directory),
    }
    record = elastic.run_ranks(
        "optbench.training.distributed.rank_process",
        job,
        execution.devices_per_run,
        lambda at: on_progress(Progress(**at)),
    )
    return RunRecord.from_dict(record)


def device_problems(execution: Execution, batch_size: int) -> list[str]:
    """Why a run cannot be shared out among the devices that it was given; empty if it can."""
    devices, problems = execution.devices_per_run, list[str]()
    if devices > batch_size:
        problems.append(
            f"Each device takes sequences of every batch, but a batch of {batch_size} was to be "
            f"shared out among {devices} devices. Use {batch_size} devices per run at most."
        )
    if devices > 1 and torch.cuda.is_available() and devices > torch.cuda.device_count():
        problems.append(
            f"A run was to use {devices} GPUs, but this machine has {torch.cuda.device_count()}. "
            f"Use as many devices per run at most."
        )
    return problems


def run_as(
    ranks: ProcessGroup,
    config: RunConfig,
    corpus_directory: Path,
    *,
    on_progress: Callable[[Progress], None],
    weights_path: Path | None,
    execution: Execution,
    checkpoints: Path | str | None = None,
    restarts: int = 0,
) -> RunRecord:
    """Train a configuration as one of the ranks of a run; each describes the same but for times.

    Args:
        ranks: which of them this process is.
        on_progress: as for :func:`run`, and so are the other arguments.
        restarts: how often the ranks were started again.

    Raises:
        Exception: whatever went wrong; a divergence is a result.
    """
    started = _Start.now()
    device = default_device() if ranks.size == 1 else ranks.device
    batches = corpus_batches(corpus_directory, config.data.fingerprint)
    model = build_model(config, execution).to(device)
    optimizer = build_optimizer(config, model, ranks)
    with _kept(checkpoints, config, execution, ranks, started) as checkpointer:
        result = train(
            config,
            model,
            optimizer,
            batches,
            device=device,
            micro_batch_size=_micro_batch_size(config, execution, optimizer, device, ranks),
            on_progress=on_progress,
            ranks=ranks,
            checkpointer=checkpointer,
        )
    error = ""
    if weights_path is not None and ranks.is_first and result.test_loss is not None:
        try:
            _keep_weights(weights_path, model, corpus_directory, config, result.test_loss)
        except Exception:  # what the run has found is kept all the same
            error = traceback.format_exc()
    state_bytes = ranks.gather(optimizer_state_bytes(optimizer))
    how: dict[str, Any] = {} if checkpointer is None else checkpointer.record()
    if ranks.size > 1:
        how |= {"backend": ranks.backend, "restarts": restarts, "state_bytes_by_rank": state_bytes}
    used = execution.record(result.micro_batch_size, **how)
    wall_s = None if checkpointer is None else checkpointer.wall_s
    return _record(config, started, result, used, error, sum(state_bytes), wall_s)


@contextlib.contextmanager
def _kept(
    root: Path | str | None,
    config: RunConfig,
    execution: Execution,
    ranks: ProcessGroup,
    started: _Start,
) -> Generator[CheckpointManager | None]:
    """The keeper of this rank's part of the run's checkpoints, if it has a place for them."""
    if root is None:
        yield None
        return
    from optbench.checkpoints.checkpoint import checkpoint_directory  # fsspec is slow to import
    from optbench.checkpoints.manager import CheckpointManager
    from optbench.checkpoints.training_state import RankInfo

    directory, rank_info = (
        checkpoint_directory(root, config.run_id),
        RankInfo(ranks.rank, ranks.size),
    )
    checkpointer = CheckpointManager(
        directory,
        execution,
        config.num_steps,
        rank_info,
        ranks.gather,
        started=started.clock,
        environment=environment(),
    )
    try:
        yield checkpointer
    finally:
        checkpointer.close()


def _micro_batch_size(
    config: RunConfig,
    execution: Execution,
    optimizer: BaseOptimizer,
    device: torch.device,
    ranks: ProcessGroup,
) -> int | None:
    """What fits every rank; their states differ a little."""
    sizes = ranks.gather(fitting_micro_batch(config, execution, optimizer, device))
    return None if sizes[0] is None else min(sizes)


@dataclass(frozen=True, slots=True)
class _Start:
    at: str
    clock: float

    @classmethod
    def now(cls) -> _Start:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(at, time.perf_counter())


def _record(
    config: RunConfig,
    started: _Start,
    result: TrainResult,
    execution: dict[str, Any],
    error: str,
    state_bytes: int = 0,
    wall_s: float | None = None,
) -> RunRecord:
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
        wall_s=time.perf_counter() - started.clock if wall_s is None else wall_s,
        state_bytes=state_bytes,
        started_at=started.at,
        environment=environment(),
        error=error or result.reason,
        execution=execution,
    )


def _keep_weights(
    path: Path, model: Llama, corpus_directory: Path, config: RunConfig, test_loss: float
) -> None:
    from optbench.training.weights import save_weights  # most runs keep nothing

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
        activation_checkpointing=execution.activation_checkpointing,
    )
    if execution.compile:
        model.compile_blocks()
    return model


def build_optimizer(
    config: RunConfig, model: Llama, ranks: ProcessGroup = SINGLE_PROCESS
) -> BaseOptimizer:
    """The optimizer of ``config`` over the model's parameters, grouped by role.

    Args:
        ranks: among whom the parameters are shared out (see
            :mod:`optbench.training.distributed.sharded_optimizer`).
    """
    factory = _factory(config.optimizer.name)
    by_head = "head_dim" in optimizer_class(config.optimizer.name).default_hyperparameters()
    groups = parameter_groups(model, model.roles(), heads=model.heads() if by_head else None)
    build = functools.partial(factory, **dict(config.optimizer.hyperparameters))
    return build(groups) if ranks.size == 1 else sharded(build, groups, ranks)


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
        **git_state(),
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "num_threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
