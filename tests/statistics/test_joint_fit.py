from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from optbench.statistics.joint_fit import CellLoss, Efficiency, JointFit, fit_joint
from optbench.statistics.noise import SeedNoise
from optbench.statistics.scaling import fit_loss_curve
from optbench.statistics.speedup import Speedup
from tests.analysis.published import ADAMW_130M, MUON_130M, MUON_SPEEDUPS
from tests.analysis.published import RATIOS as PUBLISHED_RATIOS

RATIOS = (0.5, 1.0, 2.0, 4.0)
NOISE = SeedNoise(sigma=0.01, dof=30, low=0.008, high=0.013, equal_p=None)


def cell(optimizer: str, params: float, ratio: float, mean: float, count: int = 4) -> CellLoss:
    tokens = 20 * params * ratio
    return CellLoss(optimizer=optimizer, params=params, tokens=tokens, mean=mean, count=count)


def truth(params: float, tokens: float) -> float:
    return 2.5 + 0.6 * (params / 1e6) ** -0.35 + 0.7 * (tokens / 2e7) ** -0.45


def cells(
    efficiency: dict[str, float],
    sizes: Sequence[float] = (1e6,),
    ratios: Sequence[float] = RATIOS,
    *,
    trend: float = 0.0,
    noise: float = 0.0,
) -> list[CellLoss]:
    rng = np.random.default_rng(4)
    found = []
    for name, e in {"adamw": 1.0, **efficiency}.items():
        for params in sizes:
            for ratio in ratios:
                own = 1.0 if name == "adamw" else e * (params / 1e6) ** trend
                mean = truth(params, own * 20 * params * ratio) + noise * rng.standard_normal()
                found.append(cell(name, params, ratio, mean))
    return found


def fit(found: Sequence[CellLoss], noise: SeedNoise | None = NOISE, **options: bool) -> JointFit:
    return fit_joint(found, noise, baseline="adamw", replicates=400, **options)


def only(result: JointFit, optimizer: str, params: float | None = None) -> Efficiency:
    found = result.efficiency(optimizer, params)
    assert found is not None, result.reason
    return found


@pytest.mark.parametrize("sizes", [(1e6,), (1e6, 4e6), (1e6, 2.25e6, 9e6)])
def test_exact_losses_give_the_efficiencies_back(sizes: tuple[float, ...]) -> None:
    result = fit(cells({"muon": 1.4, "lion": 0.8, "twin": 1.0}, sizes))
    found = {e.optimizer: e.value for e in result.efficiencies}
    assert found == pytest.approx({"muon": 1.4, "lion": 0.8, "twin": 1.0}, rel=1e-6)
    assert result.parameters is not None
    assert result.parameters.token_exponent == pytest.approx(0.45, rel=1e-5)
    assert np.abs(result.residuals).max() < 1e-9
    for params in sizes:
        expected = truth(params, 6e7)
        assert result.parameters.predict(params, 6e7) == pytest.approx(expected, abs=1e-6)
    assert (result.parameters.size_exponent is None) == (len(sizes) < 3)
    assert result.remarks == ()


def test_exact_losses_give_a_trend_over_sizes_back() -> None:
    sizes = (1e6, 2.25e6, 9e6)
    result = fit(cells({"muon": 1.4, "twin": 1.0}, sizes, trend=-0.1), by_size=True)
    for params in sizes:
        expected = 1.4 * (params / 1e6) ** -0.1
        assert only(result, "muon", params).value == pytest.approx(expected, rel=1e-5)
    assert [(t.optimizer, t.value) for t in result.trends] == [
        ("muon", pytest.approx(-0.1, abs=1e-5)),
        ("twin", pytest.approx(-0.1, abs=1e-5)),
    ]
    assert all(t.low is not None and t.low < t.value for t in result.trends)


def test_one_cell_of_each_optimizer_adds_nothing_to_the_baselines_power_law() -> None:
    """With one size and equal counts the joint fit is then that of estimator ``paper``."""
    curve = [c for c in cells({}, noise=0.01) if c.optimizer == "adamw"]
    result = fit([*curve, cell("muon", 1e6, 1.0, 3.7), cell("lion", 1e6, 1.0, 3.9)])
    alone = fit_loss_curve([c.tokens for c in curve], [c.mean for c in curve])
    assert only(result, "muon").value == pytest.approx(alone.invert(3.7) / 2e7, rel=1e-5)
    assert only(result, "lion").value == pytest.approx(alone.invert(3.9) / 2e7, rel=1e-5)


def test_interval_is_that_of_the_delta_method_where_the_noise_is_small() -> None:
    noise = SeedNoise(sigma=1e-4, dof=12, low=0.0, high=1.0, equal_p=None)
    found = cells({"muon": 1.4, "lion": 0.8}, (1e6, 4e6))
    result = fit_joint(found, noise, baseline="adamw", replicates=8000)

    def model(p: np.ndarray) -> np.ndarray:
        """Parameters: two floors, ln B, ln b, ln e of both optimizers."""
        logs = {"adamw": 0.0, "muon": p[4], "lion": p[5]}
        return np.array([
            p[int(c.params > 1e6)]
            + np.exp(p[2] - np.exp(p[3]) * (np.log(c.tokens / 2e7) + logs[c.optimizer]))
            for c in found
        ])  # fmt: skip

    at = np.array([3.1, 2.5 + 0.6 * 4**-0.35, *np.log([0.7, 0.45, 1.4, 0.8])])
    steps = 1e-6 * np.eye(6)
    jacobian = np.stack([(model(at + s) - model(at - s)) / 2e-6 for s in steps], axis=1)
    covariance = np.linalg.inv(jacobian.T @ jacobian) * 1e-4**2 / 4
    reach = stats.t.ppf(0.975, 12) * np.sqrt(np.diag(covariance))
    for name, value, half in (("muon", 1.4, reach[4]), ("lion", 0.8, reach[5])):
        own = only(result, name)
        assert own.low is not None
        assert own.high is not None
        assert np.log(value / own.low) == pytest.approx(half, rel=0.05)
        assert np.log(own.high / value) == pytest.approx(half, rel=0.05)


def test_budgets_of_the_optimizers_steady_what_the_baseline_leaves_open() -> None:
    many = cells({"muon": 1.4, "lion": 0.8})
    few = [c for c in many if c.optimizer == "adamw" or c.tokens == 2e7]
    widths = []
    for found in (few, many):
        own = only(fit(found), "muon")
        assert own.low is not None
        assert own.high is not None
        widths.append(own.high - own.low)
    assert widths[1] < 0.7 * widths[0]


def test_published_losses_give_one_speedup_amid_those_of_the_budgets() -> None:
    found = [
        cell(name, 134e6, ratio, loss, count=1)
        for name, losses in (("adamw", ADAMW_130M), ("muon", MUON_130M))
        for ratio, loss in zip(PUBLISHED_RATIOS, losses, strict=True)
    ]
    result = fit(found, None)
    own = only(result, "muon")
    assert own.low is not None
    assert own.high is not None
    assert min(MUON_SPEEDUPS) < own.value < max(MUON_SPEEDUPS)
    assert 1.0 < own.low < own.value < own.high < 1.6
    assert result.remarks == (
        "No seed noise is known: the intervals come from the scatter about the fit "
        "(6 degrees of freedom).",
    )


def test_scatter_and_seeds_give_the_same_interval_where_they_agree() -> None:
    found = cells({"muon": 1.4, "lion": 0.8}, noise=0.005)
    unknown = fit(found, None)
    assert unknown.goodness is not None
    dof = unknown.goodness.dof
    sigma = float(np.sqrt(4 * np.sum(np.square(unknown.residuals)) / dof))
    known = fit(found, SeedNoise(sigma=sigma, dof=dof, low=0.0, high=1.0, equal_p=None))
    assert only(known, "muon").low == pytest.approx(only(unknown, "muon").low, rel=1e-6)
    assert only(known, "muon").high == pytest.approx(only(unknown, "muon").high, rel=1e-6)
    assert known.goodness is not None
    assert known.goodness.chi2 == pytest.approx(dof)


def test_seeds_without_any_spread_are_no_noise_estimate() -> None:
    found = cells({"muon": 1.4}, noise=0.005)
    silent = SeedNoise(sigma=0.0, dof=5, low=0.0, high=0.0, equal_p=None)
    assert fit(found, silent) == fit(found, None)


def test_goodness_of_fit_is_the_sum_of_squares_over_the_noise_of_the_means() -> None:
    result = fit(cells({"muon": 1.4, "lion": 0.8}, noise=0.005))
    goodness = result.goodness
    assert goodness is not None
    assert goodness.dof == 12 - 5  # E, B and b, and two efficiencies
    assert goodness.chi2 == pytest.approx(np.sum(np.square(result.residuals)) / (0.01**2 / 4))
    assert goodness.p_value == pytest.approx(stats.f.sf(goodness.chi2 / 7, 7, 30))
    assert goodness.model_error == 0


def test_a_misfit_widens_the_intervals_and_is_told() -> None:
    smooth = cells({"muon": 1.4, "lion": 0.8})
    kink = {1e7: 0.0, 2e7: 0.06, 4e7: -0.06, 8e7: 0.0}
    bent = [dataclasses.replace(c, mean=c.mean + kink[c.tokens]) for c in smooth]
    result = fit(bent)
    assert result.goodness is not None
    assert result.goodness.p_value is not None
    assert result.goodness.p_value < 1e-3
    assert 0.03 < result.goodness.model_error < 0.15
    (remark,) = result.remarks
    assert remark.startswith("The model does not fit (χ² = ")
    assert "on 7 degrees of freedom, p < 0.001): the intervals allow for its error" in remark
    own, before = only(result, "muon"), only(fit(smooth), "muon")
    assert own.low is not None
    assert before.low is not None
    assert own.low < before.low < 1.4


def test_what_seeds_have_in_common_does_not_hide_a_misfit() -> None:
    """A common shift of 0.1 nats would drown a kink of 0.01; the floor takes it up."""
    rng = np.random.default_rng(2)
    shift = 0.1 * rng.standard_normal(6)
    kink = {1e7: 0.0, 2e7: 0.01, 4e7: -0.01, 8e7: 0.0}
    found = []
    for c in cells({"muon": 1.4, "lion": 0.8}):
        values = c.mean + kink[c.tokens] + shift + 0.002 * rng.standard_normal(6)
        by_seed = dict(enumerate(values.tolist()))
        found.append(dataclasses.replace(c, mean=float(values.mean()), count=6, by_seed=by_seed))
    loud = SeedNoise(sigma=0.1, dof=60, low=0.08, high=0.12, equal_p=None)
    known, unknown = fit(found, loud).goodness, None
    unknown = fit([dataclasses.replace(c, by_seed={}) for c in found], loud).goodness
    assert known is not None
    assert unknown is not None
    assert known.p_value is not None
    assert unknown.p_value is not None
    assert known.p_value < 1e-3 < 0.5 < unknown.p_value


def test_a_loss_below_the_floor_gives_a_bound() -> None:
    curve = [c for c in cells({}) if c.optimizer == "adamw"]
    own = only(fit([*curve, cell("muon", 1e6, 1.0, 2.0)]), "muon")
    assert (own.value, own.bound, own.extrapolated) == (4.0, ">", True)
    assert (own.low, own.high) == (4.0, math.inf)


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, False), (4.0, True)])
def test_an_efficiency_beyond_the_baselines_budgets_is_marked(ratio: float, expected: bool) -> None:
    curve = [c for c in cells({}) if c.optimizer == "adamw"]
    muon = cell("muon", 1e6, ratio, truth(1e6, 1.4 * 2e7 * ratio))
    assert only(fit([*curve, muon]), "muon").extrapolated is expected


def test_order_of_the_cells_does_not_matter() -> None:
    found = cells({"muon": 1.4, "lion": 0.8}, (1e6, 4e6), noise=0.01)
    shuffled = random.Random(0).sample(found, len(found))
    one, other = fit(found), fit(shuffled)
    for name in ("muon", "lion"):
        assert only(other, name).value == pytest.approx(only(one, name).value, rel=1e-6)


def test_the_same_seed_gives_the_same_intervals() -> None:
    found = cells({"muon": 1.4})
    assert fit(found) == fit(found)
    other = fit_joint(found, NOISE, baseline="adamw", replicates=400, seed=1)
    assert other != fit(found)
    assert only(other, "muon").value == only(fit(found), "muon").value


def test_an_efficiency_has_the_fields_of_a_speedup() -> None:
    own = {field.name for field in dataclasses.fields(Efficiency)}
    assert {field.name for field in dataclasses.fields(Speedup)} <= own


@pytest.mark.parametrize(
    ("found", "by_size", "reason"),
    [
        ([], False, r"at least 3 budgets of adamw, has 0\."),
        (cells({"muon": 1.4}, ratios=(1.0, 2.0)), False, r"at least 3 budgets of adamw, has 2\."),
        (
            cells({"muon": 1.4}, (1e6, 4e6), ratios=(1.0, 2.0)),
            False,
            r"at least 3 budgets of adamw at one size, has 2\.",
        ),
        (
            [*cells({"muon": 1.4}), cell("muon", 4e6, 1.0, 3.0)],
            False,
            r"at least 1 budget of adamw at every size, has 0 at 4M parameters\.",
        ),
        (
            [*cells({"muon": 1.4}), cell("adamw", 4e6, 1.0, 3.0), cell("muon", 4e6, 1.0, 3.0)],
            True,
            r"at least 2 budgets of adamw at every size, has 1 at 4M parameters\.",
        ),
        (
            [cell("adamw", 1e6, r, 4.0 + 0.1 * r) for r in RATIOS] + [cell("muon", 1e6, 1.0, 4.0)],
            False,
            r"The losses of adamw do not fall with the budget",
        ),
    ],
)
def test_what_is_missing_is_said(found: list[CellLoss], by_size: bool, reason: str) -> None:
    result = fit(found, by_size=by_size)
    assert re.search(reason, result.reason)
    assert (result.efficiencies, result.parameters, result.goodness) == ((), None, None)


@pytest.mark.parametrize("by_size", [False, True])
def test_the_fewest_cells_that_are_taken_suffice(by_size: bool) -> None:
    """Three budgets at one size, and one (by size: two) at each of the others."""
    few = RATIOS[: 2 if by_size else 1]
    found = [cell("adamw", 1e6, r, truth(1e6, 2e7 * r)) for r in RATIOS[:3]]
    for params in (2e6, 4e6):
        own = 20 * params
        found += [cell("adamw", params, r, truth(params, own * r)) for r in few]
    found.append(cell("muon", 4e6, 1.0, truth(4e6, 1.3 * 8e7)))
    result = fit(found, by_size=by_size)
    assert result.goodness is not None
    assert result.goodness.dof == 0
    assert only(result, "muon", 4e6).value == pytest.approx(1.3, rel=1e-3)


def test_a_fit_with_as_many_parameters_as_cells_says_that_it_cannot_be_judged() -> None:
    found = [*cells({}, ratios=RATIOS[:3]), cell("muon", 1e6, 1.0, 3.6)]
    assert fit(found).remarks == (
        "As many parameters as cells: no test shows whether the model holds.",
    )
    unknown = fit(found, None)
    assert (only(unknown, "muon").low, only(unknown, "muon").high) == (None, None)
    assert unknown.remarks == (
        "No intervals: nothing is known of the noise, and no cell is left to show it.",
    )


def test_a_cell_given_twice_is_refused() -> None:
    found = cells({"muon": 1.4})
    with pytest.raises(ValueError, match=r"given once, but got \('muon', 1000000.0, .*\) twice"):
        fit([*found, found[-1]])


def test_a_diverged_loss_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"Leave out cells in which every seed diverged"):
        fit([*cells({}), cell("muon", 1e6, 1.0, math.inf)])
