"""The global random generators go on where they were."""

import random

import numpy as np
import pytest
import torch

from optbench.checkpoints.random_state import RandomState


def draws() -> list[float]:
    numpy = [float(np.random.random()), float(np.random.standard_normal())]  # noqa: NPY002
    return [*torch.randn(5).tolist(), random.random(), random.gauss(0, 1), *numpy]


def test_all_generators_go_on_where_they_were() -> None:
    draws()
    state = RandomState.current()
    expected = draws()
    assert draws() != expected
    state.check()
    state.restore()
    assert draws() == expected


def test_a_state_that_is_none_is_refused_and_changes_nothing() -> None:
    state = RandomState.current()
    expected = draws()
    state.restore()
    bad = (
        RandomState({"cpu": torch.zeros(8, dtype=torch.uint8)}, state.python, state.numpy),
        RandomState(state.torch, (3, (1, 2), None), state.numpy),
        RandomState(state.torch, state.python, ("MT19937", (1, 2), 0, 0, 0.0)),
    )
    for one in bad:
        with pytest.raises((RuntimeError, ValueError, TypeError, LookupError)):
            one.check()
    assert draws() == expected
