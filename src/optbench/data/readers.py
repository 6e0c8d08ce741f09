"""Documents of one file, from any of them on: text, JSON lines or Parquet, packed or not.

A file that is not whole is refused by its name: a packed file without its end, a last line that is
no JSON, a Parquet file without its footer, a size other than the one listed before.
"""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import fsspec

from optbench.data.corpus import DataError
from optbench.data.mixture_recipe import Format, TextSource
from optbench.data.parts import Part
from optbench.space import did_you_mean

CHUNK_BYTES = 1 << 20
PARQUET_ROWS = 256
# Frames of large archives need more than zstd's default window; this is the format's own limit.
_ZSTD_WINDOW = 2**31

Documents = Iterator[str]


def read_part(part: Part, source: TextSource, skip: int = 0) -> Documents:
    """The documents of a file without its first ``skip``.

    Raises:
        DataError: the file is damaged or changed, lacks the field, or has fewer than ``skip``.
    """
    system, path = fsspec.url_to_fs(part.url)
    _check_size(part, system.info(path).get("size"))
    with system.open(path, "rb") as raw:
        try:
            yield from _READERS[part.format](raw, part, source, skip)
        except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
            what = (
                "is cut off or damaged"
                if not isinstance(error, UnicodeDecodeError)
                else ("is not UTF-8")
            )
            raise DataError(f"{part.url} {what} ({error}). Fetch it again.") from error


def _text(raw: IO[bytes], part: Part, source: TextSource, skip: int) -> Documents:
    if source.separator:
        pieces = _split(_chunks(raw, part), source.separator.encode())
        documents = (piece for piece in pieces if piece.strip())
    else:
        documents = iter([b"".join(_chunks(raw, part))])
    return (document.decode() for document in _skipped(documents, part, skip))


def _jsonl(raw: IO[bytes], part: Part, source: TextSource, skip: int) -> Documents:
    lines = (line for line in _split(_chunks(raw, part), b"\n") if line.strip())
    for number, line in enumerate(_skipped(lines, part, skip), start=skip + 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"Document {number} of {part.url} is not JSON ({error}); is the file cut off?"
            ) from None
        yield _field(record, part, source, number)


def _parquet(raw: IO[bytes], part: Part, source: TextSource, skip: int) -> Documents:
    if importlib.util.find_spec("pyarrow") is None:
        raise DataError(
            "Parquet files are read by the package 'pyarrow', which is not installed. Install it: "
            "pip install 'optbench[data]'"
        )
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(raw)
    except pa.ArrowInvalid as error:
        raise DataError(f"{part.url} is no whole Parquet file ({error}). Fetch it again.") from None
    if source.field not in file.schema_arrow.names:
        raise _no_field(part, source, file.schema_arrow.names)
    _check_enough(file.metadata.num_rows, part, skip)
    first = 0
    while first < file.num_row_groups and skip >= file.metadata.row_group(first).num_rows:
        skip -= file.metadata.row_group(first).num_rows
        first += 1
    batches = file.iter_batches(
        PARQUET_ROWS, row_groups=range(first, file.num_row_groups), columns=[source.field]
    )
    values = (value for batch in batches for value in batch.column(0).to_pylist())
    for value in itertools.islice(values, skip, None):
        if value is not None and not isinstance(value, str):
            raise DataError(f"The column '{source.field}' of {part.url} holds no text: {value!r}.")
        yield value or ""


_READERS: dict[Format, Callable[[IO[bytes], Part, TextSource, int], Documents]] = {
    "text": _text,
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def _field(record: Any, part: Part, source: TextSource, number: int) -> str:
    if not isinstance(record, dict) or source.field not in record:
        raise _no_field(part, source, list(record) if isinstance(record, dict) else [])
    value = record[source.field]
    if value is not None and not isinstance(value, str):
        raise DataError(
            f"'{source.field}' of document {number} of {part.url} is no text: {value!r}."
        )
    return value or ""


def _no_field(part: Part, source: TextSource, known: list[str]) -> DataError:
    what = f"field in {part.url}"
    return DataError(
        f"The source '{source.name}' has no text there. "
        + did_you_mean(source.field, known, what=what)
    )


def _chunks(raw: IO[bytes], part: Part) -> Iterator[bytes]:
    name = part.url.split("?", 1)[0]
    if name.endswith(".zst"):
        return _unpacked_zstd(raw)
    file: Any = gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def _unpacked_zstd(raw: IO[bytes]) -> Iterator[bytes]:
    """Contents of all frames; unlike the library's stream reader, a missing end is an error."""
    if importlib.util.find_spec("zstandard") is None:
        raise DataError(
            "Files that end in .zst are read by the package 'zstandard', which is not installed. "
            "Install it: pip install 'optbench[data]'"
        )
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frame = unpacker.decompressobj()
    try:
        while chunk := raw.read(CHUNK_BYTES):
            while chunk:
                frame = unpacker.decompressobj() if frame.eof else frame
                yield frame.decompress(chunk)
                chunk = frame.unused_data
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from error
    if not frame.eof:
        raise EOFError("the last frame has no end")


def _split(chunks: Iterator[bytes], separator: bytes) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(separator)
        yield from whole
    if rest:
        yield rest


def _skipped(documents: Iterator[bytes], part: Part, skip: int) -> Iterator[bytes]:
    passed = sum(1 for _ in itertools.islice(documents, skip))
    _check_enough(passed, part, skip)
    return documents


def _check_enough(documents: int, part: Part, skip: int) -> None:
    if documents < skip:
        raise DataError(
            f"{part.url} holds {documents} documents, but {skip} were read from it before: it has "
            f"changed. Restore it, or delete the unfinished folder and prepare again."
        )


def _check_size(part: Part, size: int | None) -> None:
    if None not in (size, part.size) and size != part.size:
        raise DataError(
            f"{part.url} has {size} bytes instead of the {part.size} that were listed: it has "
            f"changed. Restore it, or delete the unfinished folder and prepare again."
        )
