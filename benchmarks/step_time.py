"""Time one step of every optimizer against every maintained implementation that can be imported.

    python benchmarks/step_time.py                    # all methods, 12 layers of width 256
    python benchmarks/step_time.py --layers 8 --width 512 --method muon --method soap

Ours and its peers step the same parameters with the same gradients and settings, turn by turn in
one process, so that what the machine does besides slows all of a round alike; quoted are medians
and the worst step. Two floors stand beside them: bytes that an elementwise method must move over
the measured memory bandwidth, and FLOPs of a matrix method over the measured matrix-product rate.
A peer that is not installed is left out, and named.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optbench.config import Role
from optbench.ladder import llama
from optbench.model import Llama
from optbench.optimizers import OPTIMIZERS, parameter_groups
from optbench.run import environment

WARMUP = 3
Build = Callable[[dict[Role, list[Tensor]]], list[Any]]


@dataclass(frozen=True)
class Row:
    """One implementation of one method."""

    method: str
    implementation: str
    median_ms: float
    min_ms: float
    worst_ms: float
    ratio_to_ours: float


def everything(params: dict[Role, list[Tensor]]) -> list[Tensor]:
    return [p for group in params.values() for p in group]


def matrices(params: dict[Role, list[Tensor]]) -> list[Tensor]:
    return params[Role.MATRIX]


def others(params: dict[Role, list[Tensor]]) -> list[Tensor]:
    return [p for role, group in params.items() if role is not Role.MATRIX for p in group]


def fused_adamw(params: list[Tensor], lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=lr, weight_decay=0.1, fused=True)


def torch_peers() -> Iterator[tuple[str, str, Build]]:
    """What PyTorch itself has."""
    yield "adamw", "torch AdamW fused", lambda p: [fused_adamw(everything(p))]
    yield (
        "adamw",
        "torch AdamW foreach",
        lambda p: [torch.optim.AdamW(everything(p), lr=1e-3, weight_decay=0.1, foreach=True)],
    )
    yield "nadamw", "torch NAdam", lambda p: [
        torch.optim.NAdam(
            everything(p), lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True,
            momentum_decay=1e6,
        )
    ]  # fmt: skip
    yield (
        "muon",
        "torch Muon + fused AdamW",
        lambda p: [
            torch.optim.Muon(matrices(p), lr=1e-3, weight_decay=0.1, adjust_lr_fn="original"),
            fused_adamw(others(p)),
        ],
    )


def pytorch_optimizer_peers() -> Iterator[tuple[str, str, Build]]:
    """The collection pytorch_optimizer."""
    import pytorch_optimizer as po

    plain = {"mars": po.MARS, "lion": po.Lion, "scion": po.SCION, "sophia": po.SophiaH}
    for method, cls in plain.items():
        if method != "sophia":  # its Hessian pass needs a graph; the authors' package stands in
            yield (
                method,
                f"pytorch_optimizer {cls.__name__}",
                lambda p, c=cls: [c(everything(p), lr=1e-3)],
            )
    yield (
        "muon",
        "pytorch_optimizer Muon",
        lambda p: [
            po.Muon(
                [
                    {"params": matrices(p), "use_muon": True},
                    {"params": others(p), "use_muon": False},
                ],
                lr=1e-3,
            )
        ],
    )
    yield (
        "soap",
        "pytorch_optimizer SOAP",
        lambda p: [
            po.SOAP(everything(p), lr=1e-3, precondition_frequency=10, max_precondition_dim=2048)
        ],
    )
    yield (
        "kron",
        "pytorch_optimizer Kron",
        lambda p: [po.Kron(everything(p), lr=1e-3, max_size_triangular=2048)],
    )


def heavyball_peers() -> Iterator[tuple[str, str, Build]]:
    """The collection HeavyBall, eager."""
    import heavyball

    heavyball.utils.compile_mode = None
    yield "adamw", "heavyball AdamW", lambda p: [heavyball.AdamW(everything(p), lr=1e-3)]
    yield (
        "cautious",
        "heavyball AdamW, caution",
        lambda p: [heavyball.AdamW(everything(p), lr=1e-3, caution=True)],
    )
    yield (
        "mars",
        "heavyball AdamW, mars",
        lambda p: [heavyball.AdamW(everything(p), lr=1e-3, mars=True)],
    )
    yield (
        "muon",
        "heavyball Muon",
        lambda p: [
            heavyball.Muon(matrices(p), lr=1e-3),
            fused_adamw(others(p)),
        ],
    )
    yield "scion", "heavyball Scion", lambda p: [heavyball.Scion(everything(p), lr=1e-3)]
    yield (
        "soap",
        "heavyball SOAP",
        lambda p: [
            heavyball.SOAP(everything(p), lr=1e-3, precondition_frequency=10, max_precond_dim=2048)
        ],
    )
    yield (
        "kron",
        "heavyball PSGDKron",
        lambda p: [heavyball.PSGDKron(everything(p), lr=1e-3, max_size_triangular=2048)],
    )


def authors_peers() -> Iterator[tuple[str, str, Build]]:
    """Single-purpose packages on PyPI."""
    try:
        from lion_pytorch import Lion

        yield "lion", "lion-pytorch", lambda p: [Lion(everything(p), lr=1e-4, weight_decay=0.1)]
    except ImportError:
        print("left out: lion-pytorch is not installed")
    try:
        from sophia_opt import SophiaG

        yield "sophia", "sophia-opt SophiaG", lambda p: [SophiaG(everything(p), lr=1e-4)]
    except ImportError:
        print("left out: sophia-opt is not installed")
    try:
        from kron_torch import Kron

        yield "kron", "kron-torch", lambda p: [Kron(everything(p), lr=1e-3)]
    except ImportError:
        print("left out: kron-torch is not installed")


def peers(method: str) -> list[tuple[str, Build]]:
    """Implementations of a method by others that this environment has."""
    found: list[tuple[str, Build]] = []
    for source in (torch_peers, pytorch_optimizer_peers, heavyball_peers, authors_peers):
        try:
            found += [(label, build) for name, label, build in source() if name == method]
        except ImportError as error:
            print(f"left out: {error.name} is not installed")
    return found


def copy_params(model: Llama) -> dict[Role, list[Tensor]]:
    """Parameters of their own for one implementation, by role."""
    by_role: dict[Role, list[Tensor]] = {role: [] for role in Role}
    for name, role in model.roles().items():
        by_role[role].append(torch.nn.Parameter(model.get_parameter(name).detach().clone()))
    return by_role


def ours(method: str, model: Llama) -> Build:
    def build(params: dict[Role, list[Tensor]]) -> list[Any]:
        roles = {f"{role}.{i}": role for role, group in params.items() for i in range(len(group))}
        named = [(f"{role}.{i}", p) for role, group in params.items() for i, p in enumerate(group)]
        # An interval that never comes: the estimate is the caller's, and is timed by `bench`.
        extra: dict[str, Any] = {"curvature_interval": 10**9} if method == "sophia" else {}
        if method in ("muon", "scion"):
            extra["ns_dtype"] = "bfloat16"  # as every peer
        return [OPTIMIZERS[method](parameter_groups(named, roles), **extra)]

    return build


def time_method(method: str, model: Llama, rounds: int) -> list[Row]:
    """Ours and every peer, turn by turn."""
    builds = [("optbench", ours(method, model)), *peers(method)]
    runners = []
    gradients = [torch.randn_like(p) * 1e-2 for p in everything(copy_params(model))]
    for label, build in builds:
        params = copy_params(model)
        try:
            runners.append((label, everything(params), build(params), []))
        except Exception as error:
            print(f"left out: {label}: {error!r}")
    failed: set[str] = set()
    for step in range(WARMUP + rounds):
        for label, params, optimizers, times in runners:
            if label in failed:
                continue
            for p, g in zip(params, gradients, strict=True):
                p.grad = g.clone()  # some implementations write into the gradient
            started = time.perf_counter()
            try:
                for optimizer in optimizers:
                    optimizer.step()
            except Exception as error:
                print(f"left out: {label}: {error!r}")
                failed.add(label)
                continue
            if step >= WARMUP:
                times.append((time.perf_counter() - started) * 1e3)
    own = statistics.median(runners[0][3])
    return [
        Row(method, label, statistics.median(t), min(t), max(t), statistics.median(t) / own)
        for label, _, _, t in runners
        if t
    ]


def measured_bandwidth() -> float:
    """Bytes per second of reading and writing 256 MB, the best of a few."""
    source = torch.empty(2**26)
    target = torch.empty_like(source)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - started)
    return 2 * source.numel() * 4 / min(times)


def measured_matmul_rate(width: int) -> float:
    """FLOPs per second of square float32 products of this width, batched; the best of a few."""
    a = torch.randn(16, width, width)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        torch.bmm(a, a)
        times.append(time.perf_counter() - started)
    return 16 * 2 * width**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", action="append", choices=list(OPTIMIZERS))
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = Llama(llama(options.layers, options.width, 64, options.vocab, 64), seed=0)
    numel = sum(p.numel() for p in model.parameters())
    bandwidth, rate = measured_bandwidth(), measured_matmul_rate(options.width)
    print(f"{numel / 1e6:.1f}M parameters, {options.threads} thread(s), {platform.processor()}")
    print(f"memory {bandwidth / 1e9:.1f} GB/s, float32 products {rate / 1e9:.0f} GFLOP/s")
    rows: list[Row] = []
    for method in options.method or OPTIMIZERS:
        for row in time_method(method, model, options.rounds):
            rows.append(row)
            print(
                f"{row.method:<10} {row.implementation:<28} median {row.median_ms:8.2f}  min "
                f"{row.min_ms:8.2f}  worst {row.worst_ms:8.2f} ms  {row.ratio_to_ours:5.2f}× ours",
                flush=True,
            )
    if options.out:
        facts = {
            "environment": environment(),
            "parameters": numel,
            "threads": options.threads,
            "bandwidth_bytes_per_s": bandwidth,
            "matmul_flops_per_s": rate,
            "rounds": options.rounds,
            "rows": [asdict(row) for row in rows],
        }
        options.out.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
