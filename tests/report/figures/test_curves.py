from __future__ import annotations

import dataclasses
import json

from optbench.analysis.summary import StudySummary
from optbench.report.figures.curves import curves_figure


def test_every_size_has_its_points_its_interpolation_and_its_fit(ladder: StudySummary) -> None:
    figure = curves_figure(ladder)
    traces = {trace["name"]: trace for trace in figure["data"]}
    for size, title in (("d32", "32.8k"), ("d48", "73.7k"), ("d64", "131k")):
        curve = ladder.curves[size]
        points = traces[f"{size}: {title} parameters"]
        assert points["x"] == [point.confirmed.cell.num_tokens for point in curve.points]
        assert points["y"] == [point.mean.value for point in curve.points]
        assert points["error_y"]["array"] == [point.mean.half_width for point in curve.points]
        assert traces[f"{size}, interpolation"]["y"] == list(curve.interpolated)
        assert (f"{size}, fit" in traces) == (curve.fit is not None)
    fit = traces["d32, fit"]
    assert fit["y"] == list(ladder.curves["d32"].fitted)
    assert fit["line"]["dash"] == "dash"
    assert json.loads(json.dumps(figure, allow_nan=False)) == figure


def test_one_size_is_left_to_the_figure_of_the_headline_cell(
    summary: StudySummary, ladder: StudySummary
) -> None:
    assert curves_figure(summary)["data"] == []
    one = dataclasses.replace(ladder, curves={"d32": ladder.curves["d32"]})
    assert curves_figure(one)["data"] == []
