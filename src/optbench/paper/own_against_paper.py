"""A study's own losses at the paper's sizes, beside the published ones of the same cells.

A cell is the paper's if its size has the paper's name and number of parameters. The loss is one on
the study's own test text, the published one on C4: where the texts differ, so do the losses, and
only differences between optimizers can be compared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.analysis.confirmation import Replicates, read_confirmations
from optbench.analysis.jsonable import to_jsonable
from optbench.analysis.seed_groups import NoiseGroup, noise_groups
from optbench.config import UserError
from optbench.ladder import PAPER_SIZES
from optbench.paper.noise import DEFAULT_SIGMA, checked_sigma
from optbench.paper.published_study import known_noise
from optbench.published import PublishedCell, PublishedResults
from optbench.recommend.differences import BATCH_TOKENS, WARMUP_SHARE
from optbench.run_axes import (
    RUN_AXES,
    axis_values,
    decay_steps_of,
    share_of,
    warmup_steps_of,
)
from optbench.space import Configuration, Value
from optbench.statistics.noise import MeanLoss, SeedNoise, mean_loss, pooled_noise
from optbench.statistics.sensitivity import tidy
from optbench.store.journal import read_journal
from optbench.store.journal_entries import CellEntry
from optbench.store.store import RunRecord, RunStore
from optbench.units import format_count

DECAY_SHARE = "decay_share"
SAME_SHARE = 1e-3  # shares of a run's steps that are closer than this count as the same


class NotThePapersSizeError(UserError):
    """The study has no cell of the paper; the message names the sizes of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCell:
    """One optimizer in a cell that the study and the paper have.

    Args:
        own: mean over the study's held-out seeds, with the interval of its own noise; without a
            second seed at the size it has none.
        published: the published loss, the least of a sweep; None if the paper has no such cell.
        difference: own minus published, in nats per token.
        difference_half_width: of its 95 % interval, the own one and that of the σ assumed of the
            published loss in quadrature; None if one of the two is not known.
        over_baseline: own loss minus the study's baseline's in the same cell.
        published_over_baseline: the same of the published losses.
        own_configuration: of the study, with the settings of its run: batch in tokens, warm-up and
            decay as shares of the steps, clipping.
        published_configuration: likewise; empty if the paper has no such cell.
        differing: what both name and is not the same.
    """

    cell: CellEntry
    optimizer: str
    own: MeanLoss
    published: float | None
    difference: float | None
    difference_half_width: float | None
    over_baseline: float | None
    published_over_baseline: float | None
    own_configuration: Configuration
    published_configuration: Configuration
    differing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAgainstPaper:
    """All of them, by size, ratio and own loss.

    Args:
        study: its name.
        baseline: of the study.
        corpora: that its runs were trained and tested on.
        source: of the published losses.
        sigma: standard deviation assumed of a published loss, nats per token.
        rows: one for each optimizer and cell.
        left_out: labels of confirmed cells that are not the paper's.
    """

    study: str
    baseline: str
    corpora: tuple[str, ...]
    source: str
    sigma: float
    rows: tuple[OwnCell, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return to_jsonable(dataclasses.asdict(self))


def compare_with_paper(
    store: RunStore, results: PublishedResults, sigma: float = DEFAULT_SIGMA
) -> OwnAgainstPaper:
    """Look up every confirmed optimizer and cell among the published ones.

    Args:
        store: of a study, finished or not.
        results: as published.
        sigma: standard deviation of a published loss, nats per token.

    Raises:
        PaperError: σ is not positive and finite.
        StoreError: the journal has no entry that names the study.
        NotThePapersSizeError: no confirmed cell has a size of the paper.
    """
    published_noise = known_noise(checked_sigma(sigma))
    journal = read_journal(store.journal)
    confirmed = [c for c in read_confirmations(journal, store.records) if c.losses]
    ours = [c for c in confirmed if is_the_papers(c.cell)]
    if not ours:
        raise NotThePapersSizeError(_no_common_size([c.cell for c in confirmed]))
    sources = _Sources(
        store=store,
        results=results,
        baseline=journal.study.baseline,
        confirmed=ours,
        groups=noise_groups(journal, confirmed, store.records),
        published_noise=published_noise,
    )
    rows = [_row(one, sources) for one in ours]
    rows.sort(key=lambda r: (r.cell.num_nonembedding_params, r.cell.num_tokens, r.own.value))
    others = dict.fromkeys(c.cell.label for c in confirmed if not is_the_papers(c.cell))
    return OwnAgainstPaper(
        study=journal.study.title or journal.study.name,
        baseline=journal.study.baseline,
        corpora=_corpora(ours, store.records),
        source=results.source,
        sigma=sigma,
        rows=tuple(rows),
        left_out=tuple(others),
    )


def is_the_papers(cell: CellEntry) -> bool:
    """Whether name and parameters of the size are the paper's."""
    model = PAPER_SIZES.get(cell.size)
    return model is not None and model.num_nonembedding_params == cell.num_nonembedding_params


def _no_common_size(cells: Sequence[CellEntry]) -> str:
    own = {c.size: c.num_nonembedding_params for c in cells}
    paper = {size: model.num_nonembedding_params for size, model in PAPER_SIZES.items()}
    sentences = f"the study has {_sizes(own)}" if own else "nothing of the study is confirmed yet"
    return (
        f"No cell to compare: {sentences}; the paper has {_sizes(paper)} non-embedding parameters. "
        f"Confirm an optimizer at one of the paper's sizes."
    )


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({format_count(count)})" for name, count in sizes.items())


def _corpora(confirmed: Sequence[Replicates], records: Mapping[str, RunRecord]) -> tuple[str, ...]:
    names = (records[s.run_id].run_config.data.corpus for c in confirmed for s in c.seeds)
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """What every row is read from."""

    store: RunStore
    results: PublishedResults
    baseline: str
    confirmed: Sequence[Replicates]
    groups: Sequence[NoiseGroup]
    published_noise: SeedNoise

    def own(self, optimizer: str, place: CellEntry) -> MeanLoss | None:
        found = (c for c in self.confirmed if c.optimizer == optimizer and c.cell.key == place.key)
        one = next(found, None)
        return mean_loss(one.losses, self.noise(place.size)) if one else None

    def noise(self, size: str) -> SeedNoise | None:
        """Of the size, or of all where it has none."""
        own = pooled_noise([group.losses for group in self.groups if group.cell.size == size])
        return own or pooled_noise([group.losses for group in self.groups])


def _row(one: Replicates, sources: _Sources) -> OwnCell:
    place = one.cell
    own = mean_loss(one.losses, sources.noise(place.size))
    base = sources.own(sources.baseline, place)
    published = sources.results.find(one.optimizer, place.size, place.ratio)
    reference = sources.results.find(sources.baseline, place.size, place.ratio)
    ours = _own_settings(one, sources.store.records)
    theirs = _published_settings(published) if published else {}
    return OwnCell(
        cell=place,
        optimizer=one.optimizer,
        own=own,
        published=published.loss if published else None,
        difference=own.value - published.loss if published else None,
        difference_half_width=_half_width(own, published, sources.published_noise),
        over_baseline=own.value - base.value if base else None,
        published_over_baseline=published.loss - reference.loss
        if published and reference
        else None,
        own_configuration=ours,
        published_configuration=theirs,
        differing=tuple(
            name
            for name, value in ours.items()
            if name in theirs and not _is_same(name, value, theirs[name])
        ),
    )


def _half_width(own: MeanLoss, published: PublishedCell | None, noise: SeedNoise) -> float | None:
    if published is None or own.half_width is None:
        return None
    theirs = mean_loss([published.loss], noise).half_width
    assert theirs is not None
    return math.hypot(own.half_width, theirs)


def _own_settings(one: Replicates, records: Mapping[str, RunRecord]) -> Configuration:
    config = records[one.seeds[0].run_id].run_config
    run = axis_values(config)
    return _with_settings(
        one.configuration,
        batch_tokens=config.tokens_per_step,
        warmup=run["warmup_frac"],
        decay=run["decay_frac"],
        clip=run["clip_norm"],
    )


def _published_settings(published: PublishedCell) -> Configuration:
    """Where the source names no decay, the rate falls in all steps after the warm-up."""
    named = published.configuration
    batch_tokens = round(_number(named["batch_size"]) * published.cell.model.seq_len)
    num_steps = published.cell.num_tokens // batch_tokens
    warmup = warmup_steps_of(named, num_steps)
    return _with_settings(
        named,
        batch_tokens=batch_tokens,
        warmup=share_of(warmup, num_steps),
        decay=share_of(decay_steps_of(named, num_steps, warmup), num_steps),
        clip=named["clip_norm"],
    )


def _with_settings(
    named: Configuration, *, batch_tokens: int, warmup: Value, decay: Value, clip: Value
) -> Configuration:
    return {
        **{name: value for name, value in named.items() if name not in RUN_AXES},
        BATCH_TOKENS: batch_tokens,
        WARMUP_SHARE: warmup,
        DECAY_SHARE: decay,
        "clip_norm": clip,
    }


def _number(value: Value) -> float:
    assert not isinstance(value, (str, bool)), value
    return float(value)


def _is_same(name: str, one: Value, other: Value) -> bool:
    if name in (WARMUP_SHARE, DECAY_SHARE):
        return abs(_number(one) - _number(other)) < SAME_SHARE
    return tidy(one) == tidy(other)
