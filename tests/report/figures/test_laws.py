from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from optbench.analysis.scaling_summary import AxisSummary, read_scaling_summaries
from optbench.report.figures.laws import law_figure
from optbench.report.figures.palette import assign_sizes
from optbench.store.journal import read_journal
from optbench.store.store import RunStore

STYLES = assign_sizes(["d32", "d48", "d64"])


@pytest.fixture(scope="module")
def axes(ladder_store: RunStore) -> dict[str, AxisSummary]:
    """Of muon."""
    stories = read_scaling_summaries(read_journal(ladder_store.journal))
    (muon,) = [story for story in stories if story.optimizer == "muon"]
    return {axis.name: axis for axis in muon.axes}


def drawn(story: AxisSummary) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    figure = law_figure(story, STYLES)
    assert figure is not None
    assert json.loads(json.dumps(figure, allow_nan=False)) == figure
    return {trace["name"]: trace for trace in figure["data"]}, figure["layout"]


def test_tuned_values_stand_at_the_tokens_of_their_cells(axes: dict[str, AxisSummary]) -> None:
    traces, layout = drawn(axes["lr"])
    assert traces["tuned, d32"]["x"] == [655_360, 2_621_440]
    assert traces["tuned, d32"]["y"] == [0.032, 0.016]
    assert traces["tuned, d48"]["y"] == [0.016, 0.008]
    assert layout["yaxis"]["ticktext"] == ["0.008", "0.016", "0.032"]
    assert traces["tuned, d32"]["marker"]["color"] == STYLES["d32"].color


def test_a_prediction_has_the_interval_of_its_law_as_far_as_the_figure_goes(
    axes: dict[str, AxisSummary],
) -> None:
    story = axes["lr"]
    entry = dataclasses.replace(story.predictions[0].entry, low=0.009, high=0.5)
    placed = dataclasses.replace(story.predictions[0], entry=entry)
    traces, layout = drawn(dataclasses.replace(story, predictions=(placed,)))
    star = traces["predicted, d32"]
    assert star["x"] == [5_242_880]
    assert star["y"] == [entry.snapped]
    assert star["y"][0] - star["error_y"]["arrayminus"][0] == pytest.approx(0.009)
    assert star["y"][0] + star["error_y"]["array"][0] > 10 ** layout["yaxis"]["range"][1]
    assert "[0.009, 0.5]" in star["hovertext"][0]


def test_the_law_is_a_line_with_a_band_for_each_size(axes: dict[str, AxisSummary]) -> None:
    traces, _ = drawn(axes["lr"])
    line, band = traces["law, d48"], traces["interval, d48"]
    law = axes["lr"].lines[1]
    assert line["x"] == list(law.tokens)
    assert line["y"] == list(law.values)
    assert band["x"] == [*law.tokens, *reversed(law.tokens)]
    assert band["fill"] == "toself"
    assert "law, d64" not in traces  # one ratio is no line


def test_a_complement_is_placed_by_one_minus_its_value_and_grows_upwards(
    axes: dict[str, AxisSummary],
) -> None:
    traces, layout = drawn(axes["momentum"])
    assert traces["tuned, d32"]["y"] == pytest.approx([0.2, 0.1])
    assert layout["yaxis"]["ticktext"] == ["0.95", "0.9", "0.8"]
    low, high = layout["yaxis"]["range"]
    assert low > high


def test_values_that_no_law_goes_through_are_open(axes: dict[str, AxisSummary]) -> None:
    story = axes["lr"]
    other = dataclasses.replace(story.tuned[0], is_fitted=False)
    traces, _ = drawn(dataclasses.replace(story, tuned=(other, *story.tuned[1:])))
    symbol = STYLES["d32"].symbol
    assert traces["tuned, d32"]["marker"]["symbol"] == [f"{symbol}-open", symbol]


def test_without_predictions_there_are_values_only(axes: dict[str, AxisSummary]) -> None:
    traces, _ = drawn(dataclasses.replace(axes["lr"], predictions=(), lines=()))
    assert list(traces) == ["tuned, d32", "tuned, d48"]


@pytest.mark.parametrize("value", ["cosine", True, 0.0])
def test_words_and_zeros_are_not_drawn(axes: dict[str, AxisSummary], value: str | float) -> None:
    story = axes["lr"]
    first = dataclasses.replace(story.tuned[0], value=value)
    changed = dataclasses.replace(story, tuned=(first, *story.tuned[1:]))
    assert law_figure(changed, STYLES) is None


def test_labels_of_neighbouring_values_do_not_touch(axes: dict[str, AxisSummary]) -> None:
    story = axes["lr"]
    close = dataclasses.replace(story.tuned[0], value=0.0165)
    _, layout = drawn(dataclasses.replace(story, tuned=(*story.tuned, close)))
    assert layout["yaxis"]["ticktext"] == ["0.008", "0.016", "0.032"]
