from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.schedule import DECAY_SHAPES, DecayShape, lr_factor

shapes = st.sampled_from(list(DECAY_SHAPES))


def factors(num_steps: int, warmup_steps: int, decay_steps: int, **rest: Any) -> list[float]:
    settings: dict[str, Any] = {"shape": "cosine", **rest}
    return [
        lr_factor(
            step,
            num_steps=num_steps,
            warmup_steps=warmup_steps,
            decay_steps=decay_steps,
            **settings,
        )
        for step in range(num_steps)
    ]


def test_warmup_plateau_and_linear_decay_are_exact() -> None:
    assert factors(12, 4, 4, shape="linear") == [
        *(0, 0.25, 0.5, 0.75),
        *(1, 1, 1, 1),
        *(1, 0.75, 0.5, 0.25),
    ]


def test_cosine_without_a_plateau_is_half_a_cosine() -> None:
    got = factors(6, 2, 4)
    assert got[:3] == [0.0, 0.5, 1.0]
    expected = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert got[2:] == pytest.approx(expected, abs=1e-15)


def test_the_first_update_has_rate_zero_exactly_when_there_is_a_warmup() -> None:
    assert factors(100, 1, 99)[:2] == [0.0, 1.0]
    assert factors(100, 30, 50)[0] == 0.0


def test_the_rate_is_full_at_the_end_of_the_warmup() -> None:
    for warmup_steps in range(1, 10):
        got = factors(20, warmup_steps, 20 - warmup_steps)
        assert got[warmup_steps] == 1.0
        assert max(got[:warmup_steps]) < 1.0


def test_without_a_warmup_the_first_update_has_the_full_rate() -> None:
    for shape in DECAY_SHAPES:
        assert factors(10, 0, 10, shape=shape)[0] == 1.0


def test_the_last_update_is_one_step_short_of_the_end() -> None:
    assert factors(10, 0, 10, shape="linear")[-1] == pytest.approx(0.1, abs=1e-15)
    assert factors(10, 0, 10)[-1] == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2, abs=1e-15)


def test_the_end_itself_has_the_final_fraction() -> None:
    for shape in DECAY_SHAPES:
        end = lr_factor(
            10, num_steps=10, warmup_steps=2, decay_steps=5, shape=shape, final_frac=0.125
        )
        assert end == pytest.approx(0.125, abs=1e-15)


def test_no_decay_means_a_constant_rate() -> None:
    assert factors(5, 2, 0) == [0.0, 0.5, 1.0, 1.0, 1.0]


def test_the_final_fraction_is_what_a_decay_goes_down_to() -> None:
    assert factors(4, 0, 4, shape="linear", final_frac=0.5) == [1.0, 0.875, 0.75, 0.625]


def test_a_warmup_that_overlaps_the_decay_is_refused() -> None:
    # The study's own trap: with these, joined pieces jump from 0.51 to 1 and never warm up.
    message = (
        "`warmup_steps + decay_steps <= num_steps` must hold, but got warmup_steps=2000, "
        "decay_steps=4096, num_steps=5120. Shorten the warm-up or the decay."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lr_factor(0, num_steps=5120, warmup_steps=2000, decay_steps=4096, shape="linear")


@given(data=st.data(), num_steps=st.integers(1, 200), shape=shapes, final=st.floats(0, 1))
def test_the_pieces_are_monotone_and_stay_within_their_range(
    data: st.DataObject, num_steps: int, shape: DecayShape, final: float
) -> None:
    warmup_steps = data.draw(st.integers(0, num_steps - 1))
    decay_steps = data.draw(st.integers(0, num_steps - warmup_steps))
    got = factors(num_steps, warmup_steps, decay_steps, shape=shape, final_frac=final)
    rise, flat = got[: warmup_steps + 1], got[warmup_steps : num_steps - decay_steps]
    fall = got[num_steps - decay_steps :]
    assert all(a < b for a, b in pairwise(rise))
    assert set(flat) <= {1.0}
    assert all(a >= b for a, b in pairwise(fall))
    assert all(0 <= f <= 1 + 1e-15 for f in got)
    assert all(f >= final - 1e-15 for f in fall)
    if final < 0.9:
        assert all(a > b for a, b in pairwise(fall))


@given(num_steps=st.integers(2, 400), shape=st.sampled_from(["cosine", "linear"]))
def test_no_step_of_a_decay_is_a_jump(num_steps: int, shape: DecayShape) -> None:
    got = factors(num_steps, 0, num_steps, shape=shape)
    # The slope of half a cosine is at most pi/2 of the straight line's.
    assert max(a - b for a, b in pairwise(got)) <= math.pi / 2 / num_steps + 1e-12
