"""Every packing and encoding gives the same documents; what is neither is one sentence."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optbench.data.corpus import DataError
from optbench.data.mixture_recipe import Format, TextSource
from optbench.data.parts import Part, list_parts
from optbench.data.readers import _split, read_part  # pyright: ignore[reportPrivateUsage]
from optbench.data.retries import Patience
from tests.data.folders import json_lines, write
from tests.files.test_text_files import MARKED

# Everything that some reader takes for a line's end, and characters of one to four bytes.
TEXTS = [
    "a\x0bb\x0c\x1c\x1d\x1e\x85\u2028\u2029c",
    "\r\n\t \\n",
    "Übung – 测试 🙂\0",
    "\ufeffinner",
    "x" * 9,
]


def zst(raw: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(raw)


def in_two(pack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Two packed streams one after another, as joined files have."""
    return lambda raw: pack(raw[: len(raw) // 2]) + pack(raw[len(raw) // 2 :])


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": in_two(gzip.compress),
    ".bz2": in_two(bz2.compress),
    ".xz": in_two(lzma.compress),
    ".zst": in_two(zst),
}


def read(path: Path, kind: Format = "jsonl", separator: str = "") -> list[str]:
    part = Part(str(path), path.name, kind, path.stat().st_size)
    return list(read_part(part, TextSource(name="s", files=("x",), separator=separator)))


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("packing", PACKINGS)
def test_documents_are_the_same_in_every_packing_and_encoding(
    packing: str, encoding: str, tmp_path: Path
) -> None:
    lines = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\r\n" for t in TEXTS)
    pack, mark = PACKINGS[packing], MARKED[encoding]
    path = write(tmp_path / f"a.jsonl{packing}", pack(mark + lines.encode(encoding)))
    assert read(path) == TEXTS
    whole = "\n--\n".join(TEXTS)
    path = write(tmp_path / f"a.txt{packing}", pack(mark + whole.encode(encoding)))
    assert read(path, "text") == [whole]
    assert read(path, "text", "\n--\n") == TEXTS
    (part,) = list_parts(
        TextSource(name="s", files=(f"a.jsonl{packing}",)), tmp_path, Patience()
    ).parts
    assert part.format == "jsonl"


@pytest.mark.parametrize("packing", PACKINGS)
def test_what_a_file_begins_with_counts_and_not_its_name(packing: str, tmp_path: Path) -> None:
    raw = PACKINGS[packing](json_lines(TEXTS))
    assert read(write(tmp_path / "a.jsonl", raw)) == TEXTS
    if packing:
        assert read(write(tmp_path / "a.jsonl.gz", raw)) == TEXTS
    else:
        with pytest.raises(DataError, match=r"a\.jsonl\.gz .*name ends in \.gz, but .* rename it"):
            read(write(tmp_path / "a.jsonl.gz", raw))


@pytest.mark.parametrize("packing", [name for name in PACKINGS if name])
def test_a_packed_file_that_is_cut_or_continued_is_refused(packing: str, tmp_path: Path) -> None:
    raw = PACKINGS[packing](json_lines(TEXTS * 50))
    for damaged in (raw[:-1], raw[: len(raw) // 3], raw[:12], b"", raw + b"more"):
        path = write(tmp_path / f"a.jsonl{packing}", damaged)
        with pytest.raises(DataError, match=rf"a\.jsonl\{packing} is cut off or damaged"):
            read(path)
    # Wrong bytes may unpack to text before the check of the whole fails.
    path = write(tmp_path / f"a.jsonl{packing}", raw[:-9] + b"x" * 9)
    with pytest.raises(DataError, match=rf"a\.jsonl\{packing}"):
        read(path)


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz"])
def test_a_file_may_be_filled_up_with_zeros(packing: str, tmp_path: Path) -> None:
    raw = PACKINGS[packing](json_lines(TEXTS)) + bytes(512)
    assert read(write(tmp_path / f"a.jsonl{packing}", raw)) == TEXTS


def test_a_zst_file_may_begin_with_a_frame_that_is_skipped(tmp_path: Path) -> None:
    raw = b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zst(json_lines(TEXTS))
    assert read(write(tmp_path / "a.jsonl", raw)) == TEXTS


def zipped(raw: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", raw)
    return file.getvalue()


def tarred(raw: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = len(raw)
        archive.addfile(info, io.BytesIO(raw))
    return file.getvalue()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (zipped(b"text"), r"is a zip archive, which is not read.*\.gz, \.bz2, \.xz, \.zst"),
        (tarred(b"text"), r"is a tar archive, which is not read"),
        (b"\x04\x22\x4d\x18more", r"is packed by lz4, which is not read"),
        (b"PAR1\x15\x04", r'is a Parquet file\. Say so in the recipe: format = "parquet"'),
        ("some text\n".encode("utf-16-le"), r"is zero, as in UTF-16 without a byte order mark"),
        ("some text\n".encode("utf-16-be"), r"is zero, as in UTF-16 without a byte order mark"),
        (codecs.BOM_UTF16_LE + b"a\0b", r"is not UTF-16-LE: byte 0x62 at position 4"),
        (codecs.BOM_UTF16_LE + b"a\0" * 2**17 + b"\0\xd8a\0", r"UTF-16-LE: .* position 262,146"),
        ("caf\xe9".encode("latin-1"), r"is not UTF-8: byte 0xe9 at position 3.*iconv -f latin1"),
    ],
    # An archive holds the time at which it was made, and so would the name of its test.
    ids=["zip", "tar", "lz4", "parquet", "le", "be", "odd", "surrogate", "latin-1"],
)
@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_what_is_not_read_is_one_sentence(
    raw: bytes, message: str, kind: Format, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.txt", raw)
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*" + message) as error:
        read(path, kind)
    assert "\n" not in str(error.value)


def test_texts_that_only_resemble_other_formats_are_read(tmp_path: Path) -> None:
    for text in ("PAR1 is a sign", "BZh9 is one too", "x" * 257 + "ustar is tar's", "PK"):
        assert read(write(tmp_path / "a.txt", text.encode()), "text") == [text]


def chunked(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(0, len(raw), size))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.binary(max_size=12), max_size=8),
    separator=st.sampled_from([b"\n", b"aa", b"aab", b"<|end|>"]),
    size=st.integers(1, 9),
)
def test_pieces_are_those_of_split(pieces: list[bytes], separator: bytes, size: int) -> None:
    raw = separator.join(pieces)
    expected = raw.split(separator)
    if not expected[-1]:
        expected.pop()
    assert list(_split(chunked(raw, size), separator)) == expected


@pytest.mark.parametrize("separator", [b"\n", b"<|end|>"])
def test_long_lines_are_read_in_linear_time(separator: bytes) -> None:
    started = time.perf_counter()
    assert list(_split(iter([b"x" * 1000] * 20_000), separator)) == [b"x" * 20_000_000]
    # A tenth of a second, but minutes where each chunk copies what came before.
    assert time.perf_counter() - started < 10
