"""The corpus that runs will read: prepared, and large enough, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from optbench.config import ConfigError, RunConfig
from optbench.data.corpus import NANO
from optbench.data.document_shards import MixtureManifest
from optbench.data.prepared import open_named, open_prepared, too_small_for
from optbench.data.shards import CorpusManifest, corpus_dir, default_cache_dir, prepare
from optbench.study.repetition_warning import repetition_warning


def require_corpus(corpus: str, vocab_size: int) -> None:
    """Refuse a corpus that only its user can prepare, and has not; nano is prepared on the way.

    Raises:
        DataError: with the command that prepares it.
    """
    if corpus != NANO:
        open_named(corpus, vocab_size, default_cache_dir())


def prepared_corpus(
    corpus: str, vocab_size: int, console: Console
) -> CorpusManifest | MixtureManifest:
    """The manifest of a corpus; nano is prepared first (with a progress bar) if need be.

    Raises:
        DataError: another corpus is not prepared; only its user knows whether to fetch it now.
    """
    cache = default_cache_dir()
    if corpus != NANO:
        return open_named(corpus, vocab_size, cache).manifest
    if corpus_dir(corpus, vocab_size, cache).exists():
        return prepare(corpus, vocab_size, cache, lambda _what, _share: None)
    console.print(f"Preparing the {corpus} corpus in {cache} (once, under a minute).")
    with Progress(TextColumn("{task.description}"), BarColumn(), console=console) as bar:
        task = bar.add_task("reading", total=1.0)
        return prepare(
            corpus,
            vocab_size,
            cache,
            lambda what, share: bar.update(task, completed=share, description=what),
        )


def check_corpus(
    manifest: CorpusManifest | MixtureManifest, configs: Sequence[RunConfig], console: Console
) -> None:
    """Check before anything trains that the corpus has the windows and tokens that runs read.

    Prints a warning about text that is read too often.

    Raises:
        ConfigError: with what is too small.
    """
    corpus = open_prepared(corpus_dir(manifest.corpus, manifest.vocab_size, default_cache_dir()))
    problems = [
        problem
        for seq_len, eval_tokens, test_tokens in sorted(
            {(one.model.seq_len, one.eval_tokens, one.test_tokens) for one in configs}
        )
        for problem in too_small_for(
            corpus, seq_len=seq_len, eval_tokens=eval_tokens, test_tokens=test_tokens
        )
    ]
    if problems:
        raise ConfigError(problems)
    if warning := repetition_warning(corpus, configs):
        console.print(warning, markup=False, highlight=False)
