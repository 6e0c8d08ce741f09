"""The claim that tuning one hyperparameter of AdamW is worth up to twice the tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.claim import Claim, Verdict, times_text, widened
from optbench.analysis.claims.families import ADAMW
from optbench.analysis.tuning import AxisLine
from optbench.space import Value
from optbench.statistics.interpolation import Bound
from optbench.statistics.speedup import MIN_BUDGETS, OptimizerLoss, Speedup, speedup
from optbench.store.journal_entries import CellEntry
from optbench.units import format_value

TUNING_WORTH = 2.0
# A learning rate this far from the best is still a common recipe's: the paper's 2× are of 8e-3
# against 6e-4. Without one among the candidates, nothing contradicts the claim.
RECIPE_FACTOR = 8.0
_SHOWN = 3  # examples of a kind
_FLIPPED: Mapping[Bound, Bound] = {"": "", "<": ">", ">": "<"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """The winner with one hyperparameter moved to the worst of its other candidates.

    Args:
        value: of ``axis``; ``best`` is the winner's.
        run_ids: of the moved and the winning configuration, on the tuning seed.
        worth: of tuning that hyperparameter: the tokens of the cell over those that the tuned
            baseline needs for the moved configuration's loss.
    """

    cell: CellEntry
    axis: str
    value: Value
    best: Value
    run_ids: tuple[str, ...]
    worth: Speedup


def tuning_is_worth(
    baseline: str, cells: Sequence[CellSummary], test_losses: Mapping[str, float]
) -> Claim:
    """1: the worst candidate of each axis through AdamW's winner, in tokens of the tuned curve.

    Judged in the cells whose curve goes down to half of their tokens; others cannot show 2×. A
    single run is compared with a curve of means, so its interval has the noise of one run.
    """
    judged = [cell for cell in cells if baseline == ADAMW and _reaches_down(cell)]
    setbacks = [setback for cell in judged for setback in _setbacks(cell, test_losses)]
    tried = sum(len(line.points) - 1 for cell in judged for line in _lines(cell))
    verdict: Verdict = "inconclusive"
    if any(widened(s.worth, tried)[0] >= TUNING_WORTH for s in setbacks):
        verdict = "holds"
    elif any(map(_has_far_recipe, judged)) and all(
        widened(s.worth, 1)[1] < TUNING_WORTH for s in setbacks
    ):
        verdict = "does not hold"
    ranked = sorted(setbacks, key=lambda s: -s.worth.value)
    return Claim(
        number=1,
        statement="Tuning one hyperparameter of a common AdamW recipe is itself worth up to 2×.",
        verdict=verdict,
        evidence=tuple(
            f"In {s.cell.label}, moving {s.axis} from {format_value(s.value)} to "
            f"{format_value(s.best)} alone is worth {times_text(s.worth)} in tokens (the worst "
            f"of its candidates, all else as in the winner)."
            for s in ranked[:_SHOWN]
        ),
        cells=tuple(dict.fromkeys(s.cell.label for s in ranked)),
        run_ids=tuple(run_id for s in ranked[:_SHOWN] for run_id in s.run_ids),
        needs=()
        if verdict != "inconclusive"
        else tuple(_needs_for_worth(baseline, judged, ranked)),
    )


def _reaches_down(cell: CellSummary) -> bool:
    tokens = cell.reference.losses.tokens
    least = cell.cell.num_tokens / TUNING_WORTH
    return len(tokens) >= MIN_BUDGETS["interpolate"] and tokens[0] <= least and bool(_lines(cell))


def _lines(cell: CellSummary) -> Sequence[AxisLine]:
    """Of the baseline's tuning."""
    row = next((row for row in cell.rows if row.is_baseline), None)
    return row.tuning.lines if row and row.tuning else ()


def _has_far_recipe(cell: CellSummary) -> bool:
    """Whether a learning rate far from the best was tried, all else as in the winner."""
    for line in _lines(cell):
        numbers = [
            (float(p.value), p.is_incumbent)
            for p in line.points
            if p.loss is not None and isinstance(p.value, (int, float)) and p.value > 0
        ]
        best = next((value for value, is_incumbent in numbers if is_incumbent), None)
        if line.axis == "lr" and best is not None:
            return any(max(v / best, best / v) >= RECIPE_FACTOR for v, _ in numbers)
    return False


def _setbacks(cell: CellSummary, test_losses: Mapping[str, float]) -> Iterator[Setback]:
    """One for each axis with another candidate that did not diverge."""
    for line in _lines(cell):
        incumbent = [point for point in line.points if point.is_incumbent]
        losses = {
            point.run_id: (loss, point.value)
            for point in line.points
            if not point.is_incumbent and (loss := test_losses.get(point.run_id)) is not None
        }
        if not incumbent or not losses:
            continue
        run_id, (loss, value) = max(losses.items(), key=lambda item: item[1][0])
        tokens = float(cell.cell.num_tokens)
        yield Setback(
            cell=cell.cell,
            axis=line.axis,
            value=value,
            best=incumbent[0].value,
            run_ids=(run_id, incumbent[0].run_id),
            worth=_inverse(
                speedup(
                    cell.reference.losses,
                    OptimizerLoss(tokens=tokens, mean=loss, count=1),
                    cell.reference.noise,
                    estimator="interpolate",
                )
            ),
        )


def _inverse(slowness: Speedup) -> Speedup:
    """What the baseline gains over a configuration instead of the reverse."""
    low = high = None
    if slowness.low is not None and slowness.high is not None:
        low = 1 / slowness.high
        high = 1 / slowness.low if slowness.low > 0 else math.inf
    return Speedup(
        value=1 / slowness.value,
        low=low,
        high=high,
        estimator=slowness.estimator,
        extrapolated=slowness.extrapolated,
        bound=_FLIPPED[slowness.bound],
    )


def _needs_for_worth(
    baseline: str, judged: Sequence[CellSummary], setbacks: Sequence[Setback]
) -> Iterator[str]:
    if baseline != ADAMW:
        yield f"{ADAMW} as the baseline; here it is {baseline}."
    elif not judged:
        yield (
            f"A tuning of {ADAMW} in a cell, and its curve at that size from half of the tokens or "
            f"less."
        )
    elif any(s.worth.low is None for s in setbacks):
        yield "A second seed: without it there is no interval."
    elif any(widened(s.worth, 1)[1] >= TUNING_WORTH for s in setbacks):
        yield f"More seeds: an interval contains {TUNING_WORTH:g}×."
    else:
        yield (
            f"A learning rate {RECIPE_FACTOR:g} times from the winner's, all else as in the "
            f"winner: the candidates do not reach that far."
        )
