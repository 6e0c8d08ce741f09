"""Time one batch of a prepared mixture against one training step of the nano study.

    python benchmarks/data_reading.py                # made-up text, 40 million tokens

A mixture of three sources is made up in a temporary folder, in several shards; batches are read in
the order of training, so the pages are in memory as they are during a run. The step is AdamW's, on
one thread, of every nano model; both are medians of the wall time, taken turn by turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from optbench.data.document_shards import (
    DocumentShard,
    MixtureCorpus,
    MixtureManifest,
    ShardWriter,
)
from optbench.data.mixture_batches import MixtureBatches
from optbench.ladder import NANO_SIZES
from optbench.training.model import Llama
from optbench.training.run import environment, use_one_thread

WEIGHTS = (("web", 760), ("code", 50), ("maths", 11))
DOCUMENT = 700  # tokens, about the mean of web text
BATCH_SIZES = (8, 16, 32)


def make_corpus(folder: Path, num_tokens: int, shards_per_source: int = 4) -> MixtureCorpus:
    """A mixture of random tokens with a vocabulary of 1024."""
    rng = np.random.default_rng(0)
    total = sum(weight for _, weight in WEIGHTS)
    shards: list[DocumentShard] = []
    for name, weight in WEIGHTS:
        for index in range(shards_per_source):
            writer = ShardWriter(folder, "train", name, index, np.dtype("<u2"))
            while writer.tokens < num_tokens * weight / total / shards_per_source:
                tokens = rng.integers(1, 1024, DOCUMENT, dtype=np.uint32)
                tokens[-1] = 0
                writer.add(tokens, 0)
            shard = writer.close()
            assert shard is not None
            shards.append(shard)
    manifest = MixtureManifest(
        corpus="made-up",
        vocab_size=1024,
        eod_id=0,
        token_type="uint16",
        mixtures=(("train", WEIGHTS),),
        shards=tuple(shards),
        provenance=(),
        tokenizer="",
        tokenizer_sha256="",
        recipe_sha256="",
        software="",
        fingerprint="",
    )
    return MixtureCorpus(folder, manifest)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(size: str, batch_size: int, batches: MixtureBatches, rounds: int) -> dict[str, object]:
    config = NANO_SIZES[size]
    model = Llama(config, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    reads, with_ids, steps = [], [], []

    def train(tokens: np.ndarray) -> None:
        optimizer.zero_grad()
        model.loss(torch.from_numpy(tokens)).backward()
        optimizer.step()

    for step in range(rounds):
        common = {"seed": 0, "batch_size": batch_size, "seq_len": config.seq_len}
        reads.append(seconds(lambda: batches.batch(step, **common)))  # noqa: B023  # called at once
        with_ids.append(seconds(lambda: batches.batch_with_documents(step + rounds, **common)))  # noqa: B023
        tokens = batches.batch(step, **common)
        steps.append(seconds(lambda: train(tokens)))  # noqa: B023
    read, ids, whole = (
        statistics.median(times[rounds // 4 :]) for times in (reads, with_ids, steps)
    )
    return {
        "size": size,
        "batch_size": batch_size,
        "read_us": 1e6 * read,
        "read_with_documents_us": 1e6 * ids,
        "worst_read_us": 1e6 * max(reads[rounds // 4 :]),
        "step_us": 1e6 * whole,
        "share": read / whole,
        "share_with_documents": ids / whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=float, default=40e6)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--out", type=Path, help="Write the rows as JSON.")
    given = parser.parse_args()
    use_one_thread()
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder), int(given.tokens))
        far = seconds(
            lambda: MixtureBatches(corpus).batch(10**6, seed=0, batch_size=16, seq_len=64)
        )
        print(f"first batch of a fresh process at step 1,000,000: {1e3 * far:.2f} ms")
        batches = MixtureBatches(corpus)
        rows = [
            compare(size, batch_size, batches, given.rounds)
            for size in NANO_SIZES
            for batch_size in BATCH_SIZES
        ]
    for row in rows:
        print(
            f"{row['size']} batch {row['batch_size']:>2}: read {row['read_us']:6.1f} µs, with "
            f"documents {row['read_with_documents_us']:6.1f} µs, step {row['step_us']:8.0f} µs: "
            f"{row['share']:.2%}, {row['share_with_documents']:.2%}"
        )
    if given.out:
        given.out.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
