"""The nine claims on whole studies: simulated ones whose truth is known, and the committed one."""

from __future__ import annotations

from pathlib import Path

import pytest

from optbench.analysis.claims.claim import Claim
from optbench.analysis.claims.families import ADAMW, kind_of, members, of_kind
from optbench.analysis.summary import summarise
from optbench.optimizers.registry import METHODS
from optbench.store.store import RunStore
from tests.statistics.synthetic import SimulatedStudy, Truth, confirmed_study

NANO = Path(__file__).parents[3] / "results" / "nano"


@pytest.fixture(scope="module")
def nano() -> tuple[Claim, ...]:
    return summarise(RunStore.read(NANO)).claims


def test_no_optimizer_of_the_registry_is_of_both_kinds() -> None:
    assert ADAMW in METHODS
    for method in METHODS.values():
        assert not {"matrix-based", "scalar-based"} <= set(method.families)
    assert {"muon", "scion", "kron", "soap"} <= set(members("matrix-based"))
    assert {"nadamw", "mars", "cautious"} <= set(members("variance-reduced"))
    assert {"lion", "adam_mini"} <= set(members("memory-efficient"))
    assert of_kind("scalar-based", ["sophia", "soap", "lion"]) == ["sophia", "lion"]
    assert [kind_of(name) for name in ("kron", "adamw")] == ["matrix-based", "scalar-based"]


def test_an_optimizer_of_no_family_is_named_instead_of_counted_as_scalar_based() -> None:
    efficiency = {"adamw": 1.0, "muon": 1.5, "newest": 3.0, "ademamix": 1.2}
    truth = Truth(
        efficiency=efficiency,
        best_lr=dict.fromkeys(efficiency, 0.016),
        step_s=dict.fromkeys(efficiency, 0.012),
    )
    study = confirmed_study(truth, [("d32", 1.0)], seeds=3)
    claims = {claim.number: claim for claim in summarise(study.store).claims}
    assert [kind_of(name) for name in ("newest", "ademamix")] == [None, None]
    compared, uncounted = claims[5].evidence
    assert "the best matrix-based, muon, against the best scalar-based, adamw" in compared
    assert "of 1 pair " in compared
    assert uncounted == "Not counted, being of no stated family: newest, ademamix."
    assert claims[5].verdict == "holds"


def test_the_committed_study_tells_what_its_records_carry(nano: tuple[Claim, ...]) -> None:
    assert {claim.number: claim.verdict for claim in nano[:9]} == {
        1: "inconclusive",
        2: "inconclusive",
        3: "inconclusive",
        4: "inconclusive",
        5: "holds",
        6: "inconclusive",
        7: "inconclusive",
        8: "does not hold",
        9: "does not hold",
    }


def test_every_verdict_has_evidence_and_every_open_claim_a_need(nano: tuple[Claim, ...]) -> None:
    for claim in nano:
        is_open = claim.verdict == "inconclusive"
        assert bool(claim.needs) == is_open, claim
        assert is_open or (claim.evidence and claim.cells), claim
        assert all(text.endswith(".") for text in (*claim.evidence, *claim.needs)), claim


def test_runs_behind_a_claim_are_stored(nano: tuple[Claim, ...]) -> None:
    records = RunStore.read(NANO).records
    named = {run_id for claim in nano for run_id in claim.run_ids}
    assert len(named) >= 4
    assert named <= records.keys()


def test_a_study_that_only_began_can_tell_nothing() -> None:
    study = SimulatedStudy()
    study.begin()
    claims = summarise(study.store).claims
    assert [claim.number for claim in claims] == list(range(1, len(claims) + 1))
    assert {claim.verdict for claim in claims} == {"inconclusive"}
    assert all(claim.needs for claim in claims)


SIZES = [(size, ratio) for size in ("d32", "d64") for ratio in (0.5, 1.0, 2.0)]


@pytest.mark.parametrize(
    ("trend", "sigma", "verdict"),
    [(-0.15, 0.004, "holds"), (0.0, 0.001, "does not hold"), (-0.15, 0.15, "inconclusive")],
)
def test_speedups_over_sizes_follow_the_truth(trend: float, sigma: float, verdict: str) -> None:
    truth = Truth(efficiency={"adamw": 1.0, "muon": 1.5}, trend=trend, sigma=sigma)
    study = confirmed_study(truth, SIZES, seeds=4)
    assert summarise(study.store).claims[3].verdict == verdict


@pytest.mark.parametrize(
    ("drift", "sigma", "verdict"),
    [(0.2, 0.004, "holds"), (0.0, 0.004, "does not hold"), (0.2, 0.08, "inconclusive")],
)
def test_winners_over_ratios_follow_the_truth(drift: float, sigma: float, verdict: str) -> None:
    """The third is 0.8 times as fast as Muon at 1x and, with drift, 1.2 times at 8x."""
    truth = Truth(
        efficiency={"adamw": 1.0, "muon": 1.5, "nadamw": 1.2},
        drift={"nadamw": drift},
        sigma=sigma,
    )
    study = confirmed_study(truth, [("d32", 1.0), ("d32", 8.0)], seeds=4)
    assert summarise(study.store).claims[5].verdict == verdict


@pytest.mark.parametrize(
    ("early", "sigma", "verdict"),
    [(1.3, 0.01, "holds"), (1.0, 0.01, "does not hold"), (1.1, 0.05, "inconclusive")],
)
def test_rankings_along_runs_follow_the_truth(early: float, sigma: float, verdict: str) -> None:
    truth = Truth(efficiency={"adamw": 1.0, "muon": 1.5}, early={"muon": early}, sigma=sigma)
    study = confirmed_study(truth, [("d32", 1.0)], seeds=5)
    assert summarise(study.store).claims[8].verdict == verdict
