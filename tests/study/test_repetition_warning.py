"""How often text is read: exact counts of windows, and one warning in the right place."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from optbench.cli import main
from optbench.config import RunConfig
from optbench.data.prepared import list_prepared
from optbench.data.shards import Corpus
from optbench.study.repetition_warning import (
    epochs_after,
    epochs_of,
    known_epochs,
    repetition_warning,
    too_often,
)
from tests.builders import TINY_CONFIG
from tests.data.synthetic import VOCAB_SIZE, WEIGHTS, prepared


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("cache"))


def run_of(corpus: Corpus, steps: int) -> RunConfig:
    """4 sequences of 16 tokens a step."""
    config = dataclasses.replace(
        TINY_CONFIG,
        model=dataclasses.replace(TINY_CONFIG.model, vocab_size=VOCAB_SIZE),
        num_tokens=steps * 4 * 16,
    )
    return config.with_fingerprint(corpus.manifest.fingerprint)


def test_a_source_is_read_as_often_as_its_windows_come(corpus: Corpus) -> None:
    # 100 steps of 4 sequences: 80 times 2 : 2 : 1.
    found = epochs_of(run_of(corpus, 100), corpus)
    for name, weight in WEIGHTS.items():
        tokens = corpus.manifest.shard("train", name).tokens
        assert found[name] == 80 * weight / ((tokens - 16) // 17)


def test_a_budget_alone_gives_nearly_the_same(corpus: Corpus) -> None:
    (summary,) = list_prepared(corpus.directory.parent)
    about = epochs_after(summary, 100 * 4 * 16)
    maths = corpus.manifest.shard("train", "maths").tokens
    assert about["maths"] == 6400 / 5 / maths
    exact = epochs_of(run_of(corpus, 100), corpus)
    assert exact == pytest.approx(about, rel=0.09)  # one token in 17, and the ends
    assert all(exact[name] > about[name] for name in about)


def test_the_cache_is_asked_only_for_the_very_text_of_a_run(corpus: Corpus, tmp_path: Path) -> None:
    config, cache = run_of(corpus, 10), corpus.directory.parent
    assert known_epochs(config, cache) == epochs_of(config, corpus)
    assert known_epochs(config, tmp_path) is None
    assert known_epochs(config.with_fingerprint("0" * 16), cache) is None


def test_four_times_is_the_most_that_is_not_said() -> None:
    assert too_often({"a": 4.0, "b": 4.01, "c": 0.1}) == {"b": 4.01}


def test_the_longest_run_is_warned_of(corpus: Corpus) -> None:
    short, long = run_of(corpus, 10), run_of(corpus, 2000)
    assert repetition_warning(corpus, [short]) == ""
    warning = repetition_warning(corpus, [short, long, short])
    assert warning.startswith(
        "Warning: in a run of 128k tokens, text is read more than 4 times: prose "
    )
    assert warning.endswith(
        " times. From there on, text that comes again is worth less than new text (Muennighoff et "
        "al. 2023, arXiv 2305.16264). Prepare more of it, lower its weight, or train on fewer "
        "tokens."
    )


def test_a_run_that_repeats_its_text_says_so_before_it_starts(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTBENCH_CACHE", str(corpus.directory.parent))
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run_of(corpus, 100).to_dict()))
    monkeypatch.setattr("optbench.study.repetition_warning.MOST_EPOCHS", 0.2)
    done = CliRunner().invoke(main, ["train", str(path), "--store", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "Warning: in a run of 6.4k tokens, text is read more than 0.2 times" in said
    assert said.index("Warning") < said.index("losses")


def test_the_list_of_corpora_says_what_a_budget_repeats(corpus: Corpus) -> None:
    cache = ["--cache", str(corpus.directory.parent)]
    listed = json.loads(show(*cache, "--tokens", "200k", "--format", "json"))
    (summary,) = list_prepared(corpus.directory.parent)
    assert listed[0]["times_read"] == epochs_after(summary, 200_000)
    assert listed[0]["source_tokens"]["maths"] == corpus.manifest.shard("train", "maths").tokens
    said = " ".join(show(*cache, "--tokens", "200k").split())
    assert "toy: text is read more than 4 times: prose" in said
    assert "Warning" not in show(*cache)
    assert "is no count" in show(*cache, "--tokens", "lots")


def show(*arguments: str) -> str:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["data", "show", *arguments]).output
