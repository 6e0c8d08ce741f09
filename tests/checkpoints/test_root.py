"""A run that is in the store needs no checkpoint any more."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from optbench.checkpoints.manifest import CheckpointError
from optbench.checkpoints.root import CheckpointRoot
from optbench.cli import train as single_session
from optbench.config import RunConfig
from optbench.executors.processes import InlineExecutor
from optbench.store.store import RunRecord, RunStore, Status
from optbench.study.sweep import Sweep, Task
from tests.builders import TINY_CONFIG, config_with_lr, record_of


def leave(root: Path, *run_ids: str) -> None:
    for run_id in run_ids:
        (root / run_id / "step-00000001").mkdir(parents=True, exist_ok=True)


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_the_default_is_a_folder_of_the_store_and_a_url_is_taken_as_it_is(tmp_path: Path) -> None:
    assert CheckpointRoot.of(tmp_path, None).root == tmp_path / "checkpoints"
    assert CheckpointRoot.of(tmp_path, "memory://x").root == "memory://x"
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(CheckpointError, match="Checkpoints cannot be kept in 'nosuch://x'"):
        CheckpointRoot.of(tmp_path, "nosuch://x")
    with pytest.raises(CheckpointError, match=r"^Checkpoints cannot be kept in '': give a folder"):
        CheckpointRoot.of(tmp_path, "")


def test_a_failed_run_keeps_its_checkpoints_and_others_lose_theirs(tmp_path: Path) -> None:
    directory = CheckpointRoot(tmp_path)
    leave(tmp_path, record_of().run_id, "other")
    directory.discard(record_of(status="failed", loss=None))
    assert record_of().run_id in names(tmp_path)
    directory.discard(record_of(status="diverged", loss=None))
    assert names(tmp_path) == {"other"}


def test_what_a_driver_that_died_has_left_is_removed(tmp_path: Path) -> None:
    done, failed = record_of(config_with_lr(1.0)), record_of(config_with_lr(2.0), loss=None)
    root = tmp_path / "checkpoints"
    leave(root, done.run_id, failed.run_id, "other")
    with RunStore.open(tmp_path) as store:
        store.append(done)
        store.append(dataclasses.replace(failed, status="failed"))
        CheckpointRoot.of(tmp_path, None).discard_finished(store)
    assert names(root) == {failed.run_id, "other"}


class Training:
    """``optbench train`` of the tiny run, which itself is made up."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.root = folder, folder / "checkpoints"
        self.record, self.found = record_of(TINY_CONFIG), set[str]()
        manifest = SimpleNamespace(corpus="toy", vocab_size=64, fingerprint="f0")
        monkeypatch.setattr(single_session, "run_problems", lambda _: [])
        monkeypatch.setattr(single_session, "prepared_corpus", lambda *_: manifest)
        monkeypatch.setattr(single_session, "check_corpus", lambda *_: None)
        monkeypatch.setattr(single_session, "run", self.run)

    def run(self, *_: object) -> RunRecord:
        self.found = names(self.root)
        leave(self.root, self.record.run_id)
        return self.record

    def __call__(self, *, keep_weights: bool = False) -> None:
        console = Console(quiet=True)
        single_session.train_one(TINY_CONFIG, self.folder, console, keep_weights=keep_weights)


def test_train_removes_what_was_left_and_what_it_leaves_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = record_of(config_with_lr(2.0))
    with RunStore.open(tmp_path) as store:
        store.append(other)
    training = Training(tmp_path, monkeypatch)
    leave(training.root, other.run_id, "unknown")
    training()
    assert training.found == names(training.root) == {"unknown"}
    leave(training.root, TINY_CONFIG.run_id)
    training()
    assert names(training.root) == {"unknown"}


@pytest.mark.parametrize(
    ("status", "left"),
    [("completed", set()), ("diverged", set()), ("failed", {TINY_CONFIG.run_id})],
)
def test_a_run_trained_again_for_its_weights_goes_on_and_then_leaves_nothing_unless_it_failed(
    status: Status, left: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path, monkeypatch)
    with RunStore.open(tmp_path) as store:
        store.append(training.record)
    leave(training.root, TINY_CONFIG.run_id)
    training.record = record_of(status=status, loss=3.25 if status == "completed" else None)
    training(keep_weights=True)
    assert training.found == {TINY_CONFIG.run_id}
    assert names(training.root) == left


def test_what_cannot_be_removed_is_said_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    directory = CheckpointRoot(tmp_path / "file")
    directory.discard(record_of())
    said = f"Checkpoints of finished runs stay in {tmp_path / 'file'}: "
    assert [text.startswith(said) for text in caplog.messages] == [True]


class Silent:
    def queued(self, configs: object) -> None: ...
    def finished(self, record: object, *, from_store: bool) -> None: ...
    def tick(self) -> None: ...


def test_a_sweep_tells_of_every_record_when_it_is_in_the_store(tmp_path: Path) -> None:
    told: list[tuple[str, bool]] = []
    configs = [config_with_lr(1.0), config_with_lr(2.0)]
    with RunStore.open(tmp_path) as store:
        sweep = Sweep(
            store,
            InlineExecutor(),
            record_of,
            Silent(),
            on_stored=lambda record: told.append((record.run_id, record.run_id in store.records)),
        )
        sweep.run([asking_for(configs)])
    assert told == [(config.run_id, True) for config in configs]


def asking_for(configs: list[RunConfig]) -> Task:
    yield configs
