"""Time one step of every optimizer against every maintained implementation that can be imported.

    python benchmarks/step_time.py                    # all methods, 12 layers of width 256
    python benchmarks/step_time.py --layers 8 --width 512 --method muon --method soap

Ours and its peers step the same parameters with the same gradients and settings, turn by turn in
one process, so that what the machine does besides slows all of a round alike; quoted are medians
and the worst step, of the process's CPU time where one thread works, because other processes do
not count in that. A floor stands beside them: the bytes that an elementwise method must move over
the measured memory bandwidth, and the FLOPs of a matrix method over the measured rate of matrix
products. ``--compiled`` times ours compiled as well, where a method has that. A peer that is not
installed is left out, and named.
"""

from __future__ import annotations

import argparse
import json
import math
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
from optbench.optimizers import OPTIMIZERS, parameter_groups
from optbench.training.model import Llama
from optbench.training.run import environment

WARMUP = 3
PLAIN, COMPILED = "optbench", "optbench compiled"
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
    state_bytes: int


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
    """The collection HeavyBall, eager or compiled as `main` has set it."""
    import heavyball

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


def adam_mini_peers(model: Llama) -> Iterator[tuple[str, str, Build]]:
    """Adam-mini of its authors and of pytorch_optimizer, which go by the names of parameters."""
    width, heads = model.config.d_model, model.config.num_heads
    try:
        from adam_mini import Adam_mini
    except ImportError:
        print("left out: adam-mini is not installed")
        return

    def authors(params: dict[Role, list[Tensor]]) -> list[Any]:
        names = {role: f"{role.value}.weight" for role in Role} | {
            Role.EMBEDDING: "embed.weight",
            Role.HEAD: "lm_head.weight",
            Role.MATRIX: "mlp.weight",
        }
        named = [(f"{i}.{names[role]}", p) for role, g in params.items() for i, p in enumerate(g)]
        return [Adam_mini(named, lr=1e-3, dim=width, n_heads=heads, verbose=False)]

    yield "adam_mini", "adam-mini", authors


def peers(method: str, model: Llama) -> list[tuple[str, Build]]:
    """Implementations of a method by others that this environment has."""
    found: list[tuple[str, Build]] = []
    sources = (
        torch_peers,
        pytorch_optimizer_peers,
        heavyball_peers,
        authors_peers,
        lambda: adam_mini_peers(model),
    )
    for source in sources:
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


def ours_compiled(method: str, model: Llama) -> list[tuple[str, Build]]:
    """Ours by `compile`, if that does anything for the method; says how long it takes."""

    def build(params: dict[Role, list[Tensor]]) -> list[Any]:
        (optimizer,) = ours(method, model)(params)
        started = time.perf_counter()
        optimizer.compile()
        print(f"{'':<10} compiled in {time.perf_counter() - started:.1f} s")
        return [optimizer]

    (plain,) = ours(method, model)(copy_params(model))
    has_kernel = any(
        plain.rule_of(group, param.shape).kernel(group)
        for group in plain.param_groups
        for param in group["params"]
    )
    return [(COMPILED, build)] if has_kernel else []


def state_bytes(optimizers: list[Any]) -> int:
    """Of all tensors in the optimizers' state, each storage once."""
    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    for optimizer in optimizers:
        visit(dict(optimizer.state))
    return sum(storages.values())


# What a step must read and write, bytes per float32 parameter: the parameter and each state tensor
# twice, the gradient once. Sophia only reads its curvature between two estimates.
BYTES_MOVED = {
    "adamw": 28,
    "nadamw": 28,
    "mars": 36,
    "cautious": 28,
    "lion": 20,
    "adam_mini": 20,
    "sophia": 24,
}


def floor_ms(method: str, model: Llama, bandwidth: float, rates: dict[str, float]) -> float:
    """The least time of a step: memory traffic, or the products of a matrix method."""
    numel = sum(p.numel() for p in model.parameters())
    if method in BYTES_MOVED:
        return numel * BYTES_MOVED[method] / bandwidth * 1e3
    flops = 0.0
    for p in copy_params(model)[Role.MATRIX]:
        r, c = sorted(p.shape)
        flops += {
            "muon": 5 * (4 * r * r * c + 2 * r**3),
            "scion": 5 * (4 * r * r * c + 2 * r**3),
            # A step between two refreshes, and one that does not update the factors' triangles.
            "soap": 6 * r * c * (r + c),
            "kron": 4 * r * c * (r + c) + 7 * r * c * (r + c) + 2 * (r**3 + c**3),
        }[method]
    return flops / rates["bfloat16" if method in ("muon", "scion") else "float32"] * 1e3


def time_method(
    builds: list[tuple[str, Build]],
    method: str,
    model: Llama,
    rounds: int,
    clock: Callable[[], float],
) -> list[Row]:
    """All implementations of a method, turn by turn; the first is ours, plain."""
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
            started = clock()
            try:
                for optimizer in optimizers:
                    optimizer.step()
            except Exception as error:
                print(f"left out: {label}: {error!r}")
                failed.add(label)
                continue
            if step >= WARMUP:
                times.append((clock() - started) * 1e3)
    own = statistics.median(runners[0][3])
    return [
        Row(
            method,
            label,
            statistics.median(t),
            min(t),
            max(t),
            statistics.median(t) / own,
            state_bytes(optimizers),
        )
        for label, _, optimizers, t in runners
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


def measured_matmul_rate(width: int, dtype: torch.dtype) -> float:
    """FLOPs per second of square products of this width, batched; the best of a few."""
    a = torch.randn(16, width, width).to(dtype)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        torch.bmm(a, a)
        times.append(time.perf_counter() - started)
    return 16 * 2 * width**3 / min(times)


def set_heavyball_compiled(compiled: bool) -> None:
    """HeavyBall reads this when it first steps."""
    try:
        import heavyball
    except ImportError:
        return
    heavyball.utils.compile_mode = "default" if compiled else None


def against_fastest(rows: list[Row], own: str = PLAIN) -> float:
    """Geometric mean of ours over the fastest, of the methods that have both; NaN if none has."""
    peers_of: dict[str, list[float]] = {}
    for row in rows:
        if row.implementation not in (PLAIN, COMPILED):
            peers_of.setdefault(row.method, []).append(row.ratio_to_ours)
    own_of = {row.method: row.ratio_to_ours for row in rows if row.implementation == own}
    ratios = [own_of[method] / min(peers_of[method]) for method in own_of.keys() & peers_of.keys()]
    return statistics.geometric_mean(ratios) if ratios else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", action="append", choices=list(OPTIMIZERS))
    parser.add_argument("--heavyball-compiled", action="store_true", help="needs a C++ compiler")
    parser.add_argument("--compiled", action="store_true", help="ours as well; needs one too")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = Llama(llama(options.layers, options.width, 64, options.vocab, 64), seed=0)
    numel = sum(p.numel() for p in model.parameters())
    bandwidth = measured_bandwidth()
    rates = {
        str(dtype).removeprefix("torch."): measured_matmul_rate(options.width, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    set_heavyball_compiled(options.heavyball_compiled)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print(f"{numel / 1e6:.1f}M parameters, {options.threads} thread(s), {platform.processor()}")
    products = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
    print(f"memory {bandwidth / 1e9:.1f} GB/s, products in GFLOP/s: {products}")
    facts = {
        "environment": environment(),
        "parameters": numel,
        "threads": options.threads,
        "bandwidth_bytes_per_s": bandwidth,
        "matmul_flops_per_s": rates,
        "clock": clock.__name__,
        "heavyball_compiled": options.heavyball_compiled,
        "rounds": options.rounds,
    }
    rows: list[Row] = []
    floors: dict[str, float] = {}
    for method in options.method or OPTIMIZERS:
        floors[method] = floor_ms(method, model, bandwidth, rates)
        builds = [(PLAIN, ours(method, model))]
        builds += ours_compiled(method, model) if options.compiled else []
        builds += peers(method, model)
        found = time_method(builds, method, model, options.rounds, clock)
        show(found, floors[method], numel)
        rows += found
        if options.out:  # after every method: what has been measured survives an interruption
            options.out.write_text(json.dumps({**facts, **results(rows, floors)}, indent=2) + "\n")
    print(f"geometric mean of ours over the fastest peer: {against_fastest(rows):.2f}")
    if options.compiled:
        print(f"and of ours compiled: {against_fastest(rows, COMPILED):.2f}")


def show(rows: list[Row], floor: float, numel: int) -> None:
    """One line for each implementation of a method."""
    for row in rows:
        print(
            f"{row.method:<10} {row.implementation:<28} median {row.median_ms:8.2f}  min "
            f"{row.min_ms:8.2f}  worst {row.worst_ms:8.2f} ms  {row.ratio_to_ours:5.2f}× ours  "
            f"state {row.state_bytes / numel:5.2f} B/param"
        )
    own = [row for row in rows if row.implementation in (PLAIN, COMPILED)]
    ratios = ", ".join(f"{row.implementation} {row.median_ms / floor:.2f}×" for row in own)
    print(f"{'':<10} floor {floor:.2f} ms, {ratios}", flush=True)


def results(rows: list[Row], floors: dict[str, float]) -> dict[str, Any]:
    """What was measured so far."""
    means = {"geometric_mean_of_ours_over_fastest_peer": against_fastest(rows)}
    if any(row.implementation == COMPILED for row in rows):
        of_compiled = against_fastest(rows, COMPILED)
        means["geometric_mean_of_ours_compiled_over_fastest_peer"] = of_compiled
    return {"floor_ms": floors, **means, "rows": [asdict(row) for row in rows]}


if __name__ == "__main__":
    main()
