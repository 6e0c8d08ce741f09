"""The paper's own words under a stated noise: verdicts, and how they follow from it."""

from __future__ import annotations

import pytest

from optbench.analysis.paper_results import PaperError, PaperResults, analyse_paper
from optbench.published import read_published

from ..published_analysis import paper_results


def verdicts(results: PaperResults) -> dict[str, tuple[bool, str]]:
    return {s.text: (s.numbers_agree, s.verdict) for s in results.statements}


def test_two_statements_survive_the_default_noise() -> None:
    assert verdicts(paper_results()) == {
        "The best matrix-based method is about 1.3–1.4× faster at 130m.": (True, "holds"),
        "At 1.2b that has fallen to about 1.1×.": (True, "cannot tell"),
        "The speed-up of Muon and of Soap falls from 130m to 1.2b.": (True, "holds"),
        "No speed-up is above 1.4×, but for rounding.": (True, "cannot tell"),
        "Scalar-based methods stay below 1.2×.": (True, "cannot tell"),
        "Muon is the best at 1–4×.": (False, "cannot tell"),
        "Soap or Kron is better than Muon from 8× on.": (False, "cannot tell"),
        "At 16× on 300m Soap passes Muon.": (True, "cannot tell"),
        "At 1.2b and 8× NAdamW, Muon and Soap are ahead of AdamW.": (True, "cannot tell"),
    }


def test_without_noise_the_losses_decide() -> None:
    """All but what hangs on the power law, which misses its own points at 130m to 520m."""
    found = verdicts(analyse_paper(read_published(), 1e-7))
    assert found == {
        "The best matrix-based method is about 1.3–1.4× faster at 130m.": (True, "cannot tell"),
        "At 1.2b that has fallen to about 1.1×.": (True, "holds"),
        "The speed-up of Muon and of Soap falls from 130m to 1.2b.": (True, "holds"),
        "No speed-up is above 1.4×, but for rounding.": (True, "cannot tell"),
        "Scalar-based methods stay below 1.2×.": (True, "cannot tell"),
        "Muon is the best at 1–4×.": (False, "does not hold"),
        "Soap or Kron is better than Muon from 8× on.": (False, "does not hold"),
        "At 16× on 300m Soap passes Muon.": (True, "holds"),
        "At 1.2b and 8× NAdamW, Muon and Soap are ahead of AdamW.": (True, "holds"),
    }


def test_with_the_scatter_of_the_joint_fit_as_noise_nothing_survives() -> None:
    results = analyse_paper(read_published(), 4.2e-3)
    assert {verdict for _, verdict in verdicts(results).values()} == {"cannot tell"}
    assert results.goodness.p_value is not None
    assert results.goodness.p_value > 0.05


def test_the_nine_claims_under_the_default_noise() -> None:
    assert {c.number: c.verdict for c in paper_results().claims} == {
        1: "holds",
        2: "holds",
        3: "cannot tell",
        4: "cannot tell",
        5: "cannot tell",
        6: "cannot tell",
        7: "cannot tell",
        8: "does not hold",
        9: "cannot tell",
    }


def test_claims_are_judged_in_all_cells() -> None:
    claims = paper_results().claims
    assert len(claims[2].cells) == 18
    assert claims[2].evidence[0].startswith("118 of 132 speed-ups in 18 cells")
    assert all(claim.needs for claim in claims if claim.verdict == "cannot tell")


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_noise_that_is_none_is_refused(sigma: float) -> None:
    with pytest.raises(PaperError, match=r"above 0, but got .* The figures themselves suggest 0.0"):
        analyse_paper(read_published(), sigma)
