"""The claim that one optimizer's best hyperparameters are not another's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy import stats

from optbench.analysis.claims.claim import Claim, Verdict, count_text
from optbench.space import Configuration
from optbench.statistics.noise import LEVEL
from optbench.statistics.sensitivity import tidy
from optbench.store.journal import Journal
from optbench.store.journal_entries import CellEntry, EvaluationEntry, NoiseEntry, TuningEntry
from optbench.units import format_configuration, format_signed

_SHOWN = 3  # examples of a kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One optimizer at the best values of another, as far as they search the same axes.

    The axes that they do not share stay at the target's own best values.

    Args:
        source: whose best values they are.
        target: which optimizer was trained with them.
        values: of the shared axes.
        penalty: validation loss over the target's own best, nats; infinite if it diverged; None if
            the target never tried the values.
        run_id: behind the penalty; empty where the values are the target's own or were not tried.
        tau: noise threshold of the target's tuning.
        noise: standard deviation of a difference on one seed, and its degrees of freedom; None if
            it was never measured.
    """

    cell: CellEntry
    source: str
    target: str
    values: Configuration
    penalty: float | None
    run_id: str
    tau: float
    noise: tuple[float, int] | None

    def half_width(self, comparisons: int = 1) -> float:
        """Of the t-interval of the penalty that covers together with ``comparisons`` others."""
        if not self.run_id:
            return 0.0  # the same values are the same run
        if self.noise is None:
            return math.inf
        sigma, dof = self.noise
        return sigma * float(stats.t.isf((1 - LEVEL) / 2 / max(1, comparisons), dof))


def no_transfer_between_optimizers(
    journal: Journal, difference_noise: tuple[float, int] | None = None
) -> Claim:
    """2: penalties of one optimizer at another's best values, against noise and noise threshold.

    Args:
        journal: with the tunings.
        difference_noise: see `Transfer.noise`; where the journal has no measurement of it.
    """
    transfers = list(_transfers(journal, difference_noise))
    known = [t for t in transfers if t.penalty is not None]
    tried = [t for t in known if t.run_id]
    verdict: Verdict = "inconclusive"
    if any(_is_costly(t, len(tried)) for t in tried):
        verdict = "holds"
    elif known and known == transfers and all(_is_free(t) for t in known):
        verdict = "does not hold"
    ranked = sorted(tried, key=lambda t: -(t.penalty or 0.0))
    evidence = [
        f"Of {count_text(len(transfers), 'ordered pair')} of optimizers that tune a "
        f"hyperparameter of the same name in the same cell, {len(known) - len(tried)} have the "
        f"same best values and {len(tried)} were trained with the other's."
    ]
    evidence += [_transfer_text(t) for t in ranked[:_SHOWN]]
    return Claim(
        number=2,
        statement="Hyperparameters do not transfer between optimizers.",
        verdict=verdict,
        evidence=tuple(evidence),
        cells=tuple(dict.fromkeys(t.cell.label for t in known)),
        run_ids=tuple(t.run_id for t in ranked),
        needs=() if verdict != "inconclusive" else tuple(_needs_for_transfer(transfers)),
    )


def _is_costly(transfer: Transfer, comparisons: int) -> bool:
    penalty = transfer.penalty or 0.0
    return penalty > transfer.tau and (
        math.isinf(penalty) or penalty > transfer.half_width(comparisons)
    )


def _is_free(transfer: Transfer) -> bool:
    return (transfer.penalty or 0.0) + transfer.half_width() <= transfer.tau


def _transfers(journal: Journal, difference_noise: tuple[float, int] | None) -> Iterator[Transfer]:
    """Every ordered pair of optimizers that were tuned in one cell and share an axis."""
    for target in journal.tunings.values():
        for source in journal.tunings.values():
            if source.cell.key != target.cell.key or source.optimizer == target.optimizer:
                continue
            axes = _searched(journal, source) & _searched(journal, target)
            own = _evaluation_of(target, target.incumbent)
            if axes and own is not None and own.loss is not None:
                order = journal.study.axes[source.optimizer]
                values = {axis: source.incumbent[axis] for axis in order if axis in axes}
                noise = _difference_noise(journal.noise, target.cell) or difference_noise
                yield _transfer(source, target, values, own.loss, noise)


def _searched(journal: Journal, tuning: TuningEntry) -> set[str]:
    tried = {name for e in tuning.evaluations for name in e.configuration}
    return tried.intersection(journal.study.axes.get(tuning.optimizer, ()))


def _transfer(
    source: TuningEntry,
    target: TuningEntry,
    values: Configuration,
    own: float,
    noise: tuple[float, int] | None,
) -> Transfer:
    penalty: float | None = 0.0
    run_id = ""
    if not _matches(target.incumbent, values):
        # Elsewhere on the descent's path more than the shared axes may be away from the best.
        found = _evaluation_of(target, {**target.incumbent, **values})
        loss = math.inf if found is None or found.loss is None else found.loss
        penalty, run_id = (None, "") if found is None else (loss - own, found.run_id)
    return Transfer(
        cell=target.cell,
        source=source.optimizer,
        target=target.optimizer,
        values=values,
        penalty=penalty,
        run_id=run_id,
        tau=target.tie_threshold,
        noise=noise,
    )


def _evaluation_of(tuning: TuningEntry, configuration: Configuration) -> EvaluationEntry | None:
    """Its run on the tuning seed; an evaluation names the searched axes only."""
    found = (e for e in tuning.evaluations if _matches(configuration, e.configuration))
    return next(found, None)


def _matches(configuration: Configuration, values: Configuration) -> bool:
    return all(
        name in configuration and tidy(configuration[name]) == tidy(value)
        for name, value in values.items()
    )


def _difference_noise(entries: Sequence[NoiseEntry], cell: CellEntry) -> tuple[float, int] | None:
    """Of the nearest cell in which it was measured, as for the noise threshold."""

    def distance(entry: NoiseEntry) -> float:
        other = entry.cell
        return math.hypot(
            math.log(other.num_nonembedding_params / cell.num_nonembedding_params),
            math.log(other.ratio / cell.ratio),
        )

    nearest = min(entries, key=distance, default=None)
    if nearest is None:
        return None
    seeds = min(len(nearest.run_ids), len(nearest.neighbour_run_ids))
    return (nearest.paired_sigma, seeds - 1) if seeds >= 2 else None


def _transfer_text(transfer: Transfer) -> str:
    where = (
        f"{transfer.target} with {transfer.source}'s {format_configuration(transfer.values)} in "
        f"{transfer.cell.label}"
    )
    penalty = transfer.penalty or 0.0
    if math.isinf(penalty):
        return f"{where} diverged."
    half = transfer.half_width()
    error = f" ± {half:.3f}" if math.isfinite(half) else ""
    sign = format_signed(penalty, 3)
    return f"{where}: {sign}{error} nats over its own best (τ = {transfer.tau:.3f})."


def _needs_for_transfer(transfers: Sequence[Transfer]) -> Iterator[str]:
    if not transfers:
        yield "Two optimizers tuned in one cell, with a hyperparameter of the same name."
        return
    absent = [t for t in transfers if t.penalty is None]
    for t in absent[:_SHOWN]:
        yield (
            f"{t.target} was not trained with {t.source}'s {format_configuration(t.values)} in "
            f"{t.cell.label}."
        )
    if len(absent) > _SHOWN:
        yield f"Nor were {len(absent) - _SHOWN} more pairs."
    if any(t.noise is None for t in transfers):
        yield "A measurement of the noise: without it no penalty has an interval."
    elif any(t.run_id and not _is_free(t) for t in transfers):
        yield (
            "More seeds in the measurement of the noise: the penalties are neither beyond it nor, "
            "with it, within the noise threshold."
        )
