"""One claim of the paper, judged, and what the judges of all claims share.

A universal claim ("every speed-up is at most …") holds if each interval by itself supports it, and
fails if one interval does, after the correction for how many there were (Bonferroni): the more one
looks at, the more often one of them is extreme by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from scipy import stats

from optbench.statistics.noise import LEVEL, Difference
from optbench.statistics.speedup import Speedup
from optbench.units import format_ends, format_p, format_signed, format_times

Verdict: TypeAlias = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The verdict of a study's own records on a claim.

    Args:
        number: in the order of `registry`, from 1.
        statement: the claim.
        verdict: by the intervals.
        evidence: sentences with the numbers and their 95 % intervals.
        cells: labels of the cells behind it.
        run_ids: runs behind it that are no confirmations of these cells.
        needs: what is missing for a verdict, in sentences; empty where there is one.
    """

    number: int
    statement: str
    verdict: Verdict
    evidence: tuple[str, ...]
    cells: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def widened(estimate: Speedup, comparisons: int) -> tuple[float, float]:
    """The interval's ends, of which ``comparisons`` together still cover in 95 of 100 studies.

    Each side grows in ln e by the ratio of the normal quantiles. An estimate without an interval
    has one without ends.
    """
    if estimate.low is None or estimate.high is None:
        return 0.0, math.inf
    tail = (1 - LEVEL) / 2
    factor = float(stats.norm.isf(tail / max(1, comparisons)) / stats.norm.isf(tail))
    low = min(1.0, estimate.low / estimate.value) ** factor * estimate.value
    high = max(1.0, estimate.high / estimate.value) ** factor * estimate.value
    return low, high


def is_below(difference: Difference | None, comparisons: int = 1) -> bool:
    """Whether one of ``comparisons`` differences is below zero beyond the noise."""
    return difference is not None and difference.value < 0 and _is_clear(difference, comparisons)


def is_above(difference: Difference | None, comparisons: int = 1) -> bool:
    """Whether one of ``comparisons`` differences is above zero beyond the noise."""
    return difference is not None and difference.value > 0 and _is_clear(difference, comparisons)


def _is_clear(difference: Difference, comparisons: int) -> bool:
    return difference.p_value * max(1, comparisons) < 1 - LEVEL


def times_text(estimate: Speedup) -> str:
    """``1.48× [1.32, 1.67]``, a bound as ``> 2.00× [2.00, ∞)``."""
    value = format_times(estimate.value, estimate.bound)
    found = " ".join(filter(None, (value, format_ends(estimate.low, estimate.high))))
    return f"{found}, extrapolated" if estimate.extrapolated else found


def nats_text(difference: Difference) -> str:
    """``−0.114 ± 0.020 nats (p < 0.001)``."""
    value = format_signed(difference.value, 3)
    return f"{value} ± {difference.half_width:.3f} nats ({format_p(difference.p_value)})"


def count_text(number: int, noun: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def listed(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
