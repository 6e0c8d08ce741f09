"""What of a study file names the study, and how stores with digests of before are taken."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from optbench.config import ConfigError
from optbench.export.trackers.settings import TensorBoardSettings, WandbSettings
from optbench.store.journal import entries_of
from optbench.store.journal_entries import StudyEntry
from optbench.store.store import RunStore, StoreError
from optbench.study.digest import is_same_study, study_digest
from optbench.study.file import find_study, read_study
from optbench.study.study import Study

RESULTS = Path(__file__).parents[2] / "results"
STORES = sorted(path.name for path in RESULTS.iterdir())
NANO = find_study("nano")
SINKS = '[sinks.wandb]\nmode = "offline"  # or online\n\n[sinks.tensorboard]\n'


def digest(text: str) -> str:
    return study_digest(text, smoke=False)


def text_digest(text: str, *, smoke: bool = False) -> str:
    """The first rule, for a file without sinks and execution."""
    return hashlib.sha256(f"{smoke}\n{text}".encode()).hexdigest()[:16]


def kept(name: str) -> tuple[str, str]:
    """The study file of a published store, and its digest."""
    journal = (RESULTS / name / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    (found,) = {e["digest"] for e in map(json.loads, journal) if e["kind"] == "study"}
    return (RESULTS / name / "study.toml").read_text(encoding="utf-8"), found


@pytest.mark.parametrize("name", STORES)
def test_the_published_stores_belong_to_their_study_files(name: str) -> None:
    text, found = kept(name)
    assert not found.startswith("2:")
    assert is_same_study(found, text, text, smoke=False)
    assert is_same_study(found, None, text, smoke=False)
    with_sinks = f"{text}\n# shown\n{SINKS}"
    assert is_same_study(found, text, with_sinks, smoke=False)
    assert is_same_study(found, with_sinks, text, smoke=False)
    assert read_study(with_sinks).sinks == (WandbSettings(), TensorBoardSettings())
    assert not is_same_study(found, text, text, smoke=True)
    another = text.replace("tuning_seed = 0", "tuning_seed = 1")
    assert not is_same_study(found, text, another, smoke=False)


@pytest.mark.parametrize("name", STORES)
def test_a_kept_file_that_was_changed_proves_nothing(name: str) -> None:
    text, found = kept(name)
    changed = text.replace("tie_floor = 0.003", "tie_floor = 0.3")
    assert changed != text
    assert not is_same_study(found, changed, changed, smoke=False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# The nano study", "# A remark\n\n# The nano study"),
        ('name = "nano"', "name    =    'nano'"),
        ("clip_norm = 1.0", "clip_norm = 1"),
        ("confirm_seeds = 6\n", ""),
        ("[cell] ", f"{SINKS}\n[cell] "),
        ('name = "nano"', 'sinks = { tensorboard = {} }\nname = "nano"'),
        ('name = "nano"', 'execution.compile = true\nname = "nano"'),
        ("[smoke] ", "[smoke.cell]\nratio = 2\n[smoke] "),
    ],
)
def test_only_what_the_tables_say_counts(old: str, new: str) -> None:
    changed = NANO.replace(old, new, 1)
    assert changed != NANO
    same = "confirm_seeds" not in old  # the one change that the study is another by
    assert (digest(changed) == digest(NANO)) is same


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('title = "Four', 'title = "Five'),
        ("lr = [0.008, 0.016, 0.032]", "lr = [0.016, 0.008, 0.032]"),
        ("{ lr = [0.008, 0.016, 0.032], beta1 = [0.8, 0.9, 0.95]", "{ beta1 = [0.8], lr = [0.008]"),
        ("tuning_seed = 0", "tuning_seed = 1"),
        ("beta2 = 0.98,", "beta2 = 0.97,"),
    ],
)
def test_what_is_searched_and_in_which_order_counts(old: str, new: str) -> None:
    assert digest(NANO.replace(old, new, 1)) != digest(NANO)


def test_the_order_of_optimizers_and_axes_counts_and_no_other() -> None:
    first, second = "[optimizers.lion]\n", "[optimizers.muon]\n"
    tables = "[optimizers.{}.space]\nlr = [1.0]\n"
    one = tables.format("lion") + tables.format("muon")
    other = tables.format("muon") + tables.format("lion")
    assert digest(one) != digest(other)
    assert digest(f"{first}cells = []\npreset = 'paper'\n{second}") == digest(
        f"{first}preset = 'paper'\ncells = []\n{second}"
    )
    assert digest("[optimizers.lion.space]\nlr = [1.0]\nbeta1 = [0.9]\n") != digest(
        "[optimizers.lion.space]\nbeta1 = [0.9]\nlr = [1.0]\n"
    )
    assert digest("[cell]\nratio = 1\n[run]\n") == digest("[run]\n[cell]\nratio = 1\n")


def test_the_smoke_table_is_a_part_of_the_smoke_version_only() -> None:
    without = NANO[: NANO.index("[smoke]")]
    other = NANO.replace("tie_floor = 0.1 ", "tie_floor = 0.2 ")
    assert other != NANO
    assert digest(without) == digest(NANO) == digest(other)
    assert study_digest(NANO, smoke=True) != study_digest(other, smoke=True)
    assert study_digest(NANO, smoke=True) != digest(NANO)


def test_tables_are_merged_and_all_else_is_replaced() -> None:
    text = NANO[: NANO.index("[smoke]")]
    text += '[smoke]\ncorpus = "other"\noptimizers.lion.space.lr = [0.1]\nrun.batch_size = 4\n'
    smoke, full = read_study(text, smoke=True), read_study(text)
    assert (smoke.corpus, full.corpus) == ("other", "nano")
    assert (smoke.run.batch_size, smoke.run.clip_norm) == (4, full.run.clip_norm)
    assert smoke.optimizers["lion"].space["lr"].values == (0.1,)
    assert smoke.optimizers["lion"].space["beta1"] == full.optimizers["lion"].space["beta1"]


def test_a_smoke_that_is_no_table_is_refused() -> None:
    text = "smoke = 3\n" + NANO[: NANO.index("[smoke]")]
    with pytest.raises(ConfigError, match=r"^smoke must be a table of keys and values, but"):
        read_study(text, smoke=True)


@pytest.mark.parametrize("name", ["sinks", "execution"])
def test_what_may_change_is_the_same_with_smoke(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^\[{name}\] is the same with --smoke: move \[smoke\.{name}\]"
    ):
        read_study(f"{NANO}[smoke.{name}]\n", smoke=True)
    assert read_study(f"{NANO}\n{SINKS}", smoke=True).sinks == (
        WandbSettings(),
        TensorBoardSettings(),
    )


def test_problems_of_sinks_are_reported_with_the_others() -> None:
    text = NANO.replace("max_runs = 20", "max_runs = 0") + "\n[sinks.tensorbord]\n"
    with pytest.raises(ConfigError) as caught:
        read_study(text)
    assert len(caught.value.problems) == 2
    assert caught.value.problems[1].startswith(
        "Unknown sink 'tensorbord'. Did you mean 'tensorboard'?"
    )


def test_a_store_takes_its_study_with_other_sinks_and_no_other_change(tmp_path: Path) -> None:
    with RunStore.open(tmp_path) as store:
        Study(read_study(NANO), store, "f").claim_store()
        for added in (SINKS, "[sinks.trackio]\n", "[execution]\ncompile = true\n", "# a remark\n"):
            Study(read_study(f"{NANO}\n{added}"), store, "f").claim_store()
        assert len(store.journal) == 1
        assert (tmp_path / "study.toml").read_text(encoding="utf-8") == NANO
        other = read_study(NANO.replace("max_runs = 20", "max_runs = 21"))
        with pytest.raises(StoreError) as caught:
            Study(other, store, "f").claim_store()
        assert "with another study file (2:" in str(caught.value)
        assert str(caught.value).endswith(
            f" `optbench run {tmp_path / 'study.toml'} --out {tmp_path}` goes on with that one."
        )
        with pytest.raises(StoreError, match=r"with another corpus \(f, now g\)\. Choose another"):
            Study(read_study(NANO), store, "g").claim_store()


@pytest.mark.parametrize("shown", ["", f"\n# where\n{SINKS}"])
def test_a_store_of_before_goes_on_where_only_the_smoke_table_is_new(
    tmp_path: Path, shown: str
) -> None:
    before = NANO[: NANO.index("[smoke]")].rstrip("\n") + "\n"
    with RunStore.open(tmp_path) as store:
        Study(read_study(before), store, "f").claim_store()
        (entry,) = entries_of(StudyEntry, store.journal)
    (tmp_path / "journal.jsonl").unlink()
    (tmp_path / "study.toml").write_text(before + shown, encoding="utf-8")
    with RunStore.open(tmp_path) as store:
        store.note(dataclasses.replace(entry, digest=text_digest(before)))
        with pytest.raises(StoreError, match="with another study file"):
            Study(read_study(NANO.replace("0.98", "0.97")), store, "f").claim_store()
        Study(read_study(NANO), store, "f").claim_store()
        assert [e["digest"] for e in store.journal] == [text_digest(before), digest(NANO)]
        Study(read_study(NANO), store, "f").claim_store()
        assert len(store.journal) == 2
