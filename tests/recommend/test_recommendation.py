"""Recommendations from the published results and from a store with one tuned cell."""

import math
import re
from pathlib import Path

import pytest

from optbench.published import read_published
from optbench.recommend.differences import compare
from optbench.recommend.recommendation import RecommendationSource, check_extrapolation, recommend
from optbench.recommend.sources import published_source, study_source
from optbench.recommend.target import ExtrapolationFactors, RecommendationError, Target
from optbench.store.store import RunStore
from optbench.units import parse_count

NANO_ALL = Path(__file__).parents[2] / "results" / "nano_all"
AT_760M = Target(params=760e6, tokens=60e9)


@pytest.fixture(scope="module")
def published() -> RecommendationSource:
    return published_source(read_published())


@pytest.fixture(scope="module")
def study() -> RecommendationSource:
    return study_source(RunStore.read(NANO_ALL), "results/nano_all")


def test_the_place_has_chinchillas_ratio() -> None:
    assert AT_760M.ratio == pytest.approx(60e9 / (20 * 760e6))
    assert AT_760M.label == "760M parameters, 60B tokens"


def test_reach_is_told_in_factors_and_little_is_nothing() -> None:
    assert ExtrapolationFactors(size=1.0, ratio=1.04).flag == "interpolated"
    assert ExtrapolationFactors(size=1.42, ratio=1.0).flag == "extrapolated 1.42x in size"
    assert (
        ExtrapolationFactors(size=5.79, ratio=2.0).flag == "extrapolated 5.79x in size, 2x in ratio"
    )


def test_between_the_published_sizes_the_fastest_comes_first(
    published: RecommendationSource,
) -> None:
    found = recommend(published, AT_760M)
    assert found.extrapolation.flag == "interpolated"
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
    assert muon.extrapolation.size == pytest.approx(
        760e6 / 536_870_912
    )  # Muon was tuned up to 520m
    assert adamw is not None
    assert adamw.speedup is not None
    assert (adamw.speedup.value, adamw.extrapolation.flag) == (1.0, "interpolated")


def test_batch_and_schedule_are_in_the_units_of_a_script(published: RecommendationSource) -> None:
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


def test_a_warm_up_longer_than_the_run_is_cut_and_said(published: RecommendationSource) -> None:
    short = Target(params=134_217_728, tokens=134_217_728 * 5)
    sophia = recommend(published, short, ["sophia"]).optimizers[0]
    assert sophia.plan.num_steps == 2560
    assert sophia.plan.warmup_steps == 2048
    assert sophia.remarks == (
        "sophia: the warm-up of 4000 steps is cut to 2048, 80% of the 2560 steps of this budget.",
    )
    warmup = next(h for h in sophia.hyperparameters if h.axis == "warmup_steps")
    assert (warmup.value, warmup.high) == (2048, 2048)
    assert int(warmup.low or 0) <= 2048


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (
            Target(params=1e14, tokens=60e9),
            "100T parameters are 82.8k times outside of the sizes of the published results (134M "
            "to 1.21B), and a recommendation goes 6 times outside at most. Ask for 22.4M to 7.25B.",
        ),
        (
            Target(params=10, tokens=1e9),
            "10 parameters are 13.4M times outside of the sizes of the published results (134M to "
            "1.21B), and a recommendation goes 6 times outside at most. Ask for 22.4M to 7.25B.",
        ),
        (
            Target(params=7e9, tokens=15e12),
            "15T tokens for 7B parameters are 107 times Chinchilla's 20 a parameter, 6.7 times "
            "outside of the ratios of the published results (1 to 16), and a recommendation goes "
            "4 times outside at most. Ask for 35B to 8.96T tokens.",
        ),
    ],
)
def test_what_is_too_far_is_refused(
    published: RecommendationSource, place: Target, problem: str
) -> None:
    with pytest.raises(RecommendationError, match=f"^{re.escape(problem)}$"):
        recommend(published, place)


def test_an_unknown_optimizer_is_refused_with_the_nearest(study: RecommendationSource) -> None:
    with pytest.raises(
        RecommendationError, match=r"^Unknown optimizer 'mun'\. Did you mean 'muon'\? Available: "
    ):
        recommend(study, Target(params=32768, tokens=655360), ["mun"])


def test_one_tuned_cell_gives_its_winners_and_no_interval_elsewhere(
    study: RecommendationSource,
) -> None:
    found = recommend(study, Target(params=98304, tokens=98304 * 20), ["muon"])
    assert found.extrapolation.flag == "extrapolated 3x in size"
    assert found.remarks[-1] == (
        "All optimizers were tuned in one cell alone, d32 1x: its hyperparameters are copied, "
        "without a trend, and its speed-ups hold for that size."
    )
    muon = found.optimizers[0]
    assert {h.rule for h in muon.hyperparameters} == {"nearest cell"}
    assert muon.remarks == (
        "muon: the speed-up has no interval, since nothing is known of its error at this size.",
    )
    assert muon.settings["lr"] == 0.064
    assert muon.speedup is not None
    assert muon.speedup.low is None
    assert (muon.plan.batch_tokens, muon.plan.decay_shape) == (1024, "linear")
    assert muon.plan.warmup_share == pytest.approx(0.1, abs=1e-3)


def test_at_the_tuned_size_the_interval_is_that_of_the_study(study: RecommendationSource) -> None:
    muon = recommend(study, Target(params=33e3, tokens=660e3), ["muon"]).optimizers[0]
    assert {h.rule for h in muon.hyperparameters} == {"tuned"}
    assert muon.remarks == ()
    assert muon.speedup is not None
    assert muon.speedup.low is not None
    assert muon.speedup.low < 1.47 < (muon.speedup.high or 0)
    assert muon.extrapolation.flag == "interpolated"


def test_a_study_is_not_carried_over_to_a_size_it_has_not_seen(study: RecommendationSource) -> None:
    problem = (
        "760M parameters are 23.2k times outside of the sizes of results/nano_all (32.8k), and a "
        "recommendation goes 6 times outside at most. Ask for 5.46k to 197k."
    )
    with pytest.raises(RecommendationError, match=f"^{re.escape(problem)}$"):
        recommend(study, AT_760M)


def test_two_recommendations_are_compared_value_by_value(published: RecommendationSource) -> None:
    own = recommend(published, AT_760M, ["muon", "adamw"])
    other = recommend(published, Target(params=134_217_728, tokens=2_684_354_560))
    muon = compare(own, other)[0]
    assert muon.optimizer == "muon"
    factors = {value.axis: value.factor for value in muon.values}
    assert factors == pytest.approx(
        {"lr": 0.25, "momentum": 0.98 / 0.95, "aux_lr_ratio": 1.5, "batch_tokens": 2.0}
    )
    assert muon.speedup_factor is not None
    assert muon.speedup_factor < 1
    assert compare(own, own)[0].values == ()
    assert compare(own, own)[1].speedup_factor == 1.0
    assert compare(own, own)[0].intervals_overlap is True


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        ("7.25B", "300B"),
        ("22.4M", "1B"),
        ("760M", "973B"),
        ("760M", "3.8B"),
        ("7B", "35B"),
        ("7B", "8.96T"),
    ],
)
def test_what_a_refusal_asks_for_is_accepted(
    published: RecommendationSource, params: str, tokens: str
) -> None:
    place = Target(params=parse_count(params, likely="M"), tokens=parse_count(tokens, likely="B"))
    check_extrapolation(published, place)
    farther = Target(params=place.params * (10 if params != "22.4M" else 0.1), tokens=1e11)
    with pytest.raises(RecommendationError, match="Ask for "):
        check_extrapolation(published, farther)


def test_hyperparameters_and_speed_up_have_flags_of_their_own(
    published: RecommendationSource,
) -> None:
    at_1b = recommend(published, Target(params=1.2e9, tokens=24e9))
    muon, adamw = at_1b.find("muon"), at_1b.find("adamw")
    assert muon is not None
    assert adamw is not None
    flag = "hyperparameters extrapolated 2.24x in size, speed-up interpolated"
    assert (muon.flag, adamw.extrapolation.flag) == (flag, "interpolated")
    assert at_1b.extrapolation.flag == "interpolated"
    worst = "extrapolated 2.24x in size"
    assert at_1b.flag == f"hyperparameters at worst {worst}, speed-ups at worst {worst}"


def test_an_optimizer_named_twice_is_there_once(published: RecommendationSource) -> None:
    assert len(recommend(published, AT_760M, ["muon", "muon"]).optimizers) == 1


def test_the_tuned_cell_of_adamw_is_returned_as_published(published: RecommendationSource) -> None:
    place = Target(params=1_207_959_552, tokens=24_159_191_040)
    found = recommend(published, place, ["adamw"]).optimizers[0]
    cell = read_published().find("adamw", "1.2b", 1.0)
    assert cell is not None
    assert (found.settings["lr"], found.settings["weight_decay"]) == (0.002, 0.2)
    assert found.plan.batch_size == cell.configuration["batch_size"]


def test_clipping_is_the_published_norm_over_the_published_parameters(
    published: RecommendationSource,
) -> None:
    found = recommend(published, AT_760M)
    plans = {o.optimizer: (o.plan.clip_norm, o.plan.clip_scope) for o in found.optimizers}
    assert plans["muon"] == (1.0, "no_matrices")
    assert plans["scion"] == (2.0, "no_matrices")
    assert plans["adam_mini"][1] == "norms"
    assert (plans["adamw"][1], plans["mars"]) == ("all", (0.0, "all"))
    mars = found.find("mars")
    assert mars is not None
    assert {h.rule for h in mars.hyperparameters if h.axis == "clip_norm"} == {"set here"}
    assert mars.remarks[0].startswith("mars: clip_norm is set here: the published clip_norm of 1")


def test_a_lead_within_the_interval_is_said_and_what_led_at_16x(
    published: RecommendationSource,
) -> None:
    at_16x = recommend(published, Target(params=300e6, tokens=96e9))
    assert at_16x.rivals[0] == "soap"
    assert at_16x.remarks[1].startswith("muon is not distinguishable from soap, ")
    assert "soap had the lowest loss in both published cells at 16x" in at_16x.remarks[2]
    for size in ("130m", "300m"):
        cells = [c for c in read_published().cells if (c.size, c.ratio) == (size, 16.0)]
        assert min(cells, key=lambda c: c.loss).optimizer == "soap"
    assert len(recommend(published, AT_760M).remarks) == 2
    assert len(recommend(published, AT_760M, ["muon"]).remarks) == 1


@pytest.mark.parametrize(
    "places",
    [
        [(1.2e9, 1.0), (3e9, 1.0), (7e9, 1.0)],
        [(134.3e6, 1.0), (67e6, 1.0), (22.4e6, 1.0)],
        [(300e6, 16.0), (300e6, 32.0), (300e6, 64.0)],
        [(300e6, 1.0), (300e6, 0.5), (300e6, 0.25)],
    ],
)
def test_speed_ups_never_grow_surer_outside(
    published: RecommendationSource, places: list[tuple[float, float]]
) -> None:
    widths: list[float] = []
    for params, ratio in places:
        place = Target(params=params, tokens=20 * ratio * params)
        speedup = recommend(published, place, ["muon"]).optimizers[0].speedup
        assert speedup is not None
        widths.append(math.log((speedup.high or 0) / (speedup.low or 1)))
    assert widths[0] <= widths[1] * (1 + 1e-9)
    assert widths[1] <= widths[2] * (1 + 1e-9)


def test_speed_ups_grow_less_sure_away_from_the_sizes(published: RecommendationSource) -> None:
    widths: list[float] = []
    for params in (400e6, 1.2e9, 6e9):
        muon = recommend(published, Target(params=params, tokens=20 * params), ["muon"])
        speedup = muon.optimizers[0].speedup
        assert speedup is not None
        widths.append(math.log((speedup.high or 0) / (speedup.low or 1)))
    assert widths[0] < widths[1] < widths[2]
