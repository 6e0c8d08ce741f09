from __future__ import annotations

import math

import pytest

from optbench.paper.figures import (
    estimator_panel,
    gap_panels,
    law_panel,
    loss_panels,
    paper_styles,
    ratio_panels,
    size_panels,
)
from tests.paper.published_analysis import paper_results


def test_losses_are_drawn_with_the_curve_they_are_read_off() -> None:
    panels = loss_panels(paper_results())
    assert [panel.title.split(":")[0] for panel in panels] == ["130m", "300m", "520m", "1.2b"]
    fit, *lines = panels[0].figure["data"]
    assert fit["name"] == "adamw, power law"
    assert (fit["x"][0], fit["x"][-1]) == pytest.approx((1.0, 16.0))
    assert fit["y"][0] == pytest.approx(0.45540 + 3.07292, abs=1e-4)
    assert len(lines) == 11
    muon = next(line for line in lines if line["name"] == "muon")
    assert muon["y"][0] == 3.4626309871673584


def test_every_optimizer_has_one_style_in_all_figures() -> None:
    results = paper_results()
    styles = paper_styles(results)
    for panel in (*loss_panels(results), *gap_panels(results), *ratio_panels(results)):
        for trace in panel.figure["data"]:
            if trace["name"] in styles:
                assert trace["line"]["color"] == styles[trace["name"]].color


def test_the_band_is_that_of_two_runs() -> None:
    band, _ = gap_panels(paper_results())[3].figure["layout"]["shapes"]
    assert band["y1"] == pytest.approx(1.96 * math.sqrt(2) * 2e-3)
    for trace in gap_panels(paper_results())[0].figure["data"]:
        assert trace["name"] != "adamw"


def test_speedups_are_those_of_the_paper_on_common_axes() -> None:
    panels = ratio_panels(paper_results())
    assert len({str(panel.figure["layout"]["yaxis"]["range"]) for panel in panels}) == 1
    muon = next(t for t in panels[3].figure["data"] if t["name"] == "muon")
    assert muon["y"] == pytest.approx([1.175, 1.116, 1.133, 1.099], abs=1e-3)
    assert [symbol.endswith("-open") for symbol in muon["marker"]["symbol"]] == [False] * 3 + [True]


def test_over_sizes_there_are_two_ratios_and_the_joint_fit() -> None:
    first, second, joint = size_panels(paper_results())
    assert (first.title, second.title) == ("At data ratio 1×", "At data ratio 8×")
    assert {t["name"] for t in first.figure["data"]} == {"muon", "nadamw", "soap"}
    assert {t["name"] for t in joint.figure["data"]} >= {"muon, trend", "soap, trend"}


def test_estimators_without_a_number_are_left_out() -> None:
    traces = estimator_panel(paper_results()).figure["data"]
    names = [trace["name"] for trace in traces]
    assert names.count("paper") == names.count("joint") == 12
    assert names.count("interpolate") == 9  # a bound at 8×
    for trace in traces:
        assert trace["error_x"]["array"][0] >= 0
        assert trace["error_x"]["arrayminus"][0] >= 0


def test_a_law_is_drawn_with_what_was_published_and_used() -> None:
    (found,) = [
        e for e in paper_results().extrapolations if (e.optimizer, e.axis) == ("adamw", "lr")
    ]
    panel = law_panel(found)
    by_name = {trace["name"]: trace for trace in panel.figure["data"]}
    assert list(by_name) == [
        "tuned, 130m", "tuned, 300m", "tuned, 520m", "used at 1.2b", "published", "law",
    ]  # fmt: skip
    assert by_name["used at 1.2b"]["y"] == [0.002] * 4
    assert by_name["published"]["y"][0] == pytest.approx(0.0029036, abs=1e-7)
    assert panel.figure["layout"]["yaxis"]["type"] == "log"
    low, high = panel.figure["layout"]["yaxis"]["range"]
    assert 10**low < 0.002
    assert 10**high > 0.008
