"""Documents of one file, from any of them on: text, JSON lines or Parquet, packed or not.

A file that is not whole is refused by its name: a packed file without its end, a last line that is
no JSON, a Parquet file without its footer, a size other than the one listed before. A connection
that ends before the listed size is an error that is tried again.
"""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import fsspec

from optbench.data.corpus import DataError
from optbench.data.mixture_recipe import Format, TextSource
from optbench.data.parts import Part, local_stamp
from optbench.data.retries import is_transient
from optbench.space import did_you_mean

CHUNK_BYTES = 1 << 20
PARQUET_ROWS = 256
# Frames of large archives need more than zstd's default window; this is the format's own limit.
_ZSTD_WINDOW = 2**31

Documents = Iterator[str]
T = TypeVar("T")


class EndedEarlyError(ConnectionError):
    """A file gave fewer bytes than were listed; trying again may help."""


def read_part(part: Part, source: TextSource, skip: int = 0) -> Documents:
    """The documents of a file without its first ``skip``.

    Raises:
        DataError: the file is damaged or changed, lacks the field, or has fewer than ``skip``.
        EndedEarlyError: it ended before its listed size.
    """
    system, path = fsspec.url_to_fs(part.url)
    _check_size(part, system.info(path).get("size"))
    _check_stamp(part)
    with system.open(path, "rb") as raw:
        try:
            yield from _READERS[part.format](raw, part, source, skip)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{part.url} is cut off or damaged ({error}). Fetch it again."
            ) from error


def _text(raw: IO[bytes], part: Part, source: TextSource, skip: int) -> Documents:
    if source.separator:
        pieces = _split(_chunks(raw, part), source.separator.encode())
        documents = (piece for piece in pieces if piece.strip())
    else:
        documents = iter([b"".join(_chunks(raw, part))])
    numbered = enumerate(_skipped(documents, part, skip), start=skip + 1)
    return (_decoded(raw, f"Document {number} of {part.url}") for number, raw in numbered)


def _jsonl(raw: IO[bytes], part: Part, source: TextSource, skip: int) -> Documents:
    lines = enumerate(_split(_chunks(raw, part), b"\n"), start=1)
    written = ((number, line) for number, line in lines if line.strip())
    for document, (number, line) in enumerate(_skipped(written, part, skip), start=skip + 1):
        where = f"Line {number} (document {document}) of {part.url}"
        yield _field(_record(line, where, part), part, source, where)


def _record(line: bytes, where: str, part: Part) -> Any:
    text = _decoded(line, where)
    if text.lstrip().startswith("["):
        raise DataError(
            f"{where} begins an array, but JSON lines hold one object per line. Convert it: "
            f"jq -c '.[]' {part.url.rsplit('/', 1)[-1]} > converted.jsonl"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} is not JSON ({error}). Each line must be one whole object: is the file cut "
            f"off, or one object over several lines?"
        ) from None


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 ({error}). Convert the file: iconv -f latin1 -t utf-8"
        ) from None


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
        raise _no_field(part.url, source, file.schema_arrow.names)
    _check_enough(file.metadata.num_rows, part, skip)
    first = 0
    while first < file.num_row_groups and skip >= file.metadata.row_group(first).num_rows:
        skip -= file.metadata.row_group(first).num_rows
        first += 1
    batches = file.iter_batches(
        PARQUET_ROWS, row_groups=range(first, file.num_row_groups), columns=[source.field]
    )
    values = (value for batch in batches for value in batch.column(0).to_pylist())
    try:
        for value in itertools.islice(values, skip, None):
            if value is not None and not isinstance(value, str):
                raise DataError(
                    f"The column '{source.field}' of {part.url} (source '{source.name}') holds no "
                    f"text, but {value!r}. Name another `field` in the recipe."
                )
            yield value or ""
    except (OSError, pa.ArrowInvalid) as error:
        if not _is_damage(error):
            raise
        raise EOFError(" ".join(str(error).split())) from error


def _is_damage(error: Exception) -> bool:
    """Whether Arrow refuses the bytes; a failed read of them has a number, a cause or a class."""
    if not isinstance(error, OSError):
        return True
    return type(error) is OSError and error.errno is None and not is_transient(error)


_READERS: dict[Format, Callable[[IO[bytes], Part, TextSource, int], Documents]] = {
    "text": _text,
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def _field(record: Any, part: Part, source: TextSource, where: str) -> str:
    if not isinstance(record, dict) or source.field not in record:
        raise _no_field(where, source, list(record) if isinstance(record, dict) else [])
    value = record[source.field]
    if value is not None and not isinstance(value, str):
        raise DataError(
            f"{where} holds no text in '{source.field}' (source '{source.name}'), but {value!r}. "
            f"Mend or remove that line, or name another `field` in the recipe."
        )
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"'{source.field}' holds half a character: {where} ({error}). Mend or remove that line."
        ) from None
    return value or ""


def _no_field(where: str, source: TextSource, known: list[str]) -> DataError:
    if not known:
        return DataError(
            f"{where} is no object with the field '{source.field}' (source '{source.name}'): JSON "
            f'lines are objects such as {{"{source.field}": "…"}}.'
        )
    unknown = did_you_mean(source.field, known, what="field")
    return DataError(
        f"{where} has no field '{source.field}', where the text of the source '{source.name}' "
        f"should be. {unknown} Name it in the recipe: `field`."
    )


@dataclass(slots=True)
class _Counted:
    """A file that counts the bytes that it gives."""

    file: IO[bytes]
    count: int = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self.file.read(size)
        self.count += len(chunk)
        return chunk


def _chunks(raw: IO[bytes], part: Part) -> Iterator[bytes]:
    """Unpacked contents; the end comes only if as many bytes were read as were listed."""
    counted = _Counted(raw)
    try:
        yield from _unpacked(counted, part.url.split("?", 1)[0])
    except (EOFError, zlib.error):
        _check_whole(part, counted.count)
        raise
    _check_whole(part, counted.count)


def _check_whole(part: Part, count: int) -> None:
    if part.size is not None and count < part.size:
        raise EndedEarlyError(f"{count} of {part.size} bytes came")
    _check_size(part, count)


def _unpacked(raw: _Counted, name: str) -> Iterator[bytes]:
    if name.endswith(".zst"):
        yield from _unpacked_zstd(raw)
        return
    file: Any = gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw  # pyright: ignore[reportArgumentType]
    yield from iter(lambda: file.read(CHUNK_BYTES), b"")
    if file is not raw and not raw.count:
        raise EOFError("it is empty")


def _unpacked_zstd(raw: _Counted) -> Iterator[bytes]:
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


def _skipped(documents: Iterator[T], part: Part, skip: int) -> Iterator[T]:
    passed = sum(1 for _ in itertools.islice(documents, skip))
    _check_enough(passed, part, skip)
    return documents


def _check_enough(documents: int, part: Part, skip: int) -> None:
    if documents < skip:
        raise DataError(
            f"{part.url} holds {documents} documents, but {skip} were read from it before: it has "
            "changed. Restore it, or begin again: optbench data prepare --restart"
        )


def _check_size(part: Part, size: int | None) -> None:
    if None not in (size, part.size) and size != part.size:
        raise DataError(
            f"{part.url} has {size} bytes instead of the {part.size} that were listed: it has "
            "changed. Restore it, or begin again: optbench data prepare --restart"
        )


def _check_stamp(part: Part) -> None:
    """On this machine alone: servers say of a file what they do not say in a listing."""
    if part.stamp and "://" not in part.url and (now := local_stamp(part.url)) != part.stamp:
        raise DataError(
            f"{part.url} was written again while it was being prepared ({part.stamp}, now {now}). "
            "Restore it, or begin again: optbench data prepare --restart"
        )
