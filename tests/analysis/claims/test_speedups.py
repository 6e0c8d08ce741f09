from __future__ import annotations

import dataclasses
import math

import pytest

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.claim import widened
from optbench.analysis.claims.speedups import (
    memory_efficient_keep_up,
    speedups_stay_low,
    variance_reduced_gain,
)
from optbench.store.journal_entries import StudyEntry
from tests.recommend.made_cells import (
    cell_of,
    cell_of_means,
    cell_of_speedups,
    entry,
    losses_at,
    row_of,
    speed,
)


def study_of(*optimizers: str) -> StudyEntry:
    return StudyEntry(
        name="made",
        title="",
        smoke=False,
        baseline="adamw",
        optimizers=("adamw", *optimizers),
        confirm_seeds=5,
        tuned_cell=entry(),
        baseline_cells=(),
        axes={},
    )


def test_an_interval_widens_with_the_number_of_comparisons_in_its_logarithm() -> None:
    estimate = speed(2.0, 1.0, 4.0)
    assert widened(estimate, 1) == (pytest.approx(1.0), pytest.approx(4.0))
    low, high = widened(estimate, 20)
    # z at 0.025/20 over z at 0.025
    assert math.log(high / 2) == pytest.approx(math.log(2) * 3.0233 / 1.96, rel=1e-3)
    assert low * high == pytest.approx(4.0)
    assert widened(speed(2.0), 3) == (0.0, math.inf)
    assert widened(speed(2.0, 2.0, math.inf, ">"), 5) == (2.0, math.inf)


# 3: at most 1.4


def test_speedups_stay_low_if_every_interval_does() -> None:
    cells = [
        cell_of_speedups(muon=(1.2, 1.1, 1.3), lion=(0.8, 0.7, 0.9)),
        cell_of_speedups(entry("d48"), muon=(1.25, 1.1, 1.39)),
    ]
    claim = speedups_stay_low(study_of("muon", "lion"), cells)
    assert (claim.number, claim.verdict, claim.needs) == (3, "holds", ())
    assert claim.cells == ("d32 1x", "d48 1x")
    assert claim.evidence == (
        "3 of 3 speed-ups in 2 cells have an interval that ends at 1.4× or below.",
        "muon in d48 1x: 1.25× [1.10, 1.39].",
    )


def test_one_interval_above_refutes_low_speedups() -> None:
    cells = [cell_of_speedups(muon=(1.7, 1.6, 1.8), lion=(0.8, 0.7, 0.9))]
    claim = speedups_stay_low(study_of("muon", "lion"), cells)
    assert claim.verdict == "does not hold"
    assert "muon in d32 1x: 1.70× [1.60, 1.80]." in claim.evidence


def test_a_lower_bound_above_refutes_low_speedups() -> None:
    row = row_of("muon", entry(), tokens=speed(2.0, 2.0, math.inf, ">"))
    claim = speedups_stay_low(study_of("muon"), [cell_of(entry(), row)])
    assert claim.verdict == "does not hold"
    assert "muon in d32 1x: > 2.00× [2.00, ∞)." in claim.evidence


@pytest.mark.parametrize(
    "numbers", [(1.35, 1.2, 1.5), (1.48, 1.32, 1.67), (1.3, None, None)], ids=str
)
def test_an_interval_across_the_bound_leaves_low_speedups_open(
    numbers: tuple[float, float | None, float | None],
) -> None:
    claim = speedups_stay_low(study_of("muon"), [cell_of_speedups(muon=numbers)])
    assert claim.verdict == "inconclusive"
    assert claim.needs == ("A narrower interval for muon in d32 1x: more seeds.",)


def test_one_of_many_intervals_just_above_is_no_refutation() -> None:
    """Alone it would be: of forty, one in forty is as high by chance."""
    alone = cell_of_speedups(muon=(1.5, 1.41, 1.6))
    assert speedups_stay_low(study_of("muon"), [alone]).verdict == "does not hold"
    others = [cell_of_speedups(entry(ratio=r), muon=(1.2, 1.1, 1.3)) for r in range(2, 41)]
    assert speedups_stay_low(study_of("muon"), [alone, *others]).verdict == "inconclusive"


def test_low_speedups_are_not_confirmed_without_all_optimizers() -> None:
    claim = speedups_stay_low(study_of("muon", "soap"), [cell_of_speedups(muon=(1.2, 1.1, 1.3))])
    assert claim.verdict == "inconclusive"
    assert claim.needs == ("A speed-up of soap.",)


# 8: memory-efficient variants


def test_both_memory_efficient_variants_must_keep_up() -> None:
    cells = [cell_of_speedups(lion=(1.0, 0.96, 1.1), adam_mini=(0.98, 0.95, 1.01))]
    claim = memory_efficient_keep_up("adamw", cells)
    assert (claim.number, claim.verdict) == (8, "holds")
    alone = memory_efficient_keep_up("adamw", [cell_of_speedups(lion=(1.0, 0.96, 1.1))])
    assert alone.verdict == "inconclusive"
    assert alone.needs == ("A speed-up of adam_mini.",)


def test_one_memory_efficient_variant_that_falls_behind_refutes() -> None:
    cells = [cell_of_speedups(lion=(0.84, 0.82, 0.86), muon=(1.4, 1.3, 1.5))]
    claim = memory_efficient_keep_up("adamw", cells)
    assert claim.verdict == "does not hold"
    assert claim.evidence == ("lion in d32 1x: 0.84× [0.82, 0.86].",)


def test_a_wide_interval_leaves_memory_efficient_variants_open() -> None:
    cells = [cell_of_speedups(lion=(0.97, 0.9, 1.05), adam_mini=(1.0, 0.96, 1.04))]
    claim = memory_efficient_keep_up("adamw", cells)
    assert claim.verdict == "inconclusive"
    assert claim.needs == ("A narrower interval for lion in d32 1x: it contains 0.95.",)


# 7: variance-reduced variants


def gains(speeds: tuple[float, float, float] = (1.08, 1.04, 1.12), **means: float) -> CellSummary:
    """Losses against AdamW's 4.0, and the same speed-up for all."""
    made = cell_of_means(adamw=4.0, **means)
    rows = [
        row if row.is_baseline else dataclasses.replace(row, tokens=speed(*speeds))
        for row in made.rows
    ]
    return cell_of(made.cell, *rows)


def test_three_small_gains_beyond_the_noise_hold() -> None:
    claim = variance_reduced_gain([gains(nadamw=3.99, mars=3.98, cautious=3.985)])
    assert (claim.number, claim.verdict) == (7, "holds")
    assert claim.evidence[0].startswith("nadamw: −0.010 ± 0.00")
    assert claim.evidence[0].endswith("over 1 cell, speed-up 1.08× [1.04, 1.12].")


@pytest.mark.parametrize(
    ("means", "speeds"),
    [
        ({"nadamw": 4.02, "mars": 3.98, "cautious": 3.98}, (1.08, 1.04, 1.12)),
        ({"nadamw": 3.9, "mars": 3.9, "cautious": 3.9}, (1.5, 1.4, 1.6)),
    ],
    ids=["one is worse", "the gain is large"],
)
def test_a_loss_or_a_large_gain_refutes_a_small_one(
    means: dict[str, float], speeds: tuple[float, float, float]
) -> None:
    assert variance_reduced_gain([gains(speeds, **means)]).verdict == "does not hold"


def test_a_gain_within_the_noise_or_of_two_variants_stays_open() -> None:
    within = variance_reduced_gain([gains(nadamw=3.9998, mars=3.98, cautious=3.98)])
    assert within.verdict == "inconclusive"
    assert within.needs == ("More seeds: the gain of nadamw is not beyond the noise.",)
    two = variance_reduced_gain([gains(mars=3.98, cautious=3.98)])
    assert two.verdict == "inconclusive"
    assert two.needs == ("nadamw and adamw, confirmed in the same cells.",)
    unbounded = variance_reduced_gain(
        [gains((1.1, 1.0, 1.3), nadamw=3.98, mars=3.98, cautious=3.98)]
    )
    assert unbounded.verdict == "inconclusive"
    assert "ends below 1.2×" in unbounded.needs[0]


def test_gains_that_no_single_cell_shows_add_up_over_cells() -> None:
    """The noise of a seed is opposite in the two cells, so their mean is far more certain."""
    cells = []
    for ratio, sign in ((1.0, 1.0), (2.0, -1.0)):
        where = entry(ratio=ratio)
        noise = tuple(sign * 0.02 * j for j in (1.0, -1.0, 0.5, -0.5, 0.0))
        rows = [row_of("adamw", where, losses=losses_at(4.0))]
        rows += [
            row_of(name, where, losses=losses_at(3.99, noise), tokens=speed(1.08, 1.0, 1.15))
            for name in ("nadamw", "mars", "cautious")
        ]
        cells.append(cell_of(where, *rows))
    assert [variance_reduced_gain([cell]).verdict for cell in cells] == ["inconclusive"] * 2
    assert variance_reduced_gain(cells).verdict == "holds"


def test_cells_with_different_seeds_are_averaged_as_if_they_erred_alike() -> None:
    cells = []
    for ratio, seeds in ((1.0, 5), (2.0, 4)):
        where = entry(ratio=ratio)
        rows = [row_of("adamw", where, losses=losses_at(4.0)[:seeds])]
        rows += [
            row_of(name, where, losses=losses_at(3.9)[1:seeds], tokens=speed(1.1, 1.05, 1.15))
            for name in ("nadamw", "mars", "cautious")
        ]
        cells.append(cell_of(where, *rows))
    claim = variance_reduced_gain(cells)
    assert claim.verdict == "holds"
    assert "over 2 cells" in claim.evidence[0]
