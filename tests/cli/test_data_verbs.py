"""`optbench data` as a user calls it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from optbench.cli import main
from optbench.data.tokenizer import train_tokenizer

RECIPE = """
name = "mine"
vocab_size = 300
validation_share = 0.2
test_share = 0.2

[[sources]]
name = "notes"
files = ["notes/*.txt"]
"""


def data(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["data", *arguments])


def text(number: int) -> str:
    words = (f"{number * k % 97} sheep and {k * k % 89} wolves" for k in range(number, number + 9))
    return ", ".join(words)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    for number in range(60):
        (tmp_path / f"notes/{number}.txt").write_text(text(number))
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_prepared_and_listed(recipe: Path) -> None:
    cache = str(recipe.parent / "cache")
    prepared = data("prepare", str(recipe), "--cache", cache, "--workers", "1")
    assert prepared.exit_code == 0, prepared.output
    assert re.search(
        r"mine: \d\.\d+k training tokens, vocabulary 300, fingerprint ", prepared.output
    )
    listed = data("show", "--cache", cache, "--verify")
    for fragment in ("mine", "notes 1", "checksums ok", "Tokens and documents: training / val"):
        assert fragment in listed.output
    (one,) = json.loads(data("show", "--cache", cache, "--format", "json").output)
    assert sum(one["documents"].values()) == 60
    assert (one["state"], one["sources"]) == ("ok", [["notes", 1]])
    assert one["fingerprint"] in prepared.output


def test_options_stand_for_the_keys_of_the_recipe(recipe: Path) -> None:
    cache = recipe.parent / "cache"
    tokenizer = recipe.parent / "tokenizer.json"
    train_tokenizer([text(number) for number in range(60)], 290).save(str(tokenizer))
    common = ("prepare", str(recipe), "--cache", str(cache), "--workers", "1", "--tokens", "500")
    assert data(*common, "--vocab-size", "280").exit_code == 0
    assert data(*common, "--tokenizer", str(tokenizer)).exit_code == 0
    found = json.loads(data("show", "--cache", str(cache), "--format", "json").output)
    assert [one["vocab_size"] for one in found] == [280, 290]
    assert all(500 <= one["tokens"]["train"] < 800 for one in found)


def test_errors_are_messages(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("files", "flies").replace("300", '"many"'))
    found = data("prepare", str(recipe))
    assert found.exit_code == 2
    assert "Did you mean 'sources[0].files'?" in found.output
    assert "mine.toml, line 3: vocab_size must be a whole number, but got 'many'." in found.output
    both = data("prepare", "dclm-mix", "--vocab-size", "300", "--tokenizer", "llama3")
    assert "Give either --vocab-size or --tokenizer, and not both." in both.output
    assert "nano takes neither" in data("prepare", "nano", "--tokens", "5").output
    assert "Did you mean 'dclm-mix'?" in data("prepare", "dclm-mx").output


def test_an_interruption_says_what_is_kept_and_how_to_go_on(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = recipe.parent / "cache"
    recipe.write_text(RECIPE.replace("[[", "shard_tokens = 9\n[[", 1))
    monkeypatch.setattr("optbench.data.reading.BATCH_DOCUMENTS", 30)
    with monkeypatch.context() as patch:
        patch.setattr("optbench.data.preparation._Round.finish", interrupted_after(1))
        found = data("prepare", str(recipe), "--cache", str(cache), "--workers", "1")
    assert found.exit_code == 130
    folder = cache / ".mine-v300.unfinished"
    shards = len(list(folder.glob("*.bin")))
    assert shards == 3
    assert (
        f"Interrupted. {shards} finished shards are kept in {folder}; the same command goes on "
        f"from there." in found.output
    )
    listed = data("show", "--cache", str(cache)).output
    assert (
        "Unfinished ones go on with the command that began them; to give one up, delete its fol"
        in listed
    )
    assert data("prepare", str(recipe), "--cache", str(cache), "--workers", "1").exit_code == 0


def test_an_interrupted_nano_corpus_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("optbench.data.shards._build", interrupted)
    found = data("prepare", "nano", "--cache", str(tmp_path))
    assert found.exit_code == 130
    assert (
        f"Interrupted. Nothing of it is kept in {tmp_path}; the same command begins again, which "
        f"takes less than a minute." in found.output
    )
    assert not list(tmp_path.iterdir())


def interrupted_after(rounds: int) -> Callable[[Any], object]:
    from optbench.data.preparation import _Round

    finish, left = _Round.finish, rounds

    def finish_or_stop(self: Any) -> object:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return finish(self)

    return finish_or_stop


def test_a_vocabulary_out_of_range_is_refused_before_anything_is_read(recipe: Path) -> None:
    cache = recipe.parent / "cache"
    recipe.write_text(RECIPE.replace("300", "100"))
    found = data("prepare", str(recipe), "--cache", str(cache))
    assert "vocab_size must be at least 257, but got 100." in found.output
    assert not cache.exists()


def test_an_empty_cache_says_so(tmp_path: Path) -> None:
    assert "There is no prepared corpus in" in data("show", "--cache", str(tmp_path)).output


def test_a_second_preparation_says_that_nothing_was_read(recipe: Path) -> None:
    arguments = ("prepare", str(recipe), "--cache", str(recipe.parent / "cache"), "--workers", "1")
    assert "already prepared" not in data(*arguments, "--restart").output
    assert "It was already prepared, nothing was read." in data(*arguments).output
    (recipe.parent / "notes/new.txt").write_text(text(99))
    changed = data(*arguments)
    assert changed.exit_code == 2
    assert "The files of 'notes' changed since" in changed.output


def test_verification_of_a_damaged_corpus_exits_with_2(recipe: Path) -> None:
    cache = recipe.parent / "cache"
    data("prepare", str(recipe), "--cache", str(cache), "--workers", "1")
    assert data("show", "--cache", str(cache), "--verify").exit_code == 0
    shard = next(cache.glob("mine-v300/train-*.bin"))
    shard.write_bytes(bytes(shard.stat().st_size))
    found = data("show", "--cache", str(cache), "--verify")
    assert (found.exit_code, "Damaged: mine-v300." in found.output) == (2, True)


def test_a_cache_that_cannot_be_used_is_a_message(recipe: Path) -> None:
    found = data("prepare", "nano", "--cache", str(recipe / "cache"))
    assert (found.exit_code, "cannot be used" in found.output) == (2, True)
