"""The verb `recommend`: which optimizer and which hyperparameters for a model size and a budget."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optbench.cli.verbs import console, reports_errors

if TYPE_CHECKING:
    from optbench.recommend.recommendation import Recommendation
    from optbench.recommend.target import Target
    from optbench.space import Configuration


@click.command()
@click.option(
    "--params",
    required=True,
    metavar="COUNT",
    help="Non-embedding parameters, such as 760M or 1.2B.",
)
@click.option("--tokens", required=True, metavar="COUNT", help="Training tokens, such as 60B.")
@click.option("--optimizer", "optimizers", multiple=True, help="Only this one, repeatable.")
@click.option(
    "--from",
    "store",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Learn from the study in this folder, and compare with the published results.",
)
@click.option("--format", "form", type=click.Choice(["table", "json", "toml", "python"]))
@reports_errors
def recommend(
    params: str, tokens: str, optimizers: tuple[str, ...], store: Path | None, form: str | None
) -> None:
    """Which optimizer for a model size and a budget, with which hyperparameters, and how sure.

    Learnt from the published results of arXiv 2509.02046, 134M to 1.21B parameters and 20 to 320
    tokens a parameter, or --from a study of your own. The size counts the model without its token
    embedding and output head: 32 layers of width 1024 with ff = 4·width have 537M.

    `--format toml` is a part of a study file, `--format python` a script for the fastest one.
    """
    from optbench.recommend.target import Target
    from optbench.units import parse_count

    place = Target(params=parse_count(params, likely="M"), tokens=parse_count(tokens, likely="B"))
    if store is None:
        _print(_published(place, optimizers), None, form or "table")
        return
    own = _own(store, place, optimizers)
    _print(own, _published_or_reason(place, own), form or "table")


def _published(place: Target, optimizers: tuple[str, ...]) -> Recommendation:
    from optbench.published import read_published
    from optbench.recommend.recommendation import recommend as recommend_from
    from optbench.recommend.sources import published_source

    _check_names(optimizers)
    return recommend_from(published_source(read_published(), _variants()), place, optimizers)


def _own(store: Path, place: Target, optimizers: tuple[str, ...]) -> Recommendation:
    from optbench.recommend.recommendation import recommend as recommend_from
    from optbench.recommend.sources import study_source
    from optbench.store.store import RunStore

    return recommend_from(study_source(RunStore.read(store), str(store)), place, optimizers)


def _published_or_reason(place: Target, own: Recommendation) -> Recommendation | str:
    from optbench.published import read_published
    from optbench.recommend.target import RecommendationError

    shared = {cell.optimizer for cell in read_published().cells}
    names = tuple(o.optimizer for o in own.optimizers if o.optimizer in shared)
    try:
        return _published(place, names)
    except RecommendationError as error:
        return str(error)


def _check_names(optimizers: tuple[str, ...]) -> None:
    """Before the joint fit, which takes seconds."""
    from optbench.published import read_published
    from optbench.recommend.target import RecommendationError
    from optbench.space import did_you_mean

    known = read_published().optimizers
    for name in optimizers:
        if name not in known:
            raise RecommendationError(did_you_mean(name, known, what="optimizer"))


def _variants() -> Mapping[str, Configuration]:
    """What makes the methods here the published ones."""
    from optbench.optimizers import OPTIMIZERS

    return {name: cls.paper for name, cls in OPTIMIZERS.items()}


def _print(own: Recommendation, published: Recommendation | str | None, form: str) -> None:
    from optbench.report import recommend_formats, recommend_table

    if form == "json":
        click.echo(json.dumps(recommend_formats.as_dict(own, published), indent=2))
    elif form == "toml":
        click.echo(recommend_formats.as_toml(own))
    elif form == "python":
        click.echo(recommend_formats.as_python(own))
    else:
        recommend_table.print_recommendation(own, published, console())
