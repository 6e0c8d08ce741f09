"""A study's own losses at the paper's sizes, beside the published ones of the same cells.

A cell is the paper's if its size has the paper's name and number of parameters. The loss is one on
the study's own test text, the published one on C4: where the texts differ, so do the losses, and
only differences between optimizers can be compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.analysis.confirmation import Confirmed, read_confirmations
from optbench.analysis.journal import read_journal
from optbench.analysis.journal_entries import CellEntry
from optbench.analysis.noise import MeanLoss, SeedNoise, mean_loss, pooled_noise
from optbench.analysis.plain_data import plain_data
from optbench.analysis.seed_groups import NoiseGroup, noise_groups
from optbench.analysis.sensitivity import tidy
from optbench.analysis.units import format_count
from optbench.config import UserError
from optbench.ladder import PAPER_SIZES
from optbench.published import PublishedResults
from optbench.space import Configuration, Value
from optbench.store import RunRecord, RunStore


class NotThePapersSizeError(UserError):
    """The study has no cell of the paper; the message names the sizes of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCell:
    """One optimizer in a cell that the study and the paper have.

    Args:
        own: mean over the study's fresh seeds, with the interval of its own noise; without a second
            seed at the size it has none.
        published: loss of the one published run; None if the paper has no such run.
        difference: own minus published, in nats per token; its interval is that of ``own``.
        over_baseline: own loss minus the study's baseline's in the same cell.
        published_over_baseline: the same of the published losses.
        own_configuration: of the study.
        published_configuration: empty if the paper has no such run.
        differing: hyperparameters that both name and that are not the same.
    """

    cell: CellEntry
    optimizer: str
    own: MeanLoss
    published: float | None
    difference: float | None
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
        rows: one for each optimizer and cell.
        left_out: labels of confirmed cells that are not the paper's.
    """

    study: str
    baseline: str
    corpora: tuple[str, ...]
    source: str
    rows: tuple[OwnCell, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return plain_data(dataclasses.asdict(self))


def compare_with_paper(store: RunStore, results: PublishedResults) -> OwnAgainstPaper:
    """Look up every confirmed optimizer and cell among the published ones.

    Args:
        store: of a study, finished or not.
        results: as published.

    Raises:
        StoreError: the journal does not say what the study is.
        NotThePapersSizeError: no confirmed cell has a size of the paper.
    """
    journal = read_journal(store.journal)
    confirmed = [c for c in read_confirmations(journal, store.records) if c.losses]
    ours = [c for c in confirmed if is_the_papers(c.cell)]
    if not ours:
        raise NotThePapersSizeError(_no_common_size([c.cell for c in confirmed]))
    groups = noise_groups(journal, confirmed, store.records)
    rows = [_row(c, ours, journal.study.baseline, groups, results) for c in ours]
    rows.sort(key=lambda r: (r.cell.num_nonembedding_params, r.cell.num_tokens, r.own.value))
    others = dict.fromkeys(c.cell.label for c in confirmed if not is_the_papers(c.cell))
    return OwnAgainstPaper(
        study=journal.study.title or journal.study.name,
        baseline=journal.study.baseline,
        corpora=_corpora(ours, store.records),
        source=results.source,
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
    said = f"the study has {_sizes(own)}" if own else "nothing of the study is confirmed yet"
    return (
        f"No cell to compare: {said}; the paper has {_sizes(paper)} non-embedding parameters. "
        f"Confirm an optimizer at one of the paper's sizes."
    )


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({format_count(count)})" for name, count in sizes.items())


def _corpora(confirmed: Sequence[Confirmed], records: Mapping[str, RunRecord]) -> tuple[str, ...]:
    names = (records[s.run_id].run_config.data.corpus for c in confirmed for s in c.seeds)
    return tuple(dict.fromkeys(names))


def _row(
    one: Confirmed,
    ours: Sequence[Confirmed],
    baseline: str,
    groups: Sequence[NoiseGroup],
    results: PublishedResults,
) -> OwnCell:
    place = one.cell
    noise = _noise(groups, place.size)
    own = mean_loss(one.losses, noise)
    published = results.find(one.optimizer, place.size, place.ratio)
    reference = results.find(baseline, place.size, place.ratio)
    base = next((c for c in ours if c.optimizer == baseline and c.cell.key == place.key), None)
    theirs = published.configuration if published else {}
    return OwnCell(
        cell=place,
        optimizer=one.optimizer,
        own=own,
        published=published.loss if published else None,
        difference=own.value - published.loss if published else None,
        over_baseline=own.value - mean_loss(base.losses, noise).value if base else None,
        published_over_baseline=published.loss - reference.loss
        if published and reference
        else None,
        own_configuration=one.configuration,
        published_configuration=theirs,
        differing=tuple(
            name
            for name, value in one.configuration.items()
            if name in theirs and not _is_same(value, theirs[name])
        ),
    )


def _is_same(one: Value, other: Value) -> bool:
    return tidy(one) == tidy(other)


def _noise(groups: Sequence[NoiseGroup], size: str) -> SeedNoise | None:
    """Of the size, or of all where it has none."""
    own = pooled_noise([group.losses for group in groups if group.cell.size == size])
    return own or pooled_noise([group.losses for group in groups])
