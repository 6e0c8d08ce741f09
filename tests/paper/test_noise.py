"""What the published figures say of their noise, and what only looks as if it did."""

from __future__ import annotations

import pytest

from optbench.paper.noise import PaperError, checked_sigma
from optbench.published import read_published
from tests.paper.published_analysis import paper_results


def test_the_published_loss_is_the_least_of_the_sweep_and_no_second_run() -> None:
    cells = [c for c in read_published().cells if c.table_loss is not None]
    apart = [(c, c.table_loss) for c in cells if c.table_loss != c.loss]
    assert (len(cells), len(apart)) == (115, 51)
    assert all(chosen is not None and cell.loss < chosen for cell, chosen in apart)
    for cell in read_published().cells:
        assert all(trial.loss is None or cell.loss <= trial.loss for trial in cell.trials)
    (adamw,) = [c for c, _ in apart if (c.optimizer, c.cell.label) == ("adamw", "1.2b 1x")]
    (least,) = [t for t in adamw.trials if t.loss == adamw.loss]
    assert (least.axis, least.value, adamw.configuration["batch_size"]) == ("batch_size", 128, 256)


def test_most_least_losses_are_another_row_of_their_table() -> None:
    noise = paper_results().noise
    assert (noise.reported_twice, noise.differing, noise.of_another_row) == (115, 51, 39)
    assert noise.median_above == pytest.approx(1.775e-3, abs=1e-6)
    assert noise.within_tie == 42
    assert noise.scatter == pytest.approx(4.23e-3, abs=1e-5)


def test_minima_are_over_different_numbers_of_runs() -> None:
    runs = paper_results().noise.sweep_runs
    assert (runs["adamw"], runs["muon"]) == (21, 33)
    assert set(runs) == set(paper_results().optimizers)
    assert min(runs.values()) == 21


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_noise_that_is_none_is_refused_and_no_other_called_measured(sigma: float) -> None:
    said = r"above 0, but got .* The figures do not determine it; 0.002 is assumed"
    with pytest.raises(PaperError, match=said):
        checked_sigma(sigma)
