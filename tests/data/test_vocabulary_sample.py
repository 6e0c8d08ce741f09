from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optbench.data.vocabulary_sample import vocabulary_sample

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80))


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


@given(texts=TEXTS, room=st.integers(64, 400))
def test_the_room_is_kept_and_used(texts: list[str], room: int) -> None:
    found = list(vocabulary_sample(texts, room))
    assert size(found) <= room
    assert all(any(piece in text for text in texts) for piece in found)
    if size(texts) <= room:
        assert size(found) == size(texts)
    else:  # what is left free is less than one more piece
        assert room - size(found) < room // 16 + 4


def test_a_document_larger_than_the_room_is_not_the_end_of_the_sample() -> None:
    small = [f"{i:03d}" * 5 for i in range(40)]
    found = "".join(vocabulary_sample(["x" * 5000, *small], 1000))
    assert all(text in found for text in small)
    assert list(vocabulary_sample([*small, "x" * 5000], 1000))[: len(small)] == small


def test_a_single_document_fills_the_room() -> None:
    assert size(list(vocabulary_sample(["ä" * 5000], 1000))) in range(990, 1001)


def test_short_documents_are_taken_whole_until_one_does_not_fit() -> None:
    assert list(vocabulary_sample(["a" * 60] * 30, 1000)) == ["a" * 60] * 16


def test_words_without_end_are_cut_and_others_are_not() -> None:
    for kind in ("x", "7", " ", "-_", "\u6d4b", "\n"):
        found = list(vocabulary_sample(["a b", kind * 150_000, "c d " * 1000], 10_000_000))
        assert (found[0], found[-1]) == ("a b", "c d " * 1000)
        assert "".join(found[1:-1]) == kind * 150_000
        assert all(len(piece) <= 1000 for piece in found[1:-1])
