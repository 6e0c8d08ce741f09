"""What a running study shows, against a clock that the test moves."""

import io

import pytest
from rich.console import Console

from optbench.config import RunConfig
from optbench.store.store import RunRecord
from optbench.study.file import find_study, read_study
from optbench.study.progress import StudyProgress, describe_configuration
from tests.study.test_study import record_of

EXPECTED = {("adamw", 655_360): 6, ("muon", 655_360): 4}
AXES = {"adamw": ["lr", "beta1"], "muon": ["lr", "momentum"]}


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("optbench.study.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def run(optimizer: str, lr: float, seed: int = 0) -> RunConfig:
    study = read_study(find_study("nano"))
    start = {**study.optimizers[optimizer].start, "lr": lr}
    return study.run_config(optimizer, study.tuned_cell, start, seed=seed, fingerprint="")


def watched(console: Console) -> StudyProgress:
    return StudyProgress(console, EXPECTED, 100.0, AXES, tuned_tokens=655_360, _started=0.0)


def shown(progress: StudyProgress) -> str:
    output = io.StringIO()
    Console(file=output, width=120).print(progress)
    return output.getvalue()


def test_the_panel_names_runs_speed_time_and_the_best_of_each(clock: Clock) -> None:
    with watched(Console(file=io.StringIO())) as progress:
        configs = [run("adamw", 0.008), run("adamw", 0.016), run("muon", 0.064)]
        progress.queued(configs)
        for config, loss in zip(configs, (4.5, 4.25, None), strict=True):
            clock.now += 20
            progress.finished(record_of(config, loss), from_store=False)
    text = shown(progress)
    assert any(line.startswith("optimizer  runs  best val loss") for line in text.splitlines())
    assert "3 of 10 runs" in text
    assert "33k tokens/s" in text  # 3 · 655,360 tokens in 60 s
    assert "1 min 00 s so far" in text
    assert "2 min 20 s left" in text  # 7 of 10 runs at 20 s each
    assert "4.2500" in text
    assert "lr=0.016 beta1=0.9" in text
    assert "4.5000" not in text
    assert progress.runs_trained == 3


def test_runs_from_the_store_count_as_done_but_not_as_speed(clock: Clock) -> None:
    with watched(Console(file=io.StringIO())) as progress:
        kept, trained = run("adamw", 0.008), run("adamw", 0.016)
        progress.queued([kept, trained])
        progress.finished(record_of(kept, 4.5), from_store=True)
        assert progress.tokens_per_s == 0
        assert progress.seconds_left == pytest.approx(90.0)  # from the plan
        clock.now = 30.0
        progress.finished(record_of(trained, 4.4), from_store=False)
    assert progress.runs_trained == 1
    assert "1 kept from before" in shown(progress)
    assert progress.seconds_left == pytest.approx(8 * 30.0)


def test_a_study_that_asks_for_more_than_planned_says_so() -> None:
    with watched(Console(file=io.StringIO())) as progress:
        progress.queued([run("adamw", 0.008, seed) for seed in range(9)])
    assert progress.planned == 9 + 4  # more of one optimizer does not make less of another


def test_a_log_gets_one_line_for_each_run() -> None:
    output = io.StringIO()
    config = run("muon", 0.064)
    with watched(Console(file=output, width=160)) as progress:
        progress.queued([config])
        progress.finished(record_of(config, 4.125), from_store=False)
    (line,) = output.getvalue().splitlines()
    assert line.startswith("[  1/10] muon      lr=0.064 momentum=0.9 tokens=0.66M seed=0 ")
    assert "val 4.1250" in line


def test_a_failure_gets_a_line_with_the_end_of_its_error() -> None:
    output = io.StringIO()
    config = run("muon", 0.064)
    error = "Traceback (most recent call last):\n  ...\nValueError: no [bold] room\n"
    with watched(Console(file=output, width=40)) as progress:
        progress.queued([config])
        progress.failed(config, error, final=False)
        progress.failed(config, error, final=True)
    assert output.getvalue().splitlines() == [
        f"muon lr=0.064 momentum=0.9 tokens=0.66M seed=0 failed, {then}: ValueError: no [bold] room"
        for then in ("tried again", "abandoned")
    ]
    assert progress.runs_trained == 0


def test_run_level_axes_are_described_as_well() -> None:
    text = describe_configuration(run("adamw", 0.008), ["lr", "batch_size", "warmup_frac"])
    assert text == "lr=0.008 batch_size=16 warmup_frac=0.1"


def test_a_record_that_diverged_is_never_the_best() -> None:
    config = run("adamw", 0.032)
    record: RunRecord = record_of(config, None)
    with watched(Console(file=io.StringIO())) as progress:
        progress.queued([config])
        progress.finished(record, from_store=False)
    assert "lr=0.032" not in shown(progress)
