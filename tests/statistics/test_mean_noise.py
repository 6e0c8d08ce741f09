from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from optbench.statistics.mean_noise import independent_noise, noise_of_means
from optbench.statistics.noise import SeedNoise, paired_difference

NOISE = SeedNoise(sigma=0.02, dof=40, low=0.0, high=1.0, equal_p=None)


def losses(seeds: tuple[int, ...], *, key: int) -> dict[int, float]:
    values = np.random.default_rng(key).normal(4.0, 0.02, len(seeds))
    return dict(zip(seeds, values.tolist(), strict=True))


def test_unknown_seeds_err_independently_by_the_pooled_sigma() -> None:
    source = noise_of_means([4, 1], [{}, {}], NOISE)
    draws = source.draw(200_000, np.random.default_rng(0))
    t = stats.t.ppf(0.975, 40)
    assert np.quantile(draws, 0.975, axis=0) == pytest.approx([t * 0.01, t * 0.02], rel=0.02)
    # the cells share one estimate of σ, not one error
    assert np.corrcoef(draws.T)[0, 1] == pytest.approx(0.0, abs=0.01)


def test_difference_of_two_cells_over_the_same_seeds_is_the_paired_t_interval() -> None:
    one, other = losses((1, 2, 3, 4, 5), key=1), losses((1, 2, 3, 4, 5), key=2)
    source = noise_of_means([5, 5], [one, other], NOISE)
    draws = source.draw(200_000, np.random.default_rng(0))
    expected = paired_difference([one[seed] - other[seed] for seed in one]).half_width
    assert np.quantile(draws[:, 0] - draws[:, 1], 0.975) == pytest.approx(expected, rel=0.03)


def test_what_the_seeds_have_in_common_cancels() -> None:
    one = losses((1, 2, 3), key=1)
    shifted = {seed: loss + 0.3 for seed, loss in one.items()}
    draws = noise_of_means([3, 3], [one, shifted], NOISE).draw(50, np.random.default_rng(0))
    assert np.abs(draws[:, 0]).max() > 0.003
    assert draws[:, 0] == pytest.approx(draws[:, 1])


def test_a_cell_that_lost_a_seed_errs_by_itself() -> None:
    full, lost = (1, 2, 3, 4), (1, 2, 3)
    by_seed = [losses(full, key=1), losses(full, key=2), losses(lost, key=3)]
    joint, alone = noise_of_means([4, 4, 3], by_seed, NOISE).blocks
    assert (joint.is_joint, joint.dof) == (True, 3)
    assert (alone.is_joint, alone.dof) == (False, 40)
    covariance = joint.factor.T @ joint.factor
    table = np.array([list(cell.values()) for cell in by_seed[:2]])
    assert covariance[:2, :2] == pytest.approx(np.cov(table) / 4)
    assert covariance[2].tolist() == [0, 0, 0]
    assert alone.factor.tolist() == [[0, 0, pytest.approx(0.02 / 3**0.5)]]


def test_two_shared_seeds_are_too_few_for_a_covariance() -> None:
    by_seed = [losses((1, 2), key=1), losses((1, 2), key=2)]
    assert [block.is_joint for block in noise_of_means([2, 2], by_seed, NOISE).blocks] == [False]


def test_expected_squares_of_independent_errors_are_sigma_squared_times_the_rank() -> None:
    counts = [4, 4, 1]
    weight = np.sqrt(counts)
    mean = np.outer(weight, weight) / np.sum(weight**2)
    found = independent_noise(0.02, 40, counts).expected_squares(weight, np.eye(3) - mean)
    assert found == (pytest.approx(2 * 0.02**2), 40)


def test_expected_squares_over_shared_seeds_leave_out_what_the_fit_absorbs() -> None:
    """The common level is fitted: what remains is the interaction of a two-way analysis."""
    by_seed = [losses((1, 2, 3, 4), key=key) for key in (1, 2, 3)]
    table = np.array([list(cell.values()) for cell in by_seed]).T
    rows, columns = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    interaction = np.sum((table - rows - columns + table.mean()) ** 2)
    source = noise_of_means([4, 4, 4], by_seed, NOISE)
    squares, dof = source.expected_squares(np.full(3, 2.0), np.eye(3) - np.ones((3, 3)) / 3)
    assert squares == pytest.approx(4 * interaction / (4 * 3))
    assert dof == 2 * 3


def test_sources_of_noise_add_up() -> None:
    both = independent_noise(0.03, 10_000, [1]) + independent_noise(0.04, 10_000, [1])
    draws = both.draw(100_000, np.random.default_rng(0))
    assert np.std(draws) == pytest.approx(0.05, rel=0.02)
    assert both.expected_squares(np.ones(1), np.eye(1))[0] == pytest.approx(0.05**2)
