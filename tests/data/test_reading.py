from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.data import reading
from optbench.data.corpus import DataError
from optbench.data.parts import Listing, Part
from optbench.data.reading import ReadPosition, SourceReader
from optbench.data.retries import Patience


def reader(lengths: list[int], side_by_side: int, documents: int = 0) -> SourceReader:
    """Files of the given lengths; document k of file i reads ``i/k``."""
    parts = tuple(Part(str(i), str(i), "text", None) for i in range(len(lengths)))

    def open_part(part: Part, skip: int) -> Iterator[str]:
        return (f"{part.url}/{k}" for k in range(skip, lengths[int(part.url)]))

    return SourceReader("web", Listing(parts, documents, ""), side_by_side, open_part, Patience())


def all_texts(one: SourceReader, start: ReadPosition | None = None) -> list[str]:
    return [text for batch in one.batches(start or ReadPosition()) for text in batch.texts]


shapes = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@given(shapes, st.integers(1, 5))
def test_every_document_of_every_file_is_read_once(lengths: list[int], lanes: int) -> None:
    expected = [f"{i}/{k}" for i, length in enumerate(lengths) for k in range(length)]
    assert sorted(all_texts(reader(lengths, lanes))) == sorted(expected)


@given(shapes, st.integers(1, 5), st.integers(1, 4))
def test_reading_goes_on_from_any_place(lengths: list[int], lanes: int, size: int) -> None:
    one = reader(lengths, lanes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BATCH_DOCUMENTS", size)
        batches = list(one.batches(ReadPosition()))
        whole = [text for batch in batches for text in batch.texts]
        for batch in batches[:-1]:
            assert all_texts(one, batch.after) == whole[batch.after.documents :]
    assert [batch.after.ended for batch in batches] == [False] * (len(batches) - 1) + [True]


def test_files_take_turns_and_a_new_one_takes_the_place_of_one_that_ended() -> None:
    assert all_texts(reader([1, 3, 2], 2)) == ["0/0", "1/0", "2/0", "1/1", "2/1", "1/2"]


def test_a_batch_ends_at_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_CHARS", 6)
    assert [batch.texts for batch in reader([5], 1).batches(ReadPosition())] == [
        ("0/0", "0/1"),
        ("0/2", "0/3"),
        ("0/4",),
    ]


def test_a_source_that_holds_another_number_of_documents_is_named() -> None:
    with pytest.raises(DataError, match="The source 'web' gave 7 documents, but there must be 8"):
        all_texts(reader([3, 4], 2, documents=8))
    assert len(all_texts(reader([3, 4], 2, documents=7))) == 7
