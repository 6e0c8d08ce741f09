from __future__ import annotations

import functools
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from optbench.data.corpus import DataError
from optbench.data.mixture_recipe import TextSource
from optbench.data.parts import Part, list_parts
from optbench.data.readers import read_part
from optbench.data.retries import Patience, persistently
from tests.data.folders import json_lines, texts, write

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
    path.write_bytes("Ein Wörterbuch.".encode("latin-1"))
    with pytest.raises(DataError, match=r"note\.md is not UTF-8: byte 0xf6 at position 5"):
        read(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_missing_field_is_refused_with_the_nearest(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path / name)
    with pytest.raises(DataError, match=r"no field 'texd'.*Did you mean 'text'\? .*: `field`"):
        read(path, field="texd")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_field_that_is_no_text_is_refused(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path / name)
    field = "meta" if name == "a.jsonl" else "id"
    with pytest.raises(DataError, match=rf"no text.* '{field}'|'{field}' of .* no text"):
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


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.txt"])
def test_a_connection_that_ends_early_is_tried_again_and_then_refused(
    name: str, tmp_path: Path
) -> None:
    """Cut between two documents, which nothing but the listed size can tell."""
    path = FILES[name](tmp_path / name)
    part, source = the_part(path)
    part = replace(part, url=f"server:/{path}")
    whole = path.read_bytes()
    kept = whole.rfind(b"\n", 0, -1) + 1 if name == "a.jsonl" else len(whole) // 2
    answers = [whole[:kept], whole]

    class ShortSystem:
        def info(self, path: str) -> dict[str, int]:
            return {"size": len(whole)}

        def open(self, path: str, mode: str) -> io.BytesIO:
            return io.BytesIO(answers.pop(0))

    def short_system(url: str) -> tuple[ShortSystem, str]:
        return ShortSystem(), url

    def open_at(skip: int) -> Iterator[str]:
        return read_part(part, source, skip)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fsspec.url_to_fs", short_system)
        patience = Patience(attempts=3, sleep=lambda seconds: None)
        assert list(persistently(open_at, 0, "web", patience)) == DOCUMENTS
        answers = [whole[:kept]] * 8
        with pytest.raises(DataError, match=rf"EndedEarlyError: {kept} of {len(whole)} bytes came"):
            list(persistently(open_at, 0, "web", patience))


def test_an_empty_packed_file_among_others_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", b"")
    jsonl_file(tmp_path / "b.jsonl")
    source = TextSource(name="web", files=("*.jsonl*",))
    (part,) = (p for p in list_parts(source, tmp_path, Patience()).parts if not p.size)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is cut off or damaged \(it is empty\)"):
        list(read_part(part, source))


def test_a_source_of_empty_files_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        write(tmp_path / name, b"")
    with pytest.raises(DataError, match=r"'web' holds no text: .*a\.jsonl is empty\.$"):
        list_parts(TextSource(name="web", files=("a.jsonl",)), tmp_path, Patience())
    with pytest.raises(DataError, match=r"\.jsonl is empty, and so are its other 2 files\.$"):
        list_parts(TextSource(name="web", files=("*.jsonl",)), tmp_path, Patience())


def test_damaged_pages_of_a_parquet_file_are_damage_and_not_a_mystery(tmp_path: Path) -> None:
    path = FILES["a.parquet"](tmp_path / "a.parquet")
    raw = bytearray(path.read_bytes())
    for at in range(8, len(raw) // 2, 7):
        raw[at] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.parquet is cut off or damaged \(.*\)\. Fetch it"):
        read(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b'\n\n{"text": 1', r"Line 3 \(document 1\) of .* is not JSON"),
        (b'{"text": "a"}\n\n{"text": "\\ud800"}', r"half a character: Line 3 \(document 2\) of"),
        (b"{" * 3 + b'"text": ' + b"[" * 200_000, r"Line 1 \(document 1\) of .* is not JSON"),
        (b'{"text": ' + b"[" * 200_000, r"Line 1 \(document 1\) of .* is not JSON .*recursion"),
        (b'{"text": "a"}\n{"txt": "b"}', r"^Line 2 \(document 2\) of .* has no field 'text', wh"),
        (b'{"text": "a"}\n5', r"^Line 2 \(document 2\) of .* is no object with the field 'text'"),
        (b'[{"text": "a"}]', r"one object per line\. Convert it: jq -c '\.\[\]' a\.json"),
        (
            '{"text": "ä"}'.encode("latin-1"),
            r"is not UTF-8: byte 0xe4 at .* -f latin1",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_named_with_the_remedy(
    contents: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.json", contents))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    with pytest.raises(DataError, match=r"'web': The folder .*web is named as a file.*: .*web/\*"):
        the_part(tmp_path / "web")


def test_a_document_that_cannot_be_used_is_not_printed_whole(tmp_path: Path) -> None:
    long = "word " * 200_000
    for record in ({"text": [long]}, {long: "a"}, dict.fromkeys(map(str, range(5000))), [long]):
        path = write(tmp_path / "a.jsonl", json.dumps(record).encode())
        with pytest.raises(DataError) as error:
            read(path)
        assert len(str(error.value)) < 1000
    path = write(tmp_path / "b.jsonl", (long + "\xe9").encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8") as error:
        read(path)
    assert len(str(error.value)) < 500


def test_a_field_that_stands_twice_in_a_record_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "a", "b": {"text": "no"}}\n{"text":1,"text":"b"}')
    with pytest.raises(DataError, match=r"Line 2 .* has the field 'text' twice in one object"):
        read(path)
    path = write(tmp_path / "b.jsonl", rb'{"text": "\"text\"", "b": {"text": "\"text\""}}')
    assert read(path) == ['"text"']


def test_columns_that_are_no_single_text_are_refused_before_they_are_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    columns = {
        "binary": pa.array([b"a"]),
        "list": pa.array([["a"]]),
        "struct": pa.array([{"text": "a"}]),
        "int": pa.array([None], pa.int64()),
    }
    for kind, column in columns.items():
        pq.write_table(pa.table({"text": column}), path)
        with pytest.raises(DataError, match=rf"'text' of .*a\.parquet .* no text, but '{kind}"):
            read(path)
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]), path)
    with pytest.raises(DataError, match=r"has 2 columns 'text', and only one would be read"):
        read(path)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"a\.parquet is packed \(\.gz\), but Parquet files are"):
        read(path)


def test_columns_of_any_kind_of_text_are_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    plain = pa.array(["a", None, "\x00\u2028"])
    for column in (plain, plain.cast(pa.large_string()), plain.dictionary_encode()):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet") == ["a", "", "\x00\u2028"]
