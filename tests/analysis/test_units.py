from __future__ import annotations

import pytest

from optbench.analysis.units import (
    format_configuration,
    format_count,
    format_p,
    format_seconds,
    format_value,
)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (640, "640"),
        (32_768, "32.8k"),
        (655_360, "655k"),
        (999_600, "1M"),
        (1_310_720, "1.31M"),
        (20e9, "20B"),
        (3.8e12, "3.8T"),
    ],
)
def test_counts_have_three_digits_and_a_suffix(number: float, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (425, "7 min 05 s"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_seconds_are_written_in_the_two_largest_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_tiny_p_values_are_bounded() -> None:
    assert [format_p(p) for p in (0.5, 0.0321, 0.001, 0.0009)] == [
        "p = 0.5",
        "p = 0.032",
        "p = 0.001",
        "p < 0.001",
    ]


def test_configurations_lose_the_digits_of_binary_fractions() -> None:
    assert format_value(0.1 + 0.2) == "0.3"
    assert format_configuration({"lr": 0.016, "nesterov": True, "batch_size": 16}) == (
        "lr=0.016, nesterov=True, batch_size=16"
    )
