"""Small data sets of our own in the layouts of the real ones."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from optbench.data.document_shards import DocumentShard, MixtureCorpus
from optbench.data.mixture_recipe import MixtureRecipe
from optbench.data.recipe_file import find_recipe

SYLLABLES = ("ba", "ko", "mi", "re", "su", "ta", "lo", "ne", "pi", "ga")


def texts(name: str, count: int, words: int = 40) -> list[str]:
    """Different made-up documents of different lengths for every name."""
    rng = random.Random(name)
    return [
        " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(length))
        for length in (rng.randint(1, words) for _ in range(count))
    ]


def json_lines(documents: Iterable[str], field: str = "text") -> bytes:
    """One record per line, with a field besides, as the hub's files have."""
    records = (json.dumps({field: text, "meta": {"n": i}}) for i, text in enumerate(documents))
    return "".join(f"{record}\n" for record in records).encode()


def write(path: Path, contents: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)
    return path


def dclm(root: Path, files: int = 4, count: int = 60) -> dict[str, list[str]]:
    """As DCLM-baseline: packed JSON lines in two levels of folders."""
    found: dict[str, list[str]] = {}
    for i in range(files):
        name = f"global-shard_{i % 2}_of_2/local-shard_{i // 2}_of_2/shard_{i}.jsonl.gz"
        found[name] = texts(name, count)
        write(root / name, gzip.compress(json_lines(found[name]), mtime=0))
    return found


def document_starts(corpus: MixtureCorpus, shard: DocumentShard) -> npt.NDArray[np.int64]:
    """Where the documents of a shard start in it, and the end of the last; (documents + 1,)."""
    return np.fromfile(corpus.directory / f"{shard.name}.idx", "<u8").astype(np.int64)


def toy_recipe(folder: Path, extra: str = "", head: str = "") -> MixtureRecipe:
    """Two sources, weights 3.8 and 0.25, of 240 and 80 documents."""
    dclm(folder / "dclm")
    for i in range(2):
        write(folder / f"maths/{i}.jsonl", json_lines(texts(f"maths {i}", 40)))
    path = write(folder / "toy.toml", TOY.format(extra=extra, head=head).encode())
    return find_recipe(str(path))


TOY = """
name = "toy"
vocab_size = 300
shard_tokens = 3000
validation_share = 0.15
test_share = 0.15
{head}
[[sources]]
name = "web"
weight = 3.8
side_by_side = 2
files = ["dclm/*/*/*.jsonl.gz"]
{extra}
[[sources]]
name = "maths"
weight = 0.25
files = ["maths/*.jsonl"]
"""
