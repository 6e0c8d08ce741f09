"""Every token of a continuation is predicted once, from as much as fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.export.evaluation.windows import windows


def test_what_fits_is_one_window() -> None:
    ((inputs, targets),) = windows([1, 2, 3], [4, 5], 8)
    assert (inputs, targets) == ([1, 2, 3, 4], [4, 5])


def test_a_long_context_loses_its_beginning() -> None:
    ((inputs, targets),) = windows([1, 2, 3, 4, 5], [6, 7], 4)
    assert (inputs, targets) == ([3, 4, 5, 6], [6, 7])


def test_a_long_continuation_comes_in_pieces_that_see_what_is_before_them() -> None:
    assert windows([0], [1, 2, 3, 4, 5, 6], 4) == [
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([2, 3, 4, 5], [5, 6]),
    ]


@given(context=st.integers(1, 12), continuation=st.integers(0, 40), max_length=st.integers(1, 10))
def test_each_token_is_predicted_once_by_the_output_before_it(
    context: int, continuation: int, max_length: int
) -> None:
    tokens = list(range(context + continuation))
    found = windows(tokens[:context], tokens[context:], max_length)
    assert [t for window in found for t in window.targets] == tokens[context:]
    for inputs, targets in found:
        assert 1 <= len(targets) <= len(inputs) <= max_length
        assert [*inputs, targets[-1]][-len(targets) :] == targets
        assert inputs == list(range(targets[-1] - len(inputs), targets[-1]))
        # The model's length is used up wherever there are tokens for it.
        assert len(inputs) == min(max_length, targets[-1])


@given(length=st.integers(1, 40), max_length=st.integers(1, 10))
def test_a_text_has_the_rolling_windows_of_the_harness(length: int, max_length: int) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="the extra 'eval' is not installed")
    text = list(range(1, length + 1))
    theirs = utils.get_rolling_token_windows(text, 0, max_length, 1)
    assert [tuple(window) for window in windows([0], text, max_length)] == list(theirs)
