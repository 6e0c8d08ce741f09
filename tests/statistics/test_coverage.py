"""The property that the intervals must have: they cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from optbench.statistics.noise import pooled_noise
from optbench.statistics.speedup import (
    BaselineLosses,
    CurveEstimator,
    OptimizerLoss,
    Speedup,
    Timing,
    speedup,
)

RATIOS = np.array([0.5, 1.0, 1.5, 2.0])
ALPHA, EXPONENT, BETA, SIGMA = 0.8, 0.5, 3.4, 0.02


def simulated_interval(
    rng: np.random.Generator,
    estimator: CurveEstimator,
    efficiency: float,
    *,
    seeds: int = 6,
    sigma: float = SIGMA,
    step_noise: float | None = None,
    shared: float | None = None,
) -> Speedup:
    """One study: baseline at four budgets, an optimizer at r = 1, noise on every run.

    ``shared`` is the correlation of the losses of one seed; without it the seeds are not known.
    """
    of_seed = np.zeros(seeds) if shared is None else rng.standard_normal(seeds)

    def losses(effective_ratio: float) -> np.ndarray:
        exact = ALPHA * effective_ratio**-EXPONENT + BETA
        own = rng.standard_normal(seeds)
        correlation = shared or 0.0
        return exact + sigma * (correlation**0.5 * of_seed + (1 - correlation) ** 0.5 * own)

    def by_seed(values: np.ndarray) -> dict[int, float]:
        return dict(enumerate(values.tolist())) if shared is not None else {}

    baseline, optimizer = [losses(r) for r in RATIOS], losses(efficiency)
    timing = None
    if step_noise is not None:
        times = np.exp(step_noise * rng.standard_normal((2, seeds)))
        timing = Timing(baseline=tuple(times[0]), optimizer=tuple(1.25 * times[1]))
    return speedup(
        BaselineLosses(
            tokens=tuple(RATIOS),
            means=tuple(b.mean() for b in baseline),
            counts=(seeds,) * 4,
            by_seed=tuple(by_seed(b) for b in baseline) if shared is not None else (),
        ),
        OptimizerLoss(
            tokens=1.0,
            mean=float(optimizer.mean()),
            count=seeds,
            by_seed=by_seed(optimizer),
        ),
        pooled_noise([*baseline, optimizer]),
        estimator=estimator,
        timing=timing,
        replicates=400,
        seed=int(rng.integers(2**31)),
    )


def coverage(studies: int, estimator: CurveEstimator, truth: float, **settings: float) -> float:
    rng = np.random.default_rng(20)
    hits = 0
    for _ in range(studies):
        found = simulated_interval(rng, estimator, truth, **settings)  # type: ignore[arg-type]
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    return hits / studies


@pytest.mark.parametrize("efficiency", [1.0, 1.3])
def test_interpolated_interval_covers_the_truth(efficiency: float) -> None:
    assert coverage(300, "interpolate", efficiency) >= 0.93


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
def test_interval_over_shared_seeds_covers_the_truth(shared: float) -> None:
    assert coverage(300, "interpolate", 1.3, seeds=8, shared=shared) >= 0.93


def test_shared_seeds_make_the_interval_narrower() -> None:
    rng = np.random.default_rng(3)
    widths = {
        shared: np.median(
            [
                found.high - found.low  # type: ignore[operator]
                for _ in range(40)
                for found in [simulated_interval(rng, "interpolate", 1.3, seeds=8, shared=shared)]
            ]
        )
        for shared in (None, 0.0, 0.9)
    }
    assert widths[0.9] < 0.5 * widths[None]
    assert widths[0.0] < 1.35 * widths[None]  # the price of seven degrees of freedom


def test_fitted_interval_covers_the_truth() -> None:
    assert coverage(60, "paper", 1.3) >= 0.93


def test_interval_beyond_the_budgets_covers_the_truth() -> None:
    assert coverage(60, "interpolate", 2.5) >= 0.93


def test_interval_is_not_needlessly_wide() -> None:
    """Always covering is easy; the width must be what the noise of the means allows."""
    found = simulated_interval(np.random.default_rng(0), "interpolate", 1.0)
    slope = ALPHA * EXPONENT  # −dL/dlnD at r = 1
    expected = 2 * 1.96 * SIGMA * (2 / 6) ** 0.5 / slope
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(expected, rel=0.35)


def test_interval_in_seconds_covers_the_truth() -> None:
    rng = np.random.default_rng(21)
    hits = 0
    for _ in range(100):
        found = simulated_interval(rng, "interpolate", 1.3, step_noise=0.01)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.3 / 1.25 <= found.high
    assert hits >= 93


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["interpolate", "paper"])
def test_coverage_over_many_studies(estimator: CurveEstimator) -> None:
    """40 studies of a kind have a standard error of 3.4 %, those of all kinds together 1.0 %."""
    table = {
        (efficiency, seeds, sigma): coverage(40, estimator, efficiency, seeds=seeds, sigma=sigma)
        for efficiency in (0.8, 1.0, 1.3, 1.9)
        for seeds, sigma in ((6, 0.02), (3, 0.02), (6, 0.05))
    }
    assert min(table.values()) >= 0.85, table
    assert 0.93 <= np.mean(list(table.values())) <= 0.98, table
