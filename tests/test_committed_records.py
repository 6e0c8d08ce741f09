"""The committed records keep their identity, and the studies that ship still name their runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optbench.config import EARLIER_HYPERPARAMETERS, RunConfig
from optbench.ladder import SIZES, Cell
from optbench.optimizers import OPTIMIZERS
from optbench.store.store import RunStore
from optbench.study.config import StudyConfig
from optbench.study.digest import study_digest
from optbench.study.file import find_study, read_study
from optbench.study.study import Study

RESULTS = Path(__file__).parents[1] / "results"
# Of each store how many runs, and the SHA-256 of their ids in the order of the file.
IDS = {
    "nano": (105, "f0bee5a80abad554d17ac81b00c7c0f74557cd3dd286919db32ac008b5d5c8ec"),
    "nano_all": (229, "ae939a007eb978009668f6cc66b6cf9739dc34ae4848316c1478da898a65369a"),
    "nano_ladder": (486, "904ade530dbb7c37292515a46c3c61c4225dee75bb4aaefb5b6fb550d30eed25"),
}


def lines(name: str, file: str) -> list[dict[str, Any]]:
    text = (RESULTS / name / file).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_committed_store_is_held_here() -> None:
    assert {path.name for path in RESULTS.iterdir()} == IDS.keys()


@pytest.mark.parametrize("name", IDS)
def test_every_committed_run_has_the_id_of_its_configuration(name: str) -> None:
    records = lines(name, "runs.jsonl")
    for record in records:
        config = RunConfig.from_dict(record["config"])
        assert config.run_id == record["run_id"]
        assert config.to_dict() == record["config"]
    ids = [record["run_id"] for record in records]
    digest = hashlib.sha256(" ".join(ids).encode()).hexdigest()
    assert (len(ids), digest) == IDS[name]


def test_a_hyperparameter_that_came_after_the_records_names_its_earlier_value() -> None:
    """Without one, a committed run would be another as soon as the constructor's default is."""
    recorded: dict[str, set[str]] = {}
    for name in IDS:
        for record in lines(name, "runs.jsonl"):
            optimizer = record["config"]["optimizer"]
            recorded.setdefault(optimizer["name"], set()).update(optimizer["hyperparameters"])
    for name, keywords in recorded.items():
        later = OPTIMIZERS[name].default_hyperparameters().keys() - keywords
        assert later == EARLIER_HYPERPARAMETERS.get(name, {}).keys(), name


def test_an_earlier_value_is_one_that_the_optimizer_takes() -> None:
    for name, earlier in EARLIER_HYPERPARAMETERS.items():
        assert OPTIMIZERS[name].earlier == earlier
        assert OPTIMIZERS[name].invalid_reason(earlier) is None
    assert [n for n, c in OPTIMIZERS.items() if c.earlier] == list(EARLIER_HYPERPARAMETERS)


def named_runs(study: StudyConfig, journal: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The id of every tuning and confirmation run: by the study as it ships, and as recorded."""
    (fingerprint,) = {entry["fingerprint"] for entry in journal if entry["kind"] == "study"}

    def run_id(entry: dict[str, Any], configuration: dict[str, Any], seed: int) -> str:
        cell = Cell(entry["cell"]["size"], SIZES[entry["cell"]["size"]], entry["cell"]["ratio"])
        optimizer = entry["optimizer"]
        # The evaluations of a search over some axes leave out the values of the others.
        held = {**study.optimizers[optimizer].start, **entry.get("incumbent", {}), **configuration}
        run = study.run_config(optimizer, cell, held, seed=seed, fingerprint=fingerprint)
        return run.run_id

    for entry in journal:
        if entry["kind"] == "tuning":
            for one in entry["evaluations"]:
                seed = study.protocol.tuning_seed
                yield run_id(entry, one["configuration"], seed), one["run_id"]
        if entry["kind"] == "confirmation":
            for number, recorded in enumerate(entry["run_ids"]):
                yield run_id(entry, entry["configuration"], 1000 + number), recorded


@pytest.mark.parametrize("name", IDS)
def test_a_study_that_ships_names_the_committed_runs(name: str) -> None:
    study = read_study(find_study(name))
    journal = lines(name, "journal.jsonl")
    pairs = list(named_runs(study, journal))
    assert len(pairs) > 50
    assert [own for own, _ in pairs] == [recorded for _, recorded in pairs]


@pytest.mark.parametrize("name", IDS)
def test_a_study_that_ships_goes_on_in_the_committed_folder(name: str, tmp_path: Path) -> None:
    study = read_study(find_study(name))
    kept = (RESULTS / name / "study.toml").read_text(encoding="utf-8")
    assert study_digest(kept, smoke=False) == study.digest  # the smoke version may be another
    folder = tmp_path / name
    shutil.copytree(RESULTS / name, folder)
    with RunStore.open(folder) as store:
        (entry,) = [entry for entry in store.journal if entry["kind"] == "study"]
        Study(study, store, entry["fingerprint"]).claim_store()
    assert (folder / "runs.jsonl").read_bytes() == (RESULTS / name / "runs.jsonl").read_bytes()
