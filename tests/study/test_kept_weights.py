"""`run --keep-weights`: confirmation runs keep their weights, nothing else changes."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from optbench.cli import main
from optbench.config import RunConfig
from optbench.data.shards import Corpus
from optbench.ladder import Cell
from optbench.store.store import RunRecord, RunStore
from optbench.study.config import FIRST_CONFIRM_SEED, StudyProtocol
from optbench.study.kept_weights import (
    bytes_of,
    keeping_weights,
    kept_weights_message,
    prepare_to_keep,
    without_weights,
)
from optbench.study.planning.planned_runs import PlannedRuns
from optbench.training.weights import WeightsError, kept_runs, load_trained, weights_file
from tests.builders import TINY_CONFIG, record_of
from tests.data.synthetic import prepared
from tests.training.test_weights import sharp_model

STUDY = """
name = "tiny"
corpus = "toy"
baseline = "adamw"

[models.tiny]
num_layers = 1
d_model = 16
d_ff = 32
num_heads = 2
vocab_size = 300
seq_len = 16

[cell]
size = "tiny"
ratio = 0.05

[run]
batch_size = 4
eval_tokens = 64
test_tokens = 64
num_evals = 1

[protocol]
noise_seeds = 1
confirm_seeds = 2
max_runs = 3

[optimizers.adamw]
start = { lr = 0.01 }
space = { lr = [0.01, 0.02] }
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def environment(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTBENCH_CACHE", str(corpus.directory.parent))
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def plain(study: Path, corpus: Corpus) -> Path:
    """The study without weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTBENCH_CACHE", str(corpus.directory.parent))
        run_study(study, study.parent / "plain")
    return study.parent / "plain"


def run_study(study: Path, out: Path, *more: str) -> str:
    command = ["run", str(study), "--out", str(out), "--workers", "1", *more]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_a_study_keeps_the_weights_of_its_confirmation_runs_and_its_runs_are_the_same(
    study: Path, plain: Path, tmp_path: Path
) -> None:
    keeping = tmp_path / "keeping"
    said = run_study(study, keeping, "--keep-weights")
    records = RunStore.read(keeping).records
    assert losses(records) == losses(RunStore.read(plain).records)
    assert not (plain / "weights").exists()
    confirmed = [r for r in records.values() if r.run_config.seed >= FIRST_CONFIRM_SEED]
    assert len(confirmed) == 2 < len(records)
    assert kept_runs(keeping) == sorted(record.run_id for record in confirmed)
    for record in confirmed:
        path = weights_file(keeping, record.run_id)
        trained = load_trained(path, record.run_config.model, record.run_id)
        assert trained.origin.test_loss == record.test_loss
    # 12,208 weights of 4 bytes, twice
    assert "the weights of 2 confirmation runs take 0.1 MB in all." in said
    first = next(r.run_id for r in confirmed if r.run_config.seed == FIRST_CONFIRM_SEED)
    assert f"of the winners for example adamw {first[:10]}: 'optbench evaluate RUN" in said


def losses(records: dict[str, RunRecord]) -> dict[str, float | None]:
    return {run_id: record.test_loss for run_id, record in records.items()}


def test_runs_that_ended_without_weights_are_named_and_the_remedy_works(
    study: Path, plain: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    before = (out / "runs.jsonl").read_bytes()
    said = run_study(study, out, "--keep-weights")
    assert (out / "runs.jsonl").read_bytes() == before
    assert "2 confirmation runs ended without weights before (" in said
    assert f"For the weights of one: optbench show RUN --store {out} --config > run.json; " in said
    seeds = StudyProtocol(noise_seeds=1, confirm_seeds=2).held_out_seeds
    first, second = without_weights(RunStore.read(out).records.values(), out, seeds)
    shown = CliRunner().invoke(main, ["show", first, "--store", str(out), "--config"])
    (tmp_path / "run.json").write_text(shown.output)
    done = CliRunner().invoke(
        main, ["train", str(tmp_path / "run.json"), "--store", str(out), "--keep-weights"]
    )
    assert done.exit_code == 0, done.output
    assert kept_runs(out) == [first]
    assert without_weights(RunStore.read(out).records.values(), out, seeds) == (second,)
    assert f"{out}/weights/{first}.safetensors" in CliRunner().invoke(
        main, ["show", first, "--store", str(out)]
    ).output.replace("\n", "")


def train(config: RunConfig, *, weights_path: Path | None) -> RunRecord:
    """A job that says in its record where it would have kept its weights."""
    return dataclasses.replace(record_of(config), error=str(weights_path))


def test_the_job_survives_a_process_boundary_and_decides_by_the_seed(tmp_path: Path) -> None:
    job = pickle.loads(pickle.dumps(keeping_weights(train, tmp_path, range(1000, 1001))))
    confirmed = dataclasses.replace(TINY_CONFIG, seed=1000)
    assert job(confirmed).error == str(weights_file(tmp_path, confirmed.run_id))
    assert job(TINY_CONFIG).error == "None"


def test_seeds_of_tuning_and_noise_are_no_seeds_of_confirmation() -> None:
    assert list(StudyProtocol(confirm_seeds=3).held_out_seeds) == [1000, 1001, 1002]
    for tuning_seed, noise_seeds in ((1000, 1), (1002, 1), (999, 2), (0, 1001), (998, 40)):
        protocol = StudyProtocol(tuning_seed=tuning_seed, noise_seeds=noise_seeds, confirm_seeds=3)
        assert "must not be seeds of confirmation" in protocol.problems()["tuning_seed"]
    for tuning_seed, noise_seeds in ((999, 1), (1003, 5), (0, 1000)):
        protocol = StudyProtocol(tuning_seed=tuning_seed, noise_seeds=noise_seeds, confirm_seeds=3)
        assert protocol.problems() == {}


def planned(runs: int) -> list[PlannedRuns]:
    cell = Cell("tiny", TINY_CONFIG.model, 1.0)
    return [
        PlannedRuns("tune", "adamw", cell, TINY_CONFIG, 900, 900),
        PlannedRuns("confirm", "adamw", cell, TINY_CONFIG, runs, runs),
    ]


def test_weights_that_the_disk_has_no_room_for_are_refused_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 50_000 * bytes_of(TINY_CONFIG.model)
    monkeypatch.setattr("shutil.disk_usage", usage_with_free(needed - 1))
    with pytest.raises(
        WeightsError,
        match=r"the weights of 50,000 confirmation runs take \d\.\d GB in all, but .* has \d\.\d GB"
        r" free\. Free some space, choose another --out, or leave --keep-weights out\.",
    ):
        prepare_to_keep(tmp_path, planned(50_000))
    monkeypatch.setattr("shutil.disk_usage", usage_with_free(needed))
    assert "Keeping weights in" in prepare_to_keep(tmp_path, planned(50_000))


def usage_with_free(free: int) -> object:
    return lambda _path: SimpleNamespace(free=free)


def test_the_size_that_is_said_is_that_of_the_parameters() -> None:
    parameters = sum(p.numel() for p in sharp_model().parameters())
    assert bytes_of(sharp_model().config) == 4 * parameters


def test_diverged_runs_and_other_seeds_lack_nothing(tmp_path: Path) -> None:
    confirmed = dataclasses.replace(TINY_CONFIG, seed=1000)
    other = dataclasses.replace(TINY_CONFIG, seed=1001)
    records = [
        record_of(confirmed),
        record_of(other, loss=None, status="diverged"),
        record_of(TINY_CONFIG),
    ]
    found = without_weights(records, tmp_path, frozenset({1000, 1001}))
    assert found == (confirmed.run_id,)
    none = "No confirmation run in the tuned cell has kept its weights yet."
    assert kept_weights_message({"adamw": confirmed}, tmp_path) == none
