"""Study files: a TOML file → a checked, frozen StudyConfig, or all of its problems at once.

The schema, with the nano study as its example, is in ``docs/studies.md``; its tables and the types
of their values are the dataclasses of :mod:`optbench.study.tables`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from optbench.config import ConfigError, ModelConfig
from optbench.execution import DEFAULT_EXECUTION, Execution
from optbench.export.trackers.settings import SINKS, SinkSettings
from optbench.files.text_files import read_user_text
from optbench.ladder import SIZES, Cell
from optbench.optimizers import OPTIMIZERS
from optbench.run_axes import RUN_AXES
from optbench.space import Axis, SearchSpace, Value, choices, did_you_mean
from optbench.study.config import (
    OptimizerStudy,
    PhaseCells,
    StudyConfig,
    run_problems,
    run_setting_problems,
)
from optbench.study.coordinate_descent import with_candidate
from optbench.study.digest import CHANGEABLE, effective_tables
from optbench.study.tables import (
    CurveTable,
    OptimizerTable,
    StudyTables,
    candidates_table,
    some_run_settings,
    start_table,
)
from optbench.tables import Problem, located, reached, shown, sound_part, table_problems

MAX_RATIO = 1000
MIN_LAW_CELLS = 3  # of the simplest law that is not a constant
_NAME = re.compile(r"[^/\\\x00-\x1f]+")


def find_study(name_or_path: str) -> str:
    """The text of a study file: a path, or the name of a study that ships with the package.

    Raises:
        ConfigError: there is no such file and no such study.
    """
    path = Path(name_or_path)
    if name_or_path and (path.suffix == ".toml" or path.exists()):
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


def read_study(text: str, *, smoke: bool = False, file: str = "") -> StudyConfig:
    """Parse and check a study.

    Args:
        text: the TOML file.
        smoke: lay the file's ``[smoke]`` table over the rest: the same code, much less of it.
        file: its name, which problems then begin with, together with their line.

    Raises:
        ConfigError: every problem found, each with the value received and the remedy.
    """
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        of = f" {file}" if file else ""
        raise ConfigError([f"The study file{of} is not valid TOML: {error}."]) from None
    overlay = raw.get("smoke", {})
    if not isinstance(overlay, Mapping):
        found = table_problems(dict[str, Any], overlay, "smoke")
        raise ConfigError(located(found, file, text))
    if smoke and "smoke" not in raw:
        raise ConfigError(["This study has no [smoke] table, so it has no --smoke version."])
    if smoke and (same := [n for n in CHANGEABLE if n in overlay]):
        problem = "[{0}] is the same with --smoke: move [smoke.{0}] to [{0}]."
        raise ConfigError([problem.format(n) for n in same])
    reader = _Reader(effective_tables(raw, smoke=smoke))
    study = reader.study(text, smoke=smoke)
    if study is None or reader.problems:
        problems = dict.fromkeys(
            _named_in_overlay(p, overlay if smoke else {}, raw) for p in reader.problems
        )
        raise ConfigError(located(problems, file, text))
    return study


def _named_in_overlay(problem: str, overlay: Mapping[str, Any], raw: Mapping[str, Any]) -> str:
    """A problem under the path at which its value is written, which may be within [smoke]."""
    if not isinstance(problem, Problem):
        return problem
    found = reached(overlay, problem.path)
    if found < len(problem.path) and found <= reached(raw, problem.path):
        return problem
    path = f"smoke.{problem.path}"
    return Problem(path, problem.replace(problem.path, path, 1))


class _Reader:
    """Checks the tables of a study against each other, and collects their problems.

    What a value that is refused by itself would be is not known, so it has its default in
    ``tables``, and what depends on it is not checked.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.problems: list[str] = []
        self.wrong: set[str] = set()
        self._refuse_types(StudyTables, raw, "")
        self.tables: StudyTables = sound_part(StudyTables, raw, self.wrong)
        models = self.tables.models
        self.models: dict[str, ModelConfig] = {**SIZES, **models}
        self.unknown_models = set(_table(raw, "models")) - set(models)

    def study(self, text: str, *, smoke: bool) -> StudyConfig | None:
        """The study, or None if there are problems."""
        tables, run, protocol = self.tables, self.tables.run, self.tables.protocol
        self._check_values()
        self._check_optimizer_names()
        optimizers = {
            name: search
            for name, table in tables.optimizers.items()
            if (search := self._search(name, table)) is not None
        }
        tuned = self._tuned()
        curve = self._curve(tables.baseline_curve, tuned)
        phases = self._phases(tuned)
        self._check_phases(phases)
        self._check_limits(optimizers, phases)
        self._check_baseline(optimizers)
        sinks = self._sinks()
        execution = self._execution()
        if self.problems or run is None or not tuned:
            return None
        compared = (*phases.tune, *phases.retune, *phases.predict)
        study = StudyConfig(
            name=tables.name,
            title=tables.title,
            corpus=tables.corpus,
            baseline=tables.baseline,
            optimizers=optimizers,
            tuned_cell=tuned[0],
            baseline_cells=tuple(cell for cell in curve if cell not in compared),
            baseline_retuned=tables.baseline_curve.retune,
            phases=phases,
            run=run,
            protocol=protocol,
            smoke=smoke,
            text=text,
            sinks=sinks,
            execution=execution,
        )
        self.problems += _start_problems(study)
        return study

    # Problems ---------------------------------------------------------------------------------

    def _refuse(self, path: str, sentence: str) -> None:
        self.problems.append(Problem(path, sentence))

    def _refuse_types(self, kind: Any, raw: object, path: str) -> None:
        found = table_problems(kind, raw, path)
        self.problems += found
        self.wrong |= {problem.path for problem in found}

    def _refuse_settings(self, path: str, problems: Mapping[str, str]) -> None:
        """Problems by the name of a setting of a table, each of which begins with it."""
        for name, problem in problems.items():
            self._refuse(f"{path}.{name}", f"{path}.{problem}")

    def _refuse_unknown(
        self, path: str, names: Iterable[str], known: Iterable[str], what: str
    ) -> None:
        for name in names:
            if name not in known:
                self._refuse(path, did_you_mean(name, known, what=what))

    def _refuse_twice(self, path: str, names: Iterable[str]) -> None:
        for name, count in Counter(names).items():
            if count > 1:
                problem = f"{path} must name everything once, but has '{name}' {count} times."
                self._refuse(path, problem)

    def _is_wrong(self, *tables: str) -> bool:
        """Whether something in one of these tables of the file is refused by itself."""
        return any(path.split(".")[0] in tables for path in self.wrong)

    # Values -----------------------------------------------------------------------------------

    def _check_values(self) -> None:
        tables = self.tables
        for key in ("cell", "run"):
            if key not in self.raw:
                self._refuse(key, f"Missing table [{key}].")
        for key in ("name", "corpus"):
            if not _NAME.fullmatch(getattr(tables, key)):
                problem = "must be a name without slashes and control characters, but got"
                self._refuse(key, f"{key} {problem} {shown(getattr(tables, key))}.")
        if tables.run is not None:
            self._refuse_settings("run", run_setting_problems(dataclasses.asdict(tables.run)))
        self._refuse_settings("protocol", tables.protocol.problems())
        for name, model in tables.models.items():
            for problem in model.problems():
                self._refuse(f"models.{name}", f"models.{name}: {problem}")

    def _check_baseline(self, optimizers: Mapping[str, OptimizerStudy]) -> None:
        baseline, names = self.tables.baseline, list(_table(self.raw, "optimizers"))
        if baseline not in names and "baseline" not in self.wrong:
            problem = (
                f"`baseline` must be one of the study's optimizers, but got '{baseline}'. Choose "
                f"from {', '.join(names) or 'none: [optimizers] is empty'}."
            )
            self._refuse("baseline", problem)
        if baseline in optimizers:
            path, axes = "baseline_curve.retune", self.tables.baseline_curve.retune
            self._refuse_twice(path, axes)
            self._refuse_unknown(path, axes, optimizers[baseline].space, f"axis in {path}")

    def _sinks(self) -> tuple[SinkSettings, ...]:
        sinks: list[SinkSettings] = []
        for name, raw in self.tables.sinks.items():
            path = f"sinks.{name}"
            if name not in SINKS:
                self._refuse(path, did_you_mean(name, SINKS, what="sink"))
                continue
            self._refuse_types(SINKS[name], raw, path)
            if path not in self.wrong:
                settings: SinkSettings = sound_part(SINKS[name], raw, self.wrong, path)
                self._refuse_settings(path, {p.split()[0]: p for p in settings.problems()})
                sinks.append(settings)
        return tuple(sinks)

    def _execution(self) -> Execution:
        raw, path = self.tables.execution, "execution"
        self._refuse_types(Execution, raw, path)
        try:
            return sound_part(Execution, raw, self.wrong, path)
        except ConfigError as error:
            self._refuse_settings(path, {p.split()[0]: p for p in error.problems})
            return DEFAULT_EXECUTION

    # Cells ------------------------------------------------------------------------------------

    def _cells(self, path: str, size: str, ratios: Iterable[float]) -> list[Cell]:
        """The cells of a size, if there can be such."""
        if bad := [ratio for ratio in ratios if not 0 < ratio <= MAX_RATIO]:
            self._refuse(path, f"{path} must lie in (0, {MAX_RATIO}], but got {bad}.")
        elif size in self.models:
            return [Cell(size, self.models[size], float(ratio)) for ratio in ratios]
        elif size not in self.unknown_models:
            what = "model size" if path.endswith(("ratio", "ratios")) else f"model size in {path}"
            self._refuse(path, did_you_mean(size, self.models, what=what))
        return []

    def _tuned(self) -> list[Cell]:
        cell = self.tables.cell
        return [] if cell is None else self._cells("cell.ratio", cell.size, [cell.ratio])

    def _curve(self, table: CurveTable, tuned: Sequence[Cell]) -> list[Cell]:
        size = table.size or (tuned[0].size if tuned else "")
        cells = self._cells("baseline_curve.ratios", size, table.ratios) if size else []
        cells += self._labelled_cells("baseline_curve.cells", table.cells)
        self._refuse_twice("baseline_curve", [cell.label for cell in cells])
        return cells

    def _labelled_cells(self, path: str, labels: Iterable[str]) -> list[Cell]:
        """The cells of a list of labels such as "d32 2x"."""
        cells: list[Cell] = []
        for label in labels:
            size, _, ratio = label.partition(" ")
            try:
                value = float(ratio.removesuffix("x"))
            except ValueError:
                value = math.nan
            if ratio.endswith("x") and 0 < value <= MAX_RATIO:
                cells += self._cells(path, size, [value])
            else:
                problem = (
                    f"{path} must list cells such as 'd32 2x' with a ratio in (0, {MAX_RATIO}], "
                    f"but has {label!r}."
                )
                self._refuse(path, problem)
        return cells

    def _phases(self, tuned: Sequence[Cell]) -> PhaseCells:
        found: dict[str, tuple[Cell, ...]] = {}
        for key in (field.name for field in dataclasses.fields(PhaseCells)):
            cells = self._labelled_cells(f"phases.{key}", getattr(self.tables.phases, key))
            self._refuse_twice(f"phases.{key}", [cell.label for cell in cells])
            first = tuned if key in ("tune", "noise") else []
            found[key] = tuple(dict.fromkeys([*first, *cells]))
        return PhaseCells(**found)

    def _check_phases(self, phases: PhaseCells) -> None:
        if self._is_wrong("cell", "phases", "models"):
            return
        in_phases = Counter([*phases.tune, *phases.retune, *phases.predict])
        for cell, count in in_phases.items():
            if count > 1:
                problem = f"{cell.label} must be in one phase only, but is listed in {count}."
                self._refuse("phases", problem)
        if phases.retune and len(phases.tune) < 2:
            problem = (
                f"phases.retune needs at least 2 cells of phase I to judge which axes are "
                f"sensitive to scale, but there is {len(phases.tune)}. Add cells to phases.tune."
            )
            self._refuse("phases.retune", problem)
        tuned_somewhere = len(phases.tune) + len(phases.retune)
        if phases.predict and tuned_somewhere < MIN_LAW_CELLS:
            problem = (
                f"phases.predict needs laws fitted to at least {MIN_LAW_CELLS} tuned cells, but "
                f"phases.tune and phases.retune have {tuned_somewhere} with [cell]."
            )
            self._refuse("phases.predict", problem)

    # Optimizers -------------------------------------------------------------------------------

    def _check_optimizer_names(self) -> None:
        names = _table(self.raw, "optimizers")
        for name in names:
            if name not in OPTIMIZERS:
                problem = did_you_mean(name, OPTIMIZERS, what="optimizer")
                self._refuse(f"optimizers.{name}", problem)
        if not names and "optimizers" not in self.wrong:
            problem = "The study names no optimizers: add an [optimizers.adamw] table."
            self._refuse("optimizers", problem)

    def _check_limits(self, optimizers: Mapping[str, OptimizerStudy], phases: PhaseCells) -> None:
        """A limit on an optimizer's cells must name cells of the phases."""
        if self._is_wrong("cell", "phases", "models"):
            return
        labels = [c.label for c in (*phases.tune, *phases.retune, *phases.predict)]
        for name, search in optimizers.items():
            path = f"optimizers.{name}.cells"
            self._refuse_twice(path, search.cells)
            self._refuse_unknown(path, search.cells, labels, f"cell in {path}")

    def _search(self, name: str, table: OptimizerTable) -> OptimizerStudy | None:
        """One optimizer's axes and start; None where a part of them is refused."""
        if name not in OPTIMIZERS:
            return None
        path, optimizer, before = f"optimizers.{name}", OPTIMIZERS[name], len(self.problems)
        self._refuse_types(start_table(name), table.start, f"{path}.start")
        self._refuse_types(some_run_settings(), table.run, f"{path}.run")
        self._refuse_types(candidates_table(name), table.space or {}, f"{path}.space")
        if table.space == {}:
            problem = (
                f"{path}.space is empty, and an optimizer that is not tuned cannot be compared. "
                f"Give at least one axis, or leave the key out for the axes that the optimizer "
                f"declares."
            )
            self._refuse(f"{path}.space", problem)
        if len(self.problems) > before:
            return None
        self._refuse_settings(f"{path}.run", run_setting_problems(table.run))
        self._refuse_settings(f"{path}.start", run_setting_problems(table.start))
        defaults: dict[str, Any] = optimizer.default_hyperparameters()
        space = self._space(f"{path}.space", optimizer.space, defaults, table.space)
        preset: Mapping[str, Value] = optimizer.paper if table.preset == "paper" else {}
        named: dict[str, Any] = {**preset, **table.start}
        if self.tables.run is None:
            return None
        run = dataclasses.replace(self.tables.run, **table.run)
        start = {**defaults, **{axis: getattr(run, axis) for axis in RUN_AXES}, **named}
        for axis in space:
            try:
                with_candidate(space[axis], start[axis])
            except ValueError as error:
                self._refuse(f"{path}.start.{axis}", f"{path}.start.{axis}: {error}")
        order = [*space, *(key for key in named if key not in space)]
        chosen = {key: start[key] for key in order}
        return OptimizerStudy(space=space, start=chosen, run=run, cells=table.cells)

    def _space(
        self,
        path: str,
        own: SearchSpace,
        defaults: Mapping[str, Value],
        given: Mapping[str, Any] | None,
    ) -> SearchSpace:
        """The axes that a study names, or those that the optimizer declares."""
        if given is None:
            return own
        # What an optimizer does not declare as an axis can be searched as a choice.
        known = {**{key: choices(value) for key, value in defaults.items()}, **own, **RUN_AXES}
        axes: dict[str, Axis] = {}
        for name, values in given.items():
            for value in values:
                self._refuse_settings(path, run_setting_problems({name: value}))
            try:
                axes[name] = dataclasses.replace(known[name], values=tuple(values))
            except ValueError as error:
                self._refuse(f"{path}.{name}", f"{path}.{name}: {error}")
        return SearchSpace(axes)


def _table(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of the file, empty if there is none."""
    given = raw.get(key, {})
    return given if isinstance(given, Mapping) else {}


def _start_problems(study: StudyConfig) -> list[str]:
    """Problems of the start point of every optimizer in the cells that it visits, each once."""
    places: dict[str, list[str]] = {}
    for name, search in study.optimizers.items():
        phases = study.phases
        cells = study.cells_of(name, [*phases.tune, *phases.retune, *phases.predict])
        if name == study.baseline:
            cells += study.baseline_cells
        for cell in cells:
            config = study.run_config(name, cell, search.start, seed=0, fingerprint="")
            for problem in run_problems(config):
                places.setdefault(problem, []).append(f"{name} in cell {cell.label}")
    return [
        f"{found[0]}{f' (and {len(found) - 1} more)' if len(found) > 1 else ''}: {problem}"
        for problem, found in places.items()
    ]
