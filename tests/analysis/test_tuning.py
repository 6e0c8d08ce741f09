from __future__ import annotations

from optbench.analysis.tuning import read_tuning
from optbench.store.journal_entries import CellEntry, EvaluationEntry, TuningEntry

EVALUATIONS = (
    EvaluationEntry({"lr": 0.016, "beta2": 0.98, "shape": "cosine"}, "r0", 4.0),
    EvaluationEntry({"lr": 0.032, "beta2": 0.98, "shape": "cosine"}, "r1", None),
    EvaluationEntry({"lr": 0.008, "beta2": 0.98, "shape": "cosine"}, "r2", 3.9),
    EvaluationEntry({"lr": 0.008, "beta2": 0.95, "shape": "cosine"}, "r3", 3.95),
    EvaluationEntry({"lr": 0.008, "beta2": 0.98, "shape": "linear"}, "r4", 3.91),
    EvaluationEntry({"lr": 0.016, "beta2": 0.95, "shape": "cosine"}, "r5", 4.1),
)


def entry(evaluations: tuple[EvaluationEntry, ...] = EVALUATIONS) -> TuningEntry:
    return TuningEntry(
        cell=CellEntry("d32", 1.0, 655_360, 32_768),
        optimizer="adamw",
        start={"lr": 0.016, "beta2": 0.98, "shape": "cosine", "weight_decay": 0.1},
        incumbent={"lr": 0.008, "beta2": 0.98, "shape": "cosine", "weight_decay": 0.1},
        certified=True,
        tie_threshold=0.02,
        moves=(),
        evaluations=evaluations,
        rejected=(),
        edges=(),
        runs=6,
        tokens=6,
    )


def test_lines_go_through_the_incumbent_in_the_order_of_the_descent() -> None:
    tuning = read_tuning(entry(), ("lr", "beta2", "shape"))
    assert [line.axis for line in tuning.lines] == ["lr", "beta2", "shape"]
    lr, beta2, shape = ([point.run_id for point in line.points] for line in tuning.lines)
    assert lr == ["r2", "r0", "r1"]
    assert beta2 == ["r3", "r2"]
    assert shape == ["r2", "r4"]


def test_each_line_marks_the_incumbent_once() -> None:
    tuning = read_tuning(entry(), ("lr", "beta2", "shape"))
    for line in tuning.lines:
        assert [p.run_id for p in line.points if p.is_incumbent] == ["r2"]
    assert tuning.loss == 3.9


def test_diverged_candidates_stay_on_the_line_without_a_loss() -> None:
    (lr, *_) = read_tuning(entry(), ("lr", "beta2", "shape")).lines
    assert [point.loss for point in lr.points] == [3.9, 4.0, None]


def test_an_axis_that_was_never_searched_has_no_line() -> None:
    tuning = read_tuning(entry(), ("lr", "momentum"))
    assert [line.axis for line in tuning.lines] == ["lr"]


def test_a_descent_without_evaluations_has_no_loss() -> None:
    tuning = read_tuning(entry(()), ("lr",))
    assert (tuning.loss, tuning.lines) == (None, ())
