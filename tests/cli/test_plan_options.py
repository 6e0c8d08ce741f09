"""Planning for a device on the command line."""

import json

import pytest
from click.testing import CliRunner, Result

from optbench.cli import main


def plan(*words: str) -> Result:
    return CliRunner().invoke(main, ["plan", *words])


def test_a_plan_for_a_device_says_hours_money_and_time() -> None:
    done = plan("nano", "--device", "a100", "--mfu", "0.5", "--price", "1.5", "--devices", "4")
    assert done.exit_code == 0, done.output
    assert "on a100: 312 TFLOP/s in bfloat16, of which 50% are reached" in done.stdout
    for title in ("device-hours", "in updates", "price"):
        assert title in done.stdout
    assert "a100-hours for" in done.stdout
    assert "on 4 a100s" in done.stdout


def test_without_a_price_there_is_no_money() -> None:
    done = plan("nano", "--device", "h100")
    assert "price" not in done.stdout
    assert "on 1 h100" in done.stdout


def test_cells_are_listed_on_request() -> None:
    assert "d32 1.5x" not in plan("nano", "--device", "h100").stdout
    assert "d32 1.5x" in plan("nano", "--device", "h100", "--by-cell").stdout


def test_json_carries_what_was_asked_for() -> None:
    done = plan("nano", "--device", "h100", "--price", "2", "--format", "json")
    found = json.loads(done.stdout)
    assert found["allocation"]["mfu"] == 0.4
    assert found["price"] == pytest.approx(found["device_s"] / 3600 * 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--price", "2", "--devices", "8"], "--price and --devices can only be given with --dev"),
        (["--device", "h100", "--workers", "64"], "With --device, --devices is how many runs go"),
        (["--device", "h1000"], "'h1000' is not one of 'h100', 'h200', 'b200', 'a100'"),
        (["--device", "h100", "--mfu", "0"], "0.0 is not in the range 0<x<=1"),
    ],
)
def test_half_a_device_is_refused(words: list[str], message: str) -> None:
    done = plan("nano", *words)
    assert done.exit_code == 2
    assert message in done.output


def test_memory_is_told_by_size_and_what_does_not_fit_is_said() -> None:
    told = plan("paper", "--device", "rtx4090").stdout
    assert "Memory on one rtx4090 (24 GB), computed, not measured" in told
    least, most = (line for line in told.splitlines() if "│ 1.2b" in line)
    assert "soap" in most
    assert "soap" not in least
    assert most.count("none: ") == 2
    assert " of 128: " in next(line for line in told.splitlines() if "│ 130m" in line)
