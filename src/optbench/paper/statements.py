"""The paper's statements on its speed-ups, sentence by sentence, under a stated noise.

The nine claims of `registry` are what any study can be asked; these are the paper's own
conclusions, with its numbers, judged on its own figures by its own estimator. The rules are those
of `claim`: a statement about many cells holds if every one of its intervals supports it, and fails
if one does after the correction for how many there are. "Inconclusive" is the usual answer of a
single seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.claim import (
    Verdict,
    count_text,
    is_above,
    is_below,
    nats_text,
    times_text,
    widened,
)
from optbench.analysis.claims.families import ADAMW, of_kind
from optbench.analysis.claims.speedups import mean_speedup
from optbench.paper.published_study import CASE_STUDY_RATIO, PublishedStudy
from optbench.paper.speedups import PaperSpeedup, lead
from optbench.statistics.noise import Difference
from optbench.statistics.speedup import Speedup

_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A conclusion of the paper.

    Args:
        text: the sentence.
        numbers_agree: whether the published losses agree, taken at face value.
        verdict: whether they still do under the stated noise.
        evidence: sentences with numbers.
    """

    text: str
    numbers_agree: bool
    verdict: Verdict
    evidence: tuple[str, ...]


def judge_statements(
    study: PublishedStudy, speedups: Sequence[PaperSpeedup]
) -> tuple[Statement, ...]:
    """All of them, in the order of the paper."""
    others = [s for s in speedups if s.optimizer != ADAMW]
    names = [s.optimizer for s in others]
    matrix = [s for s in others if s.optimizer in of_kind("matrix-based", names)]
    scalar = [s for s in others if s.optimizer in of_kind("scalar-based", names)]
    return (
        _level("The best matrix-based method is about 1.3–1.4× faster at 130m.",
                 _best_of(matrix, "130m"), 1.25, 1.45),
        _level("At 1.2b that has fallen to about 1.1×.", _best_of(matrix, "1.2b"), 1.05, 1.15),
        _falls("The speed-up of Muon and of Soap falls from 130m to 1.2b.", matrix),
        _at_most("No speed-up is above 1.4×, but for rounding.", others, 1.4, 1.45),
        _at_most("Scalar-based methods stay below 1.2×.", scalar, 1.2, 1.2),
        _leads("Muon is the best at 1–4×.", study, (1.0, 2.0, 4.0), ("muon",)),
        _leads("Soap or Kron is better than Muon from 8× on.", study, (8.0, CASE_STUDY_RATIO),
               ("soap", "kron"), over=("muon",)),
        _leads("At 16× on 300m Soap passes Muon.", study, (CASE_STUDY_RATIO,), ("soap",),
               over=("muon",), sizes=("300m",)),
        _leads("At 1.2b and 8× NAdamW, Muon and Soap are ahead of AdamW.", study, (8.0,),
               ("nadamw", "muon", "soap"), over=(ADAMW,), sizes=("1.2b",), each=True),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The fastest of ``chosen_of`` in a cell."""

    one: PaperSpeedup
    chosen_of: int

    @property
    def corrected(self) -> Speedup:
        """Its interval, as wide as that of one chosen among so many must be."""
        low, high = widened(self.one.paper, self.chosen_of)
        return dataclasses.replace(self.one.paper, low=low, high=high)


def _best_of(speedups: Sequence[PaperSpeedup], size: str) -> list[_Chosen]:
    """The largest of every ratio at a size."""
    found: dict[float, list[PaperSpeedup]] = {}
    for one in speedups:
        if one.size == size:
            found.setdefault(one.ratio, []).append(one)
    return [
        _Chosen(max(found[ratio], key=lambda s: s.paper.value), len(found[ratio]))
        for ratio in sorted(found)
    ]


def _text(one: PaperSpeedup) -> str:
    return f"{one.optimizer} in {one.size} {one.ratio:g}x: {times_text(one.paper)}."


def _level(text: str, found: Sequence[_Chosen], low: float, high: float) -> Statement:
    """About the mean over the data ratios, whose interval is as wide as theirs on average.

    Each is the fastest of several, and has its interval corrected for that choice.
    """
    mean = mean_speedup([chosen.corrected for chosen in found])
    assert mean is not None
    ends = widened(mean, 1)
    verdict: Verdict = "inconclusive"
    if ends[0] > high or ends[1] < low:
        verdict = "does not hold"
    elif low <= ends[0] and ends[1] <= high:
        verdict = "holds"
    return Statement(
        text=text,
        numbers_agree=low <= mean.value <= high,
        verdict=verdict,
        evidence=(
            f"Read as {low:g} to {high:g}; the mean over the data ratios is {times_text(mean)}, "
            f"corrected for the choice of the fastest.",
            *(_text(chosen.one) for chosen in found),
        ),
    )


def _at_most(text: str, found: Sequence[PaperSpeedup], most: float, rounded: float) -> Statement:
    """``rounded`` is the largest value that the statement, read with its rounding, allows."""
    verdict: Verdict = "inconclusive"
    if any(widened(s.paper, len(found))[0] > rounded for s in found):
        verdict = "does not hold"
    elif all(widened(s.paper, 1)[1] <= rounded for s in found):
        verdict = "holds"
    above = sorted((s for s in found if s.paper.value > most), key=lambda s: -s.paper.value)
    open_ended = [s for s in found if widened(s.paper, 1)[1] > rounded]
    largest = max(found, key=lambda s: s.paper.value)
    return Statement(
        text=text,
        numbers_agree=largest.paper.value <= rounded,
        verdict=verdict,
        evidence=(
            f"{len(above)} of {count_text(len(found), 'speed-up')} above {most:g}×, "
            f"{len(open_ended)} with an interval beyond {rounded:g}×.",
            *map(_text, (above or [largest])[:_SHOWN]),
        ),
    )


def _falls(text: str, matrix: Sequence[PaperSpeedup]) -> Statement:
    """By the means over the data ratios that both sizes have, whose intervals do not overlap."""
    large = [s for s in matrix if s.size == "1.2b"]
    ratios = {s.ratio for s in large}
    small = [s for s in matrix if s.size == "130m" and s.ratio in ratios]
    names = tuple(dict.fromkeys(s.optimizer for s in large))
    means = [
        [mean_speedup([s.paper for s in size if s.optimizer == name]) for size in (small, large)]
        for name in names
    ]
    pairs = [(a, b) for a, b in means if a is not None and b is not None]
    verdict: Verdict = "inconclusive"
    if all(widened(a, 1)[0] > widened(b, 1)[1] for a, b in pairs):
        verdict = "holds"
    elif any(widened(a, len(pairs))[1] < widened(b, len(pairs))[0] for a, b in pairs):
        verdict = "does not hold"
    return Statement(
        text=text,
        numbers_agree=all(a.value > b.value for a, b in pairs),
        verdict=verdict,
        evidence=tuple(
            f"{name}, mean over the data ratios: {times_text(a)} at 130m, {times_text(b)} at 1.2b."
            for name, (a, b) in zip(names, pairs, strict=True)
        ),
    )


def _leads(
    text: str,
    study: PublishedStudy,
    ratios: Sequence[float],
    names: Sequence[str],
    *,
    over: Sequence[str] = (),
    sizes: Sequence[str] = (),
    each: bool = False,
) -> Statement:
    """The best of ``names``, or ``each``, has a lower loss than all of ``over``, or than all else.

    Args:
        text: of the statement.
        study: with the cells.
        ratios: of the cells that are meant.
        names: who leads; those that are not in a cell are passed over.
        over: whom; all others without.
        sizes: of the cells; all without.
        each: not the best of them only.
    """
    cells = sorted(
        (c for c in study.cells if c.cell.ratio in ratios and (not sizes or c.cell.size in sizes)),
        key=lambda c: (c.cell.num_nonembedding_params, c.cell.num_tokens),
    )
    contests = [contest for cell in cells for contest in _contests(cell, names, over, each=each)]
    assert contests, "a statement about no cells would hold of itself"
    verdict: Verdict = "inconclusive"
    if any(c.is_lost(len(contests)) for c in contests):
        verdict = "does not hold"
    elif all(c.is_won() for c in contests):
        verdict = "holds"
    ahead = sum(c.is_ahead for c in contests)
    clear = sum(c.is_won() for c in contests)
    return Statement(
        text=text,
        numbers_agree=ahead == len(contests),
        verdict=verdict,
        evidence=(
            f"The published loss is lower in {ahead} of {count_text(len(contests), 'comparison')}, "
            f"beyond the noise in {clear}.",
            *(c.text for c in contests),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Contest:
    """One optimizer, the best of ``chosen_of``, against the closest rival in a cell."""

    cell: CellSummary
    name: str
    rival: str
    chosen_of: int
    lead: Difference | None

    @property
    def is_ahead(self) -> bool:
        return self.lead is not None and self.lead.value < 0

    def is_won(self) -> bool:
        """A leader that was chosen as the best of several has its lead corrected for that."""
        return is_below(self.lead, self.chosen_of)

    def is_lost(self, comparisons: int) -> bool:
        rivals = sum(not row.is_baseline for row in self.cell.rows)
        return is_above(self.lead, comparisons * rivals)

    @property
    def text(self) -> str:
        margin = nats_text(self.lead) if self.lead is not None else "no noise estimate"
        return f"{self.cell.cell.label}: {self.name} against {self.rival} {margin}."


def _contests(
    cell: CellSummary, names: Sequence[str], over: Sequence[str], *, each: bool
) -> list[_Contest]:
    losses = {row.optimizer: row.test.value for row in cell.rows if row.test}
    own = sorted((name for name in names if name in losses), key=losses.__getitem__)
    rivals = [name for name in losses if name not in names and name in (over or losses)]
    if not own or not rivals:
        return []
    rival = min(rivals, key=losses.__getitem__)
    chosen = [(name, 1) for name in own] if each else [(own[0], len(own))]
    return [_Contest(cell, name, rival, of, lead(cell, name, rival)) for name, of in chosen]
