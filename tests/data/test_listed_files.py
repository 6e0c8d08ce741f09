"""Text that is changed between an interrupted and a resumed preparation is noticed by its file."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from optbench.data.corpus import DataError
from optbench.data.listed_files import LISTED_FILE
from optbench.data.mixture_recipe import MixtureRecipe, Stream
from optbench.data.parts import Part, list_parts, stamp_of
from optbench.data.preparation import prepare_mixture
from optbench.data.readers import read_part
from optbench.data.recipe_file import read_recipe
from optbench.data.retries import Patience
from tests.data.folders import json_lines, texts, toy_recipe, write

UNFINISHED = ".toy-v300.unfinished"


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MixtureRecipe:
    """A preparation in tmp_path/cache with some shards of its first source."""
    monkeypatch.setattr("optbench.data.reading.BATCH_DOCUMENTS", 8)
    recipe = toy_recipe(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        prepare_mixture(recipe, tmp_path / "cache", open_source=CutAfter(520))
    assert list((tmp_path / "cache" / UNFINISHED).glob("*.bin"))
    return recipe


class CutAfter:
    """Opens files, and is interrupted behind so many documents of all of them."""

    def __init__(self, documents: int) -> None:
        self.left = documents

    def __call__(self, stream: Stream, part: Part, skip: int) -> Iterator[str]:
        for text in read_part(part, stream.source, skip):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield text


def change_in_place(path: Path) -> None:
    """Other text of the same size."""
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"ba", b"bo"))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_text_changed_in_place_is_refused_with_its_file_and_both_remedies(
    interrupted: MixtureRecipe, tmp_path: Path
) -> None:
    change_in_place(tmp_path / "maths/1.jsonl")
    cache = tmp_path / "cache"
    with pytest.raises(DataError) as error:
        prepare_mixture(interrupted, cache)
    assert re.fullmatch(
        rf"The text changed since the preparation in {cache / UNFINISHED} began: 1\.jsonl was "
        r"written again \(modified 2\S+, now modified 2\S+\) \(source 'maths'\)\. Restore the "
        r"files, or begin again with --restart\. If you know that their text is the same, for "
        rf"example because they were only copied, delete {cache / UNFINISHED / LISTED_FILE}; the "
        r"same command then goes on\.",
        str(error.value),
    )
    again = prepare_mixture(interrupted, cache, restart=True)
    assert again == prepare_mixture(interrupted, tmp_path / "whole")


def test_files_that_were_only_touched_go_on_when_the_user_says_so(
    interrupted: MixtureRecipe, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for path in (tmp_path / "maths").iterdir():
        os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="was written again"):
        prepare_mixture(interrupted, cache)
    shards = {p: p.stat().st_mtime_ns for p in (cache / UNFINISHED).glob("*.bin")}
    (cache / UNFINISHED / LISTED_FILE).unlink()
    with pytest.raises(KeyboardInterrupt):
        prepare_mixture(interrupted, cache, open_source=CutAfter(9))
    assert (cache / UNFINISHED / LISTED_FILE).exists()
    manifest = prepare_mixture(interrupted, cache)
    assert manifest == prepare_mixture(interrupted, tmp_path / "whole")
    for path, written in shards.items():
        assert (cache / "toy-v300" / path.name).stat().st_mtime_ns == written


def test_what_came_and_what_went_is_named(interrupted: MixtureRecipe, tmp_path: Path) -> None:
    (tmp_path / "maths/1.jsonl").rename(tmp_path / "maths/3.jsonl")
    (tmp_path / "maths/0.jsonl").write_bytes(b"{}")
    with pytest.raises(
        DataError, match=r"1\.jsonl is gone .*0\.jsonl had \d+ bytes and has 2 .*3\.jsonl is new"
    ):
        prepare_mixture(interrupted, tmp_path / "cache")


def test_without_the_stamps_names_and_sizes_are_compared(
    interrupted: MixtureRecipe, tmp_path: Path
) -> None:
    (tmp_path / "cache" / UNFINISHED / LISTED_FILE).unlink()
    (tmp_path / "maths/1.jsonl").rename(tmp_path / "maths/3.jsonl")
    with pytest.raises(
        DataError, match=r"the names or sizes of the files of the source 'maths'\. Restore the"
    ):
        prepare_mixture(interrupted, tmp_path / "cache")


def test_damaged_stamps_are_named(interrupted: MixtureRecipe, tmp_path: Path) -> None:
    (tmp_path / "cache" / UNFINISHED / LISTED_FILE).write_text("{")
    with pytest.raises(DataError, match=rf"{LISTED_FILE} cannot be read .*--restart"):
        prepare_mixture(interrupted, tmp_path / "cache")


def test_a_file_written_again_during_the_preparation_is_refused(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)

    def changed(stream: Stream, part: Part, skip: int) -> Iterator[str]:
        if part.url.endswith("maths/1.jsonl"):
            change_in_place(tmp_path / "maths/1.jsonl")
        return read_part(part, stream.source, skip)

    with pytest.raises(DataError, match=r"maths/1\.jsonl was written again while it was being pre"):
        prepare_mixture(recipe, tmp_path / "cache", open_source=changed)


def test_a_link_has_the_time_of_its_file(tmp_path: Path) -> None:
    file = write(tmp_path / "blobs/a.jsonl", json_lines(texts("a", 3)))
    (tmp_path / "a.jsonl").symlink_to(file)
    os.utime(file, ns=(1, 1_700_000_000_123_456_789))
    assert stamp_in(tmp_path, "a.jsonl") == "modified 2023-11-14T22:13:20.123456789"


def stamp_in(base: Path, location: str) -> str:
    head = 'name = "toy"\nvocab_size = 300\n[[sources]]\nname = "s"\n'
    recipe = read_recipe(f'{head}files = ["{location}"]', base)
    (part,) = list_parts(recipe.sources[0], recipe.base, Patience()).parts
    return part.stamp


@pytest.mark.parametrize("location", ["memory://stamps/a.jsonl", "memory://stamps/*.jsonl"])
def test_a_file_at_a_url_has_another_stamp_when_it_is_written_again(
    location: str, tmp_path: Path
) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/stamps/a.jsonl", b"{}")
    first = stamp_in(tmp_path, location)
    assert first == stamp_in(tmp_path, location)
    memory.pipe("/stamps/a.jsonl", b"[]")
    assert stamp_in(tmp_path, location) != first


def test_an_entity_tag_is_preferred_to_a_time() -> None:
    known = {"name": "b/a", "LastModified": "today", "ETag": '"5d41"'}
    assert stamp_of("s3://b/a", known) == 'ETag "5d41"'
    assert stamp_of("https://b/a", {"name": "https://b/a", "ETag": None}) == ""


def changed_and_dated_back(path: Path) -> None:
    """Other text of the same size with the same time of modification."""
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"ba", b"bo"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [change_in_place, changed_and_dated_back])
def test_a_finished_corpus_notices_that_its_text_is_another(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    recipe, cache = toy_recipe(tmp_path), tmp_path / "cache"
    manifest = prepare_mixture(recipe, cache)
    change(tmp_path / "maths/1.jsonl")
    with pytest.raises(
        DataError, match=r"text of the source 'maths' changed since .*toy-v300 was .*: 1\.jsonl \("
    ):
        prepare_mixture(recipe, cache)
    shutil.rmtree(cache)
    assert prepare_mixture(recipe, cache).fingerprint != manifest.fingerprint


def test_a_finished_corpus_knows_text_that_was_only_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cache = toy_recipe(tmp_path), tmp_path / "cache"
    manifest = prepare_mixture(recipe, cache)
    (tmp_path / "maths").rename(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "maths")
    assert prepare_mixture(recipe, cache) == manifest
    # It was compared once, and is not read again.
    monkeypatch.setattr("optbench.data.listed_files._sha256", lambda path: "read")
    assert prepare_mixture(recipe, cache) == manifest


def test_a_resumed_preparation_notices_text_that_was_dated_back(
    interrupted: MixtureRecipe, tmp_path: Path
) -> None:
    changed_and_dated_back(tmp_path / "maths/1.jsonl")
    with pytest.raises(
        DataError, match=r"1\.jsonl was changed, though its time of modification is"
    ):
        prepare_mixture(interrupted, tmp_path / "cache")


@pytest.mark.parametrize("documents", [1, 39])
def test_text_that_changes_while_it_is_read_is_refused(documents: int, tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    left = [240 + 80 + documents]  # the sample for the vocabulary reads everything first

    def open_source(stream: Stream, part: Part, skip: int) -> Iterator[str]:
        for text in read_part(part, stream.source, skip):
            left[0] -= 1
            if not left[0]:
                change_in_place(tmp_path / "maths/0.jsonl")
            yield text

    with pytest.raises(DataError, match=r"0\.jsonl was written again while it was being prepared"):
        prepare_mixture(recipe, tmp_path / "cache", open_source=open_source)


def test_a_local_folder_of_a_data_set_is_no_revision(tmp_path: Path) -> None:
    recipe, cache = toy_recipe(tmp_path), tmp_path / "cache"
    hub = '[sources.hub]\ndataset = "maths"\nfiles = ["*.jsonl"]'
    text = (tmp_path / "toy.toml").read_text().replace('files = ["maths/*.jsonl"]', hub)
    recipe = read_recipe(text, tmp_path)
    prepare_mixture(recipe, cache)
    change_in_place(tmp_path / "maths/1.jsonl")
    with pytest.raises(DataError, match=r"text of the source 'maths' changed since"):
        prepare_mixture(recipe, cache)


def test_what_another_version_left_unfinished_begins_again(
    interrupted: MixtureRecipe, tmp_path: Path
) -> None:
    path = tmp_path / "cache" / UNFINISHED / "progress.json"
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 1'))
    with pytest.raises(DataError, match=r"by another version of optbench.*--restart"):
        prepare_mixture(interrupted, tmp_path / "cache")
    again = prepare_mixture(interrupted, tmp_path / "cache", restart=True)
    assert again == prepare_mixture(interrupted, tmp_path / "whole")
