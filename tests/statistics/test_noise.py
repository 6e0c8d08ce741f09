from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from optbench.statistics.noise import (
    mean_difference,
    mean_loss,
    noise_by_cell,
    paired_difference,
    pooled_noise,
    shared_seed_correlation,
    sigma_interval,
)


def test_pooled_sigma_weighs_groups_by_their_degrees_of_freedom() -> None:
    noise = pooled_noise([[1.0, 3.0], [10.0, 10.0, 10.0, 14.0]])
    assert noise is not None
    assert noise.dof == 4
    assert noise.sigma == pytest.approx(np.sqrt((2.0 + 12.0) / 4))


def test_interval_of_sigma_uses_the_quantiles_of_chi_square() -> None:
    noise = pooled_noise([np.arange(11.0).tolist()])
    assert noise is not None
    assert noise.dof == 10
    # 20.483 and 3.247 are the tabled 97.5 % and 2.5 % quantiles for 10 degrees of freedom
    assert noise.low == pytest.approx(np.sqrt(110 / 20.483), rel=1e-4)
    assert noise.high == pytest.approx(np.sqrt(110 / 3.247), rel=1e-4)


def test_interval_of_sigma_covers_the_truth_in_95_of_100_studies() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        noise = pooled_noise(rng.normal([[3.0], [4.0], [5.0]], 0.02, (3, 4)).tolist())
        assert noise is not None
        hits += noise.low <= 0.02 <= noise.high
    assert 370 <= hits <= 390


def test_there_is_no_noise_estimate_without_a_second_seed() -> None:
    assert pooled_noise([[4.0], [3.9], []]) is None


def test_groups_of_very_different_spread_are_noticed() -> None:
    rng = np.random.default_rng(0)
    alike = pooled_noise(rng.normal(0, 0.02, (4, 6)).tolist())
    unlike = pooled_noise([*rng.normal(0, 0.02, (3, 6)).tolist(), rng.normal(0, 0.3, 6).tolist()])
    assert alike is not None
    assert alike.equal_p is not None
    assert unlike is not None
    assert unlike.equal_p is not None
    assert unlike.equal_p < 1e-6 < 0.05 < alike.equal_p


def test_spreads_cannot_be_compared_where_one_group_has_none() -> None:
    noise = pooled_noise([[1.0, 1.0], [2.0, 3.0]])
    assert noise is not None
    assert noise.equal_p is None


def test_mean_has_a_student_interval() -> None:
    losses = [4.0, 4.1, 3.9, 4.2, 3.8]
    mean = mean_loss(losses, pooled_noise([losses]))
    assert mean.value == pytest.approx(4.0)
    assert mean.count == 5
    assert mean.stderr == pytest.approx(np.std(losses, ddof=1) / np.sqrt(5))
    assert mean.half_width == pytest.approx(
        2.776445 * np.std(losses, ddof=1) / np.sqrt(5), rel=1e-6
    )


def test_mean_without_noise_estimate_has_no_error() -> None:
    mean = mean_loss([4.0], None)
    assert (mean.value, mean.count, mean.stderr, mean.half_width) == (4.0, 1, None, None)


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one loss, but got none"):
        mean_loss([], None)


def test_difference_is_the_classic_two_sample_t_test_when_only_two_groups_exist() -> None:
    a, b = [4.0, 4.1, 3.9], [3.8, 3.7, 3.75, 3.9]
    noise = pooled_noise([a, b])
    assert noise is not None
    found = mean_difference(mean_loss(a, noise), mean_loss(b, noise), noise)
    expected = stats.ttest_ind(a, b)
    assert found.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert found.value - found.half_width == pytest.approx(interval.low)
    assert found.value + found.half_width == pytest.approx(interval.high)


@pytest.mark.parametrize(("other", "p_value"), [(4.0, 1.0), (4.5, 0.0)])
def test_difference_without_any_noise_is_certain(other: float, p_value: float) -> None:
    noise = pooled_noise([[4.0, 4.0]])
    assert noise is not None
    found = mean_difference(mean_loss([other], noise), mean_loss([4.0], noise), noise)
    assert (found.half_width, found.p_value) == (0.0, p_value)


def test_paired_difference_is_the_paired_t_test() -> None:
    a, b = [4.0, 4.1, 3.9, 4.3], [3.8, 3.95, 3.75, 4.0]
    found = paired_difference([x - y for x, y in zip(a, b, strict=True)])
    expected = stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert found.value - found.half_width == pytest.approx(interval.low)
    assert found.value + found.half_width == pytest.approx(interval.high)


def test_paired_difference_of_one_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="two seeds or more, but got 1"):
        paired_difference([0.1])


def test_correlation_is_taken_over_the_seeds_that_groups_share() -> None:
    one = {1: 4.0, 2: 4.1, 3: 3.9}
    twice = {3: 7.8, 2: 8.2, 1: 8.0}  # in another order
    against = {1: -4.0, 2: -4.1, 3: -3.9}
    elsewhere = {4: 1.0, 5: 2.0, 6: 3.0}
    assert shared_seed_correlation([one, twice]) == pytest.approx(1.0)
    assert shared_seed_correlation([one, twice, against]) == pytest.approx(-1 / 3)
    assert shared_seed_correlation([one, elsewhere]) is None
    assert shared_seed_correlation([one, {1: 4.0, 2: 4.0, 3: 4.0}]) is None
    assert shared_seed_correlation([{1: 4.0, 2: 4.1}, {1: 4.0, 2: 4.1}]) is None


@pytest.mark.parametrize(("dof", "level"), [(1, 0.95), (10, 0.95), (10, 0.5), (500, 0.99)])
def test_interval_of_sigma_leaves_the_same_probability_in_both_tails(
    dof: int, level: float
) -> None:
    low, high = sigma_interval(0.02, dof, level)
    assert stats.chi2.sf(dof * 0.02**2 / low**2, dof) == pytest.approx((1 - level) / 2)
    assert stats.chi2.cdf(dof * 0.02**2 / high**2, dof) == pytest.approx((1 - level) / 2)


def test_interval_of_sigma_is_that_of_the_table() -> None:
    # 11.143 and 0.484 are the tabled 97.5 % and 2.5 % quantiles for 4 degrees of freedom
    found = sigma_interval(1.0, 4)
    assert found == pytest.approx((np.sqrt(4 / 11.143), np.sqrt(4 / 0.4844)), rel=1e-4)


def test_interval_of_no_spread_is_no_spread() -> None:
    assert sigma_interval(0.0, 3) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("sigma", "dof", "level"),
    [(0.1, 0, 0.95), (-0.1, 3, 0.95), (float("nan"), 3, 0.95), (0.1, 3, 1)],
)
def test_interval_of_sigma_without_degrees_of_freedom_is_refused(
    sigma: float, dof: int, level: float
) -> None:
    with pytest.raises(ValueError, match=rf"two seeds.*{dof} degrees of freedom and level {level}"):
        sigma_interval(sigma, dof, level)


def test_every_cell_has_its_own_sigma_and_interval() -> None:
    found = noise_by_cell({"quiet": [4.0, 4.1, 4.2], "loud": [3.0, 5.0], "lone": [4.0]})
    assert found.keys() == {"quiet", "loud"}
    quiet, loud = found["quiet"], found["loud"]
    assert (quiet.sigma, quiet.dof) == (pytest.approx(0.1), 2)
    assert (quiet.low, quiet.high) == pytest.approx(sigma_interval(0.1, 2))
    assert (loud.sigma, loud.dof) == (pytest.approx(2**0.5), 1)
