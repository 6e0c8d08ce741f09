"""A real, tiny study on Ray, whose driver is killed, interrupted and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from optbench.cli import main
from tests.executors.ray_here import ray_environment, ray_folder
from tests.waiting import until

PATIENCE_S = 180.0  # a busy machine starts Ray slowly
STUDY = """
name = "tiny"
corpus = "nano"
baseline = "adamw"
[cell]
size = "d32"
ratio = 0.05
[run]
batch_size = 16
eval_tokens = 4096
test_tokens = 4096
num_evals = 1
[protocol]
noise_seeds = 2
confirm_seeds = 2
max_runs = 6
[optimizers.adamw]
start = { lr = 0.004 }
space = { lr = [0.002, 0.004, 0.008] }
"""


def records(store: Path) -> list[dict[str, object]]:
    path = store / "runs.jsonl"
    # The last line may still be on its way.
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


@contextmanager
def driver(folder: str, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """`optbench run` in a process group of its own, as a terminal starts it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "optbench.cli", "run", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **ray_environment(folder), "COLUMNS": "200"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ray_processes(folder: str) -> list[str]:
    """Command lines of Ray's own processes whose sockets are in a folder."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            text = (
                (entry / "cmdline").read_text().replace("\0", " ") if entry.name.isdigit() else ""
            )
        except OSError:
            continue
        if folder in text and ("/raylet " in text or "/gcs_server " in text):
            found.append(text)
    return found


def has_runs(store: Path, number: int) -> Callable[[], bool]:
    return lambda: len(records(store)) >= number


def test_a_study_goes_on_after_a_kill_and_an_interrupt_and_trains_no_run_twice(
    tmp_path: Path,
) -> None:
    study, out = tmp_path / "tiny.toml", tmp_path / "ray"
    study.write_text(STUDY)
    command = (str(study), "--executor", "ray", "--workers", "2", "--out", str(out))
    with ray_folder() as folder:
        with driver(folder, *command) as first:
            until(has_runs(out, 1), "a run has ended", PATIENCE_S)
            assert ray_processes(folder)
            first.kill()
            first.wait()
            until(lambda: not ray_processes(folder), "its Ray is gone")
        kept = records(out)
        with driver(folder, *command) as second:
            until(has_runs(out, len(kept) + 1), "another run has ended", PATIENCE_S)
            os.killpg(second.pid, signal.SIGINT)
            stdout, stderr = second.communicate(timeout=60)
        assert second.returncode == 130, stdout + stderr
        assert "finished runs are kept in" in stdout
        assert "Traceback" not in stdout + stderr
        until(lambda: not ray_processes(folder), "its Ray is gone")
        with driver(folder, *command) as third:
            stdout, stderr = third.communicate(timeout=300)
        assert third.returncode == 0, stdout + stderr
        assert stderr == ""
    done = records(out)
    assert done[: len(kept)] == kept
    assert len({record["run_id"] for record in done}) == len(done)

    inline = tmp_path / "inline"
    result = CliRunner().invoke(
        main, ["run", str(study), "--executor", "inline", "--out", str(inline)]
    )
    assert result.exit_code == 0, result.output
    assert losses(inline) == losses(out)  # bit for bit


def losses(store: Path) -> dict[object, object]:
    return {
        record["run_id"]: (record["val_curve"], record["test_loss"]) for record in records(store)
    }


@pytest.mark.parametrize("verb", ["run", "plan"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "auto"], "--address can only be given with --executor ray."),
        (
            ["--executor", "inline", "--cpus-per-run", "1", "--gpus-per-run", "1"],
            "--cpus-per-run and --gpus-per-run can only be given with --executor ray.",
        ),
        (
            ["--executor", "inline", "--workers", "2"],
            "--executor inline has one worker, so --workers 2 cannot be.",
        ),
        (
            ["--executor", "ray", "--cpus-per-run", "0"],
            "--cpus-per-run 0 needs --gpus-per-run: a run takes something.",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    verb: str, options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [verb, "nano", *options])
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_ray_the_study_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    study = tmp_path / "tiny.toml"
    study.write_text(STUDY)
    done = CliRunner().invoke(
        main, ["run", str(study), "--executor", "ray", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 2
    assert done.stderr == "Error: Ray is not installed. Install it: pip install 'optbench[ray]'\n"


def test_fewer_gpus_than_devices_of_a_run_are_refused_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--executor", "ray", "--devices-per-run", "4", "--gpus-per-run", "2"]
    done = CliRunner().invoke(main, ["run", "nano", *options])
    assert done.exit_code == 2
    assert done.stderr.startswith(
        "Error: A run was to use 4 devices, but only 2 GPUs were to be kept for it, "
    )
    assert list(tmp_path.iterdir()) == []
