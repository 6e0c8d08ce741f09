"""Jobs for ranks, started as a module; imports torch only where it must."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.config import ConfigError, UserError
from optbench.training.distributed.elastic import RankJob, as_rank

if TYPE_CHECKING:
    import numpy as np
    import torch

    from optbench.training.distributed.process_group import ProcessGroup
    from optbench.training.model import Llama
    from optbench.training.trainer import TrainResult

DEADLINE_S = 240  # a rank that hangs is killed, and the job fails
NUM_STEPS = 20
START_NOISE = 2.0**-12  # 4096 roundings of float32


@dataclass(frozen=True, slots=True)
class Case:
    """A training of the tiny model.

    Args:
        optimizer: one of ours, or "torch AdamW", "torch SGD", "own".
        hyperparameters: (name, value) pairs on top of the defaults.
        start_noise: seed of a change of each weight before the first step, by ``START_NOISE`` of
            itself at most.
    """

    optimizer: str
    hyperparameters: tuple[tuple[str, Any], ...] = ()
    dtype: str = "float64"
    micro_batch_size: int | None = None
    documents: bool = False
    clip_scope: str = "all"
    batch_size: int = 7
    start_noise: int | None = None

    @property
    def label(self) -> str:
        said = {k: v for k, v in dataclasses.asdict(self).items() if v not in (None, False)}
        return json.dumps(said)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Case:
        pairs = tuple((name, value) for name, value in raw["hyperparameters"])
        return cls(**{**raw, "hyperparameters": pairs})


def train_case(case: Case, ranks: ProcessGroup) -> tuple[TrainResult, Llama, torch.optim.Optimizer]:
    """As a rank, or alone; all numbers but the rounding are the same."""
    import torch

    from optbench.training.model import Llama
    from optbench.training.trainer import train

    config = run_config(case)
    model = Llama(config.model, seed=3).to(getattr(torch, case.dtype))
    if case.start_noise is not None:
        generator = torch.Generator().manual_seed(case.start_noise)
        for weight in model.state_dict().values():
            noise = torch.empty_like(weight).uniform_(-1, 1, generator=generator)
            weight.mul_(1 + START_NOISE * noise)
    optimizer = build(case, model, ranks)
    result = train(
        config,
        model,
        optimizer,
        batches(case, config.model.vocab_size),
        device=ranks.device,
        micro_batch_size=case.micro_batch_size,
        ranks=ranks,
    )
    return result, model, optimizer


def run_config(case: Case) -> Any:
    from optbench.config import ScheduleConfig
    from tests.builders import TINY_MODEL, config_with

    tokens = case.batch_size * TINY_MODEL.seq_len
    return config_with(
        num_tokens=NUM_STEPS * tokens,
        batch_size=case.batch_size,
        schedule=ScheduleConfig(warmup_steps=4, decay_steps=10),
        clip_norm=0.5,
        clip_scope=case.clip_scope,
        eval_tokens=5 * tokens,
        test_tokens=2 * tokens,
        num_evals=2,
    )


def build(case: Case, model: Llama, ranks: ProcessGroup) -> torch.optim.Optimizer:
    import torch

    from optbench.optimizers import OPTIMIZERS, parameter_groups
    from optbench.training.distributed.sharded_optimizer import sharded

    others = {
        "torch AdamW": torch.optim.AdamW,
        "torch SGD": torch.optim.SGD,
        "own": own_optimizer(),
    }
    cls = OPTIMIZERS.get(case.optimizer) or others[case.optimizer]
    by_head = case.optimizer == "adam_mini"
    groups = parameter_groups(model, model.roles(), heads=model.heads() if by_head else None)

    def made(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return cls(groups, **dict(case.hyperparameters))  # type: ignore[call-arg]

    return made(groups) if ranks.size == 1 else sharded(made, groups, ranks)


def own_optimizer() -> type[torch.optim.Optimizer]:
    """What a user may write: momentum over the largest singular value of the whole matrix."""
    import torch

    class Spectral(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: float = 0.02) -> None:
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for param in group["params"]:
                    momentum = self.state[param].setdefault("momentum", torch.zeros_like(param))
                    momentum.mul_(0.9).add_(param.grad)
                    norm = torch.linalg.norm(momentum, 2 if param.ndim == 2 else None)
                    param.sub_(momentum / (norm + 1e-8), alpha=group["lr"])

    return Spectral


def batches(case: Case, vocab_size: int) -> Any:
    return _Documents(vocab_size) if case.documents else _Text(vocab_size)


class _Text:
    """A noisy walk through the vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def batch(self, step: int, *, seed: int, batch_size: int, seq_len: int) -> np.ndarray:
        import numpy as np

        generator = np.random.default_rng([seed, step])
        moves = generator.choice([1, 2, 11], (batch_size, seq_len + 1), p=[0.6, 0.3, 0.1])
        return np.cumsum(moves, axis=1) % self.vocab_size

    def eval_batches(
        self, split: str, *, num_tokens: int, batch_size: int, seq_len: int
    ) -> Iterator[np.ndarray]:
        for step in range(num_tokens // (batch_size * seq_len)):
            seed = 100 + (split == "test")
            yield self.batch(step, seed=seed, batch_size=batch_size, seq_len=seq_len)


@dataclass(frozen=True, slots=True)
class _Sequences:
    tokens: np.ndarray
    doc_ids: np.ndarray


class _Documents(_Text):
    """The same with a boundary between two documents in every sequence."""

    def batch_with_documents(self, step: int, **how: Any) -> _Sequences:
        return self._cut(self.batch(step, **how))

    def eval_batches_with_documents(self, split: str, **how: Any) -> Iterator[_Sequences]:
        return (self._cut(tokens) for tokens in self.eval_batches(split, **how))

    def _cut(self, tokens: np.ndarray) -> _Sequences:
        import numpy as np

        places = np.arange(tokens.shape[1] - 1)
        return _Sequences(tokens, (places >= tokens[:, :1] % 13 + 1).astype(np.int64))


# Jobs --------------------------------------------------------------------------------------------


def train_cases(job: RankJob) -> None:
    """Train every case; the first rank leaves the losses, and each rank its parameters' hash."""
    import torch
    from safetensors.torch import save_file

    from optbench.training.distributed.process_group import joined
    from optbench.training.run import optimizer_state_bytes

    torch.set_num_threads(1)
    answers: dict[str, Any] = {}
    with joined() as ranks:
        answers["talk"] = talk(ranks)
        answers["memory"] = out_of_memory_on_one_rank(ranks)
        for number, case in enumerate(map(Case.from_dict, job.job["cases"])):
            result, model, optimizer = train_case(case, ranks)
            parameters = {name: p.detach().contiguous() for name, p in model.named_parameters()}
            seen = ranks.gather(
                {
                    "losses": losses_of(result),
                    "parameters": digest(parameters),
                    "state_bytes": optimizer_state_bytes(optimizer),
                    "owned": sum(len(group["params"]) for group in optimizer.param_groups),
                    "micro_batch_size": result.micro_batch_size,
                }
            )
            answers[case.label] = seen
            if ranks.is_first:
                save_file(parameters, Path(job.job["folder"]) / f"{number}.safetensors")
        if ranks.is_first:
            job.answer(answers)


def losses_of(result: TrainResult) -> list[float]:
    """Every loss that a run measures: each step's, the validations', the test's."""
    curve = [loss for _, loss in [*result.train_curve, *result.val_curve]]
    assert result.val_loss is not None
    assert result.test_loss is not None
    return [*curve, result.val_loss, result.test_loss]


def digest(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def talk(ranks: ProcessGroup) -> dict[str, Any]:
    """Everything that ranks can say, from values that differ between them."""
    import torch

    mine = 0.1 * (ranks.rank + 1)
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.full((2,), float(ranks.rank + 1))
    ranks.sum_gradients([parameter, torch.nn.Parameter(torch.zeros(1))])
    ranks.barrier()
    return {
        "sum": ranks.sum(torch.tensor([mine, 1.0], dtype=torch.float64)).tolist(),
        "gradient": parameter.grad.tolist(),
        "total": ranks.gather(ranks.total(mine)),
        "mean": ranks.mean(mine),
        "any": [ranks.any(ranks.rank == ranks.size - 1), ranks.any(False)],
        "nan": math.isnan(ranks.total(math.nan if ranks.rank else 1.0)),
        "gather": ranks.gather({"rank": ranks.rank, "text": "ä" * ranks.rank}),
        "spans": ranks.gather(ranks.span(7)),
        "backend": ranks.backend,
    }


def out_of_memory_on_one_rank(ranks: ProcessGroup) -> dict[str, Any]:
    """A step of which one rank has no room for more than a sequence at a time."""
    import torch

    from optbench.optimizers import Sophia, parameter_groups
    from optbench.training.accumulation import Accumulation
    from optbench.training.micro_batches import Batch
    from optbench.training.model import Llama
    from tests.builders import TINY_MODEL

    model = Llama(TINY_MODEL, seed=0).double()
    tokens = torch.randint(0, 64, (7, 17), generator=torch.Generator().manual_seed(0))
    plain = model.loss
    alone = plain(tokens)
    alone.backward()
    whole = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()

    def limited(tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        if ranks.rank == 1 and len(tokens) > 1:
            raise torch.OutOfMemoryError("no room")
        return plain(tokens, *rest)

    model.loss = limited  # type: ignore[method-assign]
    accumulation = Accumulation(model, ranks=ranks)
    loss = ranks.total(float(accumulation.accumulate_gradients(Batch(tokens))))
    sizes = [accumulation.size]
    differences = [
        float((p.grad - wanted).abs().max())
        for p, wanted in zip(model.parameters(), whole, strict=True)
        if p.grad is not None
    ]
    optimizer = Sophia(parameter_groups(model, model.roles()), curvature_interval=1)
    optimizer.step()
    accumulation.clear()
    accumulation.size = None
    draw = Llama.sampled_label_loss

    def sampled(tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        if ranks.rank == 1 and len(tokens) > 1:
            raise torch.OutOfMemoryError("no room")
        return draw(model, tokens, *rest)

    model.sampled_label_loss = sampled  # type: ignore[method-assign]
    accumulation.update_curvature(optimizer, Batch(tokens), noise_seed=1)
    sizes.append(accumulation.size)
    return {
        "sizes": ranks.gather(sizes),
        "loss": loss,
        "alone": float(alone),
        "difference": max(differences),
        "compared": len(differences),
        "curvature": ranks.gather([digest({"h": s["hessian"]}) for s in optimizer.state.values()]),
    }


def go_on_at(job: RankJob) -> None:
    """A training without interruption, and the same one gone on with after each of some steps."""
    import torch

    from optbench.checkpoints.checkpoint import checkpoint_directory
    from optbench.checkpoints.manager import CheckpointManager
    from optbench.checkpoints.training_state import RankInfo
    from optbench.execution import Execution
    from optbench.training.distributed.process_group import joined
    from optbench.training.model import Llama
    from optbench.training.trainer import train

    torch.set_num_threads(1)
    case = Case("adamw", dtype="float32")
    config = run_config(case)
    place = checkpoint_directory(Path(job.job["folder"]), "r")

    def part(ranks: ProcessGroup, stop: int | None) -> str:
        def interrupt(at: Any) -> None:
            if at.step == stop:
                assert checkpointer._writer.is_free(60)
                raise InterruptedError

        model = Llama(config.model, seed=3)
        checkpointer = CheckpointManager(
            place,
            Execution(checkpoint_interval=0, checkpoint_steps=1 if stop else None),
            config.num_steps,
            RankInfo(ranks.rank, ranks.size),
            ranks.gather,
        )
        before = torch.get_rng_state()
        with contextlib.suppress(InterruptedError):
            train(
                config,
                model,
                build(case, model, ranks),
                batches(case, config.model.vocab_size),
                device=ranks.device,
                on_progress=interrupt,
                ranks=ranks,
                checkpointer=checkpointer,
            )
        checkpointer.close()
        resumed = checkpointer.record().get("resumed_at_steps", [])
        assert resumed or torch.equal(torch.get_rng_state(), before)  # nothing was drawn
        return f"{resumed} {digest({name: p.detach() for name, p in model.named_parameters()})}"

    with joined() as ranks:
        found = [part(ranks, stop) for stop in (None, *job.job["stops"], None)]
        if ranks.is_first:
            job.answer({"first": found[0], "last": found[-1]})


def note_pid(job: RankJob) -> None:
    """Say who is there, and wait."""
    rank = os.environ["RANK"]
    (Path(job.job["folder"]) / f"pid-{rank}-{job.restarts}").write_text(str(os.getpid()))
    if job.restarts == 0:
        time.sleep(DEADLINE_S)
    if rank == "0":
        job.answer({"restarts": job.restarts, "size": os.environ["WORLD_SIZE"]})


def report_and_die(job: RankJob) -> None:
    """The first rank reports three times and, on the first attempt, is torn off in a fourth."""
    if os.environ["RANK"] == "0":
        for number in range(3):
            job.report({"number": number + 10 * job.restarts})
        if job.restarts == 0:
            with (job.folder / "progress.jsonl").open("ab") as file:
                file.write(b'{"numb')
            os.kill(os.getpid(), signal.SIGKILL)
        job.answer({"ended": True})
    elif job.restarts == 0:
        time.sleep(DEADLINE_S)


def raise_an_error(_: RankJob) -> None:
    if os.environ["RANK"] == "1":
        raise RuntimeError("the cause of it all")
    time.sleep(DEADLINE_S)


def refuse(job: RankJob) -> None:
    with (Path(job.job["folder"]) / "attempts").open("a") as file:
        file.write(os.environ["RANK"])
    if os.environ["RANK"] == "1":
        raise ConfigError(["this cannot be: remedy"])
    time.sleep(DEADLINE_S)


def echo_ranks(job: RankJob) -> None:
    """The sum of what the ranks add, by gloo."""
    from optbench.training.distributed.process_group import joined

    with joined() as ranks:
        total = ranks.total(float(job.job["value"]))
        if ranks.is_first:
            job.answer({"total": total, "port": os.environ["MASTER_PORT"]})


def join_again(job: RankJob) -> None:
    """A rank dies after all have met, three times; the other one is the first to be there again."""
    from optbench.training.distributed.process_group import joined

    second = os.environ["RANK"] == "1"
    if second and job.restarts:
        time.sleep(1.0)
    with joined() as ranks:
        total = ranks.total(1.0)
        if job.restarts < 3 and second:
            os.kill(os.getpid(), signal.SIGKILL)
        elif job.restarts < 3:
            time.sleep(DEADLINE_S)
        if ranks.is_first:
            job.answer({"restarts": job.restarts, "total": total})


JOBS = {
    job.__name__: job
    for job in (
        train_cases,
        go_on_at,
        note_pid,
        report_and_die,
        raise_an_error,
        refuse,
        echo_ranks,
        join_again,
    )
}


def main(job: RankJob) -> None:
    signal.alarm(DEADLINE_S)
    JOBS[job.job["name"]](job)


if __name__ == "__main__":
    try:
        as_rank(main)
    except UserError as error:
        sys.exit(str(error))
