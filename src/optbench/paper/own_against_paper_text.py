"""A study's own losses beside the published ones, on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from optbench.paper.own_against_paper import OwnAgainstPaper, OwnCell
from optbench.recommend.differences import BATCH_TOKENS
from optbench.report.text import NOTHING, mean_text
from optbench.space import Value
from optbench.units import format_count, format_signed, format_value

_TITLES = ("cell", "optimizer", "own loss", "seeds", "published", "own − published")


def print_comparison(found: OwnAgainstPaper, console: Console) -> None:
    """The table, the differing hyperparameters, and what may be compared."""
    table = Table(
        title=f"{escape(found.study)} beside the published losses",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    base = escape(found.baseline)
    for k, name in enumerate((*_TITLES, f"own − {base}", f"published − {base}")):
        table.add_column(name, no_wrap=k < len(_TITLES), justify="left" if k < 2 else "right")
    for row in found.rows:
        table.add_row(*map(escape, _cells(row)))
    console.print(table)
    for line in _notes(found):
        console.print(line, highlight=False, markup=False)


def _cells(row: OwnCell) -> list[str]:
    return [
        row.cell.label,
        row.optimizer,
        mean_text(row.own),
        str(row.own.count),
        NOTHING if row.published is None else f"{row.published:.4f}",
        _difference(row),
        _signed(row.over_baseline),
        _signed(row.published_over_baseline),
    ]


def _difference(row: OwnCell) -> str:
    if row.difference is None:
        return NOTHING
    half = "" if row.difference_half_width is None else f" ± {row.difference_half_width:.3f}"
    return f"{format_signed(row.difference, 3)}{half}"


def _signed(number: float | None) -> str:
    return NOTHING if number is None else format_signed(number, 4)


def _notes(found: OwnAgainstPaper) -> list[str]:
    lines = [
        f"Own losses are on the test text of {', '.join(found.corpora)}; the published ones are on "
        f"C4, after training on another mixture ({found.source}).",
        "Where the texts differ, only differences between optimizers can be compared.",
        f"± is the 95 % interval, of an own loss by its seeds; a difference also counts σ = "
        f"{found.sigma:g}, which is assumed of the published loss, the least of a sweep.",
    ]
    for row in found.rows:
        if row.differing:
            pairs = ", ".join(
                f"{name} {_value(name, row.own_configuration[name])} (published "
                f"{_value(name, row.published_configuration[name])})"
                for name in row.differing
            )
            lines.append(f"{row.optimizer} in {row.cell.label}: {pairs}.")
    if found.left_out:
        lines.append(f"Not at the paper's sizes: {', '.join(found.left_out)}.")
    return lines


def _value(name: str, value: Value) -> str:
    if name == BATCH_TOKENS and isinstance(value, int):
        return format_count(value)
    return format_value(value)
