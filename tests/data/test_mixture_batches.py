from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.data import mixture_batches
from optbench.data.corpus import DataError
from optbench.data.document_shards import (
    DocumentShard,
    MixtureCorpus,
    MixtureManifest,
    TokenFiles,
    open_mixture,
)
from optbench.data.mixture_batches import MixtureBatches
from optbench.data.preparation import prepare_mixture
from tests.data.folders import document_starts, toy_recipe

SEQ_LEN = 7
WIDTH = SEQ_LEN + 1
SOURCES = ("web", "code", "maths")
WEIGHTS = (76, 5, 1)
FAR = 10_000_000


class NumberedCorpus(MixtureCorpus):
    """Tokens that tell where they come from: source · 10⁷ + position, in shards of 100 tokens."""

    def tokens(self, split: str, source: str) -> TokenFiles:
        shards = self.manifest.shards_of(split, source)  # pyright: ignore[reportArgumentType]
        length = sum(shard.tokens for shard in shards)
        whole = np.arange(length, dtype="<u4") + FAR * SOURCES.index(source)
        cuts = list(range(100, length, 100))
        return TokenFiles(tuple(np.split(whole, cuts)), (0, *cuts, length))


def numbered(
    lengths: tuple[int, int, int], weights: tuple[int, int, int] = WEIGHTS
) -> MixtureBatches:
    shards = tuple(
        DocumentShard(
            split=split,
            source=source,
            index=0,
            tokens=length,
            documents=1,
            text_bytes=length,
            sha256="",
            offsets_sha256="",
        )
        for split in ("train", "validation", "test")
        for source, length in zip(SOURCES, lengths, strict=True)
    )
    mixture = tuple(zip(SOURCES, weights, strict=True))
    manifest = MixtureManifest(
        corpus="numbered",
        vocab_size=4 * FAR,
        eod_id=0,
        token_type="uint32",
        mixtures=(("train", mixture), ("validation", mixture), ("test", mixture)),
        shards=shards,
        provenance=(),
        tokenizer="",
        tokenizer_sha256="",
        recipe_sha256="",
        software="",
        fingerprint="",
    )
    return MixtureBatches(NumberedCorpus(Path(), manifest))


LENGTHS = (30_011, 803, 500)
PERIOD = sum(WEIGHTS)


@pytest.fixture(scope="module")
def batches() -> MixtureBatches:
    return numbered(LENGTHS)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> MixtureCorpus:
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optbench.data.reading.BATCH_DOCUMENTS", 8)
        prepare_mixture(toy_recipe(folder), folder)
    return open_mixture(folder / "toy-v300")


def test_every_row_is_consecutive_tokens_of_one_source_across_shards(
    batches: MixtureBatches,
) -> None:
    rows = batches.batch(0, seed=0, batch_size=2000, seq_len=SEQ_LEN)
    assert rows.shape == (2000, WIDTH)
    assert rows.dtype == np.int64
    assert (np.diff(rows, axis=1) == 1).all()
    within = rows % FAR
    assert (within[:, 0] // 100 != within[:, -1] // 100).any()


@given(st.integers(0, 10**9), st.integers(0, 5))
def test_the_weights_are_exact_in_every_period(first: int, seed: int) -> None:
    rows = numbered(LENGTHS).rows(first, PERIOD, seed=seed, seq_len=SEQ_LEN)
    assert Counter((rows[:, 0] // FAR).tolist()) == dict(enumerate(WEIGHTS))


@given(st.integers(16, 400), st.integers(0, 3), st.integers(0, 3), st.integers(1, 9), st.booleans())
def test_an_epoch_holds_every_window_once(
    length: int, seed: int, epoch: int, seq_len: int, small_blocks: bool
) -> None:
    """And so no token, and no document, twice."""
    length += 2 * seq_len
    with pytest.MonkeyPatch.context() as patch:
        if small_blocks:
            patch.setattr(mixture_batches, "BLOCK", 3)
        one = numbered((length, length, length), (2, 2, 1))
        windows = (length - seq_len) // (seq_len + 1)
        period = 5 * windows
        rows = one.rows(epoch * period, period, seed=seed, seq_len=seq_len)
    tokens = rows[rows[:, 0] // FAR == 2].flatten() % FAR
    assert len(set(tokens.tolist())) == len(tokens) == windows * (seq_len + 1)
    assert length - len(tokens) < 2 * (seq_len + 1)


@given(st.integers(0, 50), st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from([1, 2, 4]))
def test_rows_do_not_depend_on_ranks_and_micro_batches(step: int, ranks: int, micro: int) -> None:
    one = numbered(LENGTHS)
    size, share = 48, 48 // ranks // micro
    whole = one.batch(step, seed=1, batch_size=size, seq_len=SEQ_LEN)
    # Each rank opens the corpus for itself.
    parts = [
        numbered(LENGTHS).rows(step * size + first, share, seed=1, seq_len=SEQ_LEN)
        for first in range(0, size, share)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    halves = [one.batch(2 * step + i, seed=1, batch_size=24, seq_len=SEQ_LEN) for i in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_a_step_is_the_same_whatever_was_read_before(batches: MixtureBatches) -> None:
    fresh = numbered(LENGTHS).batch(12_345, seed=3, batch_size=16, seq_len=SEQ_LEN)
    for step in range(50):
        batches.batch(step, seed=3, batch_size=16, seq_len=SEQ_LEN)
    again = batches.batch(12_345, seed=3, batch_size=16, seq_len=SEQ_LEN)
    np.testing.assert_array_equal(again, fresh)


def test_seeds_and_epochs_have_orders_and_offsets_of_their_own(batches: MixtureBatches) -> None:
    one = batches.batch(0, seed=0, batch_size=200, seq_len=SEQ_LEN)
    two = batches.batch(0, seed=1, batch_size=200, seq_len=SEQ_LEN)
    assert (one[:, 0] != two[:, 0]).mean() > 0.95
    counted = batches.epochs(100 * PERIOD, seq_len=SEQ_LEN)
    assert counted["web"] == pytest.approx(7600 / ((LENGTHS[0] - SEQ_LEN) // WIDTH))


def test_the_batches_are_those_of_every_version(batches: MixtureBatches) -> None:
    """Published runs depend on them."""
    rows = batches.batch(3, seed=7, batch_size=4, seq_len=SEQ_LEN)
    assert rows[:, 0].tolist() == PINNED


PINNED = [21886, 7166, 16838, 19454]


def test_documents_are_numbered_as_the_offsets_say(toy: MixtureCorpus) -> None:
    """Against the offsets of the documents, for every window that is found in the text once."""
    starts, base = [], 0
    for shard in toy.manifest.shards_of("train", "web"):
        starts += (document_starts(toy, shard)[:-1] + base).tolist()
        base += shard.tokens
    everything = np.empty(base, np.int64)
    toy.tokens("train", "web").copy_to(everything, 0)
    windows = np.lib.stride_tricks.sliding_window_view(everything, 31)
    batch = MixtureBatches(toy).batch_with_documents(0, seed=0, batch_size=100, seq_len=30)
    assert batch.doc_ids.shape == (100, 30)
    checked = 0
    for tokens, ids in zip(batch.tokens, batch.doc_ids, strict=True):
        found = np.flatnonzero((windows == tokens).all(axis=1))
        if len(found) == 1:
            at = np.searchsorted(starts, found[0] + np.arange(30), side="right")
            np.testing.assert_array_equal(ids, at - at[0])
            checked += 1
    assert checked > 80
    assert batch.doc_ids.max() > 1


def test_evaluation_has_documents_too(toy: MixtureCorpus) -> None:
    one = MixtureBatches(toy)
    (found,) = one.eval_batches_with_documents(
        "validation", num_tokens=90, batch_size=9, seq_len=10
    )
    (plain,) = one.eval_batches("validation", num_tokens=90, batch_size=9, seq_len=10)
    np.testing.assert_array_equal(found.tokens, plain)
    ends = plain[:, :-2] == toy.manifest.eod_id
    np.testing.assert_array_equal(np.diff(found.doc_ids, axis=1), ends)


def test_the_most_that_is_promised_can_be_had() -> None:
    one = numbered((900, 100, 30))
    with pytest.raises(DataError) as error:
        one.eval_batches("test", num_tokens=10_000, batch_size=8, seq_len=SEQ_LEN)
    most = int(str(error.value).split("at most ")[1].split(" ")[0])
    rows = list(one.eval_batches("test", num_tokens=most, batch_size=8, seq_len=SEQ_LEN))
    assert sum(len(batch) for batch in rows) * SEQ_LEN == most > 0
    with pytest.raises(DataError, match=rf"Lower `test_tokens` to at most {most} "):
        one.eval_batches("test", num_tokens=most + 1, batch_size=8, seq_len=SEQ_LEN)


def test_document_numbers_belong_to_the_inputs_of_the_same_batch(toy: MixtureCorpus) -> None:
    one = MixtureBatches(toy)
    found = one.batch_with_documents(5, seed=2, batch_size=8, seq_len=30)
    plain = one.batch(5, seed=2, batch_size=8, seq_len=30)
    np.testing.assert_array_equal(found.tokens, plain)
    ends = plain[:, :-1] == toy.manifest.eod_id
    assert (found.doc_ids[:, 0] == 0).all()
    # A new document begins behind each end, and nowhere else.
    np.testing.assert_array_equal(np.diff(found.doc_ids, axis=1), ends[:, :-1])


def test_evaluation_is_the_same_every_time_and_mixed_by_the_weights() -> None:
    one = numbered((40_000, 3000, 700))
    rows = np.concatenate(
        list(one.eval_batches("test", num_tokens=7 * PERIOD * 3, batch_size=50, seq_len=SEQ_LEN))
    )
    again = np.concatenate(
        list(one.eval_batches("test", num_tokens=7 * PERIOD * 3, batch_size=9, seq_len=SEQ_LEN))
    )
    np.testing.assert_array_equal(rows, again)
    assert Counter((rows[:, 0] // FAR).tolist()) == {i: 3 * w for i, w in enumerate(WEIGHTS)}
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)


def test_a_split_or_a_source_that_is_too_small_is_refused(batches: MixtureBatches) -> None:
    with pytest.raises(DataError, match=r"give [\d,]+ in whole sequences of 7 .* 10,000,000 are"):
        batches.eval_batches("test", num_tokens=10**7, batch_size=8, seq_len=SEQ_LEN)
    with pytest.raises(DataError, match=r"'maths' holds 500 tokens, but sequences of 400 need at"):
        batches.batch(0, seed=0, batch_size=1, seq_len=400)


def damaged(toy: MixtureCorpus, tmp_path: Path) -> tuple[Path, DocumentShard]:
    copy = Path(shutil.copytree(toy.directory, tmp_path / "copy"))
    return copy, toy.manifest.shards_of("train", "web")[1]


@pytest.mark.parametrize("ending", [".bin", ".idx"])
def test_changed_bytes_are_refused_by_the_name_of_the_shard(
    ending: str, toy: MixtureCorpus, tmp_path: Path
) -> None:
    copy, shard = damaged(toy, tmp_path)
    path = copy / (shard.name + ending)
    raw = bytearray(path.read_bytes())
    raw[9] ^= 1
    path.write_bytes(raw)
    open_mixture(copy)
    with pytest.raises(DataError, match=rf"{shard.name}\{ending} does not match its checksum"):
        open_mixture(copy, verify_checksums=True)
    path.write_bytes(raw[:-2])
    with pytest.raises(DataError, match=rf"{shard.name}\{ending} has \d+ bytes instead of \d+"):
        open_mixture(copy)
    path.unlink()
    with pytest.raises(DataError, match=rf"{shard.name}\{ending} is missing"):
        open_mixture(copy)


def test_a_damaged_manifest_or_tokenizer_is_refused(toy: MixtureCorpus, tmp_path: Path) -> None:
    copy, _ = damaged(toy, tmp_path)
    manifest = copy / "manifest.json"
    good = manifest.read_text()
    manifest.write_text(good.replace('"web",\n          76', '"web",\n          77'))
    with pytest.raises(DataError, match="does not match its own fingerprint"):
        open_mixture(copy)
    manifest.write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json cannot be read"):
        open_mixture(copy)
    manifest.write_text('{"schema": 1}')
    with pytest.raises(DataError, match="has schema 1, but mixtures are read in schema 2"):
        open_mixture(copy)
    manifest.write_text(good)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json is missing or does not match"):
        open_mixture(copy)
    with pytest.raises(DataError, match="There is no prepared corpus in"):
        open_mixture(tmp_path / "none")


def test_the_manifest_comes_back_from_its_file(toy: MixtureCorpus) -> None:
    assert dataclasses.replace(toy.manifest) == open_mixture(toy.directory).manifest


def test_a_step_below_zero_is_refused() -> None:
    with pytest.raises(DataError, match="count from 0, but sequence -4 was asked for"):
        numbered((900, 900, 900)).batch(-1, seed=0, batch_size=4, seq_len=SEQ_LEN)
