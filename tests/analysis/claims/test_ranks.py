from __future__ import annotations

import pytest

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.ranks import (
    intermediate_ranks_mislead,
    matrix_based_beat_scalar_based,
    winner_depends_on_ratio,
)
from tests.recommend.made_cells import cell_of, cell_of_means, entry, losses_at, row_of

# 5: matrix-based and scalar-based methods


def test_the_best_matrix_based_method_must_beat_all_scalar_based_ones() -> None:
    cells = [
        cell_of_means(adamw=4.0, nadamw=3.98, muon=3.9, kron=3.99),
        cell_of_means(entry("d48"), adamw=3.8, nadamw=3.79, soap=3.7),
    ]
    claim = matrix_based_beat_scalar_based(cells)
    assert (claim.number, claim.verdict, claim.cells) == (5, "holds", ("d32 1x", "d48 1x"))
    assert "muon, against the best scalar-based, nadamw: −0.080 ± 0.00" in claim.evidence[0]
    assert "of 4 pairs 3 ahead, 1 behind beyond the noise" in claim.evidence[0]


def test_a_scalar_based_method_ahead_of_all_matrix_based_ones_refutes() -> None:
    cells = [
        cell_of_means(adamw=4.0, muon=3.9),
        cell_of_means(entry("d48"), adamw=3.7, muon=3.8, soap=3.75),
    ]
    assert matrix_based_beat_scalar_based(cells).verdict == "does not hold"


def test_a_tie_of_the_families_stays_open() -> None:
    claim = matrix_based_beat_scalar_based([cell_of_means(adamw=4.0, muon=3.9998)])
    assert claim.verdict == "inconclusive"
    assert claim.needs == ("More seeds: in some cell neither family is ahead beyond the noise.",)


def test_families_are_not_compared_without_both_or_without_noise() -> None:
    one = matrix_based_beat_scalar_based([cell_of_means(adamw=4.0, nadamw=3.9)])
    assert (one.verdict, one.evidence) == ("inconclusive", ())
    quiet = cell_of_means(adamw=4.0, muon=3.9)
    silent = matrix_based_beat_scalar_based([cell_of(quiet.cell, *quiet.rows, noise=None)])
    assert silent.verdict == "inconclusive"
    assert "no noise estimate" in silent.evidence[0]


# 6: the winner over data ratios


def over_ratios(*tables: tuple[float, dict[str, float]]) -> list[CellSummary]:
    return [cell_of_means(entry(ratio=ratio), **means) for ratio, means in tables]


def test_two_winners_each_ahead_of_the_other_depend_on_the_ratio() -> None:
    claim = winner_depends_on_ratio(
        over_ratios(
            (8.0, {"adamw": 3.5, "muon": 3.42, "soap": 3.4}),
            (1.0, {"adamw": 4.0, "muon": 3.9, "soap": 3.93}),
        )
    )
    assert (claim.number, claim.verdict) == (6, "holds")
    assert claim.cells == ("d32 1x", "d32 8x")
    assert claim.evidence[0].startswith("muon is ahead of soap in d32 1x (−0.030 ± 0.00")
    assert "and behind in d32 8x (+0.020 ± 0.00" in claim.evidence[0]
    assert claim.evidence[1].startswith("d32 1x: muon, then soap (−0.030")


def test_one_clear_winner_at_low_and_high_ratios_refutes() -> None:
    tables = [(r, {"adamw": 4.0 / r, "muon": 4.0 / r - 0.1}) for r in (1.0, 2.0, 8.0)]
    assert winner_depends_on_ratio(over_ratios(*tables)).verdict == "does not hold"


def test_one_winner_below_the_high_ratios_says_nothing_of_them() -> None:
    tables = [(r, {"adamw": 4.0 / r, "muon": 4.0 / r - 0.1}) for r in (1.0, 2.0, 4.0)]
    claim = winner_depends_on_ratio(over_ratios(*tables))
    assert claim.verdict == "inconclusive"
    assert claim.needs == ("A ratio of 8 or more, and one of 4 or less, at one size.",)


def test_winners_that_change_within_the_noise_stay_open() -> None:
    claim = winner_depends_on_ratio(
        over_ratios((1.0, {"adamw": 4.0, "muon": 3.9}), (8.0, {"adamw": 3.5, "muon": 3.5003}))
    )
    assert claim.verdict == "inconclusive"
    assert claim.needs == ("More seeds: the winners are not ahead beyond the noise.",)


def test_ratios_of_different_sizes_are_not_compared() -> None:
    cells = [
        cell_of_means(entry("d32", 1.0), adamw=4.0, muon=3.9),
        cell_of_means(entry("d48", 8.0), adamw=3.4, muon=3.5),
    ]
    claim = winner_depends_on_ratio(cells)
    assert (claim.verdict, claim.evidence) == ("inconclusive", ())


# 9: rankings along a run


def along_runs(**losses: tuple[float, float]) -> CellSummary:
    """Mean losses halfway and at the end."""
    where = entry()
    shifts = [(0.0, 0.001, -0.001, 0.0005, -0.0005)[k:] for k in range(len(losses))]
    rows = []
    for (name, (halfway, end)), shift in zip(losses.items(), shifts, strict=True):
        jitter = (*shift, *[0.0003] * (5 - len(shift)))
        rows.append(
            row_of(name, where, losses=losses_at(end, jitter), halfway=losses_at(halfway, jitter))
        )
    return cell_of(where, *rows)


def test_an_order_that_turns_around_beyond_the_noise_misleads() -> None:
    claim = intermediate_ranks_mislead([along_runs(adamw=(4.3, 4.0), muon=(4.35, 3.9))])
    assert (claim.number, claim.verdict) == (9, "holds")
    assert "1 stand in the other order than at the end, 1 of them beyond" in claim.evidence[0]
    assert claim.evidence[1].startswith("d32 1x: muon against adamw +0.050 ± 0.00")
    assert "at 50% of the run, −0.100 ± 0.00" in claim.evidence[1]


def test_the_same_order_beyond_the_noise_does_not_mislead() -> None:
    claim = intermediate_ranks_mislead(
        [along_runs(adamw=(4.3, 4.0), muon=(4.2, 3.9), nadamw=(4.28, 3.98))]
    )
    assert claim.verdict == "does not hold"
    assert "of the 3 that can be distinguished at the end, 3 could be so" in claim.evidence[0]


@pytest.mark.parametrize(
    "losses",
    [
        {"adamw": (4.3, 4.0), "muon": (4.3003, 3.9)},
        {"adamw": (4.3, 4.0), "muon": (4.2, 4.0003)},
    ],
    ids=["a tie halfway", "a tie at the end"],
)
def test_ties_along_a_run_stay_open(losses: dict[str, tuple[float, float]]) -> None:
    claim = intermediate_ranks_mislead([along_runs(**losses)])
    assert claim.verdict == "inconclusive"
    assert claim.needs[0].startswith("More seeds")


def test_without_checkpoints_rankings_cannot_mislead() -> None:
    claim = intermediate_ranks_mislead([cell_of_means(adamw=4.0, muon=3.9)])
    assert (claim.verdict, claim.evidence) == ("inconclusive", ())
    assert claim.needs == (
        "Two optimizers with evaluations in the second half of their runs, and noise.",
    )
