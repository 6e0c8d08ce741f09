"""The benchmark scripts run, at a size that takes a second."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_step_times_are_written_with_their_environment(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    size = ["--layers", "1", "--width", "64", "--vocab", "64", "--rounds", "2"]
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "step_time.py"),
            *size,
            "--method",
            "lion",
            "--out",
            str(out),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(out.read_text())
    assert facts["environment"]["torch"]
    rows = {row["implementation"]: row for row in facts["rows"]}
    assert rows["optbench"]["ratio_to_ours"] == 1.0
    assert rows["lion-pytorch"]["median_ms"] > 0
    params = facts["parameters"]
    assert [row["state_bytes"] for row in rows.values()] == [4 * params] * len(rows)
    assert facts["floor_ms"]["lion"] == pytest.approx(
        20 * params / facts["bandwidth_bytes_per_s"] * 1e3
    )
    fastest = min(row["ratio_to_ours"] for name, row in rows.items() if name != "optbench")
    assert facts["geometric_mean_of_ours_over_fastest_peer"] == pytest.approx(1 / fastest)


def test_searches_are_counted_until_the_optimum_and_until_the_certificate(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    table = tmp_path / "ablations.csv"
    config = {"beta1": 0.9, "learning_rate": 0.008}
    lines = [("", "", 3.0), ("learning_rate", 0.004, 3.1), ("learning_rate", 0.016, math.nan)]
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        cell = ["optimizer", "model_size", "chinchilla"]
        writer.writerow([*cell, "changed_key", "changed_value", "loss", "config"])
        for name, value, loss in lines:
            changed = {**config, name: value} if name else config
            writer.writerow(["adamw", "130m", "1", name, value, loss, json.dumps(changed)])
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / "search_runs.py"), "--problems", "1"),
            *("--scheme", "by axis", "--scheme", "line", "--scheme", "random", "--budget", "5"),
            *("--tables", str(table), "--out", str(out)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(out.read_text())
    rows = {(row["family"], row["scheme"]): row for row in facts["rows"]}
    assert {family for family, _ in rows} == {"separable", "coupled", "noisy", "cliff", "nano"}
    assert rows["separable", "paper"]["ratio_to_paper"] == 1.0
    assert rows["separable", "line"]["certified_median"] >= rows["separable", "line"]["near_median"]
    assert rows["separable", "line"]["ratio_to_paper"] < 1.0
    assert rows["nano", "random"]["certified_median"] is None
    adjacent, bracket = facts["certificates"]
    # The line 0.004, 0.008, 0.016 of the table, whose last value diverged.
    assert adjacent["ends"] == bracket["ends"] == 1
    assert (bracket["wrong"], bracket["runs"], bracket["runs_of_whole_lines"]) == (0, 2, 2)


def test_reading_is_compared_with_training(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "data_reading.py"),
            *("--tokens", "1e6", "--rounds", "4", "--out", str(out)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 12
    assert all(0 < row["read_us"] < row["step_us"] for row in rows)


def test_the_engine_is_timed_against_another_tree(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / "engine.py"), "--against", str(BENCHMARKS.parent)),
            *("--queued", "20", "--records", "50", "--trained", "0", "--rounds", "2"),
            *("--out", str(out)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["label"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == [
        *("20 runs, inline 1", "20 runs, processes 1", "20 runs, processes 2"),
        "store of 50",
    ]
    for row in rows.values():
        assert row["rounds"].keys() == {"ours", "against"}
        assert [len(each) for each in row["rounds"].values()] == [2, 2]
        assert all(one["peak_mib"] > 10 for each in row["rounds"].values() for one in each)
    assert rows["store of 50"]["medians"]["ours"]["records"] == 50
    inline = rows["20 runs, inline 1"]["medians"]["ours"]
    assert inline["driver_cpu_ms_per_run"] > 0
    assert inline["ms_per_run"] > 0


def test_the_cost_of_a_checkpoint_is_measured_beside_a_step(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    size = ["--layers", "1", "--width", "64", "--vocab", "64", "--batch-size", "2"]
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "checkpoints.py"),
            *size,
            *("--rounds", "2", "--steps", "2", "--folder", str(tmp_path), "--out", str(out)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(out.read_text())
    # Parameters and two moments in float32, and a little beside.
    assert 0 <= facts["checkpoint_bytes"] - 12 * facts["parameters"] < 10_000
    assert facts["parts"]["snapshot_wall_s"]["median"] > 0
    assert facts["parts"]["write_cpu_s"]["median"] > 0
    rounds = facts["round_s"]
    assert {kind: len(times) for kind, times in rounds.items()} == dict.fromkeys(
        ("none", "none again", "synchronous", "asynchronous"), 2
    )
    for kind, delay in facts["run_delayed_by_s"].items():
        pairs = zip(rounds[kind], rounds["none"], strict=True)
        assert delay["median"] == pytest.approx(sum(one - none for one, none in pairs) / 2)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
