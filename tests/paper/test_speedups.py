"""The published losses give the numbers that a correct analysis of them gives."""

from __future__ import annotations

import pytest

from optbench.paper.speedups import PaperSpeedup
from tests.paper.published_analysis import paper_results

# size: α, B, β and the largest residual of α·r^(−B) + β through AdamW's losses
FITS = {
    "130m": (0.45540, 0.43530, 3.07292, 3.4e-3),
    "300m": (0.37071, 0.43782, 2.89160, 1.7e-3),
    "520m": (0.34174, 0.39726, 2.76267, 1.2e-3),
    "1.2b": (0.23935, 0.48480, 2.66492, 2.9e-5),
}
SIZES = {"130m": (1, 2, 4, 8, 16), "300m": (1, 2, 4, 8, 16), "520m": (1, 2, 4, 8),
         "1.2b": (1, 2, 4, 8)}  # fmt: skip
SPEEDUPS = """
adamw     | .996 1.013 1.003 .958 1.034 | .996 1.015 .992 .977 1.023 | 1.002 .990 1.016 .992 | 1.000 1.000 1.000 1.000
nadamw    | .986 1.121 1.047 1.115 1.164 | 1.096 1.049 1.043 1.026 1.080 | 1.093 1.098 1.075 1.090 | 1.019 1.037 1.043 1.095
mars      | .961 1.109 1.012 1.146 | 1.103 1.078 .990 1.043 | 1.044 1.087 1.091 1.120 |
cautious  | .979 1.063 .953 1.093 | 1.023 1.004 .998 .997 | 1.031 1.047 1.053 1.037 |
lion      | .902 1.006 .936 1.083 | .968 .960 .927 .968 | .977 .941 .933 .960 |
adam_mini | .934 .967 .947 .924 | .942 .901 .903 .880 | .948 .952 .960 1.013 |
muon      | 1.430 1.344 1.306 1.299 1.350 | 1.305 1.210 1.183 1.201 1.267 | 1.296 1.227 1.228 1.236 | 1.175 1.116 1.133 1.099
scion     | 1.340 1.260 1.218 1.165 | 1.222 1.141 1.096 1.066 | 1.211 1.166 1.124 1.151 |
kron      | 1.219 1.165 1.202 1.277 | 1.141 1.131 1.126 1.160 | 1.171 1.141 1.196 1.236 |
soap      | 1.278 1.291 1.309 1.297 1.385 | 1.224 1.166 1.139 1.183 1.302 | 1.216 1.204 1.227 1.267 | 1.058 1.085 1.083 1.094
sophia    | .925 .972 .950 .977 | .969 | .992 |
"""  # noqa: E501


def expected() -> dict[tuple[str, str, float], float]:
    found: dict[tuple[str, str, float], float] = {}
    for line in SPEEDUPS.strip().splitlines():
        name, *columns = (part.strip() for part in line.split("|"))
        for (size, ratios), column in zip(SIZES.items(), columns, strict=True):
            for ratio, text in zip(ratios, column.split(), strict=False):
                found[name, size, float(ratio)] = float(text)
    return found


@pytest.mark.parametrize("size", FITS)
def test_the_power_law_of_every_size_is_met(size: str) -> None:
    (fit,) = [fit for fit in paper_results().fits if fit.size == size]
    *parameters, residual = FITS[size]
    curve = fit.curve
    assert (curve.coefficient, curve.exponent, curve.irreducible_loss) == pytest.approx(
        parameters, abs=1e-5
    )
    assert fit.largest_residual == pytest.approx(residual, abs=5e-5)
    assert fit.ratios == SIZES[size]


def test_every_speedup_is_met() -> None:
    found = {(s.optimizer, s.size, s.ratio): s.paper.value for s in paper_results().speedups}
    assert len(found) == 150
    assert found == pytest.approx(expected(), abs=1e-3)


def speedup(optimizer: str, size: str, ratio: float) -> PaperSpeedup:
    found = paper_results().speedup(optimizer, size, ratio)
    assert found is not None
    return found


def test_intervals_are_those_of_the_stated_noise() -> None:
    """At 1×, muon's loss and the curve, pinned there by a point, have σ each: √2·σ over the slope.

    The slope of the curve at D′ = 1.430 is α·B·1.430^(−B) = 0.170 nats in ln D, and the curve errs
    by less than a point of it.
    """
    found = speedup("muon", "130m", 1.0).paper
    assert found.low is not None
    assert found.high is not None
    assert 1.96 * 2e-3 / 0.170 < (found.high - found.low) / 2 / found.value < 1.96 * 2.83e-3 / 0.170


def test_the_baseline_has_no_interval_against_its_own_curve() -> None:
    own = speedup("adamw", "130m", 8.0)
    assert (own.paper.low, own.interpolate, own.joint) == (None, None, None)


def test_beyond_the_baselines_budgets_the_paper_extrapolates_and_interpolation_gives_a_bound() -> (
    None
):
    found = speedup("muon", "1.2b", 8.0)
    assert found.paper.extrapolated
    assert found.interpolate is not None
    assert (found.interpolate.value, found.interpolate.bound) == (1.0, ">")


def test_the_joint_fit_gives_one_speedup_for_a_size() -> None:
    values = [speedup("muon", "1.2b", ratio).joint for ratio in (1.0, 8.0)]
    assert values[0] == values[1]
    assert values[0] is not None
    assert (values[0].value, values[0].low, values[0].high) == pytest.approx(
        (1.147, 1.06, 1.24), abs=0.01
    )
    small = speedup("muon", "130m", 1.0).joint
    assert small is not None
    assert small.value == pytest.approx(1.370, abs=1e-3)


def test_case_studies_rank_four_optimizers_by_loss() -> None:
    rankings = paper_results().case_studies
    assert [(r.size, r.ratio) for r in rankings] == [
        ("1.2b", 1), ("1.2b", 2), ("1.2b", 4), ("1.2b", 8), ("130m", 16), ("300m", 16),
    ]  # fmt: skip
    last = next(r for r in rankings if (r.size, r.ratio) == ("1.2b", 8))
    assert [p.optimizer for p in last.places] == ["muon", "nadamw", "soap", "adamw"]
    first, second, third, fourth = last.places
    assert first.to_best is None
    for place in (second, third):
        assert place.to_best is not None
        assert place.to_best.value < 2e-4
    assert fourth.to_best is not None
    assert fourth.to_best.value == pytest.approx(3.9e-3, abs=1e-4)
    assert fourth.to_best.half_width == pytest.approx(1.96 * 2**0.5 * 2e-3, rel=1e-3)
    assert fourth.to_baseline is None
