"""Claims on who is ahead of whom: of two families, over data ratios, and along a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from optbench.analysis.cells import CellSummary
from optbench.analysis.claims.claim import Claim, Verdict, count_text, is_above, is_below, nats_text
from optbench.analysis.claims.families import kind_of, of_kind
from optbench.analysis.confirmation import Replicates
from optbench.statistics.contrasts import difference_by_seed
from optbench.statistics.noise import Difference

LOW_RATIO, HIGH_RATIO = 4.0, 8.0  # the paper's winner changes between these
LATE = 0.5  # of a run: before that nobody would judge
_SHOWN = 3  # examples of a kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """Who was confirmed in a cell, the least mean test loss first."""

    cell: CellSummary
    ranked: tuple[Replicates, ...]

    @property
    def winner(self) -> Replicates:
        """The first."""
        return self.ranked[0]

    def difference(self, one: str, other: str) -> Difference | None:
        """Of mean test losses; None if one is not there, or without a noise estimate."""
        own = {c.optimizer: c for c in self.ranked}
        if one not in own or other not in own:
            return None
        return difference_by_seed(own[one].by_seed, own[other].by_seed, self.cell.reference.noise)

    def beats_all(self, one: str, others: Sequence[str], comparisons: int) -> bool:
        """Whether it is ahead of each of the others beyond the noise."""
        return bool(others) and all(
            is_below(self.difference(one, other), comparisons) for other in others
        )


def _standings(cells: Sequence[CellSummary]) -> list[Standings]:
    """Of every cell with two optimizers or more."""
    found: list[Standings] = []
    for cell in cells:
        ranked = sorted(
            (row for row in cell.rows if row.test and row.confirmed),
            key=lambda row: row.test.value if row.test else 0.0,
        )
        if len(ranked) >= 2:
            confirmed = tuple(row.confirmed for row in ranked if row.confirmed)
            found.append(Standings(cell=cell, ranked=confirmed))
    return found


def matrix_based_beat_scalar_based(cells: Sequence[CellSummary]) -> Claim:
    """5: in every cell with both, the best matrix-based method is ahead of all scalar-based ones.

    The best of several is chosen by its loss, so its lead is corrected for their number.
    """
    standings = _standings(cells)
    names = dict.fromkeys(row.optimizer for s in standings for row in s.ranked)
    uncounted = ", ".join(name for name in names if kind_of(name) is None)
    divided = [
        (s, own, others)
        for s in standings
        if (own := of_kind("matrix-based", (c.optimizer for c in s.ranked)))
        and (others := of_kind("scalar-based", (c.optimizer for c in s.ranked)))
    ]
    ahead = [s for s, own, others in divided if s.beats_all(own[0], others, len(own))]
    behind = [
        s for s, own, others in divided if s.beats_all(others[0], own, len(others) * len(divided))
    ]
    verdict: Verdict = "inconclusive"
    if behind:
        verdict = "does not hold"
    elif divided and len(ahead) == len(divided):
        verdict = "holds"
    needs = ()
    if verdict == "inconclusive":
        needs = (
            ("More seeds: in some cell neither family is ahead beyond the noise.",)
            if divided
            else ("A matrix-based and a scalar-based optimizer, confirmed in the same cell.",)
        )
    return Claim(
        number=5,
        statement="Matrix-based methods beat scalar-based ones: the fastest is matrix-based.",
        verdict=verdict,
        evidence=(
            *(
                f"{s.cell.cell.label}: the best matrix-based, {own[0]}, against the best "
                f"scalar-based, {others[0]}: {_text(s.difference(own[0], others[0]))}; "
                f"{_pairs_text(s, own, others)}."
                for s, own, others in divided
            ),
            *([f"Not counted, being of no stated family: {uncounted}."] if uncounted else []),
        ),
        cells=tuple(s.cell.cell.label for s, _, _ in divided),
        needs=needs,
    )


def _text(difference: Difference | None) -> str:
    return nats_text(difference) if difference else "no noise estimate"


def _pairs_text(standings: Standings, own: Sequence[str], others: Sequence[str]) -> str:
    pairs = [standings.difference(a, b) for a in own for b in others]
    ahead, behind = sum(map(is_below, pairs)), sum(map(is_above, pairs))
    return f"of {count_text(len(pairs), 'pair')} {ahead} ahead, {behind} behind beyond the noise"


def winner_depends_on_ratio(cells: Sequence[CellSummary]) -> Claim:
    """6: two optimizers that win at one size and different ratios, each ahead of the other."""
    by_size: dict[str, list[Standings]] = {}
    for s in sorted(_standings(cells), key=lambda s: s.cell.cell.num_tokens):
        by_size.setdefault(s.cell.cell.size, []).append(s)
    several = {size: found for size, found in by_size.items() if len(found) >= 2}
    pairs = [pair for found in several.values() for pair in combinations(found, 2)]
    comparisons = len(pairs) * max((_num_pairs(a) for a, _ in pairs), default=1)
    changes = [pair for pair in pairs if _winner_changes(*pair, comparisons)]
    wide = [found for found in several.values() if _spans_the_change(found)]
    verdict: Verdict = "inconclusive"
    if changes:
        verdict = "holds"
    elif wide and all(_has_one_winner(found) for found in wide):
        verdict = "does not hold"
    return Claim(
        number=6,
        statement=(
            "The winner depends on the data ratio (the paper: Muon at 1–4×, Soap and Kron from 8×)."
        ),
        verdict=verdict,
        evidence=(
            *(_change_text(*pair) for pair in changes[:_SHOWN]),
            *(_winner_text(s) for found in several.values() for s in found),
        ),
        cells=tuple(s.cell.cell.label for found in several.values() for s in found),
        needs=() if verdict != "inconclusive" else (_needs_for_ratio(several, wide),),
    )


def _num_pairs(standings: Standings) -> int:
    count = len(standings.ranked)
    return count * (count - 1) // 2


def _winner_changes(low: Standings, high: Standings, comparisons: int) -> bool:
    first, second = low.winner.optimizer, high.winner.optimizer
    return (
        first != second
        and is_below(low.difference(first, second), comparisons)
        and is_below(high.difference(second, first), comparisons)
    )


def _spans_the_change(found: Sequence[Standings]) -> bool:
    ratios = [s.cell.cell.ratio for s in found]
    return min(ratios) <= LOW_RATIO and max(ratios) >= HIGH_RATIO


def _has_one_winner(found: Sequence[Standings]) -> bool:
    """Everywhere the same, and ahead of all others beyond the noise."""
    name = found[0].winner.optimizer
    return all(
        s.winner.optimizer == name
        and s.beats_all(name, [c.optimizer for c in s.ranked[1:]], len(s.ranked))
        for s in found
    )


def _change_text(low: Standings, high: Standings) -> str:
    first, second = low.winner.optimizer, high.winner.optimizer
    return (
        f"{first} is ahead of {second} in {low.cell.cell.label} "
        f"({_text(low.difference(first, second))}) and behind in {high.cell.cell.label} "
        f"({_text(high.difference(first, second))})."
    )


def _winner_text(standings: Standings) -> str:
    first, second = standings.ranked[0].optimizer, standings.ranked[1].optimizer
    return (
        f"{standings.cell.cell.label}: {first}, then {second} "
        f"({_text(standings.difference(first, second))})."
    )


def _needs_for_ratio(
    several: dict[str, list[Standings]], wide: Sequence[Sequence[Standings]]
) -> str:
    if not several:
        return "Two data ratios or more at one size, with the optimizers confirmed at each."
    if not wide:
        return f"A ratio of {HIGH_RATIO:g} or more, and one of {LOW_RATIO:g} or less, at one size."
    return "More seeds: the winners are not ahead beyond the noise."


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCheck:
    """Two optimizers at a checkpoint and at the end of their runs, by validation loss."""

    cell: CellSummary
    fraction: float
    one: str
    other: str
    then: Difference
    at_end: Difference

    @property
    def is_swapped(self) -> bool:
        """The means stand in the other order."""
        return self.then.value * self.at_end.value < 0

    def is_swapped_clearly(self, comparisons: int) -> bool:
        """Both orders are beyond the noise of that many comparisons."""
        ends = (self.then, self.at_end)
        return (
            self.is_swapped
            and any(is_below(d, comparisons) for d in ends)
            and any(is_above(d, comparisons) for d in ends)
        )

    @property
    def is_decided(self) -> bool:
        """At the end one is ahead beyond the noise."""
        return is_below(self.at_end) or is_above(self.at_end)

    @property
    def agrees(self) -> bool:
        """And was so at the checkpoint."""
        return (is_below(self.then) and is_below(self.at_end)) or (
            is_above(self.then) and is_above(self.at_end)
        )

    @property
    def text(self) -> str:
        """Both differences."""
        return (
            f"{self.cell.cell.label}: {self.one} against {self.other} {nats_text(self.then)} at "
            f"{self.fraction:.0%} of the run, {nats_text(self.at_end)} at its end."
        )


def intermediate_ranks_mislead(cells: Sequence[CellSummary]) -> Claim:
    """9: pairs that stand in the other order at a checkpoint of the second half than at the end."""
    checks = [check for s in _standings(cells) for check in _rank_checks(s)]
    clear = [c for c in checks if c.is_swapped_clearly(len(checks))]
    decided = [c for c in checks if c.is_decided]
    verdict: Verdict = "inconclusive"
    if clear:
        verdict = "holds"
    elif decided and all(c.agrees for c in decided):
        verdict = "does not hold"
    swapped = [c for c in checks if c.is_swapped]
    evidence = [
        f"Of {count_text(len(checks), 'pair')} at checkpoints from {LATE:.0%} of the run on, "
        f"{len(swapped)} stand in the other order than at the end, {len(clear)} of them beyond "
        f"the noise; of the {len(decided)} that can be distinguished at the end, "
        f"{sum(c.agrees for c in decided)} could be so at the checkpoint, in the same order."
    ]
    evidence += [c.text for c in (clear or swapped)[:_SHOWN]]
    needs: tuple[str, ...] = ()
    if verdict == "inconclusive":
        needs = (
            ("More seeds: an order at a checkpoint or at the end is within the noise.",)
            if checks
            else ("Two optimizers with evaluations in the second half of their runs, and noise.",)
        )
    return Claim(
        number=9,
        statement="Rankings at intermediate checkpoints mislead.",
        verdict=verdict,
        evidence=tuple(evidence) if checks else (),
        cells=tuple(dict.fromkeys(c.cell.cell.label for c in checks)),
        needs=needs,
    )


def _rank_checks(standings: Standings) -> Iterator[RankCheck]:
    noise = standings.cell.reference.noise
    for one, other in combinations(standings.ranked, 2):
        own, others = _by_checkpoint(one), _by_checkpoint(other)
        at_end = difference_by_seed(own.get(1.0, {}), others.get(1.0, {}), noise)
        for fraction in sorted(own.keys() & others.keys()):
            then = difference_by_seed(own[fraction], others[fraction], noise)
            if LATE <= fraction < 1 and then is not None and at_end is not None:
                yield RankCheck(
                    cell=standings.cell,
                    fraction=fraction,
                    one=one.optimizer,
                    other=other.optimizer,
                    then=then,
                    at_end=at_end,
                )


def _by_checkpoint(confirmed: Replicates) -> dict[float, dict[int, float]]:
    """Validation losses by fraction of the run, to the percent, and seed."""
    found: dict[float, dict[int, float]] = {}
    for seed in confirmed.seeds:
        if seed.test_loss is not None and seed.val_curve:
            end = seed.val_curve[-1][0]
            for tokens, loss in seed.val_curve:
                found.setdefault(round(tokens / end, 2), {})[seed.seed] = loss
    return found
