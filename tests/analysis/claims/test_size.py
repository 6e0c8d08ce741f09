from __future__ import annotations

import math

import pytest

from optbench.analysis.claims.size import speedups_shrink_with_size
from optbench.statistics.efficiency import Efficiency, SizeTrend
from optbench.statistics.joint_fit import JointFit
from tests.recommend.made_cells import cell_of_speedups, entry


def fit_of(
    trends: dict[str, tuple[float, float, float]], base: dict[str, float] | None = None
) -> JointFit:
    """Speed-ups at 1M and 9M parameters that follow the trends, known within 5 %."""
    bases = base or dict.fromkeys(trends, 1.4)
    return JointFit(
        baseline="adamw",
        efficiencies=tuple(
            Efficiency(
                optimizer=name,
                params=1e6 * size,
                value=bases[name] * size**value,
                low=bases[name] * size**value / 1.05,
                high=bases[name] * size**value * 1.05,
                extrapolated=False,
                bound="",
            )
            for name, (value, _, _) in trends.items()
            for size in (1, 9)
        ),
        trends=tuple(
            SizeTrend(optimizer=name, value=value, low=low, high=high)
            for name, (value, low, high) in trends.items()
        ),
    )


@pytest.mark.parametrize(
    ("trend", "verdict"),
    [
        ((-0.1, -0.15, -0.05), "holds"),
        ((0.0, -0.02, 0.02), "does not hold"),  # less than 5 % in a nine times larger model
        ((0.1, 0.05, 0.15), "does not hold"),
        ((-0.05, -0.15, 0.05), "inconclusive"),
        ((0.0, -0.1, 0.1), "inconclusive"),
    ],
)
def test_the_interval_of_the_trend_decides(trend: tuple[float, float, float], verdict: str) -> None:
    claim = speedups_shrink_with_size("adamw", [], fit_of({"muon": trend}))
    assert (claim.number, claim.verdict) == (4, verdict)
    assert bool(claim.needs) == (verdict == "inconclusive")


def test_the_factor_is_that_of_a_nine_times_larger_model() -> None:
    claim = speedups_shrink_with_size("adamw", [], fit_of({"muon": (-0.1, -0.15, -0.05)}))
    assert "by the factor 0.80 [0.72, 0.90] when the model" in claim.evidence[0]
    assert claim.evidence[1] == (
        "muon: 1.40× at 1M, 1.12× at 9M parameters; d ln e / d ln N = −0.100 [−0.150, −0.050]."
    )


def test_the_mean_of_the_faster_optimizers_decides() -> None:
    """The slower one is left out, and half-widths are averaged, not shrunk."""
    trends = {
        "muon": (-0.1, -0.15, -0.05),
        "soap": (0.02, -0.06, 0.1),
        "lion": (0.5, 0.4, 0.6),
    }
    claim = speedups_shrink_with_size(
        "adamw", [], fit_of(trends, {"muon": 1.4, "soap": 1.3, "lion": 0.3})
    )
    assert claim.verdict == "inconclusive"
    low, high = 9 ** ((-0.15 - 0.06) / 2), 9 ** ((-0.05 + 0.1) / 2)
    assert f"[{low:.2f}, {high:.2f}]" in claim.evidence[0]
    assert "muon and soap" in claim.evidence[0]
    assert len(claim.evidence) == 3


def test_without_faster_optimizers_there_is_nothing_to_shrink() -> None:
    claim = speedups_shrink_with_size(
        "adamw", [], fit_of({"lion": (-0.1, -0.12, -0.08)}, {"lion": 0.8})
    )
    assert claim.verdict == "inconclusive"
    assert claim.needs == (
        "An optimizer that is faster than adamw over the sizes, beyond the noise.",
    )


def shrinking_cells(trend: float, error: float) -> list:
    return [
        cell_of_speedups(
            entry(size, ratio),
            muon=(value := 1.5 * (int(size[1:]) / 32) ** (2 * trend), value / error, value * error),
        )
        for size in ("d32", "d64", "d96")
        for ratio in (1.0, 2.0)
    ]


@pytest.mark.parametrize(
    ("trend", "error", "verdict"),
    [(-0.1, 1.02, "holds"), (0.0, 1.01, "does not hold"), (-0.1, 1.3, "inconclusive")],
)
def test_without_a_joint_fit_the_cells_speak_for_themselves(
    trend: float, error: float, verdict: str
) -> None:
    claim = speedups_shrink_with_size(
        "adamw", shrinking_cells(trend, error), JointFit(baseline="adamw", reason="no fit")
    )
    assert claim.verdict == verdict
    assert f"by the factor {9**trend:.2f} " in claim.evidence[0]
    assert "the cells' own speed-ups" in claim.evidence[0]
    assert len(claim.cells) == 6


def test_one_size_has_no_trend() -> None:
    cells = [cell_of_speedups(muon=(1.4, 1.3, 1.5))]
    claim = speedups_shrink_with_size("adamw", cells, JointFit(baseline="adamw"))
    assert claim.verdict == "inconclusive"
    assert claim.evidence == ()
    assert claim.needs == (
        "Two sizes or more, with adamw and another optimizer at two budgets of each.",
    )


def test_bounds_and_open_intervals_are_no_points_of_a_trend() -> None:
    cells = [
        cell_of_speedups(entry("d32"), muon=(1.4, 1.3, 1.5)),
        cell_of_speedups(entry("d64"), muon=(1.3, 1.2, math.inf)),
    ]
    claim = speedups_shrink_with_size("adamw", cells, JointFit(baseline="adamw"))
    assert claim.verdict == "inconclusive"
