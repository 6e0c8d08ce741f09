"""A study through a full disk, an optimizer that breaks, clocks that jump and a second driver."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from optbench.cli import main
from optbench.store.store import RunStore
from tests.faults.disturbed import (
    DONE,
    GIVEN_UP,
    PATIENCE_S,
    REFUSED,
    TinyStudy,
    outcome,
)

FILE_BYTES = 7000  # of the records, three runs and a part of the next


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """A driver that has ended.

    Args:
        stored: the run of every record then.
    """

    code: int
    output: str
    stored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HardLife:
    """Three sessions with one study, and what a second driver was told in the middle one."""

    study: TinyStudy
    disk_full: SessionOptions
    lion_broken: SessionOptions
    second: Result
    last: SessionOptions


def sit(study: TinyStudy, driver: subprocess.Popen[str]) -> SessionOptions:
    output, _ = driver.communicate(timeout=PATIENCE_S)
    return SessionOptions(driver.returncode, output, tuple(study.stored()))


def wait_for_owner(study: TinyStudy) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (study.store / "lock").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> HardLife:
    study = TinyStudy(tmp_path_factory.mktemp("hard"))
    disk_full = sit(study, study.start({"OPTBENCH_TEST_FILE_BYTES": str(FILE_BYTES)}))
    hold = study.folder / "hold"
    hold.touch()
    faults = {"BREAKS": "lion", "CLOCK": "jumps", "HOLD": str(hold)}
    driver = study.start({f"OPTBENCH_TEST_{name}": value for name, value in faults.items()})
    wait_for_owner(study)
    again = ["run", str(study.file()), "--out", str(study.store)]
    second = CliRunner().invoke(main, again)
    hold.unlink()
    lion_broken = sit(study, driver)
    return HardLife(study, disk_full, lion_broken, second, sit(study, study.start()))


def test_a_full_disk_ends_the_sitting_with_its_name_and_keeps_whole_records(
    life: HardLife,
) -> None:
    sitting = life.disk_full
    assert sitting.code == REFUSED
    assert "Traceback" not in sitting.output
    assert re.search(
        rf"Error: {re.escape(str(life.study.store))}/runs\.jsonl could not be written "
        rf"\((No space left on device|File too large)\)\. What it held before is kept; free some "
        rf"space and start again\.",
        sitting.output,
    )
    assert len(sitting.stored) == 3


def test_an_optimizer_that_breaks_stops_itself_alone(life: HardLife) -> None:
    sitting = life.lion_broken
    assert sitting.code == GIVEN_UP
    assert "Traceback" not in sitting.output
    records = [RunStore.read(life.study.store).records[run_id] for run_id in sitting.stored]
    assert {r.config["optimizer"]["name"] for r in records} == {"adamw", "lion"}
    (line,) = re.findall(r"^lion lr=0\.001 .* failed, tried again: .*$", sitting.output, re.M)
    assert "faults" in line  # the folder that holds no corpus
    assert re.search(r"^lion lr=0\.001 .* failed, abandoned: ", sitting.output, re.MULTILINE)
    assert re.search(r"^Run \w{16} \(lion, .* failed 2 times\. Its log: ", sitting.output, re.M)
    (log,) = (life.study.store / "failed").iterdir()
    assert str(log) in sitting.output
    assert "Traceback (most recent call last)" in log.read_text()


def test_the_report_of_what_there_is_comes_out_nevertheless(life: HardLife) -> None:
    output = life.lion_broken.output
    assert re.search(r"^ adamw +1 \(baseline\) .* 6\.\d+ ± ", output, re.MULTILINE)
    assert re.search(r"^ lion +– ", output, re.MULTILINE)
    assert "lion is still being tuned: no confirmation runs yet." in output
    assert f"Report: {life.study.store / 'report.html'}" in output


def test_a_second_driver_is_refused_with_the_name_of_the_first(life: HardLife) -> None:
    assert life.second.exit_code == REFUSED
    assert re.search(
        rf"Error: Another optbench is writing to {re.escape(str(life.study.store))} \(pid \d+ of "
        rf"\S+ on host \S+, since .*, last sign of life \d+ s ago\)",
        life.second.output,
    )


def test_after_all_this_the_study_ends_like_an_undisturbed_one(
    life: HardLife, undisturbed: Mapping[str, Any]
) -> None:
    assert life.last.code == DONE
    assert outcome(life.study) == undisturbed
    finished = RunStore.read(life.study.store)
    failed = Counter(life.last.stored) - Counter(list(finished.records))
    assert sum(failed.values()) == 2  # lion's two attempts; one line of each run holds
    assert not failed.keys() - {path.stem for path in (life.study.store / "failed").iterdir()}


def test_times_are_those_of_a_clock_that_does_not_jump(life: HardLife) -> None:
    """The clocks of the second session went years back and forth."""
    store = RunStore.read(life.study.store)
    assert all(0 < record.wall_s < PATIENCE_S for record in store.records.values())
    ends = [entry["wall_s"] for entry in store.journal if entry["kind"] == "session_end"]
    assert len(ends) == 3
    assert all(0 < wall_s < 2 * PATIENCE_S for wall_s in ends)
    years = {record.started_at[:4] for record in store.records.values()}
    assert len(years) > 1  # they did jump


ON_A_DISK_OF_ITS_OWN = """
mount -t tmpfs -o size={size} none {folder} && cp -r {source}/. {folder} && {then}
"""


def on_a_disk_of_its_own(folder: Path, source: Path, size: str, then: str) -> SessionOptions:
    """Run a command where a folder is a small disk, which only that command sees."""
    script = ON_A_DISK_OF_ITS_OWN.format(folder=folder, source=source, size=size, then=then)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True, text=True, timeout=PATIENCE_S, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return SessionOptions(done.returncode, done.stdout + done.stderr, ())


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder that can become a disk; not every machine lets a user do that."""
    folder, empty = tmp_path / "disk", tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    if not shutil.which("unshare") or on_a_disk_of_its_own(folder, empty, "64k", "true").code:
        pytest.skip("this machine lets nobody mount a disk of his own")
    return folder


OPTBENCH = f"{sys.executable} -m optbench.cli"


@pytest.mark.slow
def test_a_store_on_a_read_only_disk_is_read_and_not_written(disk: Path, life: HardLife) -> None:
    study, elsewhere = life.study.file(), disk.with_name("report.html")
    done = on_a_disk_of_its_own(
        disk, life.study.store, "8m",
        f"mount -o remount,ro {disk} && ({OPTBENCH} run {study} --out {disk}; "
        f"{OPTBENCH} report --store {disk}; "
        f"{OPTBENCH} report --store {disk} --out {elsewhere})",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert "Traceback" not in done.output
    assert (
        f"Error: {disk} cannot be written to (Read-only file system). Choose another folder with "
        f"--out, or make this one writable."
    ) in done.output
    assert f"Error: {disk / 'report.html'} could not be written (Read-only file sy" in done.output
    assert f"Report: {elsewhere}" in done.output
    assert elsewhere.exists()


@pytest.mark.slow
def test_a_disk_that_is_really_full_loses_nothing(
    disk: Path, tmp_path: Path, undisturbed: Mapping[str, Any]
) -> None:
    study = TinyStudy(tmp_path / "study")
    study.store.mkdir(parents=True)
    kept = tmp_path / "kept"
    command = f"{OPTBENCH} run {study.file()} --out {disk} --workers 1"
    full = on_a_disk_of_its_own(disk, study.store, "28k", f"{command}; cp -r {disk} {kept}")
    assert "could not be written (No space left on device)" in full.output
    assert "Traceback" not in full.output
    study.store.rmdir()
    kept.rename(study.store)
    assert 0 < len(study.stored()) < 15
    sitting = sit(study, study.start())
    assert sitting.code == DONE, sitting.output
    assert outcome(study) == undisturbed
