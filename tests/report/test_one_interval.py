"""An interval reads the same wherever it stands: tables, Markdown, page, claims, recommendation."""

from __future__ import annotations

import ast
import dataclasses
import io
import math
from pathlib import Path

import pytest
from rich.console import Console

import optbench
from optbench.analysis.claims.claim import times_text
from optbench.analysis.summary import StudySummary
from optbench.published import read_published
from optbench.recommend.recommendation import recommend
from optbench.recommend.sources import published_source
from optbench.recommend.speedup_transfer import Interval
from optbench.recommend.target import Target
from optbench.report.cells_table import place_text
from optbench.report.html import render_report
from optbench.report.recommend_table import print_recommendation
from optbench.report.terminal import print_result
from optbench.report.text import markdown_table, speedup_text
from optbench.statistics.speedup import Speedup
from optbench.units import format_ends, format_range, format_signed_ends
from tests.report.pages import Page
from tests.statistics.synthetic import SimulatedStudy

ENDS = [
    (1.32, 1.67, "[1.32, 1.67]"),
    (0.0, 1.29, "(0, 1.29]"),
    (2.0, math.inf, "[2.00, ∞)"),
    (0.0, math.inf, "(0, ∞)"),
    (1.5, 2500.0, "[1.50, > 1000)"),
    (0.001, 999.99, "(< 0.01, 999.99]"),
    (None, None, ""),
]


@pytest.mark.parametrize(("low", "high", "text"), ENDS)
def test_a_ratio_has_one_interval_everywhere(
    low: float | None,
    high: float | None,
    text: str,
    summary: StudySummary,
    study: SimulatedStudy,
    tmp_path: Path,
) -> None:
    assert format_ends(low, high) == text
    found = Speedup(
        value=1.42, low=low, high=high, estimator="interpolate", extrapolated=False, bound=""
    )
    rows = tuple(
        row if row.is_baseline else dataclasses.replace(row, tokens=found) for row in summary.rows
    )
    changed = dataclasses.replace(summary, rows=rows)
    terminal = io.StringIO()
    print_result(changed, tmp_path / "report.html", Console(file=terminal, width=300))
    page = Page(render_report(changed, study.store)).text
    whole = f"1.42× {text}".rstrip()
    for shown in (
        speedup_text(found),
        times_text(found),
        place_text(next(row for row in rows if not row.is_baseline)),
        markdown_table(changed),
        terminal.getvalue(),
        " ".join(page.split()),
    ):
        assert whole in shown


def test_a_recommendation_has_the_same_intervals() -> None:
    place = Target(params=760e6, tokens=60e9)
    known = recommend(published_source(read_published()), place, ["muon"])
    for low, high, text in ENDS:
        one = dataclasses.replace(
            known.optimizers[0],
            speedup=Interval(value=1.42, low=low, high=high),
            loss_difference=Interval(value=-0.01, low=-0.02, high=math.inf),
        )
        terminal = io.StringIO()
        found = dataclasses.replace(known, optimizers=(one,))
        print_recommendation(found, None, Console(file=terminal, width=300))
        assert f" 1.42 {text}".rstrip() in terminal.getvalue()
        assert "−0.0100 [−0.0200, ∞]" in terminal.getvalue()


def test_differences_and_hyperparameters_have_theirs() -> None:
    assert format_signed_ends(-0.31, 0.05, 3) == "[−0.310, +0.050]"
    assert format_signed_ends(-math.inf, math.inf, 3) == "[−∞, ∞]"
    assert format_range(0.003951, 0.01918) == "[0.00395, 0.0192]"
    assert format_range(128, 1024) == "[128, 1024]"
    assert format_range(-math.inf, 1e300 * 1e10) == "[−∞, ∞]"
    assert format_signed_ends(None, 1.0, 3) == format_range(None, None) == ""


def test_only_one_module_writes_the_ends_of_an_interval() -> None:
    """An f-string that opens a bracket, formats two numbers and closes it would be a second way."""
    root = Path(optbench.__file__).parent
    allowed = {"units.py", "space.py", "statistics/rounding.py", "paper/tables.py"}
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr) and _is_interval(node)
    }
    assert found <= allowed


def _is_interval(node: ast.JoinedStr) -> bool:
    parts = node.values
    return any(
        isinstance(opening, ast.Constant)
        and str(opening.value).endswith("[")
        and isinstance(low, ast.FormattedValue)
        and isinstance(comma, ast.Constant)
        and str(comma.value) == ", "
        and isinstance(high, ast.FormattedValue)
        for opening, low, comma, high in zip(parts, parts[1:], parts[2:], parts[3:], strict=False)
    )
