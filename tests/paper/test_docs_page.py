"""The numbers of docs/paper.md are those that the analysis gives."""

from __future__ import annotations

from pathlib import Path

from optbench.statistics.speedup import Speedup
from tests.paper.published_analysis import paper_results

PAGE = (Path(__file__).parents[2] / "docs" / "paper.md").read_text(encoding="utf-8")
CELLS = [("130m", 1.0), ("130m", 8.0), ("1.2b", 1.0), ("1.2b", 2.0), ("1.2b", 4.0), ("1.2b", 8.0)]


def text(found: Speedup | None) -> str:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    bound = f"{found.bound} " if found.bound else ""
    mark = "†" if found.extrapolated else ""
    end = "∞)" if found.high == float("inf") else f"{found.high:.2f}]"
    return f"{bound}{found.value:.2f}{mark} [{found.low:.2f}, {end}"


def test_the_table_of_muon_is_recomputed() -> None:
    found = [paper_results().speedup("muon", size, ratio) for size, ratio in CELLS]
    known = [one for one in found if one is not None]
    for name, row in (
        ("paper", [one.paper for one in known]),
        ("interpolate", [one.interpolate for one in known]),
    ):
        assert f"| `{name}` | {' | '.join(map(text, row))} |" in PAGE
    for one in (known[0], known[2]):
        assert f" {text(one.joint)} " in PAGE


def test_verdicts_are_those_of_the_page() -> None:
    lines = PAGE[PAGE.index("| the paper says |") :].splitlines()[2:11]
    told = [[cell.strip().split(":")[0] for cell in line.split("|")[3:5]] for line in lines]
    results = paper_results()
    assert told == [
        [one.verdict, other.verdict]
        for one, other in zip(results.statements, results.at_scatter, strict=True)
    ]


def test_the_noise_is_that_of_the_figures() -> None:
    noise = paper_results().noise
    assert f"In {noise.differing} of the {noise.reported_twice} cells" in PAGE
    assert f"by {noise.median_above:.4f} nats in the median" in PAGE
    assert f"In {noise.of_another_row} of the {noise.differing}" in PAGE
    assert f"up to {noise.sweep_runs['muon']} for Muon" in PAGE
    assert f"{noise.sweep_runs['adamw']} for AdamW" in PAGE
    assert f"which is {noise.scatter:.4f} nats" in PAGE
    goodness = paper_results().goodness
    assert f"χ² = {goodness.chi2:.0f} on {goodness.dof} degrees of freedom" in PAGE


def test_trends_and_the_largest_deviation_are_those_of_the_analysis() -> None:
    for trend in paper_results().joint.trends:
        if trend.optimizer in ("muon", "soap"):
            ends = f"[{trend.low:.3f}, {trend.high:.3f}]"
            assert f"{trend.value:.3f} {ends}".replace("-", "−") in PAGE
    determined = [e for e in paper_results().extrapolations if e.determined == "determined"]
    worst = max(e.deviation for e in determined if e.deviation is not None)
    assert f"at most {100 * worst:.2g} %" in PAGE
