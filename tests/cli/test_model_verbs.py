"""train --keep-weights, export and evaluate: what a user types, and what the errors say."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optbench.cli import main
from optbench.config import RunConfig
from optbench.data.shards import Corpus
from optbench.store.store import RunStore
from optbench.training.weights import weights_file
from tests.builders import record_of
from tests.data.synthetic import prepared
from tests.export.evaluation.local_tasks import write_tasks
from tests.training.test_run import run_config
from tests.training.trained_runs import config_of, keep

RUN = config_of().run_id


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def store(tmp_path: Path, corpus: Corpus) -> Path:
    keep(tmp_path / "store", corpus)
    return tmp_path / "store"


@pytest.fixture
def config_file(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of ten steps on the synthetic corpus, which the cache holds as if it had a recipe."""
    manifest = corpus.manifest
    monkeypatch.setattr("optbench.cli.train.prepared_corpus", lambda *_: manifest)
    monkeypatch.setenv("OPTBENCH_CACHE", str(corpus.directory.parent))
    config = run_config().with_fingerprint(manifest.fingerprint)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config.to_dict()))
    return path


def run_of(config_file: Path) -> RunConfig:
    return RunConfig.from_dict(json.loads(config_file.read_text()))


def train(config_file: Path, store: Path, *more: str) -> str:
    done = invoke("train", str(config_file), "--store", str(store), *more)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_weights_are_kept_only_when_asked_for(config_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    path = weights_file(store, run_of(config_file).run_id)
    train(config_file, store)
    assert not path.parent.exists()
    again = train(config_file, store, "--keep-weights")
    assert "already, but without its weights: it is trained again for them, its record stays." in (
        again
    )
    assert "The weights are kept; the test loss is that of the record" in again
    assert path.exists()
    before = path.read_bytes()
    assert f"Run {path.stem} is in {store} already." in train(config_file, store, "--keep-weights")
    assert path.read_bytes() == before
    assert len((store / "runs.jsonl").read_text().splitlines()) == 1


def test_weights_of_another_processor_are_kept_and_called_so(
    config_file: Path, tmp_path: Path
) -> None:
    config, store = run_of(config_file), tmp_path / "store"
    with RunStore.open(store) as opened:
        opened.append(record_of(config, loss=3.25))
    output = train(config_file, store, "--keep-weights")
    assert re.search(
        r"they are not quite those of the record: their test loss is 5\.\d{6}, the record's is "
        r"3\.250000\. Other software or another processor rounds differently\.",
        output,
    )
    assert RunStore.read(store).records[config.run_id].test_loss == 3.25


def test_a_diverged_run_has_no_weights_and_is_not_trained_again(
    config_file: Path, tmp_path: Path
) -> None:
    config, store = run_of(config_file), tmp_path / "store"
    with RunStore.open(store) as opened:
        opened.append(record_of(config, loss=None, status="diverged", error="step 1: too large"))
    output = train(config_file, store, "--keep-weights")
    assert "already; it diverged, so it has no final weights." in output
    assert not weights_file(store, config.run_id).exists()


def test_a_run_is_exported_by_the_start_of_its_id(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    done = invoke("export", RUN[:6], "--store", str(store), "--out", str(out))
    assert done.exit_code == 0, done.output
    said = f"Run {RUN} is in {out}: AutoModelForCausalLM.from_pretrained('{out}') opens it."
    assert said in done.output
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    again = invoke("export", RUN, "--store", str(store), "--out", str(out))
    assert again.exit_code == 2
    assert f"Error: {out} is a folder with files in it, which is never overwritten." in again.output


@pytest.mark.parametrize("verb", ["export", "evaluate"])
def test_a_run_that_cannot_be_opened_says_why(
    verb: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optbench.export.evaluation.evaluate.require_harness", lambda: None)
    more = ["--out", str(tmp_path / "out")] if verb == "export" else []
    unknown = invoke(verb, "zzz", "--store", str(store), *more)
    assert unknown.exit_code == 2
    assert f"Error: No run in {store} with an id starting with 'zzz'. 'optbench show" in (
        unknown.output
    )
    weights_file(store, RUN).unlink()
    lost = invoke(verb, RUN, "--store", str(store), *more)
    assert lost.exit_code == 2
    assert f"Error: The weights of run {RUN} were not kept (no " in lost.output


@pytest.mark.parametrize("verb", ["export", "evaluate"])
def test_a_diverged_run_is_not_said_to_lack_weights_that_training_again_would_give(
    verb: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optbench.export.evaluation.evaluate.require_harness", lambda: None)
    config = dataclasses.replace(config_of(), seed=7)
    with RunStore.open(store) as opened:
        opened.append(record_of(config, loss=None, status="diverged", error="step 4: nan"))
    more = ["--out", str(tmp_path / "out")] if verb == "export" else []
    done = invoke(verb, config.run_id, "--store", str(store), *more)
    assert done.exit_code == 2
    assert f"Run {config.run_id} diverged (step 4: nan), so it has no final weights." in done.output


def test_an_ambiguous_beginning_names_the_runs_it_could_mean(store: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(config_of(), seed=7)
    with RunStore.open(store) as opened:
        opened.append(record_of(config))
    done = invoke("export", "", "--store", str(store), "--out", str(tmp_path / "out"))
    assert f"2 runs in {store} with an id starting with '' ({RUN}, {config.run_id})." in done.output


def test_without_the_harness_evaluate_names_the_command(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    done = invoke("evaluate", RUN, "--store", str(store))
    assert done.exit_code == 2
    assert "is not installed. Install it (about 500 MB): pip install 'optbench[eval]'" in (
        done.output
    )


def test_evaluate_prints_stores_and_warns(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra 'eval' is not installed")
    tasks = write_tasks(tmp_path / "tasks", "toy_choice")
    words = ["evaluate", RUN, "--store", str(store), "--task-path", str(tasks), "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "optbench.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["run_id"] == RUN
    assert [score["metric"] for score in found["scores"]] == ["acc", "acc_norm"]
    assert found["warning"].startswith("The scores of a single run cannot rank optimizers.")
    (line,) = (store / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line) == found
