"""The page of the published results: all is on it, nothing from elsewhere, a browser draws it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from optbench.paper.page import render_paper_page, write_paper_page
from tests.needs import needs_browser
from tests.paper.published_analysis import paper_results
from tests.report.pages import Page, browse


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_paper_page(paper_results()))


def test_sections_stand_in_order(page: Page) -> None:
    titles = [
        "What do the published results show, and what of it is beyond the noise?",
        "Which conclusions survive",
        "The noise of a published loss",
        "Power laws through adamw's losses",
        "By the paper's estimator.",
        "Case studies: 1.2b, and 16 times Chinchilla",
        "Joint fit of all cells",
        "Hyperparameters that are sensitive to scale",
        "Hyperparameters extrapolated to 1.2b",
        "The nine claims, judged on the published losses",
    ]
    places = [page.text.index(title) for title in titles]
    assert places == sorted(places)


def test_every_loss_and_every_speedup_is_in_its_table(page: Page) -> None:
    text = page.text
    losses = text[text.index("Against adamw in the same cell") : text.index("Power laws through")]
    speedups = text[text.index("By the paper's estimator.") : text.index("Case studies: 1.2b")]
    for one in paper_results().speedups:
        assert f"{one.loss:.4f}" in losses
        assert f"{one.paper.value:.3f}" in speedups
    assert "1.430 [1.39, 1.47]" in speedups


def test_every_statement_and_claim_has_its_verdict(page: Page) -> None:
    verdicts = [
        str(attributes["class"]).replace("-", " ")
        for tag, attributes in page.elements
        if tag == "span" and attributes.get("class") in ("holds", "does-not-hold", "inconclusive")
    ]
    results = paper_results()
    expected = [
        verdict
        for pair in zip(results.statements, results.at_scatter, strict=True)
        for verdict in (one.verdict for one in pair)
    ]
    expected += ["holds" for axis in results.sensitive if axis.agreement == "same"]
    expected += [claim.verdict for claim in results.claims]
    assert verdicts == expected
    for one in results.statements:
        for sentence in (one.text, *one.evidence):
            assert " ".join(sentence.split()) in page.text


def test_the_noise_is_said_to_be_assumed(page: Page) -> None:
    assert "σ = 0.002 is an assumption" in page.text
    assert "That is no estimate of noise." in page.text


def test_an_end_below_the_smallest_budget_is_open(page: Page) -> None:
    assert "1.02× (0, 1.07]" in page.text
    assert "[0.00, " not in page.text


def test_what_is_not_determined_says_why(page: Page) -> None:
    assert page.text.count("hangs on the start") == 3
    assert page.text.count("several minima") == 1
    assert page.text.count("no minimum") == 1
    assert "Both pairs serve all cells" in page.text


def test_page_asks_for_nothing_from_elsewhere(page: Page) -> None:
    for tag, attributes in page.elements:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & attributes.keys(), tag
    (policy,) = [a for t, a in page.elements if t == "meta" and a.get("http-equiv")]
    assert str(policy["content"]).startswith("default-src 'none';")


def test_every_figure_has_its_place(page: Page) -> None:
    (raw,) = [script for script in page.scripts if script.startswith("{")]
    drawn = [a["data-figure"] for t, a in page.elements if t == "div" and "data-figure" in a]
    assert sorted(map(str, drawn)) == sorted(json.loads(raw))
    # losses, gaps and speed-ups at four sizes, three over the size, one of estimators, 23 of laws
    assert len(drawn) == 3 * 4 + 3 + 1 + 23


@needs_browser
def test_a_browser_draws_every_open_figure_without_complaint(tmp_path: Path) -> None:
    path = write_paper_page(paper_results(), tmp_path / "figures")
    assert path == tmp_path / "figures" / "paper.html"
    assert path.stat().st_size < 2_000_000
    document, log = browse(path)
    assert "CONSOLE" not in log
    # the laws of the first optimizer stand open, the others do not
    plots = 3 * 4 + 3 + 1 + 6
    assert len(re.findall(r'<div class="plot js-plotly-plot"', document)) == plots
    assert len(re.findall(r'<svg class="main-svg"', document)) >= plots
