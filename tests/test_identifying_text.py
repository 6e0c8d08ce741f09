from __future__ import annotations

import json
from pathlib import Path

import pytest

from optbench.config import ConfigError
from optbench.identifying_text import identifying_text
from optbench.sinks.settings import TensorBoardSettings, WandbSettings
from optbench.store import RunStore, StoreError
from optbench.study import Study
from optbench.study_file import find_study, read_study

RESULTS = Path(__file__).parents[1] / "results"
NANO = find_study("nano")
SINKS = '[sinks.wandb]\nmode = "offline"  # or online\n\n[sinks.tensorboard]\n'


@pytest.mark.parametrize("name", sorted(path.name for path in RESULTS.iterdir()))
def test_the_published_stores_keep_their_digests(name: str) -> None:
    text = (RESULTS / name / "study.toml").read_text(encoding="utf-8")
    entries = [
        json.loads(line)
        for line in (RESULTS / name / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    digests = {entry["digest"] for entry in entries if entry["kind"] == "study"}
    assert digests == {read_study(text).digest}
    with_sinks = read_study(f"{text}\n{SINKS}")
    assert digests == {with_sinks.digest}
    assert with_sinks.sinks == (WandbSettings(), TensorBoardSettings())


def test_the_digest_of_a_file_without_sinks_is_that_of_its_bytes() -> None:
    assert identifying_text(NANO) is NANO
    assert identifying_text("title = 'of sinks'\n\n\n") == "title = 'of sinks'\n\n\n"


@pytest.mark.parametrize("place", ["[cell]", "[run]", "[protocol]", "[optimizers.lion]", "[smoke]"])
def test_tables_between_others_are_taken_out_without_a_trace(place: str) -> None:
    changed = NANO.replace(place, f"# what is watched\n{SINKS}\n# and now\n{place}")
    expected = NANO.replace(place, f"# and now\n{place}")
    assert changed != NANO
    assert identifying_text(changed) == expected


@pytest.mark.parametrize(
    "added",
    [
        SINKS,
        f"\n\n{SINKS}",
        f"\n# where curves go\n# and more\n{SINKS}\n\n",
        f"\n{SINKS}# the end\n",
        '\n[sinks]\nwandb = { mode = "offline" }\ntensorboard = {}\n',
        "\n[ sinks . wandb ]\n  [sinks.tensorboard]\n",
        "\n[sinks]\n[sinks.wandb]\n[sinks.tensorboard]",
        f"\n# two at a time\n[execution]\ndevices_per_run = 2\n\n{SINKS}",
        f"\n{SINKS}\n[execution]\ndevices_per_run = 2\n",
    ],
)
def test_tables_at_the_end_are_taken_out_without_a_trace(added: str) -> None:
    assert identifying_text(NANO + added) == NANO
    assert {type(one) for one in read_study(NANO + added).sinks} == {
        WandbSettings,
        TensorBoardSettings,
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "nano"', 'sinks = { tensorboard = {} }\nname = "nano"'),
        ('name = "nano"', 'sinks.tensorboard = {}\nname = "nano"'),
        ('title = "', 'title = """\n[sinks.wandb]\nsome text"""\n[sinks.wandb]\n#'),
    ],
)
def test_sinks_that_cannot_be_told_from_the_rest_are_refused(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=r"^Sinks must be tables of their own, such as \[sinks"):
        identifying_text(NANO.replace(old, new, 1))


@pytest.mark.parametrize(
    ("inline", "table", "told"),
    [
        ("execution.compile = true", SINKS, "The execution must"),
        ("sinks.tensorboard = {}", "[execution]\ncompile = true\n", "Sinks must be"),
    ],
)
def test_only_the_table_that_cannot_be_told_is_named(inline: str, table: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        identifying_text(f"{inline}\n{NANO}\n{table}")
    assert [problem.startswith(told) for problem in caught.value.problems] == [True]


def test_sinks_are_the_same_with_smoke() -> None:
    with pytest.raises(
        ConfigError, match=r"^\[sinks\] is the same with --smoke: move \[smoke\.sinks"
    ):
        read_study(NANO + "[smoke.sinks.tensorboard]\n", smoke=True)
    assert read_study(f"{NANO}\n{SINKS}", smoke=True).sinks == (
        WandbSettings(),
        TensorBoardSettings(),
    )


def test_the_execution_is_the_same_with_smoke() -> None:
    with pytest.raises(ConfigError, match=r"move \[smoke\.execution\] to \[execution\]\.$"):
        read_study(NANO + "[smoke.execution]\n", smoke=True)


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
        Study(read_study(f"{NANO}\n{SINKS}"), store, "f").claim_store()
        Study(read_study(f"{NANO}\n[sinks.trackio]\n"), store, "f").claim_store()
        Study(read_study(f"{NANO}\n[execution]\ncompile = true\n"), store, "f").claim_store()
        assert len(store.journal) == 1
        assert (tmp_path / "study.toml").read_text(encoding="utf-8") == NANO
        with pytest.raises(StoreError, match="with another study file"):
            Study(read_study(f"{NANO}# a remark\n\n{SINKS}"), store, "f").claim_store()
