from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import stat
from pathlib import Path

import pytest

from optbench.analysis.notices import AllDiverged, InCell
from optbench.analysis.summary import StudySummary, summarise
from optbench.report.figures.overview import study_figures
from optbench.report.html import render_report, write_report
from optbench.report.page import PageError
from optbench.report.sections import scale_sections
from optbench.report.text import interval_text, value_text
from optbench.report.wording import verdict_text
from optbench.store.journal import read_journal
from optbench.store.store import RunStore
from tests.needs import needs_browser
from tests.report.pages import Page, browse
from tests.statistics.synthetic import SimulatedStudy, Truth, finished_study

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def page(study: SimulatedStudy, summary: StudySummary) -> Page:
    return Page(render_report(summary, study.store))


def test_page_asks_for_nothing_from_elsewhere(page: Page) -> None:
    for tag, attributes in page.elements:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & attributes.keys(), tag
        assert tag not in ("link", "base", "iframe", "object", "embed")
    policies = [a for t, a in page.elements if t == "meta" and a.get("http-equiv")]
    assert [p["http-equiv"] for p in policies] == ["Content-Security-Policy"]
    assert str(policies[0]["content"]).startswith("default-src 'none';")
    assert "@import" not in page.text
    assert "url(" not in page.text


def test_page_answers_the_question_before_everything_else(
    page: Page, summary: StudySummary
) -> None:
    text, muon = page.text, summary.row("muon")
    assert muon.tokens is not None
    assert "How much faster than a well-tuned adamw is each optimizer?" in text
    assert text.index(value_text(muon.tokens)) < text.index("How to read this")


def test_every_optimizer_stands_in_the_result_table(page: Page, summary: StudySummary) -> None:
    for row in summary.rows:
        assert verdict_text(row, "adamw") in page.text


def test_one_held_out_seed_is_not_called_several() -> None:
    study = finished_study(optimizers=("adamw", "muon"), seeds=1)
    text = Page(render_report(summarise(study.store), study.store)).text
    assert "1 held-out seed" in text
    assert "1 held-out seeds" not in text


def test_every_run_of_the_store_is_listed(page: Page, study: SimulatedStudy) -> None:
    for run_id in study.store.records:
        assert run_id in page.text


def test_a_study_of_one_cell_has_claims_but_nothing_over_cells(page: Page) -> None:
    assert "Claims of the paper, checked on this study" in page.text
    assert "Over sizes and data ratios" not in page.text
    assert "Hyperparameters over scale" not in page.text


def test_every_claim_has_its_verdict_and_its_evidence(page: Page, summary: StudySummary) -> None:
    numbers = [claim.number for claim in summary.claims]
    assert numbers == list(range(1, len(numbers) + 1))
    for claim in summary.claims:
        for sentence in (claim.statement, *claim.evidence, *claim.needs):
            assert " ".join(sentence.split()) in page.text
    verdicts = [
        attributes["class"]
        for tag, attributes in page.elements
        if tag == "span" and attributes.get("class") in ("holds", "does-not-hold", "inconclusive")
    ]
    told = [claim.verdict.replace(" ", "-") for claim in summary.claims]
    assert [verdict for verdict in verdicts if verdict in told][-len(told) :] == told


@pytest.fixture(scope="module")
def ladder_page(ladder_store: RunStore, ladder: StudySummary) -> Page:
    return Page(render_report(ladder, ladder_store))


def test_sections_stand_in_order(ladder_page: Page) -> None:
    titles = [
        "How much faster than a well-tuned adamw is each optimizer?",
        "Over sizes and data ratios",
        "How to read this",
        "Claims of the paper, checked on this study",
        "The runs behind the means",
        "Coordinate descent, the same for every optimizer",
        "Hyperparameters over scale",
        "Seed noise",
        "All runs",
    ]
    places = [ladder_page.text.index(title) for title in titles]
    assert places == sorted(places)


def test_the_table_of_cells_has_every_speedup(ladder_page: Page, ladder: StudySummary) -> None:
    text = ladder_page.text
    section = text[
        text.index("Every cell") : text.index("Joint fit of all cells", text.index("Every cell"))
    ]
    for cell in ladder.cells:
        for row in cell.rows:
            if row.tokens is not None:
                assert f"{value_text(row.tokens)} {interval_text(row.tokens)}" in section
    assert "8× (III)" in section
    assert section.count("– ") >= 5


def test_predictions_show_law_interval_and_extrapolation(ladder_page: Page) -> None:
    text = ladder_page.text
    section = text[text.index("Hyperparameters over scale") : text.index("Seed noise")]
    assert "sensitive: lr, momentum; predicted in d32 8x, d64 1x" in section
    assert "lr power 4 cells; the full law needs 5 0.0113137 [0.000203, 0.63] 0.0113137" in section
    assert "1.78 × the size" in section
    assert "Trained with lr=0.0113137, momentum=0.929289 ." in section


def test_every_figure_of_a_study_of_cells_has_its_place(ladder_page: Page) -> None:
    (raw,) = [script for script in ladder_page.scripts if script.startswith("{")]
    drawn = [a["data-figure"] for t, a in ladder_page.elements if t == "div" and "data-figure" in a]
    assert sorted(map(str, drawn)) == sorted(json.loads(raw))
    assert {"over-ratio-2", "over-size-1", "curves", "law-1-1"} <= set(drawn)


def test_remarks_on_the_joint_fit_are_not_called_missing(
    ladder_store: RunStore, ladder: StudySummary
) -> None:
    joint = dataclasses.replace(ladder.joint, remarks=("It does not fit.",))
    missing = (InCell("d64 1x", AllDiverged("muon", 6)),)
    changed = dataclasses.replace(ladder, joint=joint, missing=missing)
    text = Page(render_report(changed, ladder_store)).text
    assert "d64 1x: muon: all 6 confirmation runs diverged." in text
    assert text.count("It does not fit.") == 1


def test_embedded_figures_are_those_of_the_summary(page: Page, summary: StudySummary) -> None:
    (raw,) = [script for script in page.scripts if script.startswith("{")]
    figures = json.loads(raw)
    for name, figure in study_figures(summary).items():
        assert figures[name] == figure
    drawn = [a["data-figure"] for t, a in page.elements if t == "div" and "data-figure" in a]
    assert sorted(map(str, drawn)) == sorted(figures)


def evil_study() -> SimulatedStudy:
    """Markup wherever a record or the journal has free text."""
    truth = Truth(
        efficiency={"adamw": 1.0, EVIL: 1.2},
        best_lr={"adamw": 0.016, EVIL: 0.004},
        step_s={"adamw": 0.01, EVIL: 0.01},
    )
    phases = {"tune": [("d48", 1.0)], "retune": [], "predict": []}
    study = finished_study(truth, optimizers=("adamw", EVIL), phases=phases)
    for optimizer in study.optimizers:
        study.confirm(optimizer, study.tune(optimizer, 1.0, "d48"), 1.0, "d48")
    study.confirm_best("adamw", 2.0, "d48")
    for run_id, record in study.store.records.items():
        study.store.records[run_id] = dataclasses.replace(
            record, environment={"device": EVIL, EVIL: EVIL}, error=record.error and EVIL
        )
    for entry in study.store.journal:
        if entry["kind"] == "study":
            entry["name"] = EVIL
        if entry["kind"] == "tuning":
            entry["rejected"][0]["reason"] = EVIL
            entry["edges"] = [{"axis": EVIL, "value": EVIL, "note": EVIL}]
    return study


def test_markup_in_records_stays_text() -> None:
    study = evil_study()
    summary = summarise(study.store)
    text = render_report(summary, study.store)
    page = Page(text)
    assert "alert(1)</script>" not in text
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 3
    assert EVIL in page.text
    for section in ("Over sizes and data ratios", "Hyperparameters over scale"):
        assert section in page.text
    figures = scale_sections(summary, read_journal(study.store.journal)).figures
    assert "over-ratio-1" in figures
    assert "<img" not in json.dumps(figures)
    assert "&lt;img" in json.dumps(figures)


def test_an_unfinished_study_says_what_is_missing() -> None:
    study = SimulatedStudy()
    study.begin()
    study.measure_noise()
    study.confirm("adamw", study.tune("adamw"))
    page = Page(render_report(summarise(study.store), study.store))
    assert "Not everything is there." in page.text
    assert "muon is still being tuned: no confirmation runs yet." in page.text
    assert "The baseline's loss curve lacks d32 0.5x, d32 1.5x, d32 2x" in page.text


def test_a_study_that_only_began_has_a_report() -> None:
    study = SimulatedStudy()
    study.begin()
    page = Page(render_report(summarise(study.store), study.store))
    assert "No confirmation runs of adamw yet." in page.text


def test_report_replaces_the_old_one_at_once(
    tmp_path: Path, study: SimulatedStudy, summary: StudySummary
) -> None:
    path = tmp_path / "new folder" / "report.html"
    path.parent.mkdir()
    path.write_text("old")
    old = path.stat().st_ino
    write_report(summary, study.store, path)
    assert path.read_text(encoding="utf-8") == render_report(summary, study.store)
    assert path.stat().st_ino != old  # a new file took its name: nobody reads half of it
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o444


def test_a_failed_write_leaves_the_old_report_and_no_rubbish(
    tmp_path: Path, study: SimulatedStudy, summary: StudySummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.replace", full_disk)
    message = (
        f"{path} could not be written (No space left on device). No record is lost; free some "
        f"space, or choose another file with --out."
    )
    with pytest.raises(PageError, match=f"^{re.escape(message)}$"):
        write_report(summary, study.store, path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_report_is_smaller_than_two_megabytes(study: SimulatedStudy, summary: StudySummary) -> None:
    assert len(render_report(summary, study.store).encode()) < 2_000_000


@needs_browser
@pytest.mark.parametrize("options", [(), ("--blink-settings=preferredColorScheme=0",)])
def test_a_browser_draws_every_figure_without_complaint(
    tmp_path: Path, study: SimulatedStudy, summary: StudySummary, options: tuple[str, ...]
) -> None:
    path = tmp_path / "report.html"
    write_report(summary, study.store, path)
    document, log = browse(path, *options)
    assert "CONSOLE" not in log
    # the five figures of the study, and the panels of the one tuning that stands open
    tuning = summary.rows[0].tuning
    assert tuning is not None
    plots = 5 + len(tuning.lines)
    # counted as elements: the script of plotly itself names these classes, too
    assert len(re.findall(r'<div class="plot js-plotly-plot"', document)) == plots
    assert len(re.findall(r'<svg class="main-svg"', document)) >= plots
    assert len(re.findall(r'<g class="trace bars"', document)) == 2


@needs_browser
def test_a_browser_draws_the_figures_over_cells(
    tmp_path: Path, ladder_store: RunStore, ladder: StudySummary
) -> None:
    path = tmp_path / "report.html"
    write_report(ladder, ladder_store, path)
    document, log = browse(path, "--window-size=700,900")
    assert "CONSOLE" not in log
    tuning = ladder.rows[0].tuning
    assert tuning is not None
    # five of the headline cell and the open tuning, then three sizes, two panels over the size,
    # the baseline's curves, and the one sensitive axis of the first optimizer
    plots = 5 + len(tuning.lines) + 3 + 2 + 1 + 1
    assert len(re.findall(r'<div class="plot js-plotly-plot"', document)) == plots


@needs_browser
def test_markup_in_records_does_nothing_in_a_browser(tmp_path: Path) -> None:
    study = evil_study()
    path = tmp_path / "report.html"
    write_report(summarise(study.store), study.store, path)
    document, log = browse(path)
    assert "CONSOLE" not in log
    assert "<img" not in document
    assert '<svg class="main-svg"' in document
