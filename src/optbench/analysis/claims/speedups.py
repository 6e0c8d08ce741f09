"""Claims on the size of speed-ups: of all optimizers, and of two families of Adam's relatives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.claim import (
    Claim,
    Verdict,
    count_text,
    is_above,
    is_below,
    listed,
    nats_text,
    times_text,
    widened,
)
from optbench.analysis.claims.families import ADAMW, members
from optbench.analysis.outcomes import OptimizerRow
from optbench.statistics.contrasts import difference_by_seed
from optbench.statistics.mean_noise import MIN_SHARED_SEEDS
from optbench.statistics.noise import LEVEL, Difference, paired_difference
from optbench.statistics.speedup import Speedup
from optbench.store.journal_entries import StudyEntry

MOST = 1.4
SMALL_GAIN = 1.2  # what the paper gives as the bound of scalar-based methods
KEEPS_UP = 0.95
_Z = float(stats.norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSpeedup:
    """The headline speed-up in tokens of an optimizer in a cell."""

    cell: CellSummary
    row: OptimizerRow
    tokens: Speedup

    @property
    def where(self) -> str:
        """Such as ``muon in d32 1x``."""
        return f"{self.row.optimizer} in {self.cell.cell.label}"

    @property
    def text(self) -> str:
        """With its interval."""
        return f"{self.where}: {times_text(self.tokens)}"

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; none at all without a noise estimate."""
        return widened(self.tokens, 1)


def cell_speedups(cells: Sequence[CellSummary]) -> list[CellSpeedup]:
    """All that there are."""
    return [
        CellSpeedup(cell=cell, row=row, tokens=row.tokens)
        for cell in cells
        for row in cell.rows
        if row.tokens is not None
    ]


def _labels(found: Sequence[CellSpeedup]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s.cell.cell.label for s in found))


def speedups_stay_low(study: StudyEntry, cells: Sequence[CellSummary]) -> Claim:
    """3: the upper end of every interval, in every cell."""
    found = cell_speedups(cells)
    labels = _labels(found)
    found.sort(key=lambda s: -s.tokens.value)
    silent = set(study.optimizers) - {study.baseline} - {s.row.optimizer for s in found}
    straddling = [s for s in found if s.ends[1] > MOST]
    verdict: Verdict = "inconclusive"
    if any(widened(s.tokens, len(found))[0] > MOST for s in found):
        verdict = "does not hold"
    elif found and not straddling and not silent:
        verdict = "holds"
    shown = straddling or found[:1]
    evidence = [
        f"{len(found) - len(straddling)} of {count_text(len(found), 'speed-up')} in "
        f"{count_text(len(labels), 'cell')} have an interval that ends at {MOST:g}× or "
        f"below."
    ]
    evidence += [f"{s.text}." for s in shown]
    needs = [f"A speed-up of {listed(sorted(silent))}."] if silent else []
    if straddling:
        needs.append(f"A narrower interval for {listed(s.where for s in straddling)}: more seeds.")
    return Claim(
        number=3,
        statement=f"The true speed-up over a tuned baseline is at most {MOST:g}×.",
        verdict=verdict,
        evidence=tuple(evidence),
        cells=labels,
        needs=tuple(needs) if verdict == "inconclusive" else (),
    )


def variance_reduced_gain(cells: Sequence[CellSummary]) -> Claim:
    """7: the difference of test losses to AdamW, over all cells, and the speed-up over it."""
    names = members("variance-reduced")
    compared = {name: _differences(cells, name) for name in names}
    gains = {
        name: _over_cells(list(found.values()), cells, name)
        for name, found in compared.items()
        if found
    }
    speeds = {name: _mean_speedup(cells, name) for name in gains}
    everywhere = [d for found in compared.values() for d in found.values()]
    verdict: Verdict = "inconclusive"
    if (
        any(is_above(gain, len(gains)) for gain in gains.values())
        or any(is_above(d, len(everywhere)) for d in everywhere)
        or any(s is not None and widened(s, len(speeds))[0] > SMALL_GAIN for s in speeds.values())
    ):
        verdict = "does not hold"
    elif (
        len(gains) == len(names)
        and all(is_below(gain) for gain in gains.values())
        and all(s is not None and widened(s, 1)[1] <= SMALL_GAIN for s in speeds.values())
    ):
        verdict = "holds"
    evidence = [
        f"{name}: {nats_text(gain)} against {ADAMW} over {count_text(len(compared[name]), 'cell')}"
        + (f", speed-up {times_text(speed)}." if (speed := speeds[name]) else ".")
        for name, gain in gains.items()
    ]
    return Claim(
        number=7,
        statement="Variance-reduced variants of Adam give a small, steady gain.",
        verdict=verdict,
        evidence=tuple(evidence),
        cells=tuple(dict.fromkeys(label for found in compared.values() for label in found)),
        needs=tuple(_needs_for_gain(names, gains, speeds)) if verdict == "inconclusive" else (),
    )


def _needs_for_gain(
    names: Sequence[str],
    gains: dict[str, Difference],
    speeds: dict[str, Speedup | None],
) -> Iterator[str]:
    absent = [name for name in names if name not in gains]
    if absent:
        yield f"{listed([*absent, ADAMW])}, confirmed in the same cells."
    unclear = [name for name, gain in gains.items() if not is_below(gain)]
    if unclear:
        yield f"More seeds: the gain of {listed(unclear)} is not beyond the noise."
    wide = [n for n, s in speeds.items() if s is None or widened(s, 1)[1] > SMALL_GAIN]
    if wide:
        yield f"An interval of the speed-up of {listed(wide)} that ends below {SMALL_GAIN:g}×."


def _differences(cells: Sequence[CellSummary], optimizer: str) -> dict[str, Difference]:
    """Of test losses to AdamW's, by cell label."""
    found: dict[str, Difference] = {}
    for cell in cells:
        own, other = cell.row(optimizer), cell.row(ADAMW)
        if own and other and own.confirmed and other.confirmed:
            change = difference_by_seed(
                own.confirmed.by_seed, other.confirmed.by_seed, cell.reference.noise
            )
            if change is not None:
                found[cell.cell.label] = change
    return found


def _over_cells(
    differences: Sequence[Difference], cells: Sequence[CellSummary], optimizer: str
) -> Difference:
    """Mean over the cells: seed by seed where all share theirs, else as if all erred alike."""
    tables = [
        (own.confirmed.by_seed, other.confirmed.by_seed)
        for cell in cells
        if (own := cell.row(optimizer)) and (other := cell.row(ADAMW))
        if own.confirmed and own.confirmed.losses
        if other.confirmed and other.confirmed.losses
    ]
    seeds = sorted(tables[0][0])
    same = all(sorted(column) == seeds for table in tables for column in table)
    if same and len(seeds) >= MIN_SHARED_SEEDS:
        return paired_difference(
            [float(np.mean([own[seed] - other[seed] for own, other in tables])) for seed in seeds]
        )
    value = float(np.mean([d.value for d in differences]))
    half = float(np.mean([d.half_width for d in differences]))
    p_value = 2 * float(stats.norm.sf(abs(value) * _Z / half)) if half > 0 else float(value == 0)
    return Difference(value=value, half_width=half, p_value=p_value)


def _mean_speedup(cells: Sequence[CellSummary], optimizer: str) -> Speedup | None:
    return mean_speedup([s.tokens for s in cell_speedups(cells) if s.row.optimizer == optimizer])


def mean_speedup(speedups: Sequence[Speedup]) -> Speedup | None:
    """Geometric mean of those with an interval, of its ends too: as if all erred alike."""
    found = [s for s in speedups if s.low is not None and s.high is not None]
    if not found:
        return None
    value, low, high = (
        math.prod(ends) ** (1 / len(found))
        for ends in (
            [s.value for s in found],
            [s.low for s in found if s.low is not None],
            [s.high for s in found if s.high is not None],
        )
    )
    return Speedup(
        value=value,
        low=low,
        high=high,
        estimator=found[0].estimator,
        extrapolated=any(s.extrapolated for s in found),
        bound="",
    )


def memory_efficient_keep_up(baseline: str, cells: Sequence[CellSummary]) -> Claim:
    """8: the speed-up of each in every cell, at least 0.95."""
    names = members("memory-efficient")
    found = sorted(
        (s for s in cell_speedups(cells) if s.row.optimizer in names), key=lambda s: s.tokens.value
    )
    present = {s.row.optimizer for s in found}
    below = [s for s in found if widened(s.tokens, len(found))[1] < KEEPS_UP]
    unclear = [s for s in found if s.ends[0] < KEEPS_UP]
    verdict: Verdict = "inconclusive"
    if below:
        verdict = "does not hold"
    elif len(present) == len(names) and not unclear:
        verdict = "holds"
    absent = [name for name in names if name not in present]
    needs = [f"A speed-up of {listed(absent)}."] if absent else []
    if unclear:
        needs.append(
            f"A narrower interval for {listed(s.where for s in unclear)}: it contains {KEEPS_UP:g}."
        )
    return Claim(
        number=8,
        statement=(
            f"Memory-efficient variants stay within 5 % of {baseline}: a speed-up of {KEEPS_UP:g} "
            f"or more."
        ),
        verdict=verdict,
        evidence=tuple(f"{s.text}." for s in found),
        cells=_labels(found),
        needs=tuple(needs) if verdict == "inconclusive" else (),
    )
