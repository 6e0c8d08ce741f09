"""Preparing mixtures: what the shards hold, and every way in which it can be interrupted."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optbench.data import document_shards
from optbench.data.corpus import SPLITS, DataError
from optbench.data.document_shards import MixtureCorpus, MixtureManifest, open_mixture
from optbench.data.encoding import Encoder, split_by_text
from optbench.data.kept_mixture import kept_mixture
from optbench.data.mixture_recipe import MixtureRecipe, Stream, TextSource
from optbench.data.parts import Part
from optbench.data.preparation import prepare_mixture
from optbench.data.readers import read_part
from optbench.data.reading import ReadPosition, TextBatch
from optbench.data.recipe_file import read_recipe
from optbench.data.retries import Patience
from optbench.data.tokenizer import load_tokenizer, train_tokenizer
from tests.data.folders import SYLLABLES, document_starts, json_lines, texts, toy_recipe, write

IMPATIENT = Patience(attempts=4, sleep=lambda seconds: None)


@dataclasses.dataclass(frozen=True)
class Prepared:
    recipe: MixtureRecipe
    manifest: MixtureManifest
    corpus: MixtureCorpus


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The toy mixture, prepared at one go."""
    folder = tmp_path_factory.mktemp("toy")
    recipe = toy_recipe(folder)
    manifest = prepare_mixture(recipe, folder / "cache")
    return Prepared(recipe, manifest, open_mixture(folder / "cache/toy-v300"))


def documents_of(corpus: MixtureCorpus, split: str, source: str) -> list[str]:
    """Every document of a split, by the offsets."""
    tokenizer = load_tokenizer(corpus.tokenizer_path)
    found: list[str] = []
    for shard in corpus.manifest.shards:
        if (shard.split, shard.source) == (split, source):
            tokens = np.fromfile(corpus.directory / f"{shard.name}.bin", "<u2")
            starts = document_starts(corpus, shard)
            assert (starts[0], starts[-1]) == (0, len(tokens))
            np.testing.assert_array_equal(
                np.flatnonzero(tokens == corpus.manifest.eod_id) + 1, starts[1:]
            )
            pieces = np.split(tokens, starts[1:-1])
            found += [tokenizer.decode(piece[:-1].tolist()) for piece in pieces]
    return found


def test_every_document_is_in_its_split_once(toy: Prepared) -> None:
    shares = toy.recipe.streams()[0].shares
    expected = {
        "web": [t for p in toy.recipe.base.glob("dclm/*/*/*") for t in texts(name_of(p), 60)],
        "maths": [text for i in range(2) for text in texts(f"maths {i}", 40)],
    }
    for source, all_of_it in expected.items():
        for split in SPLITS:
            chosen = [text for text in all_of_it if split_by_text(text.encode(), shares) == split]
            assert sorted(documents_of(toy.corpus, split, source)) == sorted(chosen)


def name_of(path: Path) -> str:
    return "/".join(path.parts[-3:])


def test_the_manifest_says_what_is_there_and_where_it_is_from(toy: Prepared) -> None:
    manifest = toy.manifest
    assert manifest == toy.corpus.manifest
    assert manifest.mixture("train") == (("web", 76), ("maths", 5))
    assert manifest.token_type == "uint16"
    web = manifest.provenance[0]
    assert (web.source, web.origin, web.files) == ("web", "dclm/*/*/*.jsonl.gz", 4)
    assert (web.documents_read, web.documents_empty, web.documents_over_quota) == (240, 0, 0)
    assert sum(shard.documents for shard in manifest.shards) == 320


def test_the_bytes_do_not_depend_on_the_number_of_processes(toy: Prepared, tmp_path: Path) -> None:
    prepare_mixture(toy.recipe, tmp_path, workers=2)
    for path in toy.corpus.directory.iterdir():
        assert (tmp_path / "toy-v300" / path.name).read_bytes() == path.read_bytes(), path.name


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many shards from little text."""
    monkeypatch.setattr("optbench.data.reading.BATCH_DOCUMENTS", 8)


@pytest.mark.parametrize("at", [0, 100, 320, 321, 450, 639])
def test_an_interruption_anywhere_changes_nothing(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    recipe = toy_recipe(tmp_path)
    whole = prepare_mixture(recipe, tmp_path / "whole")
    assert len(whole.shards_of("train", "web")) > 2
    with pytest.raises(KeyboardInterrupt):
        prepare_mixture(recipe, tmp_path / "cut", open_source=failing(at, KeyboardInterrupt()))
    assert not (tmp_path / "cut/toy-v300").exists()
    assert not list((tmp_path / "cut").glob("*/*.part"))
    assert prepare_mixture(recipe, tmp_path / "cut") == whole
    assert os.listdir(tmp_path / "cut") == ["toy-v300"]
    open_mixture(tmp_path / "cut/toy-v300", verify_checksums=True)


def failing(after: int, *errors: BaseException) -> Callable[[Stream, Part, int], Iterator[str]]:
    """Reads files and raises the errors, one at a time, behind so many documents.

    The first 320 are read to train the tokenizer.
    """
    left, count = list(errors), 0

    def open_source(stream: Stream, part: Part, skip: int) -> Iterator[str]:
        nonlocal count
        for text in read_part(part, stream.source, skip):
            if left and count >= after:
                raise left.pop(0)
            count += 1
            yield text

    return open_source


def test_rate_limits_and_a_broken_connection_change_nothing(toy: Prepared, tmp_path: Path) -> None:
    class TooManyRequests(Exception):
        status = 429

    reader = failing(400, TooManyRequests(), TooManyRequests(), ConnectionResetError("by peer"))
    manifest = prepare_mixture(toy.recipe, tmp_path, patience=IMPATIENT, open_source=reader)
    assert manifest == toy.manifest


def test_a_stream_that_stays_broken_is_named_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    recipe = toy_recipe(tmp_path)
    broken = failing(470, *[ConnectionResetError("by peer")] * 99)
    with pytest.raises(DataError) as error:
        prepare_mixture(recipe, tmp_path / "cut", patience=IMPATIENT, open_source=broken)
    assert re.search(
        r"shard_\d\.jsonl\.gz \(source 'web'\) broke off behind document \d+ and failed 4 times in "
        r"a row there; the last error was ConnectionResetError: by peer\.",
        str(error.value),
    )
    assert not (tmp_path / "cut/toy-v300").exists()
    assert prepare_mixture(recipe, tmp_path / "cut") == prepare_mixture(recipe, tmp_path / "whole")


KILLED = """
import sys, time
from pathlib import Path
from optbench.data import reading
from optbench.data.preparation import prepare_mixture
from optbench.data.readers import read_part
from optbench.data.recipe_file import find_recipe

def slowly(stream, part, skip):
    for text in read_part(part, stream.source, skip):
        time.sleep(0.01)
        yield text

if __name__ == "__main__":
    reading.BATCH_DOCUMENTS = 8
    prepare_mixture(find_recipe(sys.argv[1]), Path(sys.argv[2]), open_source=slowly)
"""


def test_a_killed_preparation_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    recipe = toy_recipe(tmp_path)
    script = write(tmp_path / "killed.py", KILLED.encode())
    cache = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, script, tmp_path / "toy.toml", cache])
    unfinished = cache / ".toy-v300.unfinished"
    wait_for(lambda: len(shards_in(unfinished)) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in shards_in(unfinished)}
    manifest = prepare_mixture(recipe, cache)
    assert manifest == prepare_mixture(recipe, tmp_path / "whole")
    for path, written in kept.items():
        assert (cache / "toy-v300" / path.name).stat().st_mtime_ns == written


def shards_in(folder: Path) -> list[Path]:
    """Training shards that the progress file knows."""
    try:
        raw = json.loads((folder / "progress.json").read_text())
    except FileNotFoundError:
        return []
    shards = [s for stream in raw["streams"].values() for s in stream["shards"]]
    trained = (s for s in shards if s["split"] == "train")
    return [folder / f"train-{s['source']}-{s['index']:05d}.bin" for s in trained]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_processes_do_not_prepare_the_same_corpus(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)

    def second(what: str, share: float) -> None:
        if what.startswith("encoding"):
            prepare_mixture(recipe, tmp_path / "cache")

    with pytest.raises(DataError, match=r"Another optbench is preparing this corpus in .*toy-v300"):
        prepare_mixture(recipe, tmp_path / "cache", on_progress=second)


def test_a_full_disk_is_said_and_what_was_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    recipe = toy_recipe(tmp_path)
    cache = tmp_path / "cache"
    calls = 0
    add = document_shards.ShardWriter.add

    def full(self: document_shards.ShardWriter, tokens: np.ndarray, text_bytes: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, tokens, text_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(document_shards.ShardWriter, "add", full)
        with pytest.raises(DataError, match=rf"The disk of {cache} is full\. Finished shards are"):
            prepare_mixture(recipe, cache)
    assert len(shards_in(cache / ".toy-v300.unfinished")) > 1
    assert prepare_mixture(recipe, cache) == prepare_mixture(recipe, tmp_path / "whole")


def test_a_corpus_that_will_not_fit_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    recipe = dataclasses.replace(toy_recipe(tmp_path), tokens=10**15)
    with pytest.raises(DataError, match=r"The shards need 2000000\.0 GB more in .* are free there"):
        prepare_mixture(recipe, tmp_path / "cache")


def test_a_source_that_ends_before_its_quota_is_named(tmp_path: Path) -> None:
    recipe = dataclasses.replace(toy_recipe(tmp_path), tokens=10**6)
    with pytest.raises(
        DataError,
        match=r"The source 'web' ended early: all its 240 documents give \d+ tokens, but 938272 a",
    ):
        prepare_mixture(recipe, tmp_path / "cache")


def test_a_quota_ends_behind_the_document_that_reaches_it(tmp_path: Path) -> None:
    recipe = dataclasses.replace(toy_recipe(tmp_path), tokens=8000)
    manifest = prepare_mixture(recipe, tmp_path / "cache")
    corpus = open_mixture(tmp_path / "cache/toy-v300")
    for (name, _), quota in zip(manifest.mixture("train"), (7507, 494), strict=True):
        (shard,) = manifest.shards_of("train", name)
        last = int(document_starts(corpus, shard)[-2])
        assert last < quota <= shard.tokens
    for source in manifest.provenance:
        kept = sum(s.documents for s in manifest.shards if s.source == source.source)
        assert kept + source.documents_over_quota == source.documents_read
        assert source.documents_over_quota > 0


def test_documents_without_text_are_counted_and_left_out(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    write(tmp_path / "maths/2.jsonl", json_lines(["", "  \n"]))
    manifest = prepare_mixture(recipe, tmp_path / "cache")
    maths = manifest.provenance[1]
    assert (maths.documents_read, maths.documents_empty) == (82, 2)
    assert sum(s.documents for s in manifest.shards if s.source == "maths") == 80


def test_a_source_with_fewer_documents_than_the_recipe_says_is_named(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, extra="documents = 241")
    with pytest.raises(DataError, match="'web' gave 240 documents, but there must be 241"):
        prepare_mixture(recipe, tmp_path / "cache")


@pytest.mark.parametrize(("after", "shards"), [(330, False), (550, True)])
def test_an_unfinished_preparation_of_other_files_is_replaced_if_nothing_is_lost(
    after: int, shards: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    recipe, cache = toy_recipe(tmp_path), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        prepare_mixture(recipe, cache, open_source=failing(after, KeyboardInterrupt()))
    write(tmp_path / "maths/0.jsonl", json_lines(texts("others", 9)))
    if shards:
        with pytest.raises(DataError, match=r"0\.jsonl had .*'maths'\)\. Restore .* --restart"):
            prepare_mixture(recipe, cache)
    found = prepare_mixture(recipe, cache, restart=shards)
    assert found == prepare_mixture(recipe, tmp_path / "whole")


@pytest.mark.parametrize(("after", "shards"), [(330, False), (550, True)])
def test_an_unfinished_preparation_of_another_recipe_is_replaced_if_nothing_is_lost(
    after: int, shards: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    recipe, cache = toy_recipe(tmp_path), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        prepare_mixture(recipe, cache, open_source=failing(after, KeyboardInterrupt()))
    other = dataclasses.replace(recipe, tokens=5000)
    if shards:
        with pytest.raises(
            DataError,
            match=r"recipe or tokenizer: `tokens` was 0 and is 5000\. .*--restart",
        ):
            prepare_mixture(other, cache)
    found = prepare_mixture(other, cache, restart=shards)
    assert found == prepare_mixture(other, tmp_path / "whole")


def test_a_finished_corpus_of_other_files_is_not_returned(tmp_path: Path) -> None:
    recipe, cache = toy_recipe(tmp_path), tmp_path / "cache"
    manifest = prepare_mixture(recipe, cache)
    assert kept_mixture(recipe, cache) == manifest
    assert kept_mixture(recipe, tmp_path / "none") is None
    extra = write(tmp_path / "maths/9.jsonl", json_lines(texts("others", 9)))
    with pytest.raises(
        DataError, match=r"The files of 'maths' changed since .*toy-v300 was prepared: there were 2"
    ):
        prepare_mixture(recipe, cache)
    extra.unlink()
    assert prepare_mixture(recipe, cache) == manifest


@pytest.mark.parametrize("table", ["[validation]", '[[sources]]\nname = "again"'])
def test_a_file_in_two_tables_is_refused_with_both(table: str, tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "maths")
    text = (tmp_path / "toy.toml").read_text()
    for key in ("validation_share", "test_share"):
        text = text.replace(f"{key} = 0.15\n", "")
    other = read_recipe(f'{text}\n{table}\nfiles = ["link/0.jsonl"]', recipe.base)
    second = other.streams()[-1].source.name
    with pytest.raises(DataError, match=rf"0\.jsonl is in 'maths' and in '{second}': its text"):
        prepare_mixture(other, tmp_path / "cache")


def test_a_tokenizer_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path, batch = tmp_path / "tokenizer.json", TextBatch(("ba ba ba ba ko",), ReadPosition(1))
    stream = Stream(TextSource(name="web"), (("train", 1),), 0)
    lengths: list[int] = []
    for text in ("ba ba ba ko ko", "mi re su ta lo ne pi ga"):
        train_tokenizer([text] * 9, 260).save(str(path))
        (found,) = Encoder(path, 0, 1).encode(iter([batch]), stream)
        lengths.append(len(found.documents[0].tokens))
    assert lengths[0] < lengths[1]


STEPS = (
    "optbench.data.preparation.write_durably",
    "optbench.data.preparation.open_mixture",
    "pathlib.Path.rename",
    "optbench.data.unfinished.flush_to_disk",
)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("step", [*STEPS, "progress.json", "lock"])
def test_a_kill_at_the_end_loses_nothing(step: str, behind: bool, tmp_path: Path) -> None:
    recipe, cache = toy_recipe(tmp_path), tmp_path / "cache"
    removed = step not in STEPS
    unlink = Path.unlink

    def killed(*args: Any, **options: Any) -> object:
        final = cache / "toy-v300"
        ours = (
            args[0] == final / step if removed else "manifest" in str(args[0]) or step != STEPS[0]
        )
        if not ours:
            return original(*args, **options)
        if behind:
            original(*args, **options)
        raise KeyboardInterrupt

    target = "pathlib.Path.unlink" if removed else step
    original = unlink if removed else pkgutil.resolve_name(target.replace(".Path", ":Path"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_mixture(recipe, cache)
    manifest = prepare_mixture(recipe, cache, open_source=unreadable)
    assert manifest == open_mixture(cache / "toy-v300", verify_checksums=True).manifest
    assert os.listdir(cache) == ["toy-v300"]


def unreadable(stream: Stream, part: Part, skip: int) -> Iterator[str]:
    raise AssertionError("read again")


def test_a_cache_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    cache = write(tmp_path / "file", b"") / "cache"
    with pytest.raises(DataError, match=rf"The cache {cache} cannot be used .*: OPTBENCH_CACHE"):
        prepare_mixture(recipe, cache)


def test_a_file_that_disappears_is_named(tmp_path: Path) -> None:
    def gone(stream: Stream, part: Part, skip: int) -> Iterator[str]:
        Path(part.url).unlink(missing_ok=True)
        return read_part(part, stream.source, skip)

    with pytest.raises(
        DataError, match=r"gz \(source 'web'\) cannot be read behind document 0 \(FileNotFoundError"
    ):
        prepare_mixture(toy_recipe(tmp_path), tmp_path / "cache", open_source=gone)


def test_a_few_text_files_without_a_separator_say_what_a_document_is(tmp_path: Path) -> None:
    write(tmp_path / "book.txt", " ".join(texts("book", 90)).encode())
    text = 'name = "book"\nvocab_size = 300\n[[sources]]\nname = "book"\nfiles = ["book.txt"]'
    with pytest.raises(DataError, match=r"\(1 documents with text in all\)\. Each .* `separator`"):
        prepare_mixture(read_recipe(text, tmp_path), tmp_path / "cache")


def test_another_recipe_of_the_same_name_is_refused(toy: Prepared) -> None:
    other = dataclasses.replace(toy.recipe, tokens=99)
    with pytest.raises(DataError, match="was prepared with another recipe or tokenizer"):
        prepare_mixture(other, toy.corpus.directory.parent)


def test_a_prepared_mixture_is_not_read_again(toy: Prepared) -> None:
    cache = toy.corpus.directory.parent
    assert prepare_mixture(toy.recipe, cache, open_source=unreadable) == toy.manifest


def test_a_split_without_documents_is_refused(tmp_path: Path) -> None:
    recipe = dataclasses.replace(toy_recipe(tmp_path), validation_share=1e-9)
    with pytest.raises(DataError, match=r"'web' falls into the validation split \(240 documents"):
        prepare_mixture(recipe, tmp_path / "cache")


def test_a_source_without_text_asks_for_the_right_files(tmp_path: Path) -> None:
    train_tokenizer(["ba ko"], 258).save(str(tmp_path / "tokenizer.json"))
    write(tmp_path / "blank.jsonl", json_lines(["", " "]))
    text = 'name = "blank"\ntokenizer = "tokenizer.json"\n[[sources]]\nname = "s"\n'
    recipe = read_recipe(f'{text}files = ["blank.jsonl"]', tmp_path)
    with pytest.raises(
        DataError, match=r"'s' falls into the train split \(0 documents .*\)\. Are these the right"
    ):
        prepare_mixture(recipe, tmp_path / "cache")


def test_one_held_out_document_for_two_splits_asks_for_a_table(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    write(tmp_path / "held.txt", b"ba ko mi")
    text = (tmp_path / "toy.toml").read_text()
    for key in ("validation_share", "test_share"):
        text = text.replace(f"{key} = 0.15\n", "")
    with pytest.raises(DataError, match=r"'validation' falls .*, or add a \[test\] table of its"):
        prepare_mixture(
            read_recipe(f'{text}\n[validation]\nfiles = ["held.txt"]', recipe.base), tmp_path / "c"
        )


def test_progress_rises_from_zero_to_one(toy: Prepared, tmp_path: Path) -> None:
    calls: list[tuple[str, float]] = []
    prepare_mixture(toy.recipe, tmp_path, on_progress=lambda *call: calls.append(call))
    shares = [share for _, share in calls]
    assert shares == sorted(shares)
    assert (shares[0], calls[-1]) == (0.0, ("prepared", 1.0))


def test_a_large_vocabulary_takes_32_bits_and_the_same_text_comes_back(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "<eos>", *(f"word{i}" for i in range(70_000))]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(tmp_path / "large.json"))
    recipe = dataclasses.replace(toy_recipe(tmp_path), tokenizer="large.json", vocab_size=0)
    manifest = prepare_mixture(recipe, tmp_path / "cache")
    assert (manifest.token_type, manifest.vocab_size, manifest.tokenizer) == (
        "uint32",
        70_257,
        "large.json",
    )
    shard = manifest.shards_of("train", "web")[0]
    path = tmp_path / f"cache/toy-v70257/{shard.name}.bin"
    assert path.stat().st_size == 4 * shard.tokens
    assert set(np.fromfile(path, "<u4").tolist()) <= {
        *(alphabet.index(c) for c in "".join(SYLLABLES) + "Ġ"),
        manifest.eod_id,
    }


def test_a_tokenizer_without_an_end_of_document_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "none.json"))
    recipe = dataclasses.replace(toy_recipe(tmp_path), tokenizer="none.json", vocab_size=0)
    with pytest.raises(DataError, match=r"none of the usual tokens that end a document"):
        prepare_mixture(recipe, tmp_path / "cache")
    asked = dataclasses.replace(recipe, end_of_document="<end>")
    with pytest.raises(DataError, match=r"Unknown token for `end_of_document` '<end>'"):
        prepare_mixture(asked, tmp_path / "cache2")


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    recipe = dataclasses.replace(toy_recipe(tmp_path), tokenizer="none.json", vocab_size=0)
    with pytest.raises(DataError, match=r"There is no tokenizer file .*none\.json"):
        prepare_mixture(recipe, tmp_path / "cache")
