"""The published results as text: every number of the tables, on a terminal of 100 columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from optbench.analysis.journal_entries import CellEntry
from optbench.analysis.noise import MeanLoss
from optbench.analysis.own_against_paper import OwnAgainstPaper, OwnCell
from optbench.report.own_against_paper_text import print_comparison
from optbench.report.paper_terminal import print_paper

from ..published_analysis import paper_results


@pytest.fixture(scope="module")
def text() -> str:
    out = io.StringIO()
    print_paper(paper_results(), Console(file=out, width=100))
    return out.getvalue()


def test_no_line_is_longer_than_the_terminal_and_no_number_torn(text: str) -> None:
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "…" not in text


def test_tables_stand_in_order(text: str) -> None:
    titles = [
        "Losses on C4, nats per token",
        "Power laws α·r^(−B) + β through AdamW's losses",
        "Speed-ups over AdamW by the paper's estimator",
        "Case studies",
        "Sensitive to scale",
        "Extrapolated to 1.2b",
        "The paper's statements under this noise",
        "The nine claims of a report, judged on the published losses",
    ]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)


def test_speedups_whose_interval_contains_one_are_in_parentheses(text: str) -> None:
    part = text[text.index("Speed-ups over AdamW") : text.index("Case studies")]
    for one in paper_results().speedups:
        low, high = one.paper.low, one.paper.high
        shown = f"{one.paper.value:.3f}"
        is_open = low is not None and high is not None and low <= 1 <= high
        assert (f"({shown})" if is_open else f" {shown} ") in part


def test_the_noise_is_stated_with_its_traces(text: str) -> None:
    said = " ".join(text.split())
    assert "Intervals are 95 %, for σ = 0.002 nats a loss." in said
    assert "51 of 115 configurations with two published losses differ" in said


def own(published: float | None) -> OwnCell:
    return OwnCell(
        cell=CellEntry("130m", 1.0, 2_684_354_560, 134_217_728),
        optimizer="muon[bold]",
        own=MeanLoss(value=3.5, count=3, stderr=0.001, half_width=0.004),
        published=published,
        difference=None if published is None else 3.5 - published,
        over_baseline=-0.0625,
        published_over_baseline=None,
        own_configuration={"lr": 0.01},
        published_configuration={"lr": 0.016},
        differing=("lr",) if published else (),
    )


@pytest.mark.parametrize("published", [3.4626, None])
def test_own_losses_beside_published_ones(published: float | None) -> None:
    found = OwnAgainstPaper(
        study="mine", baseline="adamw", corpora=("my texts",), source="a paper",
        rows=(own(published),), left_out=("d32 1x",),
    )  # fmt: skip
    out = io.StringIO()
    print_comparison(found, Console(file=out, width=120))
    said = " ".join(out.getvalue().split())
    assert "muon[bold] 3.500 ± 0.004 3" in said
    assert ("3.4626 +0.037 ± 0.004 −0.0625 –" if published else "– – −0.0625 –") in said
    assert "Own losses are on the test text of my texts; the published ones are on C4" in said
    assert ("muon[bold] in 130m 1x: lr 0.01 (published 0.016)." in said) == bool(published)
    assert "Not at the paper's sizes: d32 1x." in said
