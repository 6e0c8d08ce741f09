"""The command line: real invocations on a real, tiny study, and the exact text of errors."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optbench.cli import main
from tests.smoke_study import SmokeStudy


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def optbench(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """A real process, as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "optbench.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "200"},
    )


def run_ids(store: Path) -> list[str]:
    return [json.loads(line)["run_id"] for line in (store / "runs.jsonl").read_text().splitlines()]


def test_help_names_every_verb_and_does_not_import_torch() -> None:
    code = (
        "import sys, click.testing, optbench.cli as c\n"
        "print(click.testing.CliRunner().invoke(c.main, ['--help']).output)\n"
        "assert not {'torch', 'numpy', 'scipy', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in ("run", "plan", "train", "show", "explain", "report", "bench"):
        assert re.search(rf"^  {verb} ", done.stdout, re.MULTILINE)


def test_a_limit_stops_a_study_at_the_end_of_a_run_and_the_next_sitting_goes_on(
    tmp_path: Path,
) -> None:
    out = tmp_path / "store"
    limited = ("run", "nano", "--smoke", "--workers", "1", "--out", str(out), "--max-runs")
    done = optbench(*limited, "2")
    assert done.returncode == 0, done.stderr
    first = run_ids(out)
    assert 2 <= len(first) <= 4  # what is going on or about to is awaited
    assert f"The study's budget is spent: {len(first)} runs, at most 2." in done.stdout
    assert (out / "report.html").exists()
    again = optbench(*limited, "5")
    assert again.returncode == 0, again.stderr
    assert run_ids(out)[: len(first)] == first
    assert 5 <= len(run_ids(out)) <= 7


@pytest.mark.parametrize("verb", ["run", "plan", "train", "show", "explain", "report", "bench"])
def test_every_verb_has_help(verb: str) -> None:
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert f"Usage: main {verb}" in result.output
    assert len(result.output.splitlines()) > 5


def test_the_study_ends_with_its_table_and_its_report(
    smoke_study: SmokeStudy,
) -> None:
    out, done = smoke_study.store, smoke_study
    assert done.stderr == ""
    for name in ("adamw", "nadamw", "lion", "muon"):
        assert re.search(rf"^[│| ]+{name} ", done.stdout, re.MULTILINE), done.stdout
    assert f"Report: {out / 'report.html'}" in done.stdout
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "</html>" in html
    assert "Muon" in html or "muon" in html


def test_progress_names_runs_speed_and_time_left(
    smoke_study: SmokeStudy,
) -> None:
    line = re.compile(r"^\[ *\d+/\d+\] \w+ .* val [\d.]+ +\d+k tok/s, .+ left$", re.MULTILINE)
    assert len(line.findall(smoke_study.stdout)) >= 10


def test_the_same_command_again_trains_nothing_and_prints_the_same_table(
    smoke_study: SmokeStudy,
) -> None:
    out, first = smoke_study.store, smoke_study
    before = (out / "runs.jsonl").read_bytes()
    again = optbench("run", "nano", "--smoke", "--out", str(out))
    assert again.returncode == 0
    assert (out / "runs.jsonl").read_bytes() == before
    assert table_of(again.stdout) == table_of(first.stdout)


def table_of(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(("│", "┃", "|"))]


def test_the_report_is_rebuilt_from_records_without_torch(
    smoke_study: SmokeStudy, tmp_path: Path
) -> None:
    out, first = smoke_study.store, smoke_study
    page = tmp_path / "again.html"
    code = (
        "import sys; from optbench.cli import main\n"
        f"main(['report', '--store', {str(out)!r}, '--out', {str(page)!r}],"
        " standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert table_of(done.stdout) == table_of(first.stdout)
    assert page.read_bytes() == (out / "report.html").read_bytes()


def test_report_prints_json_and_markdown(
    smoke_study: SmokeStudy,
) -> None:
    store = str(smoke_study.store)
    summary = json.loads(invoke("report", "--store", store, "--format", "json").output)
    assert {row["optimizer"] for row in summary["rows"]} == {"adamw", "nadamw", "lion", "muon"}
    markdown = invoke("report", "--store", store, "--format", "markdown").output
    assert markdown.startswith("**Smoke test")
    assert "\n| optimizer | speed-up in tokens |" in markdown


def test_show_lists_the_runs_and_prints_one(
    smoke_study: SmokeStudy,
) -> None:
    store = str(smoke_study.store)
    ids = run_ids(smoke_study.store)
    listing = json.loads(invoke("show", "--store", store, "--format", "json").output)
    assert [record["run_id"] for record in listing] == ids
    one = json.loads(invoke("show", ids[0][:8], "--store", store, "--format", "json").output)
    assert one == listing[0]
    text = invoke("show", ids[0], "--store", store).output
    assert ids[0] in text
    assert "nats/token" in text
    assert f"{len(ids)} runs." in invoke("show", "--store", store).output


def test_a_shown_configuration_trains_to_the_same_losses_bit_for_bit(
    smoke_study: SmokeStudy, tmp_path: Path
) -> None:
    store = str(smoke_study.store)
    known = json.loads(invoke("show", "--store", store, "--format", "json").output)[0]
    config = tmp_path / "run.json"
    config.write_text(invoke("show", known["run_id"], "--store", store, "--config").output)
    done = optbench("train", str(config), "--store", str(tmp_path / "single"))
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "single" / "runs.jsonl").read_text().splitlines()
    record = json.loads(line)
    for key in ("run_id", "val_loss", "test_loss", "train_curve", "val_curve"):
        assert record[key] == known[key]


def test_a_run_from_flags_is_trained_once(tmp_path: Path) -> None:
    arguments = ("train", "--optimizer", "muon", "--ratio", "0.02", "--set", "lr=0.02",
                 "--store", str(tmp_path))  # fmt: skip
    first, second = optbench(*arguments), optbench(*arguments)
    assert first.returncode == second.returncode == 0, first.stderr
    assert "muon: aux_lr_ratio=" in first.stdout
    assert "lr=0.02" in first.stdout
    assert "is in" in second.stdout
    assert "already." in second.stdout
    assert len(run_ids(tmp_path)) == 1


def test_plan_trains_nothing_and_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("plan", "nano", "--smoke", "--device", "h100", "--format", "json")
    plan = json.loads(done.stdout)
    assert plan["runs"] == sum(row["runs"] for row in plan["rows"])
    assert plan["tokens"] == sum(row["tokens"] for row in plan["rows"])
    assert 0 < plan["seconds"] <= plan["seconds_worst"]
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_a_power_cut_tore_is_trained_again_and_nothing_else(
    smoke_study: SmokeStudy, tmp_path: Path
) -> None:
    out = tmp_path / "torn"
    shutil.copytree(smoke_study.store, out)
    runs = out / "runs.jsonl"
    whole = runs.read_bytes().splitlines(keepends=True)[:-1]
    runs.write_bytes(runs.read_bytes()[:-7])
    done = optbench("run", "nano", "--smoke", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs.read_bytes().splitlines(keepends=True)[:-1] == whole
    assert losses(out) == losses(smoke_study.store)


def losses(store: Path) -> dict[str, float]:
    records = [json.loads(line) for line in (store / "runs.jsonl").read_text().splitlines()]
    return {record["run_id"]: record["test_loss"] for record in records}


def test_ctrl_c_says_what_is_kept_and_prints_no_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "optbench.cli",
        "run",
        "nano",
        "--smoke",
        "--out",
        str(tmp_path),
    ]
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        runs = tmp_path / "runs.jsonl"
        if runs.exists() and runs.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    stdout, stderr = driver.communicate(timeout=300)
    assert driver.returncode == 130
    assert re.search(
        r"Interrupted\. \d+ finished runs are kept in .*goes on from there", stdout, re.S
    )
    assert "Traceback" not in stdout + stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nanno"], "Error: Unknown study 'nanno'. Did you mean 'nano'?"),
        (["plan", "missing.toml"], "Error: There is no study file missing.toml."),
        (["show", "--store", "nowhere"], "Error: There are no runs in nowhere (no runs.jsonl)."),
        (["report", "--store", "nowhere"], "Error: There are no runs in nowhere (no runs.jsonl)."),
        (["train", "--optimizer", "moun"], "Error: Unknown optimizer 'moun'. Did you mean 'muon'?"),
        (["train", "--size", "d31"], "Error: Unknown model size 'd31'. Did you mean 'd32'?"),
        (["train", "--set", "lr=fast"], "Error: --set takes NAME=VALUE with a number"),
        (["train", "--set", "l=1"], "Error: Unknown setting 'l'. Did you mean 'lr'?"),
        (
            ["train", "--set", "lr=-1"],
            "Error: `lr` must be at least 0 and be finite, but got lr=-1.",
        ),
        (["train", "--ratio", "0"], "Error: The ratio must lie in (0, 1000], but got 0.0."),
        (
            ["train", "--set", "warmup_frac=1.5"],
            "Error: warmup_frac must lie in [0, 1], but got 1.5.",
        ),
        (["train", "--ratio", "nan"], "'--ratio': nan is not a finite number."),
        (["train", "--ratio", "-1"], "Error: The ratio must lie in (0, 1000], but got -1.0."),
        (["train", "--seed", "-1"], "Error: seed must not be negative, but got -1."),
        (["train", "--seed", str(2**63)], f"Error: seed must be below 2^63, but got {2**63}."),
        (["train", "--optimizer", ""], "Error: Unknown optimizer ''."),
        (["train", "--set", "batch_size=0"], "Error: batch_size must be at least 1, but got 0."),
        (
            ["train", "--set", "batch_size=1.5"],
            "Error: batch_size must be a whole number, but got 1.5.",
        ),
        (["train", "--set", "lr=true"], "Error: lr must be a number, but got True."),
        (["train", "--set", "lr=1979-05-27"], "Error: lr must be a number, but got 1979-05-27."),
        (["train", "--set", "lr=nan"], "Error: lr must be a finite number, but got nan."),
        (["train", "--set", "decay_frac=5"], "Error: decay_frac must lie in [0, 1], but got 5."),
        (["train", "--set", "lr=1\nx=2"], "Error: --set takes NAME=VALUE with a number"),
        (["run", "nano", "--max-tokens", "nan"], "'--max-tokens': nan is not a finite number."),
        (["plan", "nano", "--device", "h100", "--mfu", "nan"], "nan is not a finite number."),
        (["plan", "nano", "--device", "h100", "--price", "inf"], "inf is not a finite number."),
        (["plan", ""], "Error: Unknown study ''."),
        (["run", "nano", "--workers", "0"], "Error: Invalid value for '--workers'"),
    ],
)
def test_errors_name_the_condition_and_the_remedy(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert list(tmp_path.iterdir()) == []  # refused before anything is made


def test_two_drivers_cannot_share_a_store(tmp_path: Path) -> None:
    from optbench.store.store import RunStore

    with RunStore.open(tmp_path):
        done = optbench("run", "nano", "--smoke", "--out", str(tmp_path))
    assert done.returncode == 2
    assert f"Another optbench is writing to {tmp_path} (pid {os.getpid()} of " in done.stderr
