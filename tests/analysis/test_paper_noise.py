from __future__ import annotations

import pytest

from optbench.analysis.paper_noise import DEFAULT_SIGMA

from ..published_analysis import paper_results


def test_the_figures_tell_their_noise_three_times() -> None:
    noise = paper_results().noise
    assert (noise.told_twice, noise.differing) == (115, 51)
    assert noise.median_difference == pytest.approx(1.775e-3, abs=1e-6)
    assert noise.sigma_of_repeats == pytest.approx(noise.median_difference / 0.9539, rel=1e-3)
    assert noise.sigma_of_ties == pytest.approx(3e-3 / 2**0.5)
    assert noise.sigma_of_scatter == pytest.approx(4.23e-3, abs=1e-5)


def test_the_default_lies_between_repeats_and_ties() -> None:
    noise = paper_results().noise
    assert noise.sigma_of_repeats < DEFAULT_SIGMA < noise.sigma_of_ties
