"""A corpus small enough to be prepared in every test, with the shape of the real one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from optbench.data.corpus import CorpusSource, Document, Package, Recipe
from optbench.data.shards import Corpus, open_corpus, prepare_recipe

VOCAB_SIZE = 300
WEIGHTS = {"prose": 2, "code": 2, "maths": 1}


def documents(source: str, count: int = 60, words: int = 60) -> Iterator[Document]:
    """Different made-up sentences for every source."""
    syllables = ("ba", "ko", "mi", "re", "su", "ta", "lo", "ne", "pi", "ga")
    for index in range(count):
        rng = random.Random(f"{source} {index}")
        drawn = ("".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(words))
        yield Document(source, f"{source}pkg/{index:03d}", " ".join(drawn))


def recipe(count: int = 60) -> Recipe:
    """Three sources, weights 2 : 2 : 1."""

    def source(name: str, weight: int) -> CorpusSource:
        return CorpusSource(name, weight, lambda: documents(name, count))

    packages = {f"{name}pkg": Package(f"{name}pkg", "1.0", "MIT") for name in WEIGHTS}
    sources = tuple(source(name, weight) for name, weight in WEIGHTS.items())
    return Recipe("toy", sources, lambda: packages)


def prepared(cache: Path) -> Corpus:
    """The synthetic corpus, prepared in ``cache``."""
    prepare_recipe(recipe(), VOCAB_SIZE, cache, lambda stage, share: None)
    return open_corpus(cache / f"toy-v{VOCAB_SIZE}")
