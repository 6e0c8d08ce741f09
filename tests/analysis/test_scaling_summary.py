from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from optbench.analysis.scaling_summary import AxisSummary, ScalingSummary, read_scaling_summaries
from optbench.store.journal import Journal, read_journal
from tests.report.simulated_ladder import best, simulated_ladder
from tests.statistics.synthetic import finished_study

N0, N48 = 32_768, 73_728


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    folder: Path = tmp_path_factory.mktemp("ladder")
    return read_journal(simulated_ladder(folder).journal)


@pytest.fixture(scope="module")
def stories(journal: Journal) -> dict[str, ScalingSummary]:
    return {story.optimizer: story for story in read_scaling_summaries(journal)}


def axis_of(story: ScalingSummary, name: str) -> AxisSummary:
    (found,) = [axis for axis in story.axes if axis.name == name]
    return found


def test_optimizers_of_one_cell_have_no_story(stories: dict[str, ScalingSummary]) -> None:
    assert list(stories) == ["adamw", "muon"]
    assert read_scaling_summaries(read_journal(finished_study().store.journal)) == ()


def test_a_story_has_what_the_study_recorded(stories: dict[str, ScalingSummary]) -> None:
    muon, adamw = stories["muon"], stories["adamw"]
    assert muon.recorded
    assert (muon.sensitive, adamw.sensitive) == (("lr", "momentum"), ("lr",))
    assert [p.cell.label for p in muon.predictions] == ["d32 8x", "d64 1x"]


def test_tuned_values_are_those_of_the_cells_that_searched_the_axis(
    stories: dict[str, ScalingSummary],
) -> None:
    lr = axis_of(stories["adamw"], "lr")
    found = {t.cell.label: (t.value, t.is_fitted) for t in lr.tuned}
    assert found["d48 4x"] == (0.008, True)
    assert found["d32 0.5x"] == (0.032, False)  # of the baseline's curve, which no law goes through
    beta1 = axis_of(stories["adamw"], "beta1")
    assert [t.cell.label for t in beta1.tuned] == ["d32 1x", "d32 4x", "d48 1x"]
    assert (beta1.predictions, beta1.lines) == ((), ())


def test_the_law_is_drawn_through_what_it_predicted(stories: dict[str, ScalingSummary]) -> None:
    lr = axis_of(stories["muon"], "lr")
    assert not lr.complement
    d32, d48 = lr.lines
    assert (d32.size, d48.size) == ("d32", "d48")
    assert (d32.tokens[0], d32.tokens[-1]) == (20 * N0, pytest.approx(8 * 20 * N0))
    assert d32.values[0] == pytest.approx(best("lr", N0, 1.0))
    predicted = lr.predictions[0].entry
    assert d32.values[-1] == pytest.approx(predicted.value)
    assert d32.low[-1] == pytest.approx(predicted.low)
    assert d32.high[-1] == pytest.approx(predicted.high)
    assert d48.values[-1] == pytest.approx(best("lr", N48, 4.0))


def test_a_law_of_the_complement_is_recognised(stories: dict[str, ScalingSummary]) -> None:
    momentum = axis_of(stories["muon"], "momentum")
    assert momentum.complement
    assert 1 - momentum.lines[0].values[-1] == pytest.approx(best("momentum", N0, 8.0))


def test_no_law_is_drawn_that_does_not_give_the_recorded_values(journal: Journal) -> None:
    (key,) = [k for k in journal.predictions if k == (("d32", 8.0), "muon")]
    entry = journal.predictions[key]
    other = tuple(dataclasses.replace(axis, value=0.5) for axis in entry.axes)
    changed = {**journal.predictions, key: dataclasses.replace(entry, axes=other)}
    found = read_scaling_summaries(dataclasses.replace(journal, predictions=changed))
    lr = axis_of(found[1], "lr")
    assert lr.lines == ()
    assert len(lr.predictions) == 2


def test_before_the_study_has_judged_its_axes_they_are_judged_now(journal: Journal) -> None:
    early = dataclasses.replace(journal, sensitivities={}, predictions={})
    muon = read_scaling_summaries(early)[1]
    assert not muon.recorded
    assert muon.sensitive == ("lr", "momentum")
    assert muon.predictions == ()
    assert axis_of(muon, "lr").lines == ()
