"""Verbs on the published results: paper, compare-to-paper."""

from __future__ import annotations

import json
from pathlib import Path

import click

from optbench.cli.verbs import console, error_console, reports_errors, store_option

_form_option = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table"
)


@click.command()
@_form_option
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for paper.html, the same with figures.",
)
@click.option(
    "--sigma",
    type=float,
    default=None,
    help="Standard deviation of a published loss, nats.  [default: 0.002]",
)
@reports_errors
def paper(form: str, figures: Path | None, sigma: float | None) -> None:
    """The published results of arXiv 2509.02046, analysed again. Trains nothing.

    Losses, speed-ups, case studies, scale-sensitive hyperparameters, extrapolations, and which
    conclusions survive the noise. Every published loss is one run of one seed, so its noise is
    stated: 0.002 nats is what the figures themselves suggest.
    """
    from optbench.analysis.paper_noise import DEFAULT_SIGMA
    from optbench.analysis.paper_results import analyse_paper
    from optbench.published import read_published

    results = analyse_paper(read_published(), DEFAULT_SIGMA if sigma is None else sigma)
    page = None
    if figures is not None:
        from optbench.report.paper_page import write_paper_page

        page = write_paper_page(results, figures)
    if form == "json":
        click.echo(json.dumps(results.to_dict(), indent=2))
    else:
        from optbench.report.paper_terminal import print_paper

        print_paper(results, console())
    if page is not None:
        error_console().print(f"Figures: {page}", highlight=False, markup=False)


@click.command("compare-to-paper")
@store_option(None)
@_form_option
@reports_errors
def compare_to_paper(store: Path, form: str) -> None:
    """A study's own losses at the paper's sizes, beside the published ones."""
    from optbench.analysis.own_against_paper import compare_with_paper
    from optbench.published import read_published
    from optbench.store import RunStore

    found = compare_with_paper(RunStore.read(store), read_published())
    if form == "json":
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        from optbench.report.own_against_paper_text import print_comparison

        print_comparison(found, console())
