"""Where recommendations are learnt from: the published results, or the store of a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from optbench.analysis.claims.families import ADAMW
from optbench.analysis.confirmation import Replicates, read_confirmations
from optbench.analysis.notices import FitNotice
from optbench.analysis.seed_groups import noise_groups
from optbench.analysis.study_fit import fit_study
from optbench.ladder import TOKENS_PER_PARAM
from optbench.published import PublishedCell, PublishedResults
from optbench.recommend.recommendation import RecommendationSource
from optbench.recommend.speedup_transfer import speedup_model
from optbench.recommend.target import RecommendationError
from optbench.recommend.tuned_cells import (
    PUBLISHED_CLIP_SCOPES,
    TunedCell,
    published_tunings,
    study_tunings,
)
from optbench.schedule import DecayShape
from optbench.space import Configuration
from optbench.statistics.joint_fit import CellLoss, JointFit, fit_joint
from optbench.statistics.noise import pooled_noise
from optbench.store.journal import Journal, read_journal
from optbench.store.store import RunStore

PUBLISHED_SEQ_LEN = 4096
LINEAR_DECAY = ("muon", "scion")  # the others have half a cosine
REPLICATES = 500
ORDER_RATIO = 8.0
ORDER_REMARK = (
    "The order is taken to be the same at all ratios, but soap had the lowest loss in both "
    "published cells at 16x."
)


def published_source(
    results: PublishedResults, variants: Mapping[str, Configuration] | None = None
) -> RecommendationSource:
    """The published results.

    They have one seed, so intervals come from the scatter about the joint fit, which contains what
    the fit's form does not include, such as a dependence of the speed-ups on the ratio.

    Args:
        results: all cells, tuned or not: losses of either count for the speed-ups.
        variants: see `published_tunings`.
    """
    fit = fit_published(results.cells)
    shapes: dict[str, DecayShape] = {
        name: "linear" if name in LINEAR_DECAY else "cosine" for name in results.optimizers
    }
    return RecommendationSource(
        name="the published results",
        baseline=ADAMW,
        cells=published_tunings(results, variants),
        sizes=_span([float(c.cell.model.num_nonembedding_params) for c in results.cells]),
        ratios=_span([c.ratio for c in results.cells]),
        speedups=speedup_model(fit),
        seq_len=PUBLISHED_SEQ_LEN,
        decay_shapes=shapes,
        losses=_by_optimizer(
            (c.optimizer, float(c.cell.model.num_nonembedding_params), c.ratio)
            for c in results.cells
        ),
        clip_scopes=PUBLISHED_CLIP_SCOPES,
        remarks=("One seed was published: the intervals come from the scatter about the fit.",),
        remarks_from=((ORDER_RATIO, ORDER_REMARK),),
    )


def _by_optimizer(
    found: Iterable[tuple[str, float, float]],
) -> dict[str, list[tuple[float, float]]]:
    places: dict[str, list[tuple[float, float]]] = {}
    for optimizer, num_params, ratio in found:
        places.setdefault(optimizer, []).append((num_params, ratio))
    return places


def fit_published(
    cells: Sequence[PublishedCell], *, replicates: int = REPLICATES, baseline: str = ADAMW
) -> JointFit:
    """The joint fit by size of published losses."""
    return fit_joint(
        [_loss(cell) for cell in cells],
        None,
        baseline=baseline,
        by_size=True,
        replicates=replicates,
    )


def _loss(cell: PublishedCell) -> CellLoss:
    return CellLoss(
        optimizer=cell.optimizer,
        params=float(cell.cell.model.num_nonembedding_params),
        tokens=float(cell.cell.num_tokens),
        mean=cell.loss,
        count=1,
    )


def study_source(store: RunStore, name: str) -> RecommendationSource:
    """A study's own tunings and confirmations.

    Args:
        store: with its journal.
        name: for the reader.

    Raises:
        StoreError: the store has no journal of a study.
        RecommendationError: no tuning of it has ended.
    """
    journal = read_journal(store.journal)
    cells = study_tunings(journal, store.records)
    if not cells:
        raise RecommendationError(f"No tuning of {name} has ended yet. Let `optbench run` go on.")
    confirmed = read_confirmations(journal, store.records)
    fit, notice = _study_fit(journal, store, confirmed)
    places = [*journal.study.cells]
    configs = [record.run_config for record in store.records.values()]
    return RecommendationSource(
        name=name,
        baseline=journal.study.baseline,
        cells=cells,
        sizes=_span([float(c.num_nonembedding_params) for c in places]),
        ratios=_span(
            [c.num_tokens / (TOKENS_PER_PARAM * c.num_nonembedding_params) for c in places]
        ),
        speedups=speedup_model(fit),
        seq_len=max(config.model.seq_len for config in configs),
        decay_shapes={config.optimizer.name: config.schedule.shape for config in configs},
        losses=_by_optimizer(
            (c.optimizer, float(c.cell.num_nonembedding_params), c.cell.ratio)
            for c in confirmed
            if c.losses
        ),
        clip_scopes={config.optimizer.name: config.clip_scope for config in configs},
        remarks=tuple(
            _remarks(fit, notice, [c for c in cells if c.optimizer != journal.study.baseline])
        ),
    )


def _study_fit(
    journal: Journal, store: RunStore, confirmed: Sequence[Replicates]
) -> tuple[JointFit, FitNotice | None]:
    """By size; a fit of one size alone is that of its size."""
    groups = noise_groups(journal, confirmed, store.records)
    noise = pooled_noise([group.losses for group in groups])
    fit, notice = fit_study(confirmed, noise, baseline=journal.study.baseline)
    sizes = fit.parameters.token_coefficients if fit.parameters else {}
    if len(sizes) != 1:
        return fit, notice
    (size,) = sizes
    efficiencies = tuple(dataclasses.replace(e, params=size) for e in fit.efficiencies)
    return dataclasses.replace(fit, efficiencies=efficiencies), notice


def _remarks(
    fit: JointFit, notice: FitNotice | None, compared: Sequence[TunedCell]
) -> list[str | FitNotice]:
    remarks: list[str | FitNotice] = [*fit.remarks, *([notice] if notice else [])]
    if fit.reason:
        remarks.append(f"No speed-ups: {fit.reason}")
    places = {(cell.num_params, cell.ratio): cell for cell in compared}
    if len(places) == 1:
        (only,) = places.values()
        remarks.append(
            f"All optimizers were tuned in one cell alone, {only.size} {only.ratio:g}x: its "
            f"hyperparameters are copied, without a trend, and its speed-ups hold for that size."
        )
    return remarks


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
