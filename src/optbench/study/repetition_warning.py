"""How often a run reads the text of each source, and the warning where that is too often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from optbench.config import RunConfig
from optbench.data.corpus import DataError
from optbench.data.prepared import AnyCorpus, CorpusSummary, batches_of, open_prepared
from optbench.data.shards import corpus_dir
from optbench.units import format_count

# Up to here, text that comes again is worth about as much as new text (arXiv 2305.16264).
MOST_EPOCHS = 4.0


def epochs_of(config: RunConfig, corpus: AnyCorpus) -> dict[str, float]:
    """How often a run reads each source of its corpus; above 1 is repetition.

    Raises:
        DataError: a source has not even one window.
    """
    sequences = config.num_steps * config.batch_size
    return batches_of(corpus).epochs(sequences, seq_len=config.model.seq_len)


def known_epochs(config: RunConfig, cache: Path) -> dict[str, float] | None:
    """As :func:`epochs_of`, if the cache has the very corpus of the run; else None."""
    directory = corpus_dir(config.data.corpus, config.model.vocab_size, cache)
    try:
        corpus = open_prepared(directory)
        same = corpus.manifest.fingerprint == config.data.fingerprint
        return epochs_of(config, corpus) if same else None
    except DataError:
        return None


def epochs_after(corpus: CorpusSummary, num_tokens: float) -> dict[str, float]:
    """How often each source is read in a run of so many tokens, whatever its sequences.

    A run's own figure is larger by what is left out at the ends of an epoch and by one token a
    sequence: 1.6 % with sequences of 64 tokens.
    """
    total = sum(weight for _, weight in corpus.sources)
    return {
        name: num_tokens * weight / total / corpus.source_tokens[name]
        for name, weight in corpus.sources
    }


def epochs_text(epochs: Mapping[str, float]) -> str:
    """Such as ``web 0.9 times, books 3.1 times``."""
    return ", ".join(f"{name} {format_count(times)} times" for name, times in epochs.items())


def too_often(epochs: Mapping[str, float]) -> dict[str, float]:
    """The sources that are read more often than :data:`MOST_EPOCHS`."""
    return {name: times for name, times in epochs.items() if times > MOST_EPOCHS}


def repetition_warning(corpus: AnyCorpus, configs: Sequence[RunConfig]) -> str:
    """What is read too often in the longest of some runs, and what to do; empty if nothing is."""
    longest = max(configs, key=lambda config: config.num_steps * config.tokens_per_step)
    repeated = too_often(epochs_of(longest, corpus))
    if not repeated:
        return ""
    tokens = longest.num_steps * longest.tokens_per_step
    where = f"in a run of {format_count(tokens)} tokens"
    return f"Warning: {where}, {consequence(repeated)}"


def consequence(repeated: Mapping[str, float]) -> str:
    """Which sources are read too often, and what to do."""
    return (
        f"text is read more than {MOST_EPOCHS:g} times: {epochs_text(repeated)}. From there on, "
        f"text that comes again is worth less than new text (Muennighoff et al. 2023, arXiv "
        f"2305.16264). Prepare more of it, lower its weight, or train on fewer tokens."
    )
