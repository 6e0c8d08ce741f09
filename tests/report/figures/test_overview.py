from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise
from typing import Any

import pytest

from optbench.analysis.summary import StudySummary, summarise
from optbench.report.figures.layout import names_axis, plain, styles_of
from optbench.report.figures.overview import baseline_figure, speedup_figure, study_figures
from optbench.report.figures.runs import seeds_figure, spending_figure, training_figure
from optbench.report.figures.tuning import tuning_panels
from tests.statistics.synthetic import SimulatedStudy, Truth, finished_study


def traces_of(figure: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [trace for trace in figure["data"] if trace.get("name") == name]


def test_figures_are_plain_json(summary: StudySummary) -> None:
    figures = study_figures(summary)
    assert list(figures) == ["speedups", "baseline", "seeds", "training", "spending"]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_whiskers_end_where_the_intervals_end(summary: StudySummary) -> None:
    figure = speedup_figure(summary)
    for row in summary.rows:
        for name, speedup in (("tokens", row.tokens), ("seconds", row.seconds)):
            if speedup is None:
                continue
            (trace,) = traces_of(figure, f"{row.optimizer}, {name}")
            (value,), error = trace["x"], trace["error_x"]
            assert value == speedup.value
            assert value + error["array"][0] == pytest.approx(speedup.high)
            assert value - error["arrayminus"][0] == pytest.approx(speedup.low)


def test_a_far_end_does_not_squeeze_the_others_together(summary: StudySummary) -> None:
    muon = summary.row("muon")
    assert muon.tokens is not None
    far = dataclasses.replace(muon, tokens=dataclasses.replace(muon.tokens, value=1.9, high=1e12))
    figure = speedup_figure(dataclasses.replace(summary, rows=(far, *summary.rows[1:])))
    (trace,) = traces_of(figure, "muon, tokens")
    assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(1.04 * 1.9)


@pytest.mark.parametrize("count", [1, 4, 11])
def test_labels_never_touch_however_many_optimizers(summary: StudySummary, count: int) -> None:
    rows = (summary.row("muon"),) * count
    layout = speedup_figure(dataclasses.replace(summary, rows=rows))["layout"]
    labels = layout["annotations"]
    assert len(labels) == 2 * count
    assert {label["x"] for label in labels} == {1}  # beside the drawing, in the right margin
    assert layout["margin"]["r"] >= 70
    low, high = sorted(layout["yaxis"]["range"])
    inner = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
    ys = sorted(label["y"] for label in labels)
    gaps = [(b - a) * inner / (high - low) for a, b in pairwise(ys)]
    assert min(gaps) > 1.2 * labels[0]["font"]["size"]


def test_the_line_of_equal_speed_stands_at_one(summary: StudySummary) -> None:
    (line,) = speedup_figure(summary)["layout"]["shapes"]
    assert (line["x0"], line["x1"]) == (1.0, 1.0)


def test_an_open_interval_ends_at_the_border_of_the_figure(summary: StudySummary) -> None:
    muon = summary.row("muon")
    assert muon.tokens is not None
    open_ended = dataclasses.replace(muon.tokens, value=1.9, low=1.7, high=math.inf)
    row = dataclasses.replace(muon, tokens=open_ended)
    figure = speedup_figure(dataclasses.replace(summary, rows=(row, *summary.rows[1:])))
    (trace,) = traces_of(figure, "muon, tokens")
    assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(1.04 * 1.9)
    json.dumps(trace, allow_nan=False)


def test_baseline_points_and_curve_are_those_of_the_summary(summary: StudySummary) -> None:
    figure = baseline_figure(summary)
    (points,) = traces_of(figure, "adamw")
    assert points["x"] == [point.confirmed.cell.num_tokens for point in summary.curve.points]
    assert points["y"] == [point.mean.value for point in summary.curve.points]
    assert points["error_y"]["array"] == [p.mean.half_width for p in summary.curve.points]
    (curve,) = traces_of(figure, "interpolation")
    assert curve["y"] == list(summary.curve.interpolated)
    assert figure["layout"]["xaxis"]["type"] == "log"


def test_a_line_leads_from_each_loss_to_the_tokens_the_baseline_needs(
    summary: StudySummary,
) -> None:
    lines = {
        trace["legendgroup"]: trace
        for trace in baseline_figure(summary)["data"]
        if trace["mode"] == "lines+markers"
    }
    for name, arrow in (("muon", "triangle-right"), ("lion", "triangle-left")):
        row = summary.row(name)
        assert row.test is not None
        assert row.tokens is not None
        assert lines[name]["x"] == [655_360, pytest.approx(row.tokens.value * 655_360)]
        assert lines[name]["y"] == [row.test.value, row.test.value]
        assert lines[name]["marker"]["symbol"][1] == arrow


def test_extrapolated_lines_are_dotted() -> None:
    truth = Truth(efficiency={"adamw": 1.0, "muon": 3.0}, sigma=0.005)
    summary = summarise(finished_study(truth, optimizers=("adamw", "muon")).store)
    (line,) = [t for t in baseline_figure(summary)["data"] if t["mode"] == "lines+markers"]
    assert line["line"]["dash"] == "dot"


def test_every_confirmation_run_is_a_mark(summary: StudySummary) -> None:
    figure = seeds_figure(summary)
    for row in summary.rows:
        assert row.confirmed is not None
        assert row.test is not None
        (points,) = traces_of(figure, row.optimizer)
        assert points["x"] == [seed.test_loss for seed in row.confirmed.seeds]
        (mean,) = traces_of(figure, f"{row.optimizer}, mean")
        assert mean["x"] == [row.test.value]
        assert mean["error_x"]["array"] == [row.test.half_width]


def test_every_confirmation_run_is_a_training_curve(summary: StudySummary) -> None:
    traces = traces_of(training_figure(summary), "muon")
    confirmed = summary.row("muon").confirmed
    assert confirmed is not None
    assert [list(zip(t["x"], t["y"], strict=True)) for t in traces] == [
        list(seed.val_curve) for seed in confirmed.seeds
    ]
    assert [trace["showlegend"] for trace in traces] == [True] + [False] * 5


def test_bars_are_the_runs_and_tokens_of_each_optimizer(summary: StudySummary) -> None:
    runs, tokens = spending_figure(summary)["data"]
    spent = {row.optimizer: row.spent for row in summary.rows}
    assert dict(zip(runs["y"], runs["x"], strict=True)) == {n: s.runs for n, s in spent.items()}
    assert dict(zip(tokens["y"], tokens["x"], strict=True)) == {
        n: s.tokens for n, s in spent.items()
    }


def test_an_optimizer_has_one_colour_in_all_figures(summary: StudySummary) -> None:
    color = styles_of(summary)["muon"].color
    figures = study_figures(summary)
    (dot,) = traces_of(figures["speedups"], "muon, tokens")
    (point,) = traces_of(figures["baseline"], "muon")
    (strip,) = traces_of(figures["seeds"], "muon")
    curve = traces_of(figures["training"], "muon")[0]
    found = {dot["marker"]["color"], point["marker"]["color"], strip["marker"]["color"]}
    assert found | {curve["line"]["color"]} == {color}
    bars = figures["spending"]["data"][0]
    assert bars["marker"]["color"][bars["y"].index("muon")] == color


def test_axes_name_their_units(summary: StudySummary) -> None:
    for figure in study_figures(summary).values():
        title = figure["layout"]["xaxis"]["title"]["text"]
        assert any(unit in title for unit in ("×", "tokens", "nats/token", "runs"))


def test_panels_show_everything_on_a_line_and_mark_the_winner(summary: StudySummary) -> None:
    row = summary.row("lion")
    assert row.tuning is not None
    assert row.tuning.loss is not None
    panels = tuning_panels(row, styles_of(summary)["lion"])
    assert [p["layout"]["xaxis"]["title"]["text"] for p in panels] == ["lr", "beta2", "nesterov"]
    candidates, diverged, winner = panels[0]["data"]
    line = row.tuning.lines[0]
    assert candidates["y"] == [p.loss for p in line.points if p.loss is not None]
    assert diverged["x"] == ["0.032"]
    assert winner["y"] == [row.tuning.loss]
    assert panels[0]["layout"]["xaxis"]["categoryarray"] == [f"{p.value:g}" for p in line.points]


def test_the_band_is_the_tie_threshold_around_the_winner(summary: StudySummary) -> None:
    row = summary.row("muon")
    assert row.tuning is not None
    assert row.tuning.loss is not None
    for panel in tuning_panels(row, styles_of(summary)["muon"]):
        (band,) = panel["layout"]["shapes"]
        assert band["y0"] == row.tuning.loss - 0.02
        assert band["y1"] == row.tuning.loss + 0.02
        low, high = panel["layout"]["yaxis"]["range"]
        assert low < band["y0"] < band["y1"] < high


def test_a_study_that_only_began_has_no_figures() -> None:
    study = SimulatedStudy()
    study.begin()
    summary = summarise(study.store)
    assert study_figures(summary) == {}
    assert tuning_panels(summary.row("muon"), styles_of(summary)["muon"]) == []


def test_names_are_shown_as_they_are() -> None:
    assert plain("<a href='x'>&</a>") == "&lt;a href='x'&gt;&amp;&lt;/a&gt;"
    assert names_axis(["my_package.my_module:MyOptimizer"])["ticktext"] == ["…_module:MyOptimizer"]


def test_markup_in_an_optimizers_name_stays_text() -> None:
    name = "<a href='https://example.org'>x</a>"
    truth = Truth(
        efficiency={"adamw": 1.0, name: 1.2},
        best_lr={"adamw": 0.016, name: 0.016},
        step_s={"adamw": 0.01, name: 0.01},
    )
    summary = summarise(finished_study(truth, optimizers=("adamw", name)).store)
    figures = [*study_figures(summary).values()]
    figures += tuning_panels(summary.row(name), styles_of(summary)[name])
    assert "<a" not in json.dumps(figures)
    assert "&lt;a" in json.dumps(figures)
