"""Transfer rules on made cells whose law is known exactly."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from optbench.recommend.hyperparameter_transfer import Transferred, fit_trend, transfer
from optbench.recommend.tuned_cells import TunedCell
from optbench.space import Value

RATES = tuple(2.0**-k for k in range(20))


def cell(
    size: float,
    ratio: float,
    winner: Mapping[str, Value],
    *,
    optimizer: str = "adamw",
    near: Mapping[str, Sequence[Value]] | None = None,
    searched: Sequence[str] = ("lr",),
    candidates: Sequence[Value] = RATES,
    diverged: Mapping[str, tuple[Value, ...]] | None = None,
) -> TunedCell:
    return TunedCell(
        optimizer=optimizer,
        size=f"{size:g}",
        num_params=size,
        ratio=ratio,
        winner=winner,
        near_best={axis: (winner[axis], *(near or {}).get(axis, ())) for axis in searched},
        candidates=dict.fromkeys(searched, tuple(candidates)),
        diverged={axis: (diverged or {}).get(axis, ()) for axis in searched},
    )


def rate(size: float, ratio: float) -> float:
    """2⁻⁴·(N/1e8)^(−1/2)·r^(−1/2), on the grid of doublings for powers of four."""
    return 2.0**-4 * (size / 1e8) ** -0.5 * ratio**-0.5


def law_cells(optimizer: str = "adamw", factor: float = 1.0) -> list[TunedCell]:
    return [
        cell(n, r, {"lr": factor * rate(n, r)}, optimizer=optimizer)
        for n in (1e8, 4e8, 16e8)
        for r in (1.0, 4.0)
    ]


def only(found: Sequence[Transferred], axis: str) -> Transferred:
    return next(h for h in found if h.axis == axis)


def test_a_law_is_recovered_and_followed_outside_of_the_cells() -> None:
    cells = law_cells()
    trend = fit_trend(cells, "lr")
    assert trend is not None
    assert trend.exponents == pytest.approx((-0.5, -0.5), abs=1e-12)
    found = only(transfer(cells, "adamw", 64e8, 16.0), "lr")
    assert found.value == pytest.approx(rate(64e8, 16.0))
    assert (found.rule, found.num_cells) == ("scaling fit", 6)
    assert (found.size_extrapolation, found.ratio_extrapolation) == (4.0, 4.0)


def test_an_optimizer_with_a_level_of_its_own_shares_the_exponents_of_the_others() -> None:
    muon = [cell(1e8, 1.0, {"lr": 8 * rate(1e8, 1.0)}, optimizer="muon")] * 1
    muon.append(cell(1e8, 4.0, {"lr": 8 * rate(1e8, 4.0)}, optimizer="muon"))
    found = only(transfer([*law_cells(), *muon], "muon", 16e8, 1.0), "lr")
    assert found.value == pytest.approx(8 * rate(16e8, 1.0))


def test_the_interval_grows_with_the_distance_and_holds_the_value() -> None:
    cells = law_cells()
    widths = [
        float(found.high or 0) / float(found.low or 1)
        for size in (4e8, 64e8, 256e8)
        for found in [only(transfer(cells, "adamw", size, 1.0), "lr")]
        if float(found.low or 9) <= float(found.value) <= float(found.high or 0)
    ]
    assert len(widths) == 3
    assert widths == sorted(widths)
    assert widths[0] < widths[2]


def test_values_are_whole_and_on_the_grid_continued_by_its_own_step() -> None:
    batches = [
        cell(n, 1.0, {"batch_size": b}, searched=("batch_size",), candidates=(128, 256, 512))
        for n, b in ((1e8, 128), (4e8, 256), (16e8, 512))
    ]
    found = only(transfer(batches, "adamw", 64e8, 1.0), "batch_size")
    assert found.value == 1024
    assert isinstance(found.value, int)


def test_a_winner_counts_half_and_its_near_best_values_the_other_half() -> None:
    # ln₂: winner −4, statistically tied {−4, −8} with mean −6, so −5 in either cell.
    cells = [cell(n, 1.0, {"lr": 2.0**-4}, near={"lr": (2.0**-8,)}) for n in (1e8, 4e8)]
    assert only(transfer(cells, "adamw", 2e8, 1.0), "lr").value == 2.0**-5


def test_without_a_second_size_there_is_no_interval_at_another_one() -> None:
    cells = [cell(1e8, r, {"lr": rate(1e8, r)}) for r in (1.0, 2.0, 4.0, 8.0)]
    here = only(transfer(cells, "adamw", 1e8, 16.0), "lr")
    assert here.low is not None
    elsewhere = only(transfer(cells, "adamw", 2e8, 16.0), "lr")
    assert (elsewhere.value, elsewhere.low, elsewhere.high) == (here.value, None, None)


def betas(size: float, beta: Value, **more: Any) -> TunedCell:
    return cell(size, 1.0, {"beta1": beta}, searched=("beta1",), candidates=(0.8, 0.9), **more)


def test_what_has_no_trend_keeps_the_value_that_won_most() -> None:
    cells = [betas(1e8, 0.8), betas(2e8, 0.8, near={"beta1": (0.9,)}), betas(4e8, 0.9)]
    found = only(transfer(cells, "adamw", 8e8, 1.0), "beta1")
    assert (found.value, found.low, found.high, found.rule) == (0.8, 0.8, 0.9, "mode")


def test_a_value_that_diverged_at_the_nearest_size_is_not_recommended() -> None:
    last = betas(4e8, 0.9, diverged={"beta1": (0.8,)})
    cells = [betas(1e8, 0.8), betas(2e8, 0.8), last]
    assert only(transfer(cells, "adamw", 8e8, 1.0), "beta1").value == 0.9
    assert only(transfer(cells, "adamw", 1e8, 1.0), "beta1").value == 0.8


def test_what_fewer_than_two_cells_searched_is_copied_from_the_nearest_size() -> None:
    cells = [
        cell(1e8, 1.0, {"lr": 0.5, "nesterov": True}, searched=("nesterov",)),
        cell(4e8, 8.0, {"lr": 0.25, "nesterov": False}, searched=()),
    ]
    found = transfer(cells, "adamw", 8e8, 1.0)
    assert [(h.axis, h.value, h.rule) for h in found] == [
        ("lr", 0.25, "nearest cell"),
        ("nesterov", False, "nearest cell"),
    ]
    assert (found[0].size_extrapolation, found[0].ratio_extrapolation) == (2.0, 8.0)


def test_at_a_tuned_cell_its_winner_is_returned_though_others_say_otherwise() -> None:
    cells = [*law_cells(), cell(8e8, 2.0, {"lr": 0.5, "beta1": 0.7}, searched=("lr",))]
    here = only(transfer(cells, "adamw", 8e8 * 1.04, 2.0 / 1.04), "lr")
    assert (here.value, here.rule, here.size_extrapolation) == (
        0.5,
        "tuned",
        pytest.approx(1.04),
    )
    assert float(here.low or 9) <= 0.5 <= float(here.high or 0)
    assert only(transfer(cells, "adamw", 8e8 * 1.06, 2.0), "lr").rule == "scaling fit"
    assert only(transfer(cells, "adamw", 8e8, 2.0 * 1.06), "lr").rule == "scaling fit"


def test_near_best_numbers_are_told_in_order() -> None:
    cells = [betas(1e8, 0.9, near={"beta1": (0.5,)}), betas(2e8, 0.8)]
    assert only(transfer(cells, "adamw", 8e8, 1.0), "beta1").near_best == (0.5, 0.8, 0.9)


def test_an_optimizer_without_cells_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^There is no tuned cell of lion\.$"):
        transfer(law_cells(), "lion", 1e8, 1.0)
