"""Verbs on corpora: data prepare, data show."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optbench.cli.verbs import (
    CliError,
    available_workers,
    console,
    error_console,
    format_option,
    reports_errors,
)

if TYPE_CHECKING:
    from optbench.data.corpus import Split
    from optbench.data.document_shards import MixtureManifest
    from optbench.data.mixture_recipe import MixtureRecipe
    from optbench.data.prepared import CorpusSummary
    from optbench.data.shards import CorpusManifest, OnProgress

INTERRUPTED = 130  # the shell's exit code for Ctrl-C
_cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of prepared corpora.  [default: $OPTBENCH_CACHE or the user's cache]",
)


@click.group()
def data() -> None:
    """Prepare corpora, and list them."""


@data.command()
@click.argument("recipe")
@click.option("--vocab-size", type=click.IntRange(257), help="Train a tokenizer of this size.")
@click.option(
    "--tokenizer", help="llama3, a tokenizer.json, or a tokenizer.model in tiktoken format."
)
@click.option("--tokens", type=click.IntRange(1), help="Training tokens in all.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Processes that encode.  [default: the number of cores]",
)
@click.option(
    "--restart", is_flag=True, help="Begin again instead of going on where an earlier try stopped."
)
@_cache_option
@reports_errors
def prepare(
    recipe: str,
    vocab_size: int | None,
    tokenizer: str | None,
    tokens: int | None,
    workers: int | None,
    restart: bool,
    cache: Path | None,
) -> None:
    """Stream, tokenize, shard and check a corpus: RECIPE is nano, dclm-mix or a .toml file.

    Interrupt it at any time; the same command goes on where it stopped. The options stand for the
    keys of the same name in the recipe.
    """
    from optbench.data.kept_mixture import kept_mixture
    from optbench.data.preparation import prepare_mixture
    from optbench.data.recipe_file import find_recipe
    from optbench.data.shards import default_cache_dir

    folder = cache or default_cache_dir()
    if recipe == "nano":
        if tokenizer or tokens:
            raise click.UsageError("nano takes neither --tokenizer nor --tokens.")
        _report(_prepare_nano(vocab_size, folder), folder)
        return
    chosen = _with_options(find_recipe(recipe), vocab_size, tokenizer, tokens)
    if (kept := kept_mixture(chosen, folder)) is not None:
        _report(kept, folder, " It was already prepared, nothing was read.")
        return
    with _interrupted_message(lambda: _kept_shards(chosen, folder)), _Bar() as on_progress:
        manifest = prepare_mixture(
            chosen,
            folder,
            workers=available_workers(workers),
            restart=restart,
            on_progress=on_progress,
        )
    _report(manifest, folder)


@data.command()
@_cache_option
@click.option("--verify", is_flag=True, help="Read every shard and compare its checksum.")
@click.option("--tokens", help="How often a run of so many tokens reads each source, such as 3B.")
@format_option("table", "json")
@reports_errors
def show(cache: Path | None, verify: bool, tokens: str | None, form: str) -> None:
    """List the prepared corpora: tokens, documents, sources, fingerprint and checks."""
    from optbench.data.prepared import list_prepared
    from optbench.data.shards import default_cache_dir
    from optbench.units import parse_count

    budget = None if tokens is None else parse_count(tokens, likely="B")
    folder = cache or default_cache_dir()
    found = list_prepared(folder, verify_checksums=verify)
    if form == "json":
        listed = [_as_json(one, budget) for one in found]
        click.echo(json.dumps(listed, indent=2, default=str))
    elif found:
        _print_corpora(found, verify, budget)
    else:
        click.echo(f"There is no prepared corpus in {folder}.")
    damaged = [one.name for one in found if one.state not in ("ok", "unfinished")]
    if verify and damaged:
        raise CliError(f"Damaged: {', '.join(damaged)}.")


@contextlib.contextmanager
def _interrupted_message(what_is_kept: Callable[[], str]) -> Generator[None]:
    """An interruption ends the command with what it has left and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. {what_is_kept()}")
        raise SystemExit(INTERRUPTED) from None


def _kept_shards(recipe: MixtureRecipe, cache: Path) -> str:
    from optbench.data.shards import corpus_dir
    from optbench.data.tokenizer_choice import choose_tokenizer
    from optbench.data.unfinished import finished_shards, unfinished_folder

    final = corpus_dir(recipe.name, choose_tokenizer(recipe).vocab_size, cache)
    return (
        f"{finished_shards(final)} finished shards are kept in {unfinished_folder(final)}; the "
        f"same command goes on from there."
    )


def _with_options(
    recipe: MixtureRecipe, vocab_size: int | None, tokenizer: str | None, tokens: int | None
) -> MixtureRecipe:
    if vocab_size and tokenizer:
        raise click.UsageError("Give either --vocab-size or --tokenizer, and not both.")
    if tokenizer:
        # Paths on the command line start where the user is, those of a recipe at its file.
        known = tokenizer if tokenizer == "llama3" else str(Path(tokenizer).resolve())
        recipe = dataclasses.replace(recipe, tokenizer=known, vocab_size=0)
    if vocab_size:
        recipe = dataclasses.replace(recipe, tokenizer="", vocab_size=vocab_size)
    return dataclasses.replace(recipe, tokens=tokens) if tokens else recipe


def _prepare_nano(vocab_size: int | None, cache: Path) -> CorpusManifest:
    from optbench.data.corpus import NANO, NANO_VOCAB_SIZE
    from optbench.data.shards import prepare as prepare_nano

    nothing = (
        f"Nothing of it is kept in {cache}; the same command begins again, which takes less than a "
        f"minute."
    )
    with _interrupted_message(lambda: nothing), _Bar() as on_progress:
        return prepare_nano(NANO, vocab_size or NANO_VOCAB_SIZE, cache, on_progress)


def _report(manifest: CorpusManifest | MixtureManifest, cache: Path, note: str = "") -> None:
    from optbench.units import format_count

    tokens = format_count(manifest.num_tokens("train"))
    click.echo(
        f"{manifest.corpus}: {tokens} training tokens, vocabulary {manifest.vocab_size}, "
        f"fingerprint {manifest.fingerprint}, in {cache}.{note}{_left_out(manifest)}"
    )


def _left_out(manifest: CorpusManifest | MixtureManifest) -> str:
    """What of the text or of the tokenizer's file is not in the corpus."""
    from optbench.data.shards import CorpusManifest

    if isinstance(manifest, CorpusManifest):
        return ""
    sources = [one for one in manifest.provenance if one.documents_empty]
    empty = ", ".join(
        f"{one.documents_empty:,} of {one.documents_read:,} of '{one.source}'" for one in sources
    )
    without_text = f" Documents without text, left out: {empty}." if empty else ""
    if not (off := manifest.tokenizer_switched_off):
        return without_text
    return f"{without_text} Switched off in {manifest.tokenizer}: {', '.join(off)}."


def _as_json(corpus: CorpusSummary, budget: float | None) -> dict[str, object]:
    from optbench.study.repetition_warning import epochs_after

    times = {} if budget is None else {"times_read": epochs_after(corpus, budget)}
    return {**dataclasses.asdict(corpus), **times}


def _print_corpora(found: list[CorpusSummary], verified: bool, budget: float | None) -> None:
    from rich.table import Table

    from optbench.study.repetition_warning import consequence, epochs_after, epochs_text, too_often
    from optbench.units import format_count

    table = Table()
    names = ["corpus", "vocabulary", "tokens", "documents", "sources", "fingerprint", "checks"]
    if budget is not None:
        names.append(f"read by {format_count(budget)} tokens")
    for name in names:
        right = name in ("vocabulary", "tokens", "documents")
        table.add_column(name, justify="right" if right else "left")
    warnings: list[str] = []
    for one in found:
        times = {} if budget is None else epochs_after(one, budget)
        if repeated := too_often(times):
            warnings.append(f"{one.name}: {consequence(repeated)}")
        table.add_row(
            one.name,
            str(one.vocab_size or ""),
            _by_split(one.tokens),
            _by_split(one.documents),
            " : ".join(f"{name} {weight}" for name, weight in one.sources),
            one.fingerprint,
            ("checksums ok" if verified else "sizes ok") if one.state == "ok" else one.state,
            *([] if budget is None else [epochs_text(times)]),
        )
    console().print(table)
    console().print("Tokens and documents: training / validation / test.", highlight=False)
    for warning in warnings:
        console().print(warning, highlight=False, markup=False)
    if unfinished := [one.directory for one in found if one.state == "unfinished"]:
        console().print(
            f"Unfinished ones go on with the command that began them; to give one up, delete its "
            f"folder, such as {unfinished[0]}.",
            highlight=False,
            soft_wrap=True,
        )


def _by_split(counts: Mapping[Split, int] | None) -> str:
    return " / ".join(f"{count:,}" for count in (counts or {}).values())


class _Bar:
    """A progress bar on standard error, as the function that moves it."""

    def __enter__(self) -> OnProgress:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=error_console(),
        )
        task = self._progress.add_task("reading", total=1.0)
        self._progress.start()
        return lambda what, share: self._progress.update(task, completed=share, description=what)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
