"""Recommendations from the published results and from a store with one tuned cell."""

import math
import re
from pathlib import Path

import pytest

from optbench.analysis.recommendation import Place, Reach, RecommendationError, Source, recommend
from optbench.analysis.recommendation_differences import compare
from optbench.analysis.recommendation_sources import published_source, study_source
from optbench.published import read_published
from optbench.store import RunStore

NANO_ALL = Path(__file__).parents[2] / "results" / "nano_all"
AT_760M = Place(params=760e6, tokens=60e9)


@pytest.fixture(scope="module")
def published() -> Source:
    return published_source(read_published())


@pytest.fixture(scope="module")
def study() -> Source:
    return study_source(RunStore.read(NANO_ALL), "results/nano_all")


def test_the_place_has_chinchillas_ratio() -> None:
    assert AT_760M.ratio == pytest.approx(60e9 / (20 * 760e6))
    assert AT_760M.label == "760M parameters, 60B tokens"


def test_reach_is_told_in_factors_and_little_is_nothing() -> None:
    assert Reach(size=1.0, ratio=1.04).flag == "interpolated"
    assert Reach(size=1.42, ratio=1.0).flag == "extrapolated 1.42x in size"
    assert Reach(size=5.79, ratio=2.0).flag == "extrapolated 5.79x in size, 2x in ratio"


def test_between_the_published_sizes_the_fastest_comes_first(published: Source) -> None:
    found = recommend(published, AT_760M)
    assert found.reach.flag == "interpolated"
    assert len(found.optimizers) == 11
    speeds = [o.speedup.value for o in found.optimizers if o.speedup]
    assert speeds == sorted(speeds, reverse=True)
    assert found.optimizers[0].optimizer == "muon"
    muon, adamw = found.find("muon"), found.find("adamw")
    assert muon is not None
    assert muon.speedup is not None
    assert muon.speedup.value == pytest.approx(1.21, abs=0.02)
    assert muon.loss_difference is not None
    assert (muon.loss_difference.high or 0) < 0  # faster than AdamW beyond doubt
    assert muon.reach.size == pytest.approx(760e6 / 536_870_912)  # Muon was tuned up to 520m
    assert adamw is not None
    assert adamw.speedup is not None
    assert (adamw.speedup.value, adamw.reach.flag) == (1.0, "interpolated")


def test_batch_and_schedule_are_in_the_units_of_a_script(published: Source) -> None:
    adamw = recommend(published, AT_760M, ["adamw"]).optimizers[0]
    plan = adamw.plan
    assert (plan.batch_size, plan.batch_tokens) == (256, 256 * 4096)
    assert plan.num_steps == 60_000_000_000 // (256 * 4096)
    assert plan.warmup_steps == 2000
    assert plan.warmup_share == pytest.approx(2000 / plan.num_steps)
    assert plan.warmup_steps + plan.decay_steps == plan.num_steps
    assert plan.decay_shape == "cosine"
    assert set(adamw.settings) == {"lr", "beta1", "beta2", "eps", "weight_decay"}
    assert adamw.state_bytes == 8 * 760e6


def test_a_warm_up_longer_than_the_run_is_cut_and_said(published: Source) -> None:
    short = Place(params=134_217_728, tokens=134_217_728 * 5)
    sophia = recommend(published, short, ["sophia"]).optimizers[0]
    assert sophia.plan.num_steps == 2560
    assert sophia.plan.warmup_steps == 2048
    assert sophia.remarks == (
        "sophia: the warm-up of 4000 steps is cut to 2048, 80% of the 2560 steps of this budget.",
    )


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (
            Place(params=1e14, tokens=60e9),
            "100T parameters are 82.8k times outside of the sizes of the published results (134M "
            "to 1.21B), and a recommendation goes 6 times outside at most. Ask for 22.4M to 7.25B.",
        ),
        (
            Place(params=10, tokens=1e9),
            "10 parameters are 13.4M times outside of the sizes of the published results (134M to "
            "1.21B), and a recommendation goes 6 times outside at most. Ask for 22.4M to 7.25B.",
        ),
        (
            Place(params=7e9, tokens=15e12),
            "15T tokens for 7B parameters are 107 times Chinchilla's 20 a parameter, 6.7 times "
            "outside of the ratios of the published results (1 to 16), and a recommendation goes "
            "4 times outside at most. Ask for 35B to 8.96T tokens.",
        ),
    ],
)
def test_what_is_too_far_is_refused(published: Source, place: Place, problem: str) -> None:
    with pytest.raises(RecommendationError, match=f"^{re.escape(problem)}$"):
        recommend(published, place)


def test_an_unknown_optimizer_is_refused_with_the_nearest(study: Source) -> None:
    with pytest.raises(
        RecommendationError, match=r"^Unknown optimizer 'mun'\. Did you mean 'muon'\? Available: "
    ):
        recommend(study, Place(params=32768, tokens=655360), ["mun"])


def test_one_tuned_cell_gives_its_winners_and_no_interval_elsewhere(study: Source) -> None:
    found = recommend(study, Place(params=98304, tokens=98304 * 20), ["muon"])
    assert found.reach.flag == "extrapolated 3x in size"
    assert found.remarks[-1] == (
        "All optimizers were tuned in one cell alone, d32 1x: its hyperparameters are copied, "
        "without a trend, and its speed-ups hold for that size."
    )
    muon = found.optimizers[0]
    assert {h.rule for h in muon.hyperparameters} == {"copied"}
    assert muon.settings["lr"] == 0.064
    assert muon.speedup is not None
    assert muon.speedup.low is None
    assert (muon.plan.batch_tokens, muon.plan.decay_shape) == (1024, "linear")
    assert muon.plan.warmup_share == pytest.approx(0.1, abs=1e-3)


def test_at_the_tuned_size_the_interval_is_that_of_the_study(study: Source) -> None:
    muon = recommend(study, Place(params=32768, tokens=655360), ["muon"]).optimizers[0]
    assert muon.speedup is not None
    assert muon.speedup.low is not None
    assert muon.speedup.low < 1.47 < (muon.speedup.high or 0)
    assert muon.reach.flag == "interpolated"


def test_a_study_is_not_carried_over_to_a_size_it_has_not_seen(study: Source) -> None:
    problem = (
        "760M parameters are 23.2k times outside of the sizes of results/nano_all (32.8k), and a "
        "recommendation goes 6 times outside at most. Ask for 5.46k to 197k."
    )
    with pytest.raises(RecommendationError, match=f"^{re.escape(problem)}$"):
        recommend(study, AT_760M)


def test_two_recommendations_are_compared_value_by_value(published: Source) -> None:
    own = recommend(published, AT_760M, ["muon", "adamw"])
    other = recommend(published, Place(params=134_217_728, tokens=2_684_354_560))
    muon = compare(own, other)[0]
    assert muon.optimizer == "muon"
    factors = {value.axis: value.factor for value in muon.values}
    assert factors == pytest.approx({"lr": 0.25, "batch_tokens": 2.0})
    assert muon.speedup_factor is not None
    assert muon.speedup_factor < 1
    assert compare(own, own)[0].values == ()
    assert compare(own, own)[1].speedup_factor == 1.0
    assert compare(own, own)[0].intervals_overlap is True


def test_speed_ups_grow_less_sure_away_from_the_sizes(published: Source) -> None:
    widths: list[float] = []
    for params in (400e6, 1.2e9, 6e9):
        muon = recommend(published, Place(params=params, tokens=20 * params), ["muon"])
        speedup = muon.optimizers[0].speedup
        assert speedup is not None
        widths.append(math.log((speedup.high or 0) / (speedup.low or 1)))
    assert widths[0] < widths[1] < widths[2]
