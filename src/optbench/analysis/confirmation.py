"""What the held-out seeds of a winner gave: test losses, step times, memory and curves, by run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optbench.space import Configuration
from optbench.store.journal import Journal
from optbench.store.journal_entries import CellEntry, ConfirmationEntry
from optbench.store.store import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """One run of a winner.

    Args:
        run_id: where every other fact about it is.
        seed: of initialisation and data order.
        test_loss: nats per token; None if the run diverged.
        seconds_per_token: median training seconds, evaluation left out; None if not measured.
        state_bytes_per_param: optimizer state over all parameters.
        device: what it ran on.
        val_curve: (tokens, validation loss) pairs along the run.
    """

    run_id: str
    seed: int
    test_loss: float | None
    seconds_per_token: float | None
    state_bytes_per_param: float
    device: str
    val_curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicates:
    """The held-out seeds of an optimizer's winner in one cell; ``absent`` runs are not stored."""

    cell: CellEntry
    optimizer: str
    configuration: Configuration
    seeds: tuple[SeedResult, ...]
    absent: tuple[str, ...]

    @property
    def losses(self) -> tuple[float, ...]:
        """Test losses of the runs that did not diverge."""
        return tuple(seed.test_loss for seed in self.seeds if seed.test_loss is not None)

    @property
    def by_seed(self) -> dict[int, float]:
        """Test loss of each seed that did not diverge."""
        return {seed.seed: seed.test_loss for seed in self.seeds if seed.test_loss is not None}

    @property
    def num_diverged(self) -> int:
        """Runs without a loss."""
        return len(self.seeds) - len(self.losses)

    @property
    def seconds_per_token(self) -> tuple[float, ...]:
        """Of every run that measured its steps."""
        return tuple(s.seconds_per_token for s in self.seeds if s.seconds_per_token is not None)

    @property
    def devices(self) -> frozenset[str]:
        """What the runs were timed on."""
        return frozenset(seed.device for seed in self.seeds)


def read_confirmations(journal: Journal, records: Mapping[str, RunRecord]) -> list[Replicates]:
    """Everything confirmed: the baseline by size and budget, then the others as they ended."""
    study = journal.study
    found = [
        read_confirmation(entry, records)
        for entry in journal.confirmations.values()
        if entry.optimizer in study.optimizers
    ]
    baseline = [c for c in found if c.optimizer == study.baseline]
    baseline.sort(key=lambda c: (c.cell.num_nonembedding_params, c.cell.num_tokens))
    return [*baseline, *(c for c in found if c.optimizer != study.baseline)]


def read_confirmation(entry: ConfirmationEntry, records: Mapping[str, RunRecord]) -> Replicates:
    """Look the runs of an entry up; a failed run counts as absent."""
    found = [records[run_id] for run_id in entry.run_ids if run_id in records]
    ended = [record for record in found if record.status != "failed"]
    stored = {record.run_id for record in ended}
    return Replicates(
        cell=entry.cell,
        optimizer=entry.optimizer,
        configuration=entry.configuration,
        seeds=tuple(_seed_result(record) for record in ended),
        absent=tuple(run_id for run_id in entry.run_ids if run_id not in stored),
    )


def _seed_result(record: RunRecord) -> SeedResult:
    config = record.run_config
    throughput = record.tokens_per_s
    return SeedResult(
        run_id=record.run_id,
        seed=config.seed,
        test_loss=record.test_loss,
        seconds_per_token=1 / throughput if throughput > 0 else None,
        state_bytes_per_param=record.state_bytes / config.model.num_params,
        device=str(record.environment.get("device", "unknown")),
        val_curve=tuple((step * config.tokens_per_step, loss) for step, loss in record.val_curve),
    )
