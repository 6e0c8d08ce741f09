from __future__ import annotations

from typing import Any

from optbench.analysis.claims.claim import Claim
from optbench.analysis.claims.tuning import tuning_is_worth
from optbench.analysis.summary import summarise
from optbench.space import SearchSpace, choices, complement, geometric
from tests.statistics.synthetic import START, SimulatedStudy, Truth

FAR = SearchSpace(
    lr=geometric(0.002, 0.004, 0.008, 0.016, 0.032),
    beta2=complement(0.95, 0.98),
    nesterov=choices(True, False),
)


def worth(truth: Truth, ratios: tuple[float, ...] = (0.25, 0.5, 1.0), **settings: Any) -> Claim:
    """A study of the baseline alone, tuned in the headline cell."""
    study = SimulatedStudy(truth=truth, optimizers=("adamw",), ratios=ratios, **settings)
    study.begin()
    study.tune("adamw")
    for ratio in ratios:
        study.confirm("adamw", START, ratio)
    return summarise(study.store).claims[0]


def test_a_learning_rate_that_costs_more_than_half_of_the_tokens_is_worth_twofold() -> None:
    """Two factors of two off: 0.4 nats, for which α·r^(−0.5) = 1.2 needs 0.44 of the tokens."""
    claim = worth(Truth(sigma=0.005))
    assert (claim.number, claim.verdict) == (1, "holds")
    assert claim.evidence[0].startswith(
        "In d32 1x, moving lr from 0.004 to 0.016 alone is worth 2.2"
    )
    assert claim.cells == ("d32 1x",)
    assert len(claim.run_ids) == 2 * len(claim.evidence)


def test_candidates_far_from_the_best_that_cost_little_refute() -> None:
    claim = worth(Truth(sigma=0.005, steepness=0.01), space=FAR)
    assert claim.verdict == "does not hold"
    assert "moving lr from 0.002 to 0.016 alone is worth 1.2" in claim.evidence[0]


def test_candidates_near_the_best_that_cost_little_refute_nothing() -> None:
    claim = worth(Truth(sigma=0.005, steepness=0.01))
    assert claim.verdict == "inconclusive"
    assert claim.needs[0].startswith("A learning rate 8 times from the winner's")


def test_an_interval_across_twofold_stays_open() -> None:
    claim = worth(Truth(sigma=0.04))
    assert claim.verdict == "inconclusive"
    assert claim.needs == ("More seeds: an interval contains 2×.",)


def test_a_curve_that_begins_at_the_cell_cannot_show_twofold() -> None:
    claim = worth(Truth(sigma=0.005), ratios=(1.0, 2.0))
    assert (claim.verdict, claim.evidence) == ("inconclusive", ())
    assert "from half of the tokens or less" in claim.needs[0]


def test_another_baseline_says_nothing_of_adamw() -> None:
    claim = tuning_is_worth("muon", [], {})
    assert claim.verdict == "inconclusive"
    assert claim.needs == ("adamw as the baseline; here it is muon.",)
