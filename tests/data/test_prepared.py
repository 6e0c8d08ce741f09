from __future__ import annotations

import dataclasses
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from optbench.cli import run as session
from optbench.cli import train as single_session
from optbench.config import ConfigError
from optbench.data.batches import TokenBatches
from optbench.data.corpus import DataError
from optbench.data.mixture_batches import MixtureBatches
from optbench.data.preparation import prepare_mixture
from optbench.data.prepared import (
    batches_of,
    choose_vocabulary,
    directory_here,
    list_prepared,
    open_named,
    open_prepared,
    prepared_vocabularies,
)
from optbench.data.shards import Corpus
from optbench.executors.choice import ExecutorChoice
from optbench.study.file import find_study, read_study
from optbench.study.preflight import check_corpus
from optbench.training.run import run
from tests.builders import TINY_CONFIG
from tests.data.folders import toy_recipe
from tests.data.synthetic import VOCAB_SIZE


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Corpus) -> Path:
    """A corpus of each kind, and one that is damaged."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare_mixture(toy_recipe(folder / "text"), folder / "cache")
    shutil.copytree(toy_corpus.directory, folder / f"cache/old-v{VOCAB_SIZE}")
    shutil.copytree(toy_corpus.directory, folder / "cache/torn-v9")
    (folder / "cache/torn-v9/train-code.bin").unlink()
    (folder / "cache/.new-v9.unfinished").mkdir()
    return folder / "cache"


def test_either_kind_is_opened_with_its_own_batches(cache: Path) -> None:
    kinds = {"toy-v300": MixtureBatches, f"old-v{VOCAB_SIZE}": TokenBatches}
    for name, kind in kinds.items():
        batches = batches_of(open_prepared(cache / name, verify_checksums=True))
        assert isinstance(batches, kind)
        assert batches.batch(0, seed=0, batch_size=4, seq_len=16).shape == (4, 17)


def test_the_batches_of_the_first_kind_are_as_they_were(cache: Path) -> None:
    """Two homes of one corpus, and the class that published runs were made with."""
    corpus = open_prepared(cache / f"old-v{VOCAB_SIZE}")
    assert isinstance(corpus, Corpus)
    np.testing.assert_array_equal(
        batches_of(corpus).batch(5, seed=1, batch_size=8, seq_len=16),
        TokenBatches(corpus).batch(5, seed=1, batch_size=8, seq_len=16),
    )


def test_the_list_has_everything_and_what_is_wrong(cache: Path) -> None:
    found = {one.name: one for one in list_prepared(cache, verify_checksums=True)}
    assert set(found) == {"toy", "torn-v9", "new-v9"}
    assert "train-code.bin is missing" in found["torn-v9"].state
    assert found["new-v9"].state == "unfinished"
    states = [one.state for one in list_prepared(cache) if one.name == "toy"]
    assert states == ["ok", "ok"]
    mixture = next(one for one in list_prepared(cache) if one.sources[:1] == (("web", 76),))
    assert mixture.sources == (("web", 76), ("maths", 5))
    assert mixture.documents is not None
    assert sum(mixture.documents.values()) == 320
    assert len(mixture.fingerprint) == 16


def test_a_corpus_that_is_not_there_is_refused_with_the_command(cache: Path) -> None:
    assert open_named("toy", 300, cache).manifest.vocab_size == 300
    with pytest.raises(
        DataError, match=r"of 300, but the model has one of 512\. .* toy\.toml --vocab-size 512$"
    ):
        open_named("toy", 512, cache)
    with pytest.raises(DataError, match=r"optbench data prepare dclm-mix$"):
        open_named("dclm-mix", 128_256, cache)
    with pytest.raises(
        DataError,
        match=r"corpus 'tow'\. Did you mean 'toy'\? Available: nano, old, torn, toy\. They lie in",
    ):
        open_named("tow", 300, cache)


def test_a_run_takes_the_vocabulary_that_its_corpus_has(cache: Path, tmp_path: Path) -> None:
    assert choose_vocabulary("toy", 1024, cache) == ("toy", 300)
    assert choose_vocabulary("nano", 1024, cache) == ("nano", 1024)
    assert choose_vocabulary("nano", 128_256, cache) == ("nano", 1024)
    for name in ("two-v300", "two-v400", "two-more-v7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    assert prepared_vocabularies(tmp_path) == {"two": (300, 400), "two-more": (7,)}
    assert choose_vocabulary("two", 400, tmp_path) == ("two", 400)
    assert choose_vocabulary("two-v300", 1024, tmp_path) == ("two", 300)
    with pytest.raises(DataError, match=r"300 and 400, .* 1024 is none .*: two-v300 or two-v400$"):
        choose_vocabulary("two", 1024, tmp_path)
    with pytest.raises(DataError, match=r"Unknown prepared corpus 'tow'\. Did you mean 'two'\?"):
        choose_vocabulary("tow", 1024, tmp_path)
    with pytest.raises(DataError, match=r"from its recipe: optbench data prepare tow\.toml$"):
        choose_vocabulary("tow", 1024, tmp_path)


def test_a_run_trains_on_a_mixture_and_knows_its_fingerprint(cache: Path) -> None:
    corpus = open_prepared(cache / "toy-v300")
    config = dataclasses.replace(
        TINY_CONFIG,
        model=dataclasses.replace(TINY_CONFIG.model, vocab_size=300),
        eval_tokens=16,
        test_tokens=16,
    )
    record = run(config.with_fingerprint(corpus.manifest.fingerprint), corpus.directory)
    assert record.status == "completed", record.error
    other = run(config.with_fingerprint("0" * 16), corpus.directory)
    assert "was configured for 0000000000000000" in other.error


def test_a_machine_that_lacks_the_corpus_folder_looks_into_its_own_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Path("/of/the/driver/toy-v300")
    monkeypatch.setenv("OPTBENCH_CACHE", str(cache))
    assert directory_here(cache / "torn-v9", "toy", 300) == cache / "torn-v9"  # as it was asked for
    assert directory_here(elsewhere, "toy", 300) == cache / "toy-v300"
    message = (
        f"^There is no {elsewhere} on {re.escape(socket.gethostname())}. Keep the cache on a disk "
        r"that every machine sees, and name it in OPTBENCH_CACHE; or prepare the corpus there. "
        r"Unknown prepared corpus 'mix'. .* from its recipe: optbench data prepare mix\.toml$"
    )
    with pytest.raises(DataError, match=message):
        directory_here(elsewhere, "mix", 300)


def test_nano_is_prepared_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setenv("OPTBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("optbench.data.prepared.prepare", lambda *given: asked.append(given[:3]))
    assert directory_here(Path("/of/the/driver"), "nano", 512) == tmp_path / "nano-v512"
    assert asked == [("nano", 512, tmp_path)]


def test_a_corpus_is_asked_for_by_a_name(cache: Path) -> None:
    with pytest.raises(DataError, match=r"`corpus` must be a lower-case name .* '\.\./toy'"):
        open_named("../toy", 300, cache)


def test_a_study_is_refused_before_it_trains_if_its_corpus_is_too_small(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTBENCH_CACHE", str(cache))
    manifest = open_named("toy", 300, cache).manifest

    def prepared(corpus: str, vocab_size: int, console: Console) -> object:
        return manifest

    for sitting in (session, single_session):
        monkeypatch.setattr(sitting, "prepared_corpus", prepared)
    study = read_study(find_study("nano"))
    with pytest.raises(ConfigError) as error:
        session.run_study(
            study, tmp_path / "out", ExecutorChoice(), Console(quiet=True), session.SessionOptions()
        )
    found = "\n".join(error.value.problems)
    for split in ("validation", "test"):
        assert f"The {split} split of the corpus 'toy' holds" in found
    assert "Lower `eval_tokens` to at most" in found
    assert not (tmp_path / "out").exists()
    model = dataclasses.replace(TINY_CONFIG.model, seq_len=4000)
    long = dataclasses.replace(TINY_CONFIG, model=model, num_tokens=10**6)
    with pytest.raises(ConfigError, match="The train split of 'maths' holds"):
        single_session.train_one(long, tmp_path / "out", Console(quiet=True))
    check_corpus(
        manifest,
        [dataclasses.replace(TINY_CONFIG, eval_tokens=64, test_tokens=64)],
        Console(quiet=True),
    )
