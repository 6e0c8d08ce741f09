"""The tables of the published results as strings, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from optbench.analysis.claims.families import ADAMW
from optbench.ladder import PAPER_SIZES
from optbench.paper.hyperparameters import (
    Determined,
    ExtrapolatedValue,
    Extrapolation,
)
from optbench.paper.results import PaperResults
from optbench.paper.speedups import PaperSpeedup
from optbench.published import COMPLEMENTS
from optbench.report.text import NOTHING, speedup_text
from optbench.statistics.speedup import Speedup
from optbench.units import format_value

Rows: TypeAlias = list[list[str]]

_SMALL = ("130m", "300m")
WHY_NOT_DETERMINED: dict[Determined, str] = {
    "constant": "",
    "determined": "",
    "start": "hangs on the start: the solver's absolute tolerance is above the values",
    "several minima": "has several minima: another start ends elsewhere",
    "no minimum": "has no minimum: all values of the window but one are the same",
}


def places(results: PaperResults) -> list[tuple[str, float]]:
    """Size and ratio of every cell, in order."""
    return [
        (size, ratio)
        for size in PAPER_SIZES
        for ratio in sorted({s.ratio for s in results.speedups if s.size == size})
    ]


def losses_tables(results: PaperResults) -> list[tuple[list[str], Rows]]:
    """Titles, and a row for each optimizer; two tables, since one is wider than a terminal."""
    return _by_cell(results, lambda s: f"{s.loss:.3f}")


def speedups_tables(results: PaperResults) -> list[tuple[list[str], Rows]]:
    """By the paper's estimator; in parentheses where the interval contains 1."""
    return _by_cell(results, lambda s: _brief(s.paper))


def _by_cell(
    results: PaperResults, text: Callable[[PaperSpeedup], str]
) -> list[tuple[list[str], Rows]]:
    cells = places(results)
    small = [cell for cell in cells if cell[0] in _SMALL]
    large = [cell for cell in cells if cell[0] not in _SMALL]
    return [_columns(results, part, text) for part in (small, large)]


def _columns(
    results: PaperResults,
    cells: Sequence[tuple[str, float]],
    text: Callable[[PaperSpeedup], str],
) -> tuple[list[str], Rows]:
    rows: Rows = []
    for name in results.optimizers:
        found = [results.speedup(name, size, ratio) for size, ratio in cells]
        if any(found):
            rows.append([name, *(NOTHING if one is None else text(one) for one in found)])
    return ["optimizer", *(f"{size}\n{ratio:g}×" for size, ratio in cells)], rows


def _brief(found: Speedup) -> str:
    text = f"{found.value:.3f}"
    if found.low is None or found.high is None:
        return text
    return f"({text})" if found.low <= 1 <= found.high else text


def case_study_table(results: PaperResults) -> tuple[list[str], Rows]:
    """Ranking of every cell of the case studies, with all estimators."""
    titles = ["cell", "optimizer", "loss", "behind", "paper", "interpolate", "joint"]
    rows: Rows = []
    for ranking in results.case_studies:
        for k, place in enumerate(ranking.places):
            found = results.speedup(place.optimizer, ranking.size, ranking.ratio)
            assert found is not None
            behind = place.to_best
            rows.append(
                [
                    f"{ranking.size} {ranking.ratio:g}×" if k == 0 else "",
                    place.optimizer,
                    f"{place.loss:.4f}",
                    f"{behind.value:.4f}" if behind else NOTHING,
                    *(speedup_text(s) for s in (found.paper, found.interpolate, found.joint)),
                ]
            )
    return titles, rows


def verdicts_table(results: PaperResults) -> tuple[list[str], Rows]:
    """The paper's statements, under the assumed noise and under the scatter of the joint fit."""
    noises = (results.sigma, results.noise.scatter)
    titles = ["statement", "numbers", *(f"σ = {sigma:.2g}" for sigma in noises), "evidence"]
    return titles, [
        [
            one.text,
            "agree" if one.numbers_agree else "disagree",
            one.verdict,
            other.verdict,
            one.evidence[0],
        ]
        for one, other in zip(results.statements, results.at_scatter, strict=True)
    ]


def noise_sentences(results: PaperResults) -> list[str]:
    """Where σ comes from, and what the figures cannot show of it."""
    noise = results.noise
    fewest, most = (pick(noise.sweep_runs.values()) for pick in (min, max))
    runs = noise.sweep_runs
    return [
        f"σ = {results.sigma:g} is an assumption: no published run was repeated with another seed.",
        f"The scatter of all cells about the joint fit, {noise.scatter:.4f}, is the one upper "
        f"bound in the figures; it has imperfect tuning and the error of the curve in it.",
        f"A published loss is the least of its cell's sweep. In {noise.differing} of "
        f"{noise.reported_twice} cells the chosen configuration lies above it, by "
        f"{noise.median_above:.4f} in the median and in {noise.within_tie} by no more than the "
        f"noise threshold {noise.tie_threshold:g}, a convention; in {noise.of_another_row} the "
        f"least loss is another row of the same table. That is no estimate of noise.",
        f"The minima are over different numbers of runs, {fewest} to {most} in the largest table "
        f"of an optimizer ({runs['muon']} for muon, {runs[ADAMW]} for {ADAMW}), which favours "
        f"those with more.",
    ]


def fits_table(results: PaperResults) -> tuple[list[str], Rows]:
    """The baseline's curves in Chinchilla units."""
    titles = ["size", "ratios", "α", "B", "β", "largest residual"]
    return titles, [
        [
            fit.size,
            f"{fit.ratios[0]:g}–{fit.ratios[-1]:g}×",
            f"{fit.curve.coefficient:.5f}",
            f"{fit.curve.exponent:.5f}",
            f"{fit.curve.irreducible_loss:.5f}",
            f"{fit.largest_residual:.1e}",
        ]
        for fit in results.fits
    ]


def sensitive_table(results: PaperResults) -> tuple[list[str], Rows]:
    """The scale-sensitive hyperparameters, found and published."""
    titles = ["optimizer", "hyperparameter", "found", "published", ""]
    return titles, [
        [
            axis.optimizer,
            axis.axis,
            listed(axis.found),
            listed(axis.published),
            axis.explanation or axis.agreement,
        ]
        for axis in results.sensitive
    ]


def listed(values: Sequence[object]) -> str:
    """``0.1, 0.2``."""
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values) or NOTHING


def interesting(found: Extrapolation) -> bool:
    """Whether there was anything to fit: the tuned values of the window are not all the same."""
    return found.determined != "constant"


def extrapolation_table(results: PaperResults) -> tuple[list[str], Rows]:
    """At the smallest and the largest ratio of 1.2b."""
    titles = ["optimizer", "hyperparameter", "r", "published", "again", "law", "used"]
    rows: Rows = []
    for found in results.extrapolations:
        if interesting(found):
            for value in (found.values[0], found.values[-1]):
                rows.append(_extrapolated(found, value))
    return titles, rows


def _extrapolated(found: Extrapolation, value: ExtrapolatedValue) -> list[str]:
    return [
        found.optimizer,
        found.axis,
        f"{value.ratio:g}×",
        f"{value.published:.4g}",
        NOTHING if value.reproduced is None else f"{value.reproduced:.4g}",
        law_text(found.axis, value),
        format_value(value.used) + ("*" if value.was_tuned else ""),
    ]


def not_determined(results: PaperResults) -> list[str]:
    """A sentence for each published extrapolation that hangs on the solver."""
    return [
        f"{found.optimizer} {found.axis} {WHY_NOT_DETERMINED[found.determined]}."
        for found in results.extrapolations
        if WHY_NOT_DETERMINED[found.determined]
    ]


def law_text(axis: str, value: ExtrapolatedValue) -> str:
    """This project's prediction with its cautious interval, which for a beta ends at 0."""
    law = value.law
    number = law.value if isinstance(law.value, (str, bool)) else float(f"{law.value:.3g}")
    if law.outer_low is None or law.outer_high is None:
        return format_value(number)
    low = max(0.0, law.outer_low) if axis in COMPLEMENTS else law.outer_low
    return f"{format_value(number)} [{_two(low)}, {_two(law.outer_high)}]"


def _two(number: float) -> str:
    """Two significant digits, without an exponent where they need none."""
    return format_value(float(f"{number:.2g}"))
