from __future__ import annotations

import dataclasses

import pytest

from optbench.analysis.summary import StudySummary
from optbench.report.sections import ScaleSections, extrapolation_text, scale_sections
from optbench.store.journal import Journal, read_journal
from optbench.store.journal_entries import AxisPredictionEntry
from optbench.store.store import RunStore
from tests.statistics.synthetic import SimulatedStudy


@pytest.fixture(scope="module")
def journal(ladder_store: RunStore) -> Journal:
    return read_journal(ladder_store.journal)


@pytest.fixture(scope="module")
def sections(ladder: StudySummary, journal: Journal) -> ScaleSections:
    return scale_sections(ladder, journal)


def test_every_figure_has_one_place(sections: ScaleSections) -> None:
    places = [*sections.over_ratio, *sections.over_size]
    places += [place for story in sections.stories for place in story.figures]
    assert sorted([*(place.name for place in places), "curves"]) == sorted(sections.figures)


def test_sensitive_axes_have_figures(sections: ScaleSections) -> None:
    titles = {s.story.optimizer: [p.title for p in s.figures] for s in sections.stories}
    assert titles == {"adamw": ["lr"], "muon": ["lr", "momentum"]}


def test_best_values_are_told_cell_by_cell(sections: ScaleSections) -> None:
    adamw = sections.stories[0]
    assert adamw.cells == ("d32 0.5x", "d32 1x", "d32 4x", "d48 1x", "d48 4x", "d64 4x")
    lr, beta1 = adamw.rows
    assert (lr.axis, lr.verdict, lr.kept) == ("lr", "sensitive", "covered by 0.016, 0.032")
    assert [value.winner for value in lr.values][1:5] == ["0.032", "0.016", "0.016", "0.008"]
    assert (beta1.verdict, beta1.kept) == ("stable", "held at 0.9")
    assert [value.winner for value in beta1.values] == ["–", "0.9", "0.9", "0.9", "–", "–"]


def test_ties_are_named_beside_the_winner(ladder: StudySummary, journal: Journal) -> None:
    entry = journal.sensitivities["adamw"]
    axes = [
        dataclasses.replace(axis, near_best={**axis.near_best, "d32 1x": (0.016, 0.032)})
        for axis in entry.axes
    ]
    changed = {"adamw": dataclasses.replace(entry, axes=tuple(axes))}
    found = scale_sections(ladder, dataclasses.replace(journal, sensitivities=changed))
    value = found.stories[0].rows[0].values[1]
    assert (value.winner, value.others) == ("0.032", "0.016")


def test_the_joint_fit_has_a_speedup_for_each_size_and_a_trend(
    ladder: StudySummary, sections: ScaleSections
) -> None:
    joint = sections.joint
    assert joint is not None
    assert joint.sizes == (32_768, 73_728, 131_072)
    muon, lion = joint.rows
    assert muon.trend == ladder.joint.trends[0]
    found = [ladder.joint.efficiency("muon", params) for params in joint.sizes]
    assert [s.value for s in muon.speedups if s] == [e.value for e in found if e]
    assert lion.speedups[1:] == (None, None)
    assert lion.trend is None


def test_without_a_joint_fit_there_is_no_table_of_it(
    ladder: StudySummary, journal: Journal
) -> None:
    joint = dataclasses.replace(ladder.joint, efficiencies=(), trends=(), reason="Too few.")
    found = scale_sections(dataclasses.replace(ladder, joint=joint), journal)
    assert found.joint is None
    assert [place.title for place in found.over_size] == ["Cell by cell, at data ratio 1×"]


def test_a_study_of_one_cell_has_none_of_it(summary: StudySummary, study: SimulatedStudy) -> None:
    found = scale_sections(summary, read_journal(study.store.journal))
    assert found.table is found.joint is None
    assert (found.figures, found.stories) == ({}, ())


@pytest.mark.parametrize(
    ("size", "ratio", "text"),
    [
        (1.0, 1.0, "within"),
        (2.25, 1.0, "2.25 × the size"),
        (1.0, 2.0, "2 × the data ratio"),
        (4.0, 2.0, "4 × the size, 2 × the data ratio"),
        (None, None, "within"),
    ],
)
def test_extrapolation_is_told_in_factors(
    size: float | None, ratio: float | None, text: str, journal: Journal
) -> None:
    (entry, *_) = next(iter(journal.predictions.values())).axes
    assert isinstance(entry, AxisPredictionEntry)
    changed = dataclasses.replace(entry, size_extrapolation=size, ratio_extrapolation=ratio)
    assert extrapolation_text(changed) == text
