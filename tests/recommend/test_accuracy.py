"""The accuracy that docs/recommend.md states, measured again from the published results."""

import math
from pathlib import Path

import pytest

from optbench.published import read_published
from optbench.recommend.accuracy import (
    CellOutcome,
    Rule,
    copied,
    factors_by_axis,
    hold_out_sizes,
    only,
    price,
    recommended,
    step_law,
    summarise_regrets,
)
from optbench.recommend.hyperparameter_transfer import transfer
from optbench.recommend.tuned_cells import published_tunings
from optbench.space import Value

TABLE: dict[Value, float] = {0.002: 0.02, 0.004: 0.01, 0.016: math.inf}
TREND = ("lr", "batch_size")


@pytest.mark.parametrize(
    ("value", "regret", "is_outside"),
    [
        (0.008, 0.0, False),
        (0.004, 0.01, False),
        (0.008 / math.sqrt(2), 0.005, False),  # halfway in ln h
        (0.009, 0.0, False),  # nearer to the best than to the diverged
        (0.015, math.inf, False),
        (0.001, 0.02, True),
        (0.032, math.inf, True),
    ],
)
def test_a_value_is_priced_by_the_tuning_table(
    value: float, regret: float, is_outside: bool
) -> None:
    found, outside = price("lr", TABLE, 0.008, value)
    assert (found, outside) == (pytest.approx(regret), is_outside)


def test_betas_are_priced_by_their_distance_to_one_and_words_by_themselves() -> None:
    found, _ = price("beta1", {0.9: 0.02}, 0.975, 0.95)
    assert found == pytest.approx(0.01)
    assert price("normalize_grads", {True: 0.1}, False, True) == (0.1, False)
    assert price("clip_norm", {2: 0.1}, 1, 0) == (None, False)
    assert price("eps", {}, 1e-10, 1e-15) == (None, False)


def test_a_winner_that_is_not_the_best_of_its_table_costs_what_it_loses() -> None:
    table: dict[Value, float] = {0.002: -0.003, 0.004: 0.01}
    assert price("lr", table, 0.008, 0.008) == (pytest.approx(0.003), False)
    assert price("lr", table, 0.008, 0.002) == (0.0, False)
    assert price("lr", table, 0.008, 0.004) == (pytest.approx(0.013), False)


@pytest.mark.parametrize("rule", [recommended, copied])
def test_no_cost_is_negative(rule: Rule) -> None:
    outcomes = hold_out_sizes(read_published(), rule)
    regrets = [a.regret for o in outcomes for a in o.axes if a.regret is not None]
    assert len(regrets) > 400
    assert min(regrets) == 0.0


def test_at_tuned_cells_their_winners_are_better_than_the_trend() -> None:
    cells = published_tunings(read_published())
    held = next(c for c in cells if (c.optimizer, c.size, c.ratio) == ("kron", "300m", 8.0))
    found = {h.axis: h for h in transfer(cells, "kron", held.num_params, held.ratio)}
    assert {h.rule for h in found.values()} == {"tuned"}
    assert {axis: h.value for axis, h in found.items()} == dict(held.winner)
    assert found["lr"].value == 0.0005


def test_step_law_is_the_published_formula() -> None:
    held = next(c for c in published_tunings(read_published()) if c.size == "1.2b")
    found = step_law([], held)
    params, tokens = 1_207_959_552, 24_159_191_040
    assert found["lr"] == pytest.approx(1.79 * params**-0.713 * tokens**0.307)
    assert found["batch_size"] == pytest.approx(0.58 * tokens**0.571 / 4096)


def test_recommended_values_beat_those_of_the_nearest_size() -> None:
    ours = summarise_regrets(hold_out_sizes(read_published(), recommended))
    theirs = summarise_regrets(hold_out_sizes(read_published(), copied))
    assert (ours.cells, ours.values, ours.unpriced, ours.outside) == (93, 448, 12, 5)
    assert ours.median == pytest.approx(0.0028, abs=5e-5)
    assert ours.p90 == pytest.approx(0.043, abs=5e-4)
    assert ours.diverged == 7
    assert (ours.lr_factor, ours.lr_factor_p90) == pytest.approx((1.0, 2.0))
    assert theirs.median == pytest.approx(0.0063, abs=5e-5)
    assert (theirs.p90, theirs.diverged) == (math.inf, 13)


def test_recommended_rates_and_batches_beat_step_law_for_adamw() -> None:
    results = read_published()
    ours = summarise_regrets(hold_out_sizes(results, only(TREND, recommended), ["adamw"]))
    theirs = summarise_regrets(hold_out_sizes(results, only(TREND, step_law), ["adamw"]))
    assert (ours.cells, ours.diverged) == (10, 1)
    assert ours.median == pytest.approx(0.0, abs=1e-9)
    assert theirs.median == pytest.approx(0.0073, abs=5e-5)  # a lower bound: 16 values are outside
    assert (theirs.outside, theirs.diverged) == (16, 3)
    assert theirs.lr_factor == pytest.approx(2.6, abs=0.05)


def test_factors_are_counted_by_hyperparameter() -> None:
    count, median, p90 = factors_by_axis(hold_out_sizes(read_published(), recommended))["lr"]
    assert (count, median, p90) == (127, pytest.approx(1.0), pytest.approx(2.0))


def test_the_regret_of_a_cell_is_the_sum_of_what_has_a_price() -> None:
    outcomes = hold_out_sizes(read_published(), recommended, ["muon"])
    cell = next(o for o in outcomes if (o.size, o.ratio) == ("130m", 1.0))
    assert isinstance(cell, CellOutcome)
    assert cell.regret == pytest.approx(sum(a.regret for a in cell.axes if a.regret is not None))
    assert len(cell.axes) == 10


def test_the_page_states_what_is_measured() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recommend.md").read_text(encoding="utf-8")
    rules = {"recommended": recommended, "copy the nearest size": copied}
    for name, rule in rules.items():
        found = summarise_regrets(hold_out_sizes(read_published(), rule))
        p90 = "diverges" if math.isinf(found.p90) else f"{found.p90:.3f}"
        row = f"| {name} | {found.median:.4f} | {p90} | {found.diverged} |"
        assert row in page.replace("**", "")
    for optimizer in read_published().optimizers:
        regrets = [
            f"{summarise_regrets(hold_out_sizes(read_published(), rule, [optimizer])).median:.4f}"
            for rule in rules.values()
        ]
        assert f"| {optimizer} | {' | '.join(regrets)} |" in page.replace("**", "")
