"""Jobs on several processes: what they report, how they are restarted, and that none is left."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from optbench.config import ConfigError
from optbench.execution import Execution
from optbench.executors.processes import ProcessExecutor
from optbench.training.distributed import elastic
from optbench.training.run import device_problems, run, use_one_thread
from optbench.training.trainer import Progress
from tests.data.synthetic import prepared
from tests.executors import executor_jobs
from tests.training.distributed.ranks_together import ROOT, ranks_can_import_the_jobs
from tests.training.test_run import run_config
from tests.waiting import has_started, is_running
from tests.waiting import until as until_within

TIMEOUT_S = 120
until = functools.partial(until_within, timeout_s=TIMEOUT_S)  # ranks start slowly
MODULE = "tests.training.distributed.rank_jobs"


@pytest.fixture(autouse=True)
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks_can_import_the_jobs(monkeypatch)
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the folders of jobs are made; every test leaves it empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    until(lambda: not list(folder.glob("optbench-ranks-*")), "the job's folder is gone")


def pid_in(file: Path) -> int:
    until(lambda: has_started(file), f"{file.name} is written")
    return int(file.read_text())


def ranks_of(parent: int) -> list[int]:
    """The ranks that a process has started, in no order."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text()
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) != parent:
                continue
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "rank_process" in command:
            found.append(int(entry.name))
    return found


def test_reports_arrive_in_order_also_after_a_line_that_was_torn() -> None:
    said: list[dict[str, int]] = []
    answer = elastic.run_ranks(MODULE, {"name": "report_and_die"}, 2, said.append)
    assert answer == {"ended": True}
    assert [one["number"] for one in said] == [0, 1, 2, 10, 11, 12]


def test_a_killed_rank_restarts_all(tmp_path: Path) -> None:
    first = [tmp_path / f"pid-{rank}-0" for rank in range(2)]
    killer = threading.Thread(
        target=lambda: [pid_in(first[0]), os.kill(pid_in(first[1]), signal.SIGKILL)]
    )
    killer.start()
    answer = elastic.run_ranks(MODULE, {"name": "note_pid", "folder": str(tmp_path)}, 2)
    killer.join()
    assert answer == {"restarts": 1, "size": "2"}
    assert (tmp_path / "pid-0-1").exists()
    assert not any(is_running(pid_in(file)) for file in first)


@pytest.mark.slow
def test_restarted_ranks_do_not_look_for_dead_ones_where_these_had_listened() -> None:
    # Which of two connects to the other depends on their ports: three meetings, to be sure.
    answer = elastic.run_ranks(MODULE, {"name": "join_again"}, 2, max_restarts=6)
    assert answer == {"restarts": 3, "total": 2.0}


def test_an_error_of_a_rank_is_told_after_the_restarts() -> None:
    with pytest.raises(elastic.RanksError) as caught:
        elastic.run_ranks(MODULE, {"name": "raise_an_error"}, 2, max_restarts=1)
    told = str(caught.value)
    assert told.startswith("Rank 1 of the run ended with code 1 after 1 restarts.\nTraceback")
    assert told.endswith("RuntimeError: the cause of it all")


def test_what_cannot_get_better_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(elastic.RanksError, match=r"^this cannot be: remedy$"):
        elastic.run_ranks(MODULE, {"name": "refuse", "folder": str(tmp_path)}, 2)
    assert sorted((tmp_path / "attempts").read_text()) in (["1"], ["0", "1"])


def test_a_refusal_in_the_last_attempt_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(elastic.RanksError, match=r"^this cannot be: remedy$"):
        elastic.run_ranks(MODULE, {"name": "refuse", "folder": str(tmp_path)}, 2, max_restarts=0)


def test_a_module_that_is_not_there_is_told() -> None:
    with pytest.raises(elastic.RanksError, match=r"No module named tests\.nowhere"):
        elastic.run_ranks("tests.nowhere", {}, 2, max_restarts=0)


def test_an_error_of_who_listens_is_raised() -> None:
    def listen(_: object) -> None:
        raise KeyError("bar")

    with pytest.raises(KeyError, match="bar"):
        elastic.run_ranks(MODULE, {"name": "report_and_die"}, 2, listen)


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_an_error_of_who_listens_is_not_taken_for_a_torn_line(
    error: type[Exception], tmp_path: Path
) -> None:
    def listen(what: object) -> None:
        heard.append(what)
        if what == 2:
            raise error("bar")

    heard: list[object] = []
    (tmp_path / "progress").write_bytes(b'1\n{"torn\n2\n3\n')
    with pytest.raises(error, match="bar"), elastic._following(tmp_path / "progress", listen):
        pass
    assert heard == [1, 2]


def test_a_report_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    job = elastic.RankJob({}, 0, tmp_path / "no folder")
    job.report({"step": 1})
    assert not (tmp_path / "no folder").exists()


def test_the_process_is_left_as_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    elastic.run_ranks(MODULE, {"name": "report_and_die"}, 2)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert "TORCHELASTIC_SIGNALS_TO_HANDLE" not in os.environ


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_rank_outlives_the_process_that_started_it(sent: signal.Signals, tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        from optbench.training.distributed import elastic
        elastic.run_ranks("{MODULE}", {{"name": "note_pid", "folder": "{tmp_path}"}}, 2)
    """)
    driver = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        ranks = [pid_in(tmp_path / f"pid-{rank}-0") for rank in range(2)]
        driver.send_signal(sent)
        assert driver.wait(TIMEOUT_S) == -sent
        until(lambda: not any(map(is_running, ranks)), "the ranks have ended")
    finally:
        driver.kill()
        driver.wait()


# Runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("cache")).directory


def test_a_batch_smaller_than_the_devices_is_refused() -> None:
    assert device_problems(Execution(devices_per_run=4), 4) == []
    assert device_problems(Execution(devices_per_run=5), 4) == [
        "Each device takes sequences of every batch, but a batch of 4 was to be shared out among "
        "5 devices. Use 4 devices per run at most."
    ]


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert device_problems(Execution(devices_per_run=2), 4) == [
        "A run was to use 2 GPUs, but this machine has 1. Use as many devices per run at most."
    ]
    assert device_problems(Execution(), 4) == []


def test_a_run_that_cannot_be_shared_out_starts_no_rank(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic, "run_ranks", lambda *_: pytest.fail("ranks were started"))
    record = run(run_config(), corpus, execution=Execution(devices_per_run=5))
    assert (record.status, ConfigError.__name__ in record.error) == ("failed", True)
    other = run(run_config().with_fingerprint("00"), corpus, execution=Execution(devices_per_run=2))
    assert "but the run was configured for 00" in other.error


@pytest.mark.slow
def test_a_run_on_two_devices_whose_rank_is_killed_is_the_run_of_one_process(
    corpus: Path, tmp_path: Path
) -> None:
    config = run_config(num_tokens=400 * 4 * 16)
    said: list[Progress] = []
    killed: list[int] = []

    def kill_a_rank(at: Progress) -> None:
        said.append(at)
        if not killed and at.step >= 200:
            killed.append(max(ranks_of(os.getpid())))
            os.kill(killed[0], signal.SIGKILL)

    weights = tmp_path / "weights" / "run.safetensors"
    execution = Execution(devices_per_run=2, checkpoint_steps=100)
    record = run(config, corpus, kill_a_rank, weights, execution, tmp_path / "checkpoints")
    alone = run(config, corpus)
    assert record.status == "completed", record.error
    assert record.run_id == alone.run_id
    assert record.test_loss == pytest.approx(alone.test_loss, rel=1e-5)
    assert record.val_curve == [(s, pytest.approx(loss, rel=1e-5)) for s, loss in alone.val_curve]
    assert record.state_bytes == alone.state_bytes == sum(record.execution["state_bytes_by_rank"])
    assert record.execution["devices"] == 2
    assert (record.execution["backend"], record.execution["restarts"]) == ("gloo", 1)
    assert record.execution["micro_batch_size"] == 2
    # From the newest checkpoint, not from the start.
    (resumed,) = record.execution["resumed_at_steps"]
    assert resumed in (100, 200, 300)
    assert record.execution["checkpoints_written"] >= 3
    # The one of step 200 may have been half written.
    problems = record.execution.get("checkpoint_problems", [])
    assert [p for p in problems if not p.endswith("writing it was not finished.")] == []
    assert (said[-1].step, said[-1].num_steps) == (400, 400)
    assert weights.exists()


@pytest.mark.slow
def test_runs_on_several_devices_go_side_by_side_from_worker_processes(corpus: Path) -> None:
    configs = [run_config(seed=seed) for seed in range(2)]
    execution = Execution(devices_per_run=2)
    with ProcessExecutor(2, initialize=use_one_thread) as executor:
        jobs = [executor.submit(run, c, corpus, quiet, None, execution) for c in configs]
        records = [job.result(TIMEOUT_S) for job in jobs]
    for record, config in zip(records, configs, strict=True):
        assert record.status == "completed", record.error
        assert record.test_loss == pytest.approx(run(config, corpus).test_loss, rel=1e-6)


def quiet(_: Progress) -> None:
    """A listener that can be sent to a worker."""


@pytest.mark.slow
def test_a_killed_worker_takes_its_ranks_along_and_the_job_is_done_again(
    tmp_path: Path, temporary: Path
) -> None:
    with ProcessExecutor(1, initialize=executor_jobs.nothing) as executor:
        job = {"name": "note_pid", "folder": str(tmp_path)}
        future = executor.submit(elastic.run_ranks, MODULE, job, 2)
        ranks = [pid_in(tmp_path / f"pid-{rank}-0") for rank in range(2)]
        for rank in range(2):
            (tmp_path / f"pid-{rank}-0").unlink()
        (worker,) = executor._workers
        worker.process.kill()
        until(lambda: not any(map(is_running, ranks)), "the ranks have ended")
        os.kill(pid_in(tmp_path / "pid-0-0"), signal.SIGKILL)  # the ranks of the new worker
        assert future.result(TIMEOUT_S) == {"restarts": 1, "size": "2"}
