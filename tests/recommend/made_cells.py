"""Cells made by hand, for judges whose verdict must follow from numbers chosen for it."""

from __future__ import annotations

from collections.abc import Sequence

from optbench.analysis.baseline import build_reference
from optbench.analysis.cells import CellSummary
from optbench.analysis.confirmation import Replicates, SeedResult
from optbench.analysis.outcomes import OptimizerRow, RowVerdict
from optbench.analysis.spending import Spent
from optbench.statistics.interpolation import Bound
from optbench.statistics.noise import SeedNoise, mean_loss
from optbench.statistics.speedup import Speedup
from optbench.store.journal_entries import CellEntry

NOISE = SeedNoise(sigma=0.01, dof=20, low=0.008, high=0.014, equal_p=None)
# Differences of two rows of losses keep a spread of about 0.001 over the seeds.
JITTER = (0.0, 0.001, -0.001, 0.0005, -0.0005)


def entry(size: str = "d32", ratio: float = 1.0) -> CellEntry:
    """A cell; the number after the d is the width."""
    params = 32 * int(size[1:]) ** 2
    return CellEntry(size, ratio, round(20 * ratio * params), params)


def speed(
    value: float, low: float | None = None, high: float | None = None, bound: Bound = ""
) -> Speedup:
    """A speed-up by interpolation."""
    return Speedup(
        value=value, low=low, high=high, estimator="interpolate", extrapolated=False, bound=bound
    )


def losses_at(mean: float, jitter: Sequence[float] = JITTER) -> tuple[float, ...]:
    """Five seeds around a mean."""
    return tuple(mean + j for j in jitter)


def confirmed(
    optimizer: str,
    cell: CellEntry,
    losses: Sequence[float],
    halfway: Sequence[float] = (),
) -> Replicates:
    """Seeds 0, 1, … with their test losses, which are their validation losses too."""
    curves = [[(cell.num_tokens, loss)] for loss in losses]
    for curve, loss in zip(curves, halfway, strict=False):
        curve.insert(0, (cell.num_tokens // 2, loss))
    return Replicates(
        cell=cell,
        optimizer=optimizer,
        configuration={},
        seeds=tuple(
            SeedResult(
                run_id=f"{optimizer}-{seed}",
                seed=seed,
                test_loss=loss,
                seconds_per_token=None,
                state_bytes_per_param=8.0,
                device="a CPU",
                val_curve=tuple(curve),
            )
            for seed, (loss, curve) in enumerate(zip(losses, curves, strict=True))
        ),
        absent=(),
    )


def row_of(
    optimizer: str,
    cell: CellEntry,
    *,
    tokens: Speedup | None = None,
    losses: Sequence[float] = (),
    halfway: Sequence[float] = (),
) -> OptimizerRow:
    """With what the judges read; the rest is empty."""
    return OptimizerRow(
        optimizer=optimizer,
        is_baseline=optimizer == "adamw",
        test=mean_loss(losses, NOISE) if losses else None,
        confirmed=confirmed(optimizer, cell, losses, halfway) if losses else None,
        tuning=None,
        tokens=tokens,
        seconds=None,
        baseline_tokens=None,
        estimates=(),
        difference=None,
        s_per_token=None,
        state_bytes_per_param=None,
        spent=Spent(runs=0, tokens=0, flops=0.0, core_s=0.0),
        verdict=RowVerdict.NO_RESULT,
        missing=(),
    )


def cell_of(cell: CellEntry, *rows: OptimizerRow, noise: SeedNoise | None = NOISE) -> CellSummary:
    """A cell of phase I with these rows."""
    points = [row.confirmed for row in rows if row.is_baseline and row.confirmed]
    return CellSummary(
        cell=cell,
        phase="I",
        rows=rows,
        reference=build_reference("adamw", cell, points, noise),
        noise=noise,
        missing=(),
    )


def cell_of_speedups(
    cell: CellEntry | None = None, **speedups: tuple[float, float | None, float | None]
) -> CellSummary:
    """Each optimizer with a speed-up and the ends of its interval."""
    where = cell or entry()
    rows = [row_of(name, where, tokens=speed(*numbers)) for name, numbers in speedups.items()]
    return cell_of(where, *rows)


def cell_of_means(cell: CellEntry | None = None, **means: float) -> CellSummary:
    """Each optimizer with losses whose differences have an interval of about ±0.002."""
    where = cell or entry()
    shifts = (JITTER[k:] + JITTER[:k] for k in range(len(means)))
    rows = [
        row_of(name, where, losses=losses_at(mean, jitter))
        for (name, mean), jitter in zip(means.items(), shifts, strict=True)
    ]
    return cell_of(where, *rows)
