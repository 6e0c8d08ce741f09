from __future__ import annotations

from typing import Any

import pytest

from optbench.analysis.claims.claim import Claim
from optbench.analysis.claims.transfer import no_transfer_between_optimizers
from optbench.store.journal import read_journal

CELL = {"size": "d32", "ratio": 1.0, "num_tokens": 655_360, "num_nonembedding_params": 32_768}
STUDY: dict[str, Any] = {
    "kind": "study",
    "name": "s",
    "title": "",
    "smoke": False,
    "baseline": "adamw",
    "optimizers": ["adamw", "muon"],
    "confirm_seeds": 2,
    "tuned_cell": CELL,
    "baseline_cells": [],
    "axes": {"adamw": ["lr", "beta1"], "muon": ["lr", "momentum"]},
}


def noise(paired_sigma: float) -> dict[str, Any]:
    return {
        "kind": "noise",
        "cell": CELL,
        "optimizer": "adamw",
        "run_ids": ["a", "b", "c", "d"],
        "neighbour_run_ids": ["e", "f", "g", "h"],
        "sigma": 0.02,
        "paired_sigma": paired_sigma,
        "tie_threshold": 0.003,
    }


def tuning(
    optimizer: str, best: dict[str, Any], *evaluations: tuple[dict[str, Any], float | None]
) -> dict[str, Any]:
    """The first evaluation is that of the best."""
    return {
        "kind": "tuning",
        "cell": CELL,
        "optimizer": optimizer,
        "start": best,
        "incumbent": {**best, "weight_decay": 0.1},
        "certified": True,
        "tie_threshold": 0.003,
        "moves": [],
        "evaluations": [
            {"configuration": configuration, "run_id": f"{optimizer}-{k}", "loss": loss}
            for k, (configuration, loss) in enumerate(evaluations)
        ],
        "rejected": [],
        "edges": [],
        "runs": len(evaluations),
        "tokens": 1000,
    }


ADAMW = {"lr": 0.01, "beta1": 0.9}
MUON = {"lr": 0.04, "momentum": 0.9}


def transfer(
    *, adamw_at_muons: float | None, muon_at_adamws: float | None, paired_sigma: float
) -> Claim:
    return no_transfer_between_optimizers(
        read_journal(
            [
                STUDY,
                noise(paired_sigma),
                tuning("adamw", ADAMW, (ADAMW, 4.0), ({"lr": 0.04, "beta1": 0.9}, adamw_at_muons)),
                tuning("muon", MUON, (MUON, 3.9), ({"lr": 0.01, "momentum": 0.9}, muon_at_adamws)),
            ]
        )
    )


def test_a_penalty_beyond_the_noise_shows_that_values_do_not_transfer() -> None:
    claim = transfer(adamw_at_muons=4.1, muon_at_adamws=3.9005, paired_sigma=0.01)
    assert (claim.number, claim.verdict) == (2, "holds")
    assert claim.evidence[1] == (
        "adamw with muon's lr=0.04 in d32 1x: +0.100 ± 0.032 nats over its own best (τ = 0.003)."
    )
    assert claim.run_ids == ("adamw-1", "muon-1")


def test_a_run_that_diverged_at_anothers_values_shows_it_too() -> None:
    claim = transfer(adamw_at_muons=None, muon_at_adamws=3.9005, paired_sigma=0.01)
    assert claim.verdict == "holds"
    assert claim.evidence[1] == "adamw with muon's lr=0.04 in d32 1x diverged."


def test_penalties_within_the_threshold_even_with_their_noise_refute() -> None:
    claim = transfer(adamw_at_muons=4.0005, muon_at_adamws=3.9002, paired_sigma=0.0005)
    assert claim.verdict == "does not hold"
    loud = transfer(adamw_at_muons=4.0005, muon_at_adamws=3.9002, paired_sigma=0.002)
    assert loud.verdict == "inconclusive"
    assert loud.needs[0].startswith("More seeds in the measurement of the noise")


def test_a_penalty_within_the_noise_stays_open() -> None:
    """Two comparisons: the quantile of t with 3 degrees of freedom is 4.18, not 3.18."""
    claim = transfer(adamw_at_muons=4.036, muon_at_adamws=3.9, paired_sigma=0.01)
    assert claim.verdict == "inconclusive"
    assert transfer(adamw_at_muons=4.043, muon_at_adamws=3.9, paired_sigma=0.01).verdict == "holds"


def test_values_that_were_never_tried_are_named() -> None:
    claim = no_transfer_between_optimizers(
        read_journal(
            [
                STUDY,
                noise(0.01),
                tuning("adamw", ADAMW, (ADAMW, 4.0)),
                tuning("muon", MUON, (MUON, 3.9)),
            ]
        )
    )
    assert claim.verdict == "inconclusive"
    assert claim.needs == (
        "adamw was not trained with muon's lr=0.04 in d32 1x.",
        "muon was not trained with adamw's lr=0.01 in d32 1x.",
    )


def test_equal_best_values_transfer() -> None:
    same = {"lr": 0.01, "momentum": 0.9}
    claim = no_transfer_between_optimizers(
        read_journal(
            [
                STUDY,
                noise(0.01),
                tuning("adamw", ADAMW, (ADAMW, 4.0)),
                tuning("muon", same, (same, 3.9)),
            ]
        )
    )
    assert claim.verdict == "does not hold"
    assert "2 have the same best values" in claim.evidence[0]


def test_what_is_not_shared_stays_at_its_best_value() -> None:
    claim = no_transfer_between_optimizers(
        read_journal(
            [
                STUDY,
                noise(0.01),
                tuning(
                    "adamw",
                    ADAMW,
                    (ADAMW, 4.0),
                    ({"lr": 0.04, "beta1": 0.6}, 4.5),
                    ({"lr": 0.04, "beta1": 0.9}, 4.01),
                    ({"lr": 0.04, "beta1": 0.8}, 4.0),
                ),
                tuning("muon", MUON, (MUON, 3.9)),
            ]
        )
    )
    assert claim.verdict == "inconclusive"
    assert "adamw with muon's lr=0.04 in d32 1x: +0.010 ± 0.032" in claim.evidence[1]


@pytest.mark.parametrize("entries", [[], [tuning("adamw", ADAMW, (ADAMW, 4.0))]])
def test_one_tuned_optimizer_has_nothing_to_transfer_to(entries: list[dict[str, Any]]) -> None:
    claim = no_transfer_between_optimizers(read_journal([STUDY, *entries]))
    assert claim.verdict == "inconclusive"
    assert claim.needs == (
        "Two optimizers tuned in one cell, with a hyperparameter of the same name.",
    )


def test_without_a_measured_noise_no_penalty_is_judged() -> None:
    entries = [
        tuning("adamw", ADAMW, (ADAMW, 4.0), ({"lr": 0.04, "beta1": 0.9}, 4.1)),
        tuning("muon", MUON, (MUON, 3.9), ({"lr": 0.01, "momentum": 0.9}, 3.9)),
    ]
    claim = no_transfer_between_optimizers(read_journal([STUDY, *entries]))
    assert claim.verdict == "inconclusive"
    assert claim.needs == ("A measurement of the noise: without it no penalty has an interval.",)
    assert "+0.100 nats over" in claim.evidence[1]
