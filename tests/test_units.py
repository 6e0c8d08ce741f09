from __future__ import annotations

import re

import pytest

from optbench.config import UserError
from optbench.units import (
    format_configuration,
    format_count,
    format_p,
    format_seconds,
    format_value,
    parse_count,
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


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("760M", 760e6),
        ("1.2B", 1.2e9),
        ("60b", 60e9),
        ("0.5T", 0.5e12),
        ("33k", 33e3),
        ("1e9", 1e9),
        ("760,000,000", 760e6),
        ("100_000", 1e5),
    ],
)
def test_counts_are_read_with_their_units(text: str, number: float) -> None:
    assert parse_count(text, likely="M") == pytest.approx(number)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("760", "'760' has no unit. Did you mean 760M (760 million)?"),
        ("99999", "'99999' has no unit. Did you mean 99999M (99999 million)?"),
    ],
)
def test_a_small_count_without_a_unit_is_asked_about(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(problem)}$"):
        parse_count(text, likely="M")


@pytest.mark.parametrize("text", ["", "M", "-5M", "0B", "nan", "infT", "7Q", "seven"])
def test_what_is_no_count_is_refused(text: str) -> None:
    problem = (
        f"'{text}' is no count. Write a positive number with its unit k, M, B or T, such as 760M "
        f"or 1.2B."
    )
    with pytest.raises(UserError, match=f"^{re.escape(problem)}$"):
        parse_count(text, likely="M")
