"""Study: from a study file to tuned, confirmed results, as tasks for a sweep.

The phases of a study with one tuned cell:

1. *Noise*: the untuned baseline and a neighbour of it on several seeds → σ and the tie threshold τ.
2. *Tuning*: a coordinate descent for every optimizer, all on the same seed and data order.
3. *Confirmation*: every winner again on fresh seeds; only these runs are quoted.
4. *Baseline curve*: the baseline's own winner retuned and confirmed at other token budgets, so that
   a loss can be turned into the tokens that the baseline would need.

Every decision is a pure function of losses in the store and is written to its journal. Running a
study again replays the decisions and trains only what is missing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from optbench.config import RunConfig, UserError
from optbench.coordinate_descent import (
    CoordinateDescent,
    Evaluation,
    Move,
    count_first_round,
    with_candidate,
)
from optbench.ladder import Cell
from optbench.optimizers import optimizer_class
from optbench.space import Configuration, SearchSpace
from optbench.store import RunRecord, RunStore, StoreError
from optbench.study_config import OptimizerStudy, StudyConfig
from optbench.sweep import Steps, Sweep, Task

FIRST_CONFIRM_SEED = 1000  # far from the tuning and noise seeds
# Runs of a descent beyond its start, relative to one that never moves: a guess, and a low one. The
# four descents of the first nano study took 1.5 to 2.2 (docs/log.md).
EXPECTED_ROUNDS = 1.35


class StudyError(UserError):
    """A study that cannot go on; everything finished is kept."""


@dataclass(frozen=True, slots=True)
class PlannedRuns:
    """Runs of one kind that a study expects, and at most."""

    phase: str
    optimizer: str
    cell: Cell
    example: RunConfig
    expected: int
    worst: int


@dataclass(slots=True)
class Study:
    """A study over one store.

    Args:
        config: the checked study file.
        store: where its runs and decisions are.
        fingerprint: of the prepared corpus; part of every run's identity.
    """

    config: StudyConfig
    store: RunStore
    fingerprint: str

    def carry_out(self, sweep: Sweep) -> None:
        """Run all phases; returns when the last run is stored.

        Raises:
            RunError: a run failed twice.
            StudyError: the noise runs diverged, so nothing can be judged.
        """
        sweep.carry_out([self._noise_task()])
        sweep.carry_out([self._optimizer_task(name) for name in self._order()])

    def _order(self) -> list[str]:
        """The baseline first: it has the longest chain of runs."""
        others = [name for name in self.config.optimizers if name != self.config.baseline]
        return [self.config.baseline, *others]

    def claim_store(self) -> None:
        """Write who owns this store, or refuse another study's.

        Raises:
            StoreError: the store belongs to a study with other settings or other text.
        """
        study = self.config
        facts = {
            "name": study.name,
            "title": study.title,
            "smoke": study.smoke,
            "digest": study.digest,
            "fingerprint": self.fingerprint,
            "baseline": study.baseline,
            "optimizers": list(study.optimizers),
            "confirm_seeds": study.protocol.confirm_seeds,
            "tuned_cell": study.tuned_cell.to_dict(),
            "baseline_cells": [cell.to_dict() for cell in study.baseline_cells],
            "axes": {name: list(search.space) for name, search in study.optimizers.items()},
        }
        for entry in self.store.journal:
            if entry["kind"] != "study":
                continue
            for key, what in (("digest", "study file"), ("fingerprint", "corpus")):
                if entry[key] != facts[key]:
                    raise StoreError(
                        f"{self.store.directory} holds a study '{entry['name']}' with another "
                        f"{what} ({entry[key]}, now {facts[key]}). Choose another folder with "
                        f"--out; nothing in this one was changed."
                    )
        self.store.note("study", **facts)
        text = self.store.directory / "study.toml"
        if not text.exists():
            text.write_text(study.text, encoding="utf-8")

    def run_config(
        self, optimizer: str, cell: Cell, configuration: Configuration, seed: int
    ) -> RunConfig:
        """A run of this study."""
        return self.config.run_config(
            optimizer, cell, configuration, seed=seed, fingerprint=self.fingerprint
        )

    def _noise_task(self) -> Task:
        """Phase 1: σ of the untuned baseline over seeds, and τ.

        All candidates of a descent are trained on one seed, and what a seed does to a loss it does
        to all of them. So what limits a comparison is not σ but the spread of the *difference*
        between two configurations over seeds; τ is made from that.
        """
        study, protocol = self.config, self.config.protocol
        start = study.optimizers[study.baseline].start
        seeds = [protocol.tuning_seed + i for i in range(protocol.noise_seeds)]
        pair = (start, self._neighbour(study.optimizers[study.baseline]))
        records = yield [
            self.run_config(study.baseline, study.tuned_cell, configuration, seed)
            for configuration in pair
            for seed in seeds
        ]
        own, other = records[: len(seeds)], records[len(seeds) :]
        losses = [record.val_loss for record in own if record.val_loss is not None]
        differences = [
            a.val_loss - b.val_loss
            for a, b in zip(own, other, strict=True)
            if a.val_loss is not None and b.val_loss is not None
        ]
        if len(differences) < 2:
            raise StudyError(
                f"The baseline {study.baseline} diverged next to its start point on "
                f"{len(seeds) - len(differences)} of {len(seeds)} seeds ({dict(start)}), so the "
                f"noise cannot be measured. Lower its learning rate in the study file's "
                f"[optimizers.{study.baseline}] start."
            )
        paired_sigma = statistics.stdev(differences)
        self.store.note(
            "noise",
            cell=study.tuned_cell.to_dict(),
            optimizer=study.baseline,
            run_ids=[record.run_id for record in own],
            neighbour_run_ids=[record.run_id for record in other],
            sigma=statistics.stdev(losses),
            paired_sigma=paired_sigma,
            tie_threshold=max(protocol.tie_floor, protocol.tie_sigmas * paired_sigma),
        )

    @staticmethod
    def _neighbour(search: OptimizerStudy) -> Configuration:
        """The start point with the next lower value of its first axis, or the next higher."""
        name, axis = next(iter(search.space.items()))
        values = with_candidate(axis, search.start[name]).values
        place = values.index(search.start[name])
        return {**search.start, name: values[place - 1 if place else min(1, len(values) - 1)]}

    @property
    def tie_threshold(self) -> float:
        """τ, once the noise phase has measured it."""
        (entry,) = [e for e in self.store.journal if e["kind"] == "noise"]
        return float(entry["tie_threshold"])

    def _optimizer_task(self, optimizer: str) -> Task:
        """Phases 2 and 3 of one optimizer, and phase 4 if it is the baseline."""
        study, search = self.config, self.config.optimizers[optimizer]
        winner = yield from self._tune(optimizer, study.tuned_cell, search)
        yield from self._confirm(optimizer, study.tuned_cell, winner)
        if optimizer != study.baseline:
            return
        for cell in sorted(study.baseline_cells, key=lambda c: -c.num_tokens):
            retuned = {name: search.space[name] for name in study.baseline_retuned}
            best = yield from self._tune(
                optimizer, cell, OptimizerStudy(space=SearchSpace(retuned), start=winner)
            )
            yield from self._confirm(optimizer, cell, best)

    def _tune(self, optimizer: str, cell: Cell, search: OptimizerStudy) -> Steps[Configuration]:
        """Coordinate descent; axes of the start that are not searched stay as they are."""
        fixed = {k: v for k, v in search.start.items() if k not in search.space}

        def config_of(candidate: Configuration) -> RunConfig:
            seed = self.config.protocol.tuning_seed
            return self.run_config(optimizer, cell, {**fixed, **candidate}, seed)

        descent = CoordinateDescent(
            space=search.space,
            start={k: v for k, v in search.start.items() if k in search.space},
            tie_threshold=self.tie_threshold,
            invalid_reason=lambda candidate: invalid_reason(config_of(candidate)),
            max_runs=self.config.protocol.max_runs,
        )
        while candidates := descent.ask():
            records = yield [config_of(candidate) for candidate in candidates]
            for candidate, record in zip(candidates, records, strict=True):
                descent.tell(candidate, loss_of(record))
        winner = {**descent.incumbent, **fixed}
        configs = [config_of(evaluation.configuration) for evaluation in descent.evaluations]
        self._note_tuning(optimizer, cell, search.start, winner, descent, configs)
        return winner

    def _note_tuning(
        self,
        optimizer: str,
        cell: Cell,
        start: Configuration,
        winner: Configuration,
        descent: CoordinateDescent,
        configs: Sequence[RunConfig],
    ) -> None:
        """Write how the descent went: its path, everything it tried, and its certificate."""
        self.store.note(
            "tuning",
            cell=cell.to_dict(),
            optimizer=optimizer,
            start=dict(start),
            incumbent=dict(winner),
            certified=descent.certified,
            tie_threshold=descent.tie_threshold,
            moves=[_move(move) for move in descent.moves],
            evaluations=[
                _evaluation(evaluation, config.run_id)
                for evaluation, config in zip(descent.evaluations, configs, strict=True)
            ],
            rejected=[asdict(rejection) for rejection in descent.rejections],
            edges=[asdict(edge) for edge in descent.edges],
            runs=len(configs),
            tokens=sum(c.num_steps * c.tokens_per_step for c in configs),
        )

    def _confirm(self, optimizer: str, cell: Cell, winner: Configuration) -> Task:
        """The winner on fresh seeds, the same for all optimizers."""
        seeds = range(FIRST_CONFIRM_SEED, FIRST_CONFIRM_SEED + self.config.protocol.confirm_seeds)
        records = yield [self.run_config(optimizer, cell, winner, seed) for seed in seeds]
        self.store.note(
            "confirmation",
            cell=cell.to_dict(),
            optimizer=optimizer,
            configuration=dict(winner),
            run_ids=[record.run_id for record in records],
        )

    def winners(self) -> dict[str, RunConfig]:
        """A confirmation run of every optimizer in the tuned cell, as far as there are some."""
        cell = self.config.tuned_cell.to_dict()
        return {
            entry["optimizer"]: self.store.records[entry["run_ids"][0]].run_config
            for entry in self.store.journal
            if entry["kind"] == "confirmation" and entry["cell"] == cell
        }

    def planned_runs(self) -> list[PlannedRuns]:
        """What the study will train, by phase and optimizer: expected and at most."""
        study, protocol = self.config, self.config.protocol
        baseline = study.baseline
        seed = protocol.tuning_seed
        planned: list[PlannedRuns] = []

        def add(phase: str, optimizer: str, cell: Cell, expected: int, worst: int) -> None:
            start = study.optimizers[optimizer].start
            example = self.run_config(optimizer, cell, start, seed)
            planned.append(PlannedRuns(phase, optimizer, cell, example, expected, worst))

        # Two configurations on every seed; those on the tuning seed serve the descent as well.
        extra = 2 * (protocol.noise_seeds - 1)
        add("noise", baseline, study.tuned_cell, extra, extra)
        for name, search in study.optimizers.items():
            expected = _expected_descent(search.space, search.start, protocol.max_runs)
            add("tune", name, study.tuned_cell, expected, protocol.max_runs)
            add("confirm", name, study.tuned_cell, *[protocol.confirm_seeds] * 2)
        search = study.optimizers[baseline]
        retuned = SearchSpace({name: search.space[name] for name in study.baseline_retuned})
        for cell in study.baseline_cells:
            expected = _expected_descent(retuned, search.start, protocol.max_runs)
            worst = protocol.max_runs if retuned else 1
            add("tune", baseline, cell, expected, worst)
            add("confirm", baseline, cell, *[protocol.confirm_seeds] * 2)
        return planned


def loss_of(record: RunRecord) -> float:
    """The loss by which a run is judged in tuning; infinite if it diverged."""
    return math.inf if record.val_loss is None else record.val_loss


def invalid_reason(config: RunConfig) -> str | None:
    """Why a candidate is refused before it costs anything."""
    if problems := config.problems():
        return " ".join(problems)
    cls = optimizer_class(config.optimizer.name)
    return cls.invalid_reason(dict(config.optimizer.hyperparameters))


def _evaluation(evaluation: Evaluation, run_id: str) -> Mapping[str, object]:
    loss = evaluation.loss if math.isfinite(evaluation.loss) else None
    return {"configuration": dict(evaluation.configuration), "run_id": run_id, "loss": loss}


def _move(move: Move) -> Mapping[str, object]:
    losses = {"loss_before": move.loss_before, "loss_after": move.loss_after}
    finite = {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}
    return {**asdict(move), **finite}


def _expected_descent(space: SearchSpace, start: Configuration, max_runs: int) -> int:
    first = count_first_round(space, {name: start[name] for name in space})
    return min(max_runs, round(1 + (first - 1) * EXPECTED_ROUNDS))
