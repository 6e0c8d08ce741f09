"""Study: from a study file to tuned, confirmed results, as tasks for a sweep.

First the noise is measured, unless the study has one seed: the untuned baseline and a neighbour of
it on several seeds give σ and the noise threshold τ. Then every optimizer goes its way through the
phases (:mod:`optbench.study.phases`), all of them at once; they share nothing but the noise and the
workers.

Every decision is a pure function of losses in the store and is written to its journal. Running a
study again replays the decisions and trains only what is missing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from optbench.config import RunConfig, UserError
from optbench.files.text_files import read_user_text
from optbench.ladder import Cell
from optbench.space import Configuration
from optbench.store.journal import entries_of, typed_entries
from optbench.store.journal_entries import (
    ConfirmationEntry,
    NoiseEntry,
    PhasesEntry,
    StudyEntry,
    TuningEntry,
    cell_entry,
)
from optbench.store.store import RunStore, StoreError
from optbench.study.config import OptimizerStudy, StudyConfig
from optbench.study.coordinate_descent import with_candidate
from optbench.study.digest import is_same_study
from optbench.study.phases import PhaseRunner
from optbench.study.sweep import Sweep, Task

STUDY_FILE = "study.toml"


class StudyError(UserError):
    """A study that cannot go on; everything finished is kept."""


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

    def run(self, sweep: Sweep) -> None:
        """Run all phases; returns when the last run is stored.

        Raises:
            RunError: runs failed twice; what did not wait for them is done.
            StudyError: the noise runs diverged, so nothing can be judged.
        """
        if self.config.protocol.noise_seeds > 1:
            sweep.run([self._noise_task(cell) for cell in self.config.phases.noise])
        ways = [
            PhaseRunner(self.config, self.store, self.fingerprint, name) for name in self._order()
        ]
        sweep.run([way.task() for way in ways])

    def _order(self) -> list[str]:
        """The baseline first: it has the longest chain of runs."""
        others = [name for name in self.config.optimizers if name != self.config.baseline]
        return [self.config.baseline, *others]

    def claim_store(self) -> None:
        """Write who owns this store, or refuse another study's.

        Raises:
            StoreError: the store belongs to a study with other settings or other text, or the same
                text has meant other values.
        """
        study = self.config
        entry = StudyEntry(
            name=study.name,
            title=study.title,
            smoke=study.smoke,
            digest=study.digest,
            fingerprint=self.fingerprint,
            baseline=study.baseline,
            optimizers=tuple(study.optimizers),
            confirm_seeds=study.protocol.confirm_seeds,
            tuned_cell=cell_entry(study.tuned_cell),
            baseline_cells=tuple(map(cell_entry, study.baseline_cells)),
            phases=PhasesEntry(
                tune=tuple(map(cell_entry, study.phases.tune)),
                retune=tuple(map(cell_entry, study.phases.retune)),
                predict=tuple(map(cell_entry, study.phases.predict)),
            ),
            axes={name: list(search.space) for name, search in study.optimizers.items()},
        )
        kept_entries = typed_entries(self.store.journal)
        kept = self.store.directory / STUDY_FILE
        kept_text = read_user_text(kept) if kept.exists() else None
        for owner in kept_entries["study"]:
            self._check_owner(owner, kept_text)
        self._check_defaults(kept_entries["tuning"])
        self.store.note(entry)
        if kept_text is None:
            self.store.keep_text(STUDY_FILE, study.text)

    def _check_owner(self, entry: StudyEntry, kept_text: str | None) -> None:
        """Refuse the store of another study; a digest by an earlier rule is read by that rule."""
        study = self.config
        digest, fingerprint = str(entry.digest), entry.fingerprint
        same = is_same_study(digest, kept_text, study.text, smoke=study.smoke)
        if same and fingerprint == self.fingerprint:
            return
        where, smoke = self.store.directory, " --smoke" if entry.smoke else ""
        what = (
            f"study file ({digest}, now {study.digest})"
            if not same
            else f"corpus ({fingerprint}, now {self.fingerprint})"
        )
        go_on = ""
        if not same and kept_text is not None:
            again = f"optbench run {where / STUDY_FILE}{smoke} --out {where}"
            go_on = f" `{again}` goes on with that one."
        raise StoreError(
            f"{where} holds a study '{entry.name}' with another {what}. Choose another folder "
            f"with --out; nothing in this one was changed.{go_on}"
        )

    def _check_defaults(self, tunings: Sequence[TuningEntry]) -> None:
        """What a study file leaves out must mean what it meant when its searches here ended.

        Raises:
            StoreError: an optimizer's defaults have changed since; every such value is named.
        """
        changed: dict[str, None] = {}
        for entry in tunings:
            name = entry.optimizer
            record = self.store.records.get(entry.evaluations[0].run_id)
            if record is None or name not in self.config.optimizers:
                continue
            recorded = record.run_config.optimizer.hyperparameters
            space = self.config.optimizers[name].space
            for key, value in self.config.start_point(name).items():
                if key in recorded and key not in space and recorded[key] != value:
                    changed[f"{name}: {key} = {recorded[key]!r}, now {value!r}"] = None
        if changed:
            raise StoreError(
                f"The runs in {self.store.directory} were made with other defaults than those of "
                f"this version ({'; '.join(changed)}). Choose another folder with --out; nothing "
                f"in this one was changed."
            )

    def run_config(
        self, optimizer: str, cell: Cell, configuration: Configuration, seed: int
    ) -> RunConfig:
        """A run of this study."""
        return self.config.run_config(
            optimizer, cell, configuration, seed=seed, fingerprint=self.fingerprint
        )

    def _noise_task(self, cell: Cell) -> Task:
        """σ of the untuned baseline over seeds in a cell, and τ.

        All candidates of a descent are trained on one seed, and what a seed does to a loss it does
        to all of them. So what limits a comparison is not σ but the spread of the *difference*
        between two configurations over seeds; τ is made from that.
        """
        study, protocol = self.config, self.config.protocol
        start = study.optimizers[study.baseline].start
        seeds = protocol.measured_seeds
        pair = (start, self._neighbour(study.optimizers[study.baseline]))
        records = yield [
            self.run_config(study.baseline, cell, configuration, seed)
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
            NoiseEntry(
                cell=cell_entry(cell),
                optimizer=study.baseline,
                run_ids=tuple(record.run_id for record in own),
                neighbour_run_ids=tuple(record.run_id for record in other),
                sigma=statistics.stdev(losses),
                paired_sigma=paired_sigma,
                tie_threshold=max(protocol.tie_floor, protocol.tie_sigmas * paired_sigma),
            )
        )

    @staticmethod
    def _neighbour(search: OptimizerStudy) -> Configuration:
        """The start point with the next lower value of its first axis, or the next higher."""
        name, axis = next(iter(search.space.items()))
        values = with_candidate(axis, search.start[name]).values
        place = values.index(search.start[name])
        return {**search.start, name: values[place - 1 if place else min(1, len(values) - 1)]}

    def winners(self) -> dict[str, RunConfig]:
        """A confirmation run of every optimizer in the tuned cell, as far as there are some."""
        cell = cell_entry(self.config.tuned_cell)
        return {
            entry.optimizer: self.store.records[entry.run_ids[0]].run_config
            for entry in entries_of(ConfirmationEntry, self.store.journal)
            if entry.cell == cell
        }
