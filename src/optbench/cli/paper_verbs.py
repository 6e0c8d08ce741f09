"""Verbs on the published results: paper, compare-to-paper."""

from __future__ import annotations

import json
from pathlib import Path

import click

from optbench.cli.verbs import Finite, console, format_option, reports_errors, store_option

_sigma_option = click.option(
    "--sigma",
    type=Finite(),
    default=None,
    help="Standard deviation assumed of a published loss, nats.  [default: 0.002]",
)


@click.command()
@format_option("table", "json")
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for paper.html, the same with figures.",
)
@_sigma_option
@reports_errors
def paper(form: str, figures: Path | None, sigma: float | None) -> None:
    """The published results of arXiv 2509.02046, analysed again. Trains nothing.

    Losses, speed-ups, case studies, scale-sensitive hyperparameters, extrapolations, and which
    conclusions survive the noise. No published run was repeated with another seed, so the noise of
    a loss is assumed: 0.002 nats without --sigma. Verdicts are shown under the scatter of all
    losses about their joint fit as well, 0.0042 nats.
    """
    from optbench.paper.noise import DEFAULT_SIGMA
    from optbench.paper.results import analyse_paper
    from optbench.published import read_published

    results = analyse_paper(read_published(), DEFAULT_SIGMA if sigma is None else sigma)
    page = None
    if figures is not None:
        from optbench.paper.page import write_paper_page

        page = write_paper_page(results, figures)
    if form == "json":
        click.echo(json.dumps(results.to_dict(), indent=2))
    else:
        from optbench.paper.terminal import print_paper

        print_paper(results, console())
    if page is not None:
        click.echo(f"Figures: {page}", err=True)  # never broken into lines


@click.command("compare-to-paper")
@store_option(None)
@format_option("table", "json")
@_sigma_option
@reports_errors
def compare_to_paper(store: Path, form: str, sigma: float | None) -> None:
    """A study's own losses at the paper's sizes, beside the published ones."""
    from optbench.paper.noise import DEFAULT_SIGMA
    from optbench.paper.own_against_paper import compare_with_paper
    from optbench.published import read_published
    from optbench.store.store import RunStore

    assumed = DEFAULT_SIGMA if sigma is None else sigma
    found = compare_with_paper(RunStore.read(store), read_published(), assumed)
    if form == "json":
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        from optbench.paper.own_against_paper_text import print_comparison

        print_comparison(found, console())
