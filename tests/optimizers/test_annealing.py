from __future__ import annotations

import itertools
import math

import pytest

from optbench.optimizers import Kron
from optbench.optimizers.annealing import updates_until


def counted(steps: int, min_probability: float, flat_steps: int) -> list[bool]:
    """The schedule with a counter, as the authors keep it."""
    counter, updates = 0, []
    for n in range(steps):
        p = min(1.0, max(min_probability, math.exp(-0.001 * (n - flat_steps))))
        counter += 1
        updates.append(counter >= 1 / p)
        counter = 0 if updates[-1] else counter
    return updates


@pytest.mark.parametrize(
    ("min_probability", "flat_steps"),
    [(0.05, 2000), (0.03, 500), (0.1, 0), (0.9, 10), (1.0, 0), (0.3, 1), (2.0, 3)],
)
def test_updates_come_where_a_counter_would_put_them(min_probability: float, flat_steps: int):
    steps = 6500
    until = [updates_until(t, min_probability, flat_steps) for t in range(steps + 1)]
    updates = [before < after for before, after in itertools.pairwise(until)]
    assert updates == counted(steps, min_probability, flat_steps)


@pytest.mark.parametrize(("min_probability", "flat_steps"), [(0.05, 2000), (0.1, 500), (0.03, 1)])
def test_the_study_is_a_step_further_in_the_schedule(min_probability: float, flat_steps: int):
    """Its probability is that of the number of the step, from 1; the authors count from 0."""
    counter, until = 0, [0]
    for t in range(1, 5121):
        counter += 1
        p = min(1.0, max(min_probability, math.exp(-0.001 * (t - flat_steps))))
        until.append(until[-1] + (counter >= 1 / p))
        counter = 0 if until[-1] > until[-2] else counter
    assert until == [updates_until(t, min_probability, flat_steps - 1) for t in range(5121)]
    if (min_probability, flat_steps) == (0.05, 2000):
        assert until[5120] == 2744


def test_the_studys_run_updates_at_2745_of_5120_steps():
    min_probability, flat = (Kron.paper[n] for n in ("min_update_probability", "flat_steps"))
    assert updates_until(5120, float(min_probability), int(flat)) == 2745
    # The mean of the schedule says more: the counter rounds every wait up.
    probabilities = [min(1.0, max(0.05, math.exp(-0.001 * (n - 2000)))) for n in range(5120)]
    assert round(sum(probabilities)) == 2957
