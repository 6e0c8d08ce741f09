from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from optbench.analysis.explanation import explain
from optbench.ladder import SIZES, Cell
from optbench.report.explain_text import explanation_sections, print_explanation
from optbench.store.journal import read_journal
from optbench.store.store import RunRecord
from tests.analysis.explained import (
    FIXED,
    around,
    cell,
    evaluation,
    line_tuning,
    move,
    noise_entry,
    prediction_entry,
    sensitivity_entry,
    study_entry,
    tuning_entry,
)
from tests.builders import record_of
from tests.statistics.synthetic import START, finished_study, run_config


def sections(
    *entries: Mapping[str, Any],
    where: str = "d32 1x",
    optimizer: str = "adamw",
    records: dict[str, RunRecord] | None = None,
    study: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Title → text, each paragraph or table row a line."""
    journal = read_journal([study or study_entry(), *entries])
    found = explain(journal, records or {}, where, optimizer)
    return {
        title: "\n".join("\n".join([b] if isinstance(b, str) else b) for b in blocks)
        for title, blocks in explanation_sections(found)
    }


def test_the_sections_follow_the_order_of_events() -> None:
    assert list(sections(noise_entry(), tuning_entry())) == [
        "",
        "Start",
        "Noise threshold",
        "Path: 2 updates, loss 4.0000 → 3.9550",
        "Certificate",
        "Statistically tied configurations",
        "At the grid's edge, refused candidates, diverged runs",
        "Sensitivity to scale",
        "Scaling laws, fitted now to the tunings so far",
    ]


def test_the_answer_comes_first() -> None:
    assert sections(noise_entry(), tuning_entry())[""].splitlines() == [
        "adamw in d32 1x (32.8k non-embedding parameters, 655k tokens), study small, phase I, the "
        "full search.",
        "Answer: lr=0.064, beta2=0.98, weight_decay=0.1; found in 6 runs, certified; not yet "
        "trained on held-out seeds.",
    ]


def test_the_start_says_where_it_came_from_and_what_was_held() -> None:
    text = sections(tuning_entry())["Start"]
    assert "Began at the start point of the study file: lr=0.016, beta2=0.98, loss 4.0000." in text
    assert "Held throughout, not searched here: weight_decay=0.1." in text
    other = sections(tuning_entry(start_from="winner in d32 2x"))["Start"]
    assert "Began at the winner in d32 2x: lr=0.016" in other


def test_the_threshold_says_how_it_was_made() -> None:
    text = sections(tuning_entry(), noise_entry())["Noise threshold"]
    assert "τ = 0.0100 nats" in text
    assert "Measured with adamw in d32 1x: two neighbouring configurations on 2 seeds." in text
    assert "spreads by σ = 0.0200" in text
    assert text.endswith("so the second counts: τ = paired σ.")


def test_a_threshold_that_is_more_than_the_noise_says_so() -> None:
    text = sections(tuning_entry(), noise_entry(paired_sigma=0.004))["Noise threshold"]
    assert text.endswith("τ = 2.5 paired σ, by the tie_floor and tie_sigmas of the study file.")
    exact = sections(tuning_entry(), noise_entry(paired_sigma=0.0))["Noise threshold"]
    assert "τ = more than paired σ, by the tie_floor" in exact


def test_every_move_has_its_gain_and_the_line_it_was_chosen_from() -> None:
    text = sections(tuning_entry())["Path: 2 updates, loss 4.0000 → 3.9550"]
    assert text.splitlines() == [
        "lr 0.016 → 0.032: loss 4.0000 → 3.9700, better by 0.0300 = 3.0 τ",
        "lr 0.032 → 0.064: loss 3.9700 → 3.9550, better by 0.0150 = 1.5 τ",
        "Tried along lr with beta2=0.98, compared with lr 0.016:",
        "lr       loss  difference  in τ            run",
        "0.008  4.0500     +0.0500  +5.0            run-0.008-",
        "0.016  4.0000                    start     run-0.016-",
        "0.032  3.9700     −0.0300  −3.0  update 1  run-0.032-",
        "0.064  3.9550     −0.0450  −4.5  update 2  run-0.064-",
        "0.128       –           –     –  diverged  run-0.128-",
    ]


def test_what_ties_with_the_end_of_a_move_is_not_called_better() -> None:
    entry = tuning_entry(
        moves=[move("lr", 0.016, 0.032, 4.0, 3.97)],
        incumbent={"lr": 0.032, "beta2": 0.98},
        evaluations=[
            evaluation({"lr": lr, "beta2": 0.98}, loss)
            for lr, loss in ((0.008, 4.001), (0.016, 4.0), (0.032, 3.97), (0.064, 3.965))
        ],
    )
    text = sections(entry)["Path: 1 update, loss 4.0000 → 3.9700"]
    assert "0.032  3.9700     −0.0300  −3.0  update" in text
    assert "0.064  3.9650     −0.0350  −3.5  tie with 0.032" in text
    assert "0.008  4.0010     +0.0010  +0.1  tie with the start" in text


def test_a_move_from_a_diverged_start_has_no_gain() -> None:
    entry = tuning_entry(
        moves=[move("lr", 0.016, 0.008, None, 4.0)],
        incumbent={"lr": 0.008, "beta2": 0.98},
        evaluations=[
            evaluation({"lr": 0.016, "beta2": 0.98}, None),
            evaluation({"lr": 0.008, "beta2": 0.98}, 4.0),
        ],
    )
    found = sections(entry)
    assert "beta2=0.98, diverged." in found["Start"]
    path = found["Path: 1 update, loss – → 4.0000"]
    assert "lr 0.016 → 0.008: from a diverged run to loss 4.0000" in path


def test_the_certificate_marks_ties_and_names_what_was_refused() -> None:
    lines = sections(tuning_entry())["Certificate"].splitlines()
    assert lines[0].startswith("Certified: 5 single changes of the winner were tried")
    assert lines[2:] == [
        "lr     0.008  4.0500     +0.0950  +9.5            run-0.008-",
        "       0.016  4.0000     +0.0450  +4.5            run-0.016-",
        "       0.032  3.9700     +0.0150  +1.5            run-0.032-",
        "       0.064  3.9550                    winner    run-0.064-",
        "       0.128       –           –     –  diverged  run-0.128-",
        "beta2  0.95   3.9600     +0.0050  +0.5  tie       run-0.064-",
        "       0.98   3.9550                    winner    run-0.064-",
        "beta2 0.99 was refused: β2 is too large.",
    ]


def test_a_search_that_ran_out_of_runs_is_not_certified() -> None:
    text = sections(tuning_entry(certified=False))["Certificate"]
    assert text.startswith("Not certified: the limit on runs was reached after 6.")


def untried(**changes: Any) -> dict[str, Any]:
    """A tuning of which the start alone was trained; older journals call it certified."""
    at = {"lr": 0.016, "beta2": 0.98}
    return tuning_entry(
        certified=True,
        moves=[],
        start={**at, **FIXED},
        incumbent={**at, **FIXED},
        fixed={**at, **FIXED},
        grid={},
        rejected=[],
        start_from="winner in d48 1x",
        evaluations=[evaluation({}, 4.0)],
        **{"runs": 1, **changes},
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "no axis was searched here"),
        (
            {
                "grid": {"lr": [0.016, 0.5]},
                "rejected": [{"configuration": {"lr": 0.5}, "reason": "too large."}],
            },
            "every one was refused before it cost anything",
        ),
        ({"grid": {"lr": [0.016, 0.5]}}, "the search ended after 1 run"),
    ],
)
def test_nothing_is_certified_where_no_change_was_tried(changes: dict[str, Any], why: str) -> None:
    entry = {**untried(), **changes}
    found = sections(entry)
    told = "\n".join(found.values())
    assert "no change was tried here, so it is not certified;" in found[""]
    assert found["Certificate"].startswith(
        f"None: no single change of the configuration was tried, because {why}"
    )
    assert "ertified:" not in told
    assert "lr=0.016, beta2=0.98, weight_decay=0.1" in found["Start"]
    assert ": ," not in told
    assert "Statistically tied configurations" not in found
    journal = read_journal([study_entry(), entry])
    (tuning,) = journal.tunings.values()
    assert (tuning.certified, tuning.certificate) == (False, "nothing tried")
    searched = explain(journal, {}, "d32 1x", "adamw").to_dict()["search"]
    assert (searched["certified"], searched["certificate_kind"]) == (False, "nothing tried")
    assert searched["start"] == {"lr": 0.016, "beta2": 0.98, "weight_decay": 0.1}


def test_a_winner_that_diverged_is_not_certified() -> None:
    lost = tuning_entry(
        certified=False,
        moves=[],
        incumbent={"lr": 0.016, "beta2": 0.98},
        evaluations=[evaluation({"lr": 0.016, "beta2": 0.98}, None)],
    )
    found = sections(lost)
    assert found["Certificate"].startswith("Not certified: the winner's own run diverged")
    assert found["Statistically tied configurations"] == "None: every run diverged."
    assert "Sensitivity to scale" not in found


def test_a_lower_loss_that_ties_is_explained() -> None:
    lower = line_tuning(1.0, {0.016: 4.0, 0.032: 3.995})
    lower["start"] = lower["incumbent"] = {"lr": 0.016}
    text = sections(lower)["Statistically tied configurations"]
    assert "Another loss is lower than the winner's, but by no more than τ" in text
    assert "Another loss" not in sections(tuning_entry())["Statistically tied configurations"]


def test_edges_refusals_and_divergence_are_listed_or_denied() -> None:
    entry = tuning_entry(
        edges=[{"axis": "lr", "value": 0.064, "note": "at the end of the candidates"}]
    )
    title = "At the grid's edge, refused candidates, diverged runs"
    record = record_of(loss=None, status="diverged", error="the loss was not finite")
    assert sections(entry, records={"run-0.128-0.98": record})[title].splitlines() == [
        "At the grid's edge: the winner's lr 0.064 is at the end of the candidates.",
        "Refused before it cost anything: lr=0.064, beta2=0.99. β2 is too large.",
        "Diverged: lr=0.128, beta2=0.98 (run run-0.128-). the loss was not finite",
    ]
    assert sections(line_tuning(1.0, around(0.016)))[title].startswith("None: ")


def test_an_unfinished_search_is_no_answer() -> None:
    config = run_config("muon", Cell("d32", SIZES["d32"], 1.0), START, 0)
    run = record_of(config, loss=4.2)
    found = sections(noise_entry(), optimizer="muon", records={run.run_id: run})
    assert list(found) == ["", "Noise threshold"]
    assert "No answer yet: its search here has not ended. 1 of its runs" in found[""]
    assert f"Lowest validation loss so far: 4.2000 (run {run.run_id[:10]})." in found[""]


def test_axes_of_which_the_same_is_said_share_a_line() -> None:
    found = sections(tuning_entry())
    assert "lr, beta2: inconclusive, searched in d32 1x only." in found["Sensitivity to scale"]
    assert found["Scaling laws, fitted now to the tunings so far"] == (
        "lr, beta2: cannot be fitted, 1 cell; the power law needs 3."
    )


def test_the_recorded_sensitivity_is_a_table_by_cell_with_verdicts() -> None:
    text = sections(tuning_entry(), sensitivity_entry())["Sensitivity to scale"]
    assert text.startswith("As the study judged it after phase I.")
    assert text.splitlines()[1:] == [
        "       d32 1x      d32 2x",
        "lr     0.064       0.032",
        "beta2  0.95, 0.98  0.98",
        "eps    1e-08       –",
        "lr: sensitive to scale, no value is tied with the best in all 2 cells; 0.032, 0.064 cover "
        "them.",
        "beta2: stable, 0.98 is tied with the best in all 2 cells.",
        "eps: inconclusive, searched in d32 1x only.",
    ]


def test_a_law_of_today_says_its_form_its_value_and_its_errors() -> None:
    entries = [line_tuning(r, around(0.032 * r**-0.5)) for r in (0.25, 1.0, 4.0, 16.0)]
    text = sections(*entries)["Scaling laws, fitted now to the tunings so far"]
    assert text.startswith(
        "lr: tuned to 0.064 in d32 0.25x, 0.032 in d32 1x, 0.016 in d32 4x, 0.008 in d32 16x. The "
        "law is 'power': "
    )
    assert ". Here it gives 0.032, 95 % interval [0.0" in text
    assert text.endswith(
        "Check: with one cell left out at a time, the worst error is 0 % and the most it "
        "costs nothing; this cell would get 0.032 (0 %, nothing)."
    )


def test_two_cells_are_a_constant_with_an_honest_error() -> None:
    entries = [line_tuning(1.0, around(0.016)), line_tuning(4.0, around(0.064))]
    text = sections(*entries)["Scaling laws, fitted now to the tunings so far"]
    assert "The law is 'constant': 2 cells; the power law needs 3. Here it gives 0.032," in text
    assert "the worst error is +300 %; this cell would get 0.064 (+300 %)." in text


def test_a_law_of_today_says_when_it_is_extrapolated() -> None:
    """A cell that is still being searched lies outside of those that are tuned."""
    config = run_config("adamw", Cell("d32", SIZES["d32"], 2.0), START, 0)
    run = record_of(config, loss=4.2)
    entries = [line_tuning(r, around(0.016)) for r in (0.25, 0.5)]
    found = sections(*entries, where="d32 2x", records={run.run_id: run})
    text = found["Scaling laws, fitted now to the tunings so far"]
    assert "lr: tuned to 0.016 in all 2 cells." in text
    assert "; extrapolated, 4 times beyond the data ratios that were fitted; if the form" in text


PHASES = {"tune": [cell()], "retune": [], "predict": [prediction_entry()["cell"]]}


def predicted(**changes: Any) -> dict[str, str]:
    entries = (tuning_entry(), prediction_entry(**changes))
    return sections(*entries, where="d48 1x", study=study_entry(phases=PHASES))


def test_a_predicted_cell_shows_law_interval_and_what_was_trained() -> None:
    found = predicted()
    assert "Answer: lr=0.0123, beta2=0.98; predicted, not searched" in found[""]
    assert not {"Certificate", "Scaling laws, fitted now to the tunings so far"} & set(found)
    assert found["Prediction"].splitlines() == [
        "Trained with lr=0.0123, beta2=0.98.",
        "    law    predicted   95 % interval  used",
        "lr  power     0.0123  [0.008, 0.019]  0.0123",
        "lr: the law is 'power': an offset does not improve the fit (F-test, p = 0.4). It was "
        "fitted to 0.064 in d32 1x.",
        "lr: extrapolated, 2.25 times beyond the sizes that were fitted; if the form of the law is "
        "not taken for granted, the interval is [0.006, 0.021].",
    ]


def test_a_prediction_between_the_cells_has_no_outer_interval() -> None:
    assert "extrapolated" not in predicted(size_extrapolation=1.0)["Prediction"]


def test_a_clamped_prediction_is_flagged() -> None:
    text = predicted(value=0.5, snapped=0.256, clamped=True)["Prediction"]
    assert "0.256 (clamped)" in text
    assert "lr: 0.5 lies outside of what the axis allows; clamped to 0.256." in text


def test_a_prediction_without_interval_has_none() -> None:
    text = predicted(low=None, high=None, outer_low=None, outer_high=None)["Prediction"]
    assert "lr  power     0.0123              –  0.0123" in text
    assert "lr: extrapolated, 2.25 times beyond the sizes that were fitted.\n" not in text
    assert text.endswith("2.25 times beyond the sizes that were fitted.")


def test_a_refused_prediction_says_what_was_trained_instead() -> None:
    entry = {**prediction_entry(), "refused": "The warm-up is longer than the run."}
    found = sections(tuning_entry(), entry, where="d48 1x", study=study_entry(phases=PHASES))
    assert "the winner of the nearest cell" in found["Prediction"]
    assert "The warm-up is longer than the run." in found["Prediction"]


def printed(width: int, *, is_terminal: bool) -> str:
    study = finished_study()
    found = explain(read_journal(study.store.journal), study.store.records, "d32 1x", "muon")
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=is_terminal,
        color_system="standard" if is_terminal else None,
    )
    print_explanation(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_paragraphs_are_broken_at_the_width_and_nothing_is_lost() -> None:
    narrow, wide = printed(60, is_terminal=False), printed(1000, is_terminal=False)
    assert narrow.split() == wide.split()
    prose = [line for line in narrow.splitlines() if line.startswith("  τ = ")]
    assert prose
    assert all(len(line) <= 60 for line in prose)


def test_no_line_ends_in_spaces_and_a_pipe_gets_no_colours() -> None:
    text = printed(160, is_terminal=False)
    assert "\x1b" not in text
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    assert "\x1b[1m" in printed(160, is_terminal=True)


def test_fresh_seeds_are_listed_with_their_mean_and_the_loss_of_the_search() -> None:
    text = printed(1000, is_terminal=False)
    seeds = text[text.index("Held-out seeds") :]
    assert [line.split()[0] for line in seeds.splitlines()[2:8]] == [
        "1000", "1001", "1002", "1003", "1004", "1005",
    ]  # fmt: skip
    assert "Mean test loss: " in seeds
    assert "(95 % interval)." in seeds
    assert "Validation loss of the same runs: " in seeds
