from __future__ import annotations

import pytest

from optbench.report.figures.layout import log_range, log_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.75, 1.65, [0.8, 0.9, 1, 1.2, 1.4, 1.6]),
        (0.5, 2.0, [0.5, 0.7, 1, 1.5, 2]),
        (1.6e5, 1.1e7, [2e5, 5e5, 1e6, 2e6, 5e6, 1e7]),
        (1.0, 1e12, [1, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12]),
    ],
)
def test_ticks_are_round_numbers_within_the_axis(
    low: float, high: float, ticks: list[float]
) -> None:
    assert log_ticks(low, high) == ticks


def test_a_small_figure_gets_fewer_ticks() -> None:
    assert log_ticks(1.6e5, 1.1e7, at_most=3) == [1e6, 1e7]


def test_ranges_are_exponents_of_ten() -> None:
    assert log_range(0.1, 1000) == [-1.0, 3.0]
