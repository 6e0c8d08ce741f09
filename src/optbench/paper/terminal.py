"""The published results on a terminal: the paper's tables, then which conclusions survive."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from optbench.paper import tables as paper_tables
from optbench.paper.results import PaperResults
from optbench.report.text import EXTRAPOLATED, NOTHING


def print_paper(results: PaperResults, console: Console) -> None:
    """Everything, in the order of the paper."""
    lines = [
        f"{results.source} ({results.licence}).",
        f"{len(results.speedups)} losses of {len(results.optimizers)} optimizers, one seed each. "
        f"Intervals are 95 %, for σ = {results.sigma:g} nats a loss; those of the joint fit "
        f"(joint) are by the scatter about it.",
        *paper_tables.noise_sentences(results),
        "",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)
    _print_by_cell("Losses on C4, nats per token", paper_tables.losses_tables(results), console)
    fits = paper_tables.fits_table(results)
    console.print(_table("Power laws α·r^(−B) + β through AdamW's losses", *fits, left=2))
    speedups = paper_tables.speedups_tables(results)
    _print_by_cell("Speed-ups over AdamW by the paper's estimator", speedups, console)
    key = "(in parentheses: the 95 % interval contains 1)\n"
    console.print(key, highlight=False)
    console.print(_table("Case studies", *paper_tables.case_study_table(results), left=7))
    half = max(p.to_best.half_width for c in results.case_studies for p in c.places if p.to_best)
    key = f"(two equal runs are up to {half:.4f} nats apart, in 95 of 100 cases)"
    console.print(key, highlight=False)
    key = f"({EXTRAPOLATED} extrapolated beyond AdamW's budgets; {NOTHING} nothing there)"
    console.print(key, highlight=False)
    key = "(an interval from 0 or to ∞ ends below or above AdamW's budgets)\n"
    console.print(key, highlight=False)
    console.print(_table("Sensitive to scale", *paper_tables.sensitive_table(results), left=5))
    extrapolated = paper_tables.extrapolation_table(results)
    console.print(_table("Extrapolated to 1.2b", *extrapolated, left=7))
    key = "(again: the published form fitted again; law: this project's, 95 %; * tuned)"
    console.print(key, highlight=False, markup=False)
    for line in paper_tables.not_determined(results):
        console.print(line, highlight=False, markup=False)
    console.print()
    console.print(_verdicts(results))
    console.print(_claims(results))


def _print_by_cell(
    title: str, tables: Sequence[tuple[list[str], paper_tables.Rows]], console: Console
) -> None:
    for k, (titles, rows) in enumerate(tables):
        console.print(_table(title if k == 0 else "", titles, rows, left=1))


def _table(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Table:
    """The first ``left`` columns are words."""
    table = _empty_table(title)
    for k, name in enumerate(titles):
        # sentences in a last column without a title may be broken over lines, numbers may not
        table.add_column(name, no_wrap=bool(name), justify="left" if k < left else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _empty_table(title: str) -> Table:
    return Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _verdicts(results: PaperResults) -> Table:
    table = _empty_table(
        "The paper's statements under this noise, and under the scatter of the joint fit"
    )
    titles, rows = paper_tables.verdicts_table(results)
    for name in titles:
        table.add_column(name, no_wrap=name not in ("statement", "evidence"))
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _claims(results: PaperResults) -> Table:
    table = _empty_table("The nine claims of a report, judged on the published losses")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("claim")
    table.add_column("verdict", no_wrap=True)
    table.add_column("evidence")
    for claim in results.claims:
        sentences = (*claim.evidence, *claim.needs)
        table.add_row(str(claim.number), claim.statement, claim.verdict, escape(sentences[0]))
    return table
