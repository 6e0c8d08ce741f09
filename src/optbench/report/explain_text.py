"""An explanation on a terminal: why these hyperparameters, section by section, in words."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.text import Text

from optbench.analysis.explanation import Explanation, HeldOutSeeds, Threshold, UnfinishedSearch
from optbench.analysis.search_path import AxisTrials, Leg, NearBest, Search, Step, Tried
from optbench.report.explain_scale import (
    Block,
    law_blocks,
    prediction_blocks,
    sensitivity_blocks,
)
from optbench.report.text import NOTHING, mean_text
from optbench.report.text_table import text_table
from optbench.units import format_configuration, format_count, format_signed, format_value

INDENT = "  "
PHASES = {
    "I": "phase I, the full search",
    "II": "phase II, a search of what is sensitive to scale",
    "III": "phase III, predicted and not searched",
    "baseline": "a further budget of the baseline",
}
BEGINNINGS = {"start point": "start point of the study file"}
TITLES = ("loss", "difference", "in τ", "", "run")
STANDINGS = {
    "reference": "",
    "better": "better",
    "tie": "tie",
    "worse": "",
    "diverged": "diverged",
}


def print_explanation(explanation: Explanation, console: Console) -> None:
    """All sections that are not empty, the answer first."""
    for title, blocks in explanation_sections(explanation):
        if title:
            console.print(Text(f"\n{title}", style="bold"))
        for block in blocks:
            lines = [block] if isinstance(block, str) else block
            for line in lines:
                _print_line(line, console, wrap=isinstance(block, str))


def _print_line(line: str, console: Console, *, wrap: bool) -> None:
    """A paragraph is broken at spaces; the row of a table is left to the terminal."""
    indented = INDENT + line
    if wrap:
        indented = textwrap.fill(
            line, console.width, initial_indent=INDENT, subsequent_indent=2 * INDENT
        )
    console.print(Text(indented), highlight=False, soft_wrap=True)


def explanation_sections(explanation: Explanation) -> list[tuple[str, list[Block]]]:
    """Titles and what stands under them, in the order in which things happened.

    The first section has no title: it is the answer.
    """
    search = explanation.search
    found: list[tuple[str, list[Block]]] = [("", _answer(explanation))]
    threshold = ("Noise threshold", _threshold(explanation.threshold))
    if search is None:
        found.append(threshold)
    else:
        found += [
            ("Start", _start(explanation, search)),
            threshold,
            (_path_title(search), _path(search)),
            ("Certificate", _certificate(search)),
            ("Statistically tied configurations", _near_best(search)),
            ("At the grid's edge, refused candidates, diverged runs", _troubles(search)),
        ]
    found.append(("Sensitivity to scale", sensitivity_blocks(explanation)))
    found += [
        ("Prediction", prediction_blocks(explanation)),
        ("Scaling laws, fitted now to the tunings so far", law_blocks(explanation)),
    ]
    if explanation.confirmation is not None:
        found.append(("Held-out seeds", _held_out_seeds(explanation.confirmation, search)))
    return [(title, blocks) for title, blocks in found if blocks]


def _answer(explanation: Explanation) -> list[Block]:
    cell = explanation.cell
    blocks: list[Block] = [
        f"{explanation.optimizer} in {cell.label} "
        f"({format_count(cell.num_nonembedding_params)} non-embedding parameters, "
        f"{format_count(cell.num_tokens)} tokens), study {explanation.study}, "
        f"{PHASES[explanation.phase]}."
    ]
    search, prediction = explanation.search, explanation.prediction
    if explanation.unfinished is not None:
        blocks.append(_unfinished(explanation.unfinished))
    elif search is not None:
        blocks.append(
            f"Answer: {format_configuration(search.incumbent)}; {_how_found(search)}; "
            f"{_tested(explanation.confirmation)}."
        )
    elif prediction is not None:
        blocks.append(
            f"Answer: {format_configuration(prediction.configuration)}; predicted, not searched; "
            f"{_tested(explanation.confirmation)}."
        )
    return blocks


def _how_found(search: Search) -> str:
    if search.certificate_kind == "nothing tried":
        return "no change was tried here, so it is not certified"
    found = "found in 1 run" if search.runs == 1 else f"found in {search.runs} runs"
    return f"{found}, {'certified' if search.certified else 'not certified'}"


def _tested(held_out: HeldOutSeeds | None) -> str:
    if held_out is None:
        return "not yet trained on held-out seeds"
    if held_out.test is None:
        return "no run on held-out seeds ended with a loss"
    count = held_out.test.count
    seeds = "seed" if count == 1 else "seeds"
    return f"test loss {mean_text(held_out.test)} on {count} held-out {seeds}"


def _unfinished(unfinished: UnfinishedSearch) -> str:
    text = (
        f"No answer yet: its search here has not ended. {unfinished.runs} of its runs in this cell "
        f"are in the store; the path is written when the search ends. `optbench run` goes on."
    )
    if unfinished.best_loss is None:
        return text
    return (
        f"{text} Lowest validation loss so far: {unfinished.best_loss:.4f} (run "
        f"{unfinished.best_run_id[:10]})."
    )


def _start(explanation: Explanation, search: Search) -> list[Block]:
    loss = "diverged" if search.start_loss is None else f"loss {search.start_loss:.4f}"
    blocks: list[Block] = [
        f"Began at the {BEGINNINGS.get(explanation.start_from, explanation.start_from)}: "
        f"{format_configuration(search.start)}, {loss}."
    ]
    if search.fixed:
        blocks.append(f"Held throughout, not searched here: {format_configuration(search.fixed)}.")
    return [
        *blocks,
        "Losses are validation losses in nats per token; all candidates are trained on one seed.",
    ]


def _threshold(threshold: Threshold | None) -> list[Block]:
    if threshold is None:
        return []
    blocks: list[Block] = [
        f"τ = {threshold.tau:.4f} nats: a difference of at most τ is a tie, and a tie does not "
        f"change the current best."
    ]
    entry = threshold.measured
    if entry is None:
        return [*blocks, "The journal has no entry on how the noise behind it was measured."]
    seeds = f" ({', '.join(map(str, threshold.seeds))})" if threshold.seeds else ""
    return [
        *blocks,
        f"Measured with {entry.optimizer} in {entry.cell.label}: two neighbouring configurations "
        f"on {len(entry.run_ids)} seeds{seeds}. From seed to seed one loss spreads by "
        f"σ = {entry.sigma:.4f}, the difference of the two on the same seed by paired σ = "
        f"{entry.paired_sigma:.4f}. The search compares on one seed, so the second counts: "
        f"{_how_made(threshold.tau, entry.paired_sigma)}",
    ]


def _how_made(tau: float, paired_sigma: float) -> str:
    if abs(tau - paired_sigma) < 1e-9:
        return "τ = paired σ."
    times = f"{tau / paired_sigma:.3g} paired σ" if paired_sigma > 0 else "more than paired σ"
    return f"τ = {times}, by the tie_floor and tie_sigmas of the study file."


def _path_title(search: Search) -> str:
    count = sum(len(leg.steps) for leg in search.legs)
    if not count:
        return "Path: no update"
    ends = f"{_loss(search.start_loss)} → {_loss(search.loss)}"
    return f"Path: {count} update{'s' if count > 1 else ''}, loss {ends}"


def _path(search: Search) -> list[Block]:
    if search.certificate_kind == "nothing tried":
        return []
    if not search.legs:
        return ["Nothing next to the start point is better by more than τ."]
    return [block for leg in search.legs for block in _leg(leg, search.tau)]


def _leg(leg: Leg, tau: float) -> list[Block]:
    axis, fixed = leg.line.axis, leg.line.fixed
    notes = _notes(leg, tau)
    rows = [_cells(tried, note) for tried, note in zip(leg.line.candidates, notes, strict=True)]
    where = f" with {format_configuration(fixed)}" if fixed else ""
    return [
        *(_step(axis, step) for step in leg.steps),
        f"Tried along {axis}{where}, compared with {axis} {format_value(leg.steps[0].before)}:",
        text_table((axis, *TITLES), rows, left=(axis, "run")),
        *_refused(leg.line),
    ]


def _notes(leg: Leg, tau: float) -> list[str | None]:
    """The updates, and what was passed over because it tied with where they ended."""
    last = leg.steps[-1]
    moves = {step.after: f"update {number}" for number, step in enumerate(leg.steps, start=1)}
    if len(moves) == 1:
        moves = dict.fromkeys(moves, "update")
    notes: list[str | None] = []
    for tried in leg.line.candidates:
        note = moves.get(tried.value)
        if tried.standing == "reference":
            note = "start"
        elif note is None and tried.loss is not None and last.loss_after is not None:
            if abs(tried.loss - last.loss_after) <= tau:
                note = f"tie with {format_value(last.after)}"
            elif tried.standing == "tie":
                note = "tie with the start"
        notes.append(note)
    return notes


def _step(axis: str, step: Step) -> str:
    move = f"{axis} {format_value(step.before)} → {format_value(step.after)}: "
    if step.gain is None:
        return f"{move}from a diverged run to loss {_loss(step.loss_after)}"
    gain = f"better by {step.gain:.4f}"
    if step.gain_in_tau is not None:
        gain += f" = {step.gain_in_tau:.1f} τ"
    return f"{move}loss {_loss(step.loss_before)} → {_loss(step.loss_after)}, {gain}"


def _certificate(search: Search) -> list[Block]:
    if search.certificate_kind == "nothing tried":
        return [_nothing_tried(search)]
    rows = [
        (line.axis if number == 0 else "", *_cells(tried, _of_winner(tried)))
        for line in search.certificate
        for number, tried in enumerate(line.candidates)
    ]
    refused = [text for line in search.certificate for text in _refused(line)]
    table = text_table(("", "value", *TITLES), rows, left=("value", "run"))
    return [_verdict(search), table, *refused]


def _of_winner(tried: Tried) -> str | None:
    return "winner" if tried.standing == "reference" else None


def _nothing_tried(search: Search) -> str:
    if not search.searched:
        why = "no axis was searched here"
    elif search.rejected:
        why = "every one was refused before it cost anything"
    else:
        why = f"the search ended after {search.runs} run{'s' if search.runs != 1 else ''}"
    return f"None: no single change of the configuration was tried, because {why}."


def _verdict(search: Search) -> str:
    if search.loss is None:
        return "Not certified: the winner's own run diverged, and nothing next to it ended better."
    count = sum(t.standing != "reference" for line in search.certificate for t in line.candidates)
    if search.certified:
        return (
            f"Certified: {count} single changes of the winner were tried, all that the search "
            f"asks for, and none is better by more than τ. Compared with the winner:"
        )
    return (
        f"Not certified: the limit on runs was reached after {search.runs}. These {count} single "
        f"changes of the winner were tried; one of the others may be better. Compared with the "
        f"winner:"
    )


def _refused(line: AxisTrials) -> list[str]:
    return [
        f"{line.axis} {format_value(refused.configuration[line.axis])} was refused: "
        f"{refused.reason}"
        for refused in line.refused
    ]


def _near_best(search: Search) -> list[Block]:
    if search.certificate_kind == "nothing tried":
        return []
    if not search.near_best:
        return ["None: every run diverged."]
    axes = list(search.near_best[0].configuration)
    titles = (*axes, "loss", "above lowest", "in τ", "", "run")
    rows = [_member(member, axes, search.tau) for member in search.near_best]
    blocks: list[Block] = [
        "Within τ of the lowest loss, so the search cannot distinguish them:",
        text_table(titles, rows, left=(*axes, "run")),
    ]
    if not search.near_best[0].is_incumbent:
        blocks.append(
            "Another loss is lower than the winner's, but by no more than τ: a tie, so the search "
            "stayed where it was."
        )
    return blocks


def _member(member: NearBest, axes: list[str], tau: float) -> list[str]:
    return [
        *(format_value(member.configuration[axis]) for axis in axes),
        f"{member.loss:.4f}",
        f"{member.excess:.4f}",
        f"{member.excess / tau:.1f}" if tau > 0 else NOTHING,
        "winner" if member.is_incumbent else "",
        member.run_id[:10],
    ]


def _troubles(search: Search) -> list[Block]:
    edges = [
        f"At the grid's edge: the winner's {edge.axis} {format_value(edge.value)} is {edge.note}."
        for edge in search.edges
    ]
    refused = [
        f"Refused before it cost anything: {format_configuration(one.configuration)}. {one.reason}"
        for one in search.rejected
    ]
    diverged = [
        f"Diverged: {format_configuration(one.configuration)} (run {one.run_id[:10]}). {one.reason}"
        for one in search.diverged
    ]
    if search.certificate_kind == "nothing tried":
        return [*edges, *refused, *diverged]
    return [*edges, *refused, *diverged] or [
        "None: the winner is at no end of its candidates, none was refused, no run diverged."
    ]


def _held_out_seeds(held_out: HeldOutSeeds, search: Search | None) -> list[Block]:
    confirmed = held_out.confirmed
    rows = [
        (
            str(seed.seed),
            "diverged" if seed.test_loss is None else f"{seed.test_loss:.4f}",
            seed.run_id[:10],
        )
        for seed in confirmed.seeds
    ]
    table = text_table(("seed", "test loss", "run"), rows, left=("run",))
    blocks: list[Block] = [table] if rows else []
    if confirmed.absent:
        blocks.append(f"Not in the store: {', '.join(confirmed.absent)}.")
    if held_out.test is None:
        return [*blocks, "No mean: no run ended with a loss."]
    interval = " (95 % interval)" if held_out.test.half_width is not None else ""
    blocks.append(f"Mean test loss: {mean_text(held_out.test)} nats per token{interval}.")
    if search is not None and search.loss is not None and held_out.val_mean is not None:
        blocks.append(
            f"Validation loss of the same runs: {held_out.val_mean:.4f} on average. In the search "
            f"it was {search.loss:.4f}: the best of {search.runs} runs on one seed is not quoted."
        )
    return blocks


def _cells(tried: Tried, note: str | None) -> tuple[str, ...]:
    """Value, loss, difference, the same in τ, a note and the run; no difference to itself."""
    difference = in_tau = ""
    if tried.standing != "reference":
        difference = _signed(tried.difference, 4)
        in_tau = _signed(tried.in_tau, 1)
    return (
        format_value(tried.value),
        _loss(tried.loss),
        difference,
        in_tau,
        note or STANDINGS[tried.standing],
        tried.run_id[:10],
    )


def _signed(number: float | None, decimals: int) -> str:
    """With its sign, unless it is rounded to zero."""
    if number is None:
        return NOTHING
    return format_signed(number, decimals) if round(number, decimals) else f"{0:.{decimals}f}"


def _loss(loss: float | None) -> str:
    return NOTHING if loss is None else f"{loss:.4f}"
