from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from optbench.data.corpus import DataError
from optbench.data.mixture_recipe import TextSource
from optbench.data.parts import Part, list_parts
from optbench.data.readers import read_part
from optbench.data.retries import Patience

from .folders import json_lines, texts, write

DOCUMENTS = texts("documents", 50)
pack_gz = functools.partial(gzip.compress, mtime=0)


def pack_zst(raw: bytes) -> bytes:
    """Two frames, as concatenated files have."""
    zstandard = pytest.importorskip("zstandard")
    half = len(raw) // 2
    pack = zstandard.ZstdCompressor().compress
    return pack(raw[:half]) + pack(raw[half:])


def parquet_file(path: Path, field: str = "text", rows_per_group: int = 7) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({field: DOCUMENTS, "id": list(range(len(DOCUMENTS)))})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def jsonl_file(path: Path, pack: Callable[[bytes], bytes] = bytes) -> Path:
    return write(path, pack(json_lines(DOCUMENTS)))


def separated_file(path: Path) -> Path:
    return write(path, "<|end|>".join(DOCUMENTS).encode())


FILES: dict[str, Callable[[Path], Path]] = {
    "a.jsonl": jsonl_file,
    "a.jsonl.gz": functools.partial(jsonl_file, pack=pack_gz),
    "a.jsonl.zst": functools.partial(jsonl_file, pack=pack_zst),
    "a.parquet": parquet_file,
    "a.txt": separated_file,
}


def the_part(path: Path, **options: object) -> tuple[Part, TextSource]:
    source = TextSource(name="web", files=(str(path),), separator="<|end|>", **options)  # pyright: ignore[reportArgumentType]
    (part,) = list_parts(source, Path(), Patience()).parts
    return part, source


def read(path: Path, skip: int = 0, **options: object) -> list[str]:
    part, source = the_part(path, **options)
    return list(read_part(part, source, skip))


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_from_any_document_on(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path / name)
    for skip in (0, 1, 6, 7, 8, 49, 50):
        assert read(path, skip) == DOCUMENTS[skip:]


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_fewer_documents_than_were_read_is_refused(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} holds 50 documents, but 51 were read from it"):
        read(path, 51)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.jsonl", "is not JSON"),
        ("a.jsonl.gz", "is cut off or damaged"),
        ("a.jsonl.zst", r"is cut off or damaged \(the last frame has no end\)"),
        ("a.parquet", "is no whole Parquet file"),
    ],
)
def test_a_truncated_file_is_refused_by_name(name: str, message: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path / name)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=re.escape(str(path)) + " .*" + message) as error:
        read(path)
    assert name in str(error.value)


def test_a_damaged_zst_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.zst", b"no frame at all, but long enough to look at")
    pytest.importorskip("zstandard")
    with pytest.raises(DataError, match=r"a\.jsonl\.zst is cut off or damaged"):
        read(path)


def test_a_file_that_changed_its_size_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    path = jsonl_file(tmp_path / "a.jsonl")
    part, source = the_part(path)
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(DataError, match=r"a\.jsonl has \d+ bytes instead of the \d+ that were"):
        next(read_part(part, source))


def test_a_text_file_without_separator_is_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "note.md", "Ein Wörterbuch.\n\nÄ".encode())
    assert read(path) == ["Ein Wörterbuch.\n\nÄ"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"note\.md is not UTF-8"):
        read(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_missing_field_is_refused_with_the_nearest(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path / name)
    with pytest.raises(DataError, match=r"Unknown field in .* 'texd'\. Did you mean 'text'\?"):
        read(path, field="texd")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_field_that_is_no_text_is_refused(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path / name)
    field = "meta" if name == "a.jsonl" else "id"
    with pytest.raises(DataError, match=rf"'{field}' of .* no text"):
        read(path, field=field)


def test_an_absent_text_is_an_empty_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"text": None}).encode() + b"\n\n")
    assert read(path) == [""]


def test_a_url_is_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://corpus/a.jsonl.gz", "wb") as file:
        file.write(pack_gz(json_lines(DOCUMENTS)))
    source = TextSource(name="web", files=("memory://corpus/*.gz",))
    (part,) = list_parts(source, tmp_path, Patience()).parts
    assert part.url == "memory:///corpus/a.jsonl.gz"
    assert list(read_part(part, source, 3)) == DOCUMENTS[3:]
