"""A single run from flags: on any prepared corpus, with that corpus's vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from optbench.cli import main
from optbench.config import ConfigError, RunConfig
from optbench.data.corpus import DataError
from optbench.data.shards import Corpus
from optbench.store.store import RunStore
from optbench.study.single_run import single_run_config
from tests.data.synthetic import VOCAB_SIZE


@pytest.fixture(autouse=True)
def cache(toy_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPTBENCH_CACHE", str(toy_cache))
    return toy_cache


@pytest.fixture(scope="module")
def toy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.data.synthetic import prepared

    corpus: Corpus = prepared(tmp_path_factory.mktemp("cache"))
    return corpus.directory.parent


def config(corpus: str | None = None, **settings: int | str) -> RunConfig:
    return single_run_config(
        "adamw", size="d32", ratio=0.05, settings=settings, seed=0, corpus=corpus
    )


def test_the_model_has_the_vocabulary_of_the_corpus_and_the_same_budget() -> None:
    plain, toy = config(), config("toy")
    assert (plain.data.corpus, plain.model.vocab_size) == ("nano", 1024)
    assert (toy.data.corpus, toy.model.vocab_size) == ("toy", VOCAB_SIZE)
    assert toy.num_tokens == plain.num_tokens
    assert config(f"toy-v{VOCAB_SIZE}") == toy


def test_nano_by_its_name_is_the_run_that_it_was_without() -> None:
    assert config("nano") == config()
    assert config("nano").run_id == config().run_id


def test_the_held_out_tokens_can_be_set_for_a_small_corpus() -> None:
    found = config("toy", eval_tokens=640, test_tokens=1280)
    assert (found.eval_tokens, found.test_tokens) == (640, 1280)
    with pytest.raises(ConfigError, match="eval_tokens must be a whole number, but got"):
        config("toy", eval_tokens="many")
    with pytest.raises(ConfigError, match=r"Unknown setting 'eval_token'\. Did you mean 'eval_t"):
        config("toy", eval_token=3)


def test_an_unknown_corpus_is_refused_with_those_that_are_prepared() -> None:
    with pytest.raises(
        DataError, match=r"^Unknown prepared corpus 'tow'\. Did you mean 'toy'\? Available: nano, t"
    ):
        config("tow")


def test_a_run_is_trained_on_a_named_corpus_and_says_how_often_it_read_it(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    small = ["--ratio", "0.02", "--set", "eval_tokens=640", "--set", "test_tokens=640"]
    done = CliRunner().invoke(main, ["train", "--corpus", "toy", *small, "--store", store])
    assert done.exit_code == 0, done.output
    (record,) = RunStore.read(tmp_path / "store").records.values()
    assert record.run_config.model.vocab_size == VOCAB_SIZE
    shown = CliRunner().invoke(main, ["show", record.run_id, "--store", store])
    assert "text         toy, read: prose 0." in shown.output


def test_what_a_small_corpus_lacks_is_said_with_the_flag_that_mends_it(tmp_path: Path) -> None:
    command = ["train", "--corpus", "toy", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "The validation split of the corpus 'toy' holds" in said
    assert "but 65,536 are needed. Lower `eval_tokens` to at most" in said
    assert not (tmp_path / "store").exists()


def test_a_configuration_file_says_its_corpus_itself(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("{}")
    done = CliRunner().invoke(main, ["train", str(path), "--corpus", "toy"])
    assert "--corpus cannot change what" in done.output
