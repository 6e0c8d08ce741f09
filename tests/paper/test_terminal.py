"""The published results as text: every number of the tables, on a terminal of 100 columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from optbench.paper.own_against_paper import OwnAgainstPaper, OwnCell
from optbench.paper.own_against_paper_text import print_comparison
from optbench.paper.tables import verdicts_table
from optbench.paper.terminal import print_paper
from optbench.statistics.noise import MeanLoss
from optbench.store.journal_entries import CellEntry
from tests.paper.published_analysis import paper_results


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
        "The paper's statements under this noise, and under the scatter of the joint fit",
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


def test_the_noise_is_said_to_be_assumed(text: str) -> None:
    said = " ".join(text.split())
    assert "Intervals are 95 %, for σ = 0.002 nats a loss" in said
    assert "σ = 0.002 is an assumption" in said
    assert "In 51 of 115 cells the chosen configuration lies above it" in said
    assert "in 39 the least loss is another row of the same table" in said
    assert "(33 for muon, 21 for adamw)" in said


def test_verdicts_stand_under_both_noises() -> None:
    titles, rows = verdicts_table(paper_results())
    assert titles[2:4] == ["σ = 0.002", "σ = 0.0042"]
    assert [row[2] for row in rows].count("holds") == 1
    assert {row[3] for row in rows} == {"inconclusive"}


def test_an_end_below_the_smallest_budget_is_open(text: str) -> None:
    assert "1.02× (0, 1.07]" in text
    assert "[0.00, " not in text
    assert "(an interval from 0 or to ∞ ends below or above AdamW's budgets)" in text


def own(published: float | None) -> OwnCell:
    return OwnCell(
        cell=CellEntry("130m", 1.0, 2_684_354_560, 134_217_728),
        optimizer="muon[bold]",
        own=MeanLoss(value=3.5, count=3, stderr=0.001, half_width=0.004),
        published=published,
        difference=None if published is None else 3.5 - published,
        difference_half_width=None if published is None else 0.0056,
        over_baseline=-0.0625,
        published_over_baseline=None,
        own_configuration={"lr": 0.01, "batch_tokens": 524_288},
        published_configuration={"lr": 0.016, "batch_tokens": 1_048_576},
        differing=("lr", "batch_tokens") if published else (),
    )


@pytest.mark.parametrize("published", [3.4626, None])
def test_own_losses_beside_published_ones(published: float | None) -> None:
    found = OwnAgainstPaper(
        study="mine", baseline="adamw", corpora=("my texts",), source="a paper", sigma=0.002,
        rows=(own(published),), left_out=("d32 1x",),
    )  # fmt: skip
    out = io.StringIO()
    print_comparison(found, Console(file=out, width=120))
    said = " ".join(out.getvalue().split())
    assert "muon[bold] 3.500 ± 0.004 3" in said
    assert ("3.4626 +0.037 ± 0.006 −0.0625 –" if published else "– – −0.0625 –") in said
    assert "Own losses are on the test text of my texts; the published ones are on C4" in said
    assert ("muon[bold] in 130m 1x: lr 0.01 (published 0.016), batch_tokens 524k" in said) == bool(
        published
    )
    assert "a difference also counts σ = 0.002, which is assumed of the published loss" in said
    assert "Not at the paper's sizes: d32 1x." in said
