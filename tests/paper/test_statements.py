"""The paper's own words under a stated noise: verdicts, and how they follow from it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from optbench.analysis.claims.claim import widened
from optbench.paper.published_study import read_published_study
from optbench.paper.results import PaperResults, analyse_paper
from optbench.paper.statements import judge_statements
from optbench.published import read_published
from tests.paper.published_analysis import paper_results


def verdicts(results: PaperResults) -> dict[str, tuple[bool, str]]:
    return {s.text: (s.numbers_agree, s.verdict) for s in results.statements}


def test_one_statement_survives_the_default_noise() -> None:
    assert verdicts(paper_results()) == {
        "The best matrix-based method is about 1.3–1.4× faster at 130m.": (True, "inconclusive"),
        "At 1.2b that has fallen to about 1.1×.": (True, "inconclusive"),
        "The speed-up of Muon and of Soap falls from 130m to 1.2b.": (True, "holds"),
        "No speed-up is above 1.4×, but for rounding.": (True, "inconclusive"),
        "Scalar-based methods stay below 1.2×.": (True, "inconclusive"),
        "Muon is the best at 1–4×.": (False, "inconclusive"),
        "Soap or Kron is better than Muon from 8× on.": (False, "inconclusive"),
        "At 16× on 300m Soap passes Muon.": (True, "inconclusive"),
        "At 1.2b and 8× NAdamW, Muon and Soap are ahead of AdamW.": (True, "inconclusive"),
    }


def test_without_noise_the_losses_decide() -> None:
    """All but what hangs on the power law, which misses its own points at 130m to 520m."""
    found = verdicts(analyse_paper(read_published(), 1e-7))
    assert found == {
        "The best matrix-based method is about 1.3–1.4× faster at 130m.": (True, "inconclusive"),
        "At 1.2b that has fallen to about 1.1×.": (True, "holds"),
        "The speed-up of Muon and of Soap falls from 130m to 1.2b.": (True, "holds"),
        "No speed-up is above 1.4×, but for rounding.": (True, "inconclusive"),
        "Scalar-based methods stay below 1.2×.": (True, "inconclusive"),
        "Muon is the best at 1–4×.": (False, "does not hold"),
        "Soap or Kron is better than Muon from 8× on.": (False, "does not hold"),
        "At 16× on 300m Soap passes Muon.": (True, "holds"),
        "At 1.2b and 8× NAdamW, Muon and Soap are ahead of AdamW.": (True, "holds"),
    }


def test_with_the_scatter_of_the_joint_fit_as_noise_nothing_survives() -> None:
    results = analyse_paper(read_published(), paper_results().noise.scatter)
    assert {verdict for _, verdict in verdicts(results).values()} == {"inconclusive"}
    assert results.at_scatter == results.statements
    assert [s.text for s in paper_results().at_scatter] == [s.text for s in results.statements]
    assert {s.verdict for s in paper_results().at_scatter} == {"inconclusive"}
    assert results.goodness.p_value is not None
    assert results.goodness.p_value > 0.05


def test_the_fastest_of_several_has_its_interval_corrected_for_that_choice() -> None:
    """Of four at 130m, and of the two that went to 16×; the mean is over the data ratios."""
    matrix = ("muon", "scion", "kron", "soap")
    low = high = 0.0
    for ratio, choices in ((1.0, 4), (2.0, 4), (4.0, 4), (8.0, 4), (16.0, 2)):
        rivals = [paper_results().speedup(name, "130m", ratio) for name in matrix]
        found = [one.paper for one in rivals if one is not None]
        assert len(found) == choices
        ends = widened(max(found, key=lambda s: s.value), choices)
        low, high = low + math.log(ends[0]) / 5, high + math.log(ends[1]) / 5
    said = f"1.35× [{math.exp(low):.2f}, {math.exp(high):.2f}]"
    assert said == "1.35× [1.26, 1.46]"
    assert said in paper_results().statements[0].evidence[0]


def test_a_statement_about_no_cells_is_not_judged() -> None:
    study = read_published_study(read_published(), 2e-3, replicates=50, joint_replicates=50)
    without = dataclasses.replace(study, cells=())
    with pytest.raises(AssertionError, match="about no cells"):
        judge_statements(without, paper_results().speedups)


def test_means_over_cells_have_no_end_where_the_budgets_give_none() -> None:
    """NAdamW at 1.2b 1× may be slower than AdamW's smallest budget can tell."""
    one = paper_results().speedup("nadamw", "1.2b", 1.0)
    assert one is not None
    assert one.interpolate is not None
    assert one.interpolate.low == 0
    assert not any("[0.00" in said for claim in paper_results().claims for said in claim.evidence)
    assert "speed-up 1.07× [1.00, 1.15]" in paper_results().claims[6].evidence[0]


def test_the_nine_claims_under_the_default_noise() -> None:
    assert {c.number: c.verdict for c in paper_results().claims} == {
        1: "holds",
        2: "holds",
        3: "inconclusive",
        4: "inconclusive",
        5: "inconclusive",
        6: "inconclusive",
        7: "inconclusive",
        8: "does not hold",
        9: "inconclusive",
    }


def test_claims_are_judged_in_all_cells() -> None:
    claims = paper_results().claims
    assert len(claims[2].cells) == 18
    assert claims[2].evidence[0].startswith("119 of 132 speed-ups in 18 cells")
    assert all(claim.needs for claim in claims if claim.verdict == "inconclusive")
