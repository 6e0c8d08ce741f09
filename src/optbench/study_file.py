"""Study files: a TOML file → a checked, frozen StudyConfig, or all of its problems at once.

The schema, with the nano study as its example, is in ``docs/studies.md``.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from optbench.config import ConfigError, ModelConfig, build_dataclass
from optbench.coordinate_descent import with_candidate
from optbench.execution_settings import ExecutionSettings, read_execution
from optbench.ladder import SIZES, Cell
from optbench.optimizers import OPTIMIZERS
from optbench.run_axes import RUN_AXES
from optbench.sinks.settings import SinkSettings, read_sinks
from optbench.space import Axis, SearchSpace, Value, choices, did_you_mean
from optbench.study_config import (
    OptimizerStudy,
    Phases,
    Protocol,
    RunSettings,
    StudyConfig,
    run_problems,
)
from optbench.study_digest import CHANGEABLE, effective_tables
from optbench.text_files import read_user_text

KEYS = ("name", "title", "corpus", "baseline")
TABLES = ("cell", "baseline_curve", "phases", "models", "run", "protocol", "optimizers")
MAX_RATIO = 1000
MIN_LAW_CELLS = 3  # of the simplest law that is not a constant


def find_study(name_or_path: str) -> str:
    """The text of a study file: a path, or the name of a study that ships with the package.

    Raises:
        ConfigError: there is no such file and no such study.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.exists():
        if not path.is_file():
            raise ConfigError([f"There is no study file {path}."])
        return read_user_text(path)
    folder = resources.files("optbench") / "studies"
    shipped = {
        f.name.removesuffix(".toml"): f for f in folder.iterdir() if f.name.endswith(".toml")
    }
    if name_or_path not in shipped:
        raise ConfigError(
            [did_you_mean(name_or_path, sorted(shipped), what="study") + " Or give a .toml file."]
        )
    return shipped[name_or_path].read_text(encoding="utf-8")


def read_study(text: str, *, smoke: bool = False) -> StudyConfig:
    """Parse and check a study.

    Args:
        text: the TOML file.
        smoke: lay the file's ``[smoke]`` table over the rest: the same code, much less of it.

    Raises:
        ConfigError: every problem found, each with the value received and the remedy.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"The study file is not valid TOML: {error}."]) from None
    if smoke:
        if (overlay := raw.get("smoke")) is None:
            raise ConfigError(["This study has no [smoke] table, so it has no --smoke version."])
        if not isinstance(overlay, dict):
            raise ConfigError([f"smoke must be a table, [smoke], but got {overlay!r}."])
        if same := [n for n in CHANGEABLE if n in overlay]:
            told = "[{0}] is the same with --smoke: move [smoke.{0}] to [{0}]."
            raise ConfigError([told.format(n) for n in same])
    return _Reader(effective_tables(raw, smoke=smoke)).study(text, smoke=smoke)


@dataclass(slots=True)
class _Reader:
    """Reads the tables of a study and collects their problems."""

    raw: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)

    def study(self, text: str, *, smoke: bool) -> StudyConfig:
        self._refuse_unknown("", self.raw, (*KEYS, *TABLES, *CHANGEABLE))
        models = self._models()
        run = self._table(RunSettings, "run")
        protocol = self._table(Protocol, "protocol")
        optimizers = self._optimizers(run)
        tuned = self._cells("cell", models, "ratio")
        curve = self._cells("baseline_curve", models, "ratios")
        curve += self._labelled_cells("baseline_curve.cells", models)
        phases = self._phases(models, tuned)
        self._check_limits(optimizers, phases)
        retuned = tuple(self._get("baseline_curve", "retune", list, []))
        baseline = str(self.raw.get("baseline", ""))
        sinks, execution = self._changeable()
        if run is not None:
            self._check_baseline(baseline, retuned, optimizers)
        if self.problems or run is None or protocol is None:
            raise ConfigError(list(dict.fromkeys(self.problems)))
        study = StudyConfig(
            name=str(self.raw.get("name", "study")),
            title=str(self.raw.get("title", "")),
            corpus=str(self.raw.get("corpus", "nano")),
            baseline=baseline,
            optimizers=optimizers,
            tuned_cell=tuned[0],
            baseline_cells=tuple(
                c for c in curve if c not in (*phases.tune, *phases.retune, *phases.predict)
            ),
            baseline_retuned=retuned,
            phases=phases,
            run=run,
            protocol=protocol,
            smoke=smoke,
            text=text,
            sinks=sinks,
            execution=execution,
        )
        if problems := list(dict.fromkeys(_start_problems(study))):
            raise ConfigError(problems)
        return study

    def _changeable(self) -> tuple[tuple[SinkSettings, ...], ExecutionSettings]:
        sinks, problems = read_sinks(self.raw.get("sinks", {}))
        execution, more = read_execution(self.raw.get("execution", {}))
        self.problems.extend([*problems, *more])
        return sinks, execution

    def _check_baseline(
        self, baseline: str, retuned: Sequence[str], optimizers: Mapping[str, OptimizerStudy]
    ) -> None:
        if baseline not in optimizers:
            self.problems.append(
                f"`baseline` must be one of the study's optimizers, but got '{baseline}'. "
                f"Choose from {', '.join(optimizers) or 'none: [optimizers] is empty'}."
            )
            return
        self.problems.extend(
            did_you_mean(axis, optimizers[baseline].space, what="axis in baseline_curve.retune")
            for axis in retuned
            if axis not in optimizers[baseline].space
        )

    def _refuse_unknown(self, path: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        prefix = f"{path}." if path else ""
        self.problems.extend(
            did_you_mean(prefix + key, [prefix + k for k in known], what="key")
            for key in table
            if key not in known
        )

    def _get(self, table: str, key: str, kind: type[Any], default: Any) -> Any:
        value = self.raw.get(table, {}).get(key, default)
        if isinstance(value, kind) or (kind is float and isinstance(value, int)):
            return value
        self.problems.append(f"{table}.{key} must be a {kind.__name__}, but got {value!r}.")
        return default

    def _table(self, cls: type[Any], name: str, given: Mapping[str, Any] | None = None) -> Any:
        raw = self.raw.get(name, {}) if given is None else given
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key, value in raw.items():
            wanted = fields[key].type if key in fields else None
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if (wanted == "int" and (not number or int(value) != value)) or (
                wanted == "float" and not number
            ):
                self.problems.append(
                    f"{name}.{key} must be {'a whole number' if wanted == 'int' else 'a number'}, "
                    f"but got {value!r}."
                )
        if cls is Protocol:
            self.problems.extend(
                f"protocol.{key} must be at least {least}, but got {raw[key]}: {why}."
                for key, least, why in (
                    ("noise_seeds", 1, "the tuning seed alone is one"),
                    ("confirm_seeds", 1, "a loss that is quoted needs a run"),
                    ("max_runs", 1, "the start point alone is one run"),
                )
                if isinstance(raw.get(key), int) and raw[key] < least
            )
        try:
            return build_dataclass(cls, raw, path=name)
        except ConfigError as error:
            self.problems.extend(error.problems)
            return None

    def _models(self) -> dict[str, ModelConfig]:
        """The ladder's sizes and those that the study defines itself."""
        models = dict(SIZES)
        for name, raw in self.raw.get("models", {}).items():
            try:
                models[name] = build_dataclass(ModelConfig, raw, path=f"models.{name}")
            except ConfigError as error:
                self.problems.extend(error.problems)
                continue
            self.problems.extend(models[name].problems())
        return models

    def _cells(self, table: str, models: Mapping[str, ModelConfig], key: str) -> list[Cell]:
        curve_keys = ("size", key, "retune", "cells")
        known = curve_keys if table == "baseline_curve" else ("size", key)
        self._refuse_unknown(table, self.raw.get(table, {}), known)
        default_size = self.raw.get("cell", {}).get("size", "")
        size = self._get(table, "size", str, default_size)
        given = self._get(
            table, key, list if key == "ratios" else float, [] if key == "ratios" else 1.0
        )
        ratios = given if isinstance(given, list) else [given]
        if size not in models:
            self.problems.append(did_you_mean(size, models, what="model size"))
            return []
        if bad := [r for r in ratios if not isinstance(r, (int, float)) or not 0 < r <= MAX_RATIO]:
            self.problems.append(f"{table}.{key} must lie in (0, {MAX_RATIO}], but got {bad}.")
            return []
        return [Cell(size, models[size], float(ratio)) for ratio in ratios]

    def _labelled_cells(self, path: str, models: Mapping[str, ModelConfig]) -> list[Cell]:
        """The cells of a list of labels such as "d32 2x"; ``path`` is table.key."""
        table, key = path.split(".")
        cells: list[Cell] = []
        for label in self._get(table, key, list, []):
            size, _, ratio = str(label).partition(" ")
            try:
                value = float(ratio.removesuffix("x"))
            except ValueError:
                value = math.nan
            if not ratio.endswith("x") or not 0 < value <= MAX_RATIO:
                self.problems.append(
                    f"{path} must list cells such as 'd32 2x' with a ratio in (0, {MAX_RATIO}], "
                    f"but has {label!r}."
                )
            elif size not in models:
                self.problems.append(did_you_mean(size, models, what=f"model size in {path}"))
            else:
                cells.append(Cell(size, models[size], value))
        return list(dict.fromkeys(cells))

    def _phases(self, models: Mapping[str, ModelConfig], tuned: list[Cell]) -> Phases:
        keys = [f.name for f in dataclasses.fields(Phases)]
        self._refuse_unknown("phases", self.raw.get("phases", {}), tuple(keys))
        found = {key: self._labelled_cells(f"phases.{key}", models) for key in keys}
        for key in ("tune", "noise"):
            found[key] = list(dict.fromkeys([*tuned, *found[key]]))
        phases = Phases(**{key: tuple(cells) for key, cells in found.items()})
        in_phases = Counter([*phases.tune, *phases.retune, *phases.predict])
        self.problems.extend(
            f"{cell.label} must be in one phase only, but is listed in {count}."
            for cell, count in in_phases.items()
            if count > 1
        )
        if phases.retune and len(phases.tune) < 2:
            self.problems.append(
                f"phases.retune needs at least 2 cells of phase I to tell which axes are sensitive "
                f"to scale, but there is {len(phases.tune)}. Add cells to phases.tune."
            )
        tuned_somewhere = len(phases.tune) + len(phases.retune)
        if phases.predict and tuned_somewhere < MIN_LAW_CELLS:
            self.problems.append(
                f"phases.predict needs laws fitted to at least {MIN_LAW_CELLS} tuned cells, but "
                f"phases.tune and phases.retune have {tuned_somewhere} with [cell]."
            )
        return phases

    def _check_limits(self, optimizers: Mapping[str, OptimizerStudy], phases: Phases) -> None:
        """A limit on an optimizer's cells must name cells of the phases."""
        labels = [c.label for c in (*phases.tune, *phases.retune, *phases.predict)]
        for name, search in optimizers.items():
            self.problems.extend(
                did_you_mean(label, labels, what=f"cell in optimizers.{name}.cells")
                for label in search.cells
                if label not in labels
            )

    def _optimizers(self, run: RunSettings | None) -> dict[str, OptimizerStudy]:
        tables = self.raw.get("optimizers", {})
        found: dict[str, OptimizerStudy] = {}
        for name, raw in tables.items():
            if name not in OPTIMIZERS:
                self.problems.append(did_you_mean(name, OPTIMIZERS, what="optimizer"))
                continue
            known = ("space", "start", "run", "preset", "cells")
            self._refuse_unknown(f"optimizers.{name}", raw, known)
            own = OPTIMIZERS[name].space
            if raw.get("space") == {}:
                self.problems.append(
                    f"optimizers.{name}.space is empty, and an optimizer that is not tuned cannot "
                    f"be compared. Give at least one axis, or leave the key out for the axes that "
                    f"the optimizer declares."
                )
            given_space = raw.get("space", {axis: list(own[axis].values) for axis in own})
            defaults: dict[str, Any] = OPTIMIZERS[name].default_hyperparameters()
            # What an optimizer does not declare as an axis can be searched as a choice.
            undeclared = {key: choices(value) for key, value in defaults.items()}
            known_axes = SearchSpace({**undeclared, **own, **RUN_AXES})
            space = self._space(name, given_space, known_axes)
            given = {**self._preset(name, raw.get("preset", "authors")), **raw.get("start", {})}
            own_run = self._own_run(name, raw, run)
            if own_run is not None:
                defaults |= {axis: getattr(own_run, axis) for axis in RUN_AXES}
            start = {**defaults, **given}
            self._refuse_unknown(f"optimizers.{name}.start", raw.get("start", {}), tuple(defaults))
            named = [*space, *(key for key in given if key not in space)]
            self._check_start(name, space, start)
            if run is not None and own_run is not None:
                found[name] = OptimizerStudy(
                    space=space,
                    start={key: start[key] for key in named if key in start},
                    run=own_run,
                    cells=tuple(raw.get("cells", ())),
                )
        if not tables:
            self.problems.append("The study names no optimizers: add an [optimizers.adamw] table.")
        return found

    def _own_run(
        self, optimizer: str, raw: Mapping[str, Any], run: RunSettings | None
    ) -> RunSettings | None:
        """The study's [run] with an optimizer's own laid over it."""
        if "run" not in raw:
            return run
        merged = {**self.raw.get("run", {}), **raw["run"]}
        return self._table(RunSettings, f"optimizers.{optimizer}.run", merged)

    def _preset(self, optimizer: str, preset: object) -> Mapping[str, Value]:
        """The options that make a method its authors' or the study's variant of it."""
        if preset == "authors":
            return {}
        if preset == "paper":
            return OPTIMIZERS[optimizer].paper
        where = f"optimizers.{optimizer}.preset"
        self.problems.append(f"{where} must be 'authors' or 'paper', but got {preset!r}.")
        return {}

    def _check_start(self, optimizer: str, space: SearchSpace, start: Mapping[str, Any]) -> None:
        for name, axis in space.items():
            try:
                with_candidate(axis, start[name])
            except (ValueError, TypeError) as error:
                self.problems.append(f"optimizers.{optimizer}.start.{name}: {error}")

    def _space(self, optimizer: str, raw: Mapping[str, Any], known: SearchSpace) -> SearchSpace:
        axes: dict[str, Axis] = {}
        for name, values in raw.items():
            where = f"optimizers.{optimizer}.space.{name}"
            if name not in known:
                path = f"optimizers.{optimizer}.space"
                self.problems.append(
                    did_you_mean(where, [f"{path}.{k}" for k in known], what="hyperparameter")
                )
            elif not isinstance(values, list):
                self.problems.append(f"{where} must be a list of candidates, but got {values!r}.")
            else:
                try:
                    axes[name] = dataclasses.replace(known[name], values=tuple(values))
                except (ValueError, TypeError) as error:
                    self.problems.append(f"{where}: {error}")
        return SearchSpace(axes)


def _start_problems(study: StudyConfig) -> list[str]:
    """Problems of the start point of every optimizer in every cell it visits."""
    problems: list[str] = []
    for name, search in study.optimizers.items():
        phases = study.phases
        cells = study.cells_of(name, [*phases.tune, *phases.retune, *phases.predict])
        if name == study.baseline:
            cells += study.baseline_cells
        for cell in cells:
            config = study.run_config(name, cell, search.start, seed=0, fingerprint="")
            found = run_problems(config)
            problems += [f"{name} in cell {cell.label}: {problem}" for problem in found]
    return problems
