from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.data.batches import MixtureSchedule, TokenBatches
from optbench.data.corpus import DataError
from optbench.data.shards import Corpus, CorpusManifest, Shard

SEQ_LEN = 7
WIDTH = SEQ_LEN + 1
SOURCES = ("prose", "code", "maths")


class NumberedCorpus(Corpus):
    """Tokens that tell where they come from: source · 10,000 + position."""

    def __init__(self, lengths: tuple[int, int, int]) -> None:
        super().__init__(None, _manifest(lengths))  # pyright: ignore[reportArgumentType]

    def tokens(self, split: str, source: str) -> np.ndarray:
        length = self.manifest.shard(split, source).tokens  # pyright: ignore[reportArgumentType]
        return np.arange(length, dtype="<u2") + 10_000 * SOURCES.index(source)


def _manifest(lengths: tuple[int, int, int]) -> CorpusManifest:
    shards = tuple(
        Shard(split, source, length, 1, length, "")
        for split in ("train", "validation", "test")
        for source, length in zip(SOURCES, lengths, strict=True)
    )
    return CorpusManifest(
        corpus="numbered",
        vocab_size=40_000,
        eod_id=0,
        weights=tuple(zip(SOURCES, (2, 2, 1), strict=True)),
        shards=shards,
        tokenizer_sha256="",
        provenance=(),
        python="",
        fingerprint="",
    )


@pytest.fixture(scope="module")
def batches() -> TokenBatches:
    return TokenBatches(NumberedCorpus((1000, 803, 500)))


def sequences(batches: TokenBatches, count: int, seed: int = 0) -> np.ndarray:
    return batches.batch(0, seed=seed, batch_size=count, seq_len=SEQ_LEN)


def test_every_row_is_consecutive_tokens_of_one_source(batches: TokenBatches) -> None:
    rows = sequences(batches, 500)
    assert rows.shape == (500, WIDTH)
    assert rows.dtype == np.int64
    assert (np.diff(rows, axis=1) == 1).all()
    assert (rows[:, 0] // 10_000 == rows[:, -1] // 10_000).all()


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 500))
def test_every_period_of_the_schedule_has_the_exact_mixture(weights: list[int], first: int) -> None:
    schedule = MixtureSchedule(weights)
    drawn = Counter(schedule.place(first + i)[0] for i in range(sum(weights)))
    assert drawn == dict(enumerate(weights))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_the_schedule_counts_every_source_without_gaps(weights: list[int]) -> None:
    schedule = MixtureSchedule(weights)
    seen = [0] * len(weights)
    for index in range(3 * sum(weights)):
        assert schedule.counts(index) == seen
        source, k = schedule.place(index)
        assert k == seen[source]
        seen[source] += 1


@given(st.lists(st.integers(1, 7), min_size=2, max_size=3))
def test_no_source_is_ever_a_whole_sequence_off_its_share(weights: list[int]) -> None:
    schedule = MixtureSchedule(weights)
    for count in range(3 * sum(weights)):
        for n, weight in zip(schedule.counts(count), weights, strict=True):
            assert abs(n * sum(weights) - weight * count) < sum(weights)


def test_two_to_two_to_one_alternates() -> None:
    schedule = MixtureSchedule([2, 2, 1])
    assert [schedule.place(i)[0] for i in range(10)] == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("weights", [[], [1, 0]])
def test_weights_that_are_no_parts_are_refused(weights: list[int]) -> None:
    with pytest.raises(DataError, match=r"whole numbers of at least 1, one per source, but got \["):
        MixtureSchedule(weights)


@given(seed=st.integers(0, 2**63), lengths=st.tuples(*[st.integers(15, 200)] * 3))
def test_each_epoch_reads_each_window_exactly_once(
    seed: int, lengths: tuple[int, int, int]
) -> None:
    batches = TokenBatches(NumberedCorpus(lengths))
    rows = sequences(batches, 5 * 60, seed)
    for source, length in enumerate(lengths):
        windows = (length - SEQ_LEN) // WIDTH
        starts = rows[rows[:, 0] // 10_000 == source, 0] - 10_000 * source
        for epoch in range(len(starts) // windows):
            read = np.sort(starts[epoch * windows : (epoch + 1) * windows])
            assert (np.diff(read) == WIDTH).all()
            assert read[0] >= 0
            assert read[-1] + WIDTH <= length


def test_a_new_epoch_has_a_new_order_and_new_cuts(batches: TokenBatches) -> None:
    windows = (500 - SEQ_LEN) // WIDTH
    rows = sequences(batches, 5 * 6 * windows)
    starts = rows[rows[:, 0] // 10_000 == 2, 0] - 20_000
    epochs = starts[: 6 * windows].reshape(6, windows)
    assert len({tuple(epoch // WIDTH) for epoch in epochs}) == 6
    assert len({int(epoch[0] % WIDTH) for epoch in epochs}) > 1


def test_the_order_is_shuffled_evenly() -> None:
    batches = TokenBatches(NumberedCorpus((9_999, 9_999, 9_999)))
    rows = sequences(batches, 2_000)
    starts = rows[rows[:, 0] // 10_000 == 0, 0]
    early = starts[:400]
    quarters = np.bincount(early * 4 // 10_000, minlength=4)
    assert (quarters > 70).all()
    assert abs(np.corrcoef(starts[:-1], starts[1:])[0, 1]) < 0.15


def test_seeds_give_different_orders_of_the_same_windows(batches: TokenBatches) -> None:
    assert not np.array_equal(sequences(batches, 50, seed=0), sequences(batches, 50, seed=1))


@given(st.permutations(range(12)))
def test_batches_do_not_depend_on_the_order_of_the_calls(order: list[int]) -> None:
    corpus = NumberedCorpus((60, 50, 40))

    def read(batches: TokenBatches, step: int) -> bytes:
        return batches.batch(step, seed=3, batch_size=4, seq_len=SEQ_LEN).tobytes()

    expected = [read(TokenBatches(corpus), step) for step in range(12)]
    shared = TokenBatches(corpus)
    assert {step: read(shared, step) for step in order} == dict(enumerate(expected))


@pytest.mark.parametrize("step", [0, 1, 17, 10**9])
def test_two_steps_of_eight_rows_are_one_step_of_sixteen(batches: TokenBatches, step: int) -> None:
    whole = batches.batch(step, seed=5, batch_size=16, seq_len=SEQ_LEN)
    halves = [
        batches.batch(2 * step + half, seed=5, batch_size=8, seq_len=SEQ_LEN) for half in (0, 1)
    ]
    np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_the_order_is_the_one_published_runs_saw(batches: TokenBatches) -> None:
    starts = sequences(batches, 10)[:, 0].tolist()
    assert starts == [156, 10219, 20354, 372, 10515, 348, 10587, 20234, 916, 10531]


def test_epochs_are_exact_counts_over_windows(batches: TokenBatches) -> None:
    assert batches.epochs(12, seq_len=SEQ_LEN) == {
        "prose": 5 / ((1000 - SEQ_LEN) // WIDTH),
        "code": 5 / ((803 - SEQ_LEN) // WIDTH),
        "maths": 2 / ((500 - SEQ_LEN) // WIDTH),
    }


def test_a_train_split_shorter_than_two_windows_is_refused() -> None:
    batches = TokenBatches(NumberedCorpus((100, 14, 100)))
    with pytest.raises(
        DataError,
        match=r"train split of 'code' holds 14 tokens, but sequences of 7 need at least 15",
    ):
        sequences(batches, 1)


def test_evaluation_is_mixed_by_the_weights_and_predicts_the_tokens_asked_for(
    batches: TokenBatches,
) -> None:
    parts = list(
        batches.eval_batches("test", num_tokens=50 * SEQ_LEN, batch_size=16, seq_len=SEQ_LEN)
    )
    assert [len(part) for part in parts] == [16, 16, 16, 2]
    rows = np.concatenate(parts)
    assert Counter((rows[:, 0] // 10_000).tolist()) == {0: 20, 1: 20, 2: 10}
    assert (np.diff(rows, axis=1) == 1).all()
    more = batches.eval_batches("test", num_tokens=50 * SEQ_LEN + 1, batch_size=16, seq_len=SEQ_LEN)
    assert sum(len(part) for part in more) == 51


def test_evaluation_is_spread_over_the_whole_shard_without_overlap(batches: TokenBatches) -> None:
    parts = batches.eval_batches(
        "validation", num_tokens=25 * SEQ_LEN, batch_size=9, seq_len=SEQ_LEN
    )
    rows = np.concatenate(list(parts))
    starts = rows[rows[:, 0] < 10_000, 0]
    # 10 of the 125 windows of 1000 tokens: every 12th or 13th.
    assert starts.tolist() == [k * 125 // 10 * WIDTH for k in range(10)]


def test_evaluation_does_not_depend_on_the_batch_size(batches: TokenBatches) -> None:
    small, large = (
        np.concatenate(
            list(batches.eval_batches("test", num_tokens=300, batch_size=size, seq_len=SEQ_LEN))
        )
        for size in (3, 64)
    )
    np.testing.assert_array_equal(small, large)


def test_the_most_that_an_error_offers_can_be_had(batches: TokenBatches) -> None:
    message = (
        r"The test split of the corpus 'numbered' holds [\d,]+ tokens \(prose 1,000, code 803, "
        r"maths 500\), which give 1,750 in whole sequences of 7 at the weights of the mixture, "
        r"but 1,786 are needed\. Lower `test_tokens` to at most 1750 \(\[run\] in a study file; "
        r"optbench train --set test_tokens=1750\), or prepare a corpus with more text or a larger "
        r"`test_share`\."
    )
    with pytest.raises(DataError, match=message):
        batches.eval_batches("test", num_tokens=1786, batch_size=16, seq_len=SEQ_LEN)
    rows = np.concatenate(
        list(batches.eval_batches("test", num_tokens=1750, batch_size=16, seq_len=SEQ_LEN))
    )
    assert len(np.unique(rows[:, 0])) == len(rows) == 250


def test_a_prepared_corpus_gives_the_tokens_of_its_files(toy_corpus: Corpus) -> None:
    batches = TokenBatches(toy_corpus)
    rows = batches.batch(3, seed=1, batch_size=5, seq_len=16)
    shards = {source: toy_corpus.tokens("train", source).tobytes() for source in SOURCES}
    found = [
        next(name for name, raw in shards.items() if row.astype("<u2").tobytes() in raw)
        for row in rows
    ]
    assert Counter(found) == {"prose": 2, "code": 2, "maths": 1}
    assert rows.max() < toy_corpus.manifest.vocab_size
