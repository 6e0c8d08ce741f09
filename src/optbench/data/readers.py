"""Documents of one file, from any of them on: text, JSON lines or Parquet, packed or not.

A file that is not whole is refused by its name: a packed file without its end, a last line that is
no JSON, a Parquet file without its footer, a size other than the one listed before. A connection
that ends before the listed size is an error that is tried again. Lines end at a line feed alone:
the other characters that Unicode calls line ends are text.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import fsspec

from optbench.data.corpus import DataError
from optbench.data.mixture_recipe import Format, TextSource
from optbench.data.parts import Part, check_stamp
from optbench.data.retries import is_transient
from optbench.data.unpacking import DamagedError, file_name, packing_of, utf8_chunks
from optbench.errors import excerpt
from optbench.files.text_files import not_decoded
from optbench.space import did_you_mean

PARQUET_ROWS = 256

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
    size, opened = _opened(part)
    _check_size(part, size)
    check_stamp(part)
    with opened() as raw:
        try:
            yield from _READERS[part.format](raw, part, source, skip)
        except DamagedError as error:
            raise DataError(
                f"{part.url} is cut off or damaged ({error}). Fetch it again."
            ) from error
    check_stamp(part)


def _opened(part: Part) -> tuple[int | None, Callable[[], IO[bytes]]]:
    """The size of a file now, and what opens it."""
    if "://" not in part.url:  # names on this machine are no URLs, whatever letters they have
        return os.stat(part.url).st_size, lambda: open(part.url, "rb")
    system, path = fsspec.url_to_fs(part.url)
    return system.info(path).get("size"), lambda: system.open(path, "rb")


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
    names = {json.dumps(source.field).encode(), f'"{source.field}"'.encode()}
    for document, (number, line) in enumerate(_skipped(written, part, skip), start=skip + 1):
        where = f"Line {number} (document {document}) of {part.url}"
        # The hook makes reading slower by a third, so it is for lines that need it.
        twice = sum(map(line.count, names)) > 1
        yield _field(_record(line, where, part, source.field if twice else ""), part, source, where)


def _record(line: bytes, where: str, part: Part, field: str = "") -> Any:
    """The value of a line; an object that has the key ``field`` twice is refused."""
    # Files that were joined have marks inside.
    text = _decoded(line, where).removeprefix("\ufeff")
    if text.lstrip().startswith("["):
        raise DataError(
            f"{where} begins an array, but JSON lines hold one object per line. Convert it: "
            f"jq -c '.[]' {file_name(part.url)} > converted.jsonl"
        )
    try:
        return json.loads(text, object_pairs_hook=_once(field) if field else None)
    except _TwiceError:
        raise DataError(
            f"{where} has the field '{field}' twice in one object, and only one of both would be "
            f"read. Mend that line."
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} is not JSON ({error}). Each line must be one whole object: is the file cut "
            f"off, or one object over several lines?"
        ) from None


class _TwiceError(Exception):
    """A key stands twice in an object."""


def _once(field: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if sum(key == field for key, _ in pairs) > 1:
            raise _TwiceError
        return dict(pairs)

    return checked


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where} {not_decoded(error)}") from None


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
        raise DataError(f"{part.url} {_no_parquet(raw, error)}") from None
    _check_column(file.schema_arrow, part, source)
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
            yield value or ""
    except UnicodeDecodeError as error:
        where = f"A value of the column '{source.field}' of {part.url}"
        raise DataError(f"{where} {not_decoded(error)}") from None
    except (OSError, pa.ArrowInvalid) as error:
        if not _is_damage(error):
            raise
        raise DamagedError(" ".join(str(error).split())) from error


def _no_parquet(raw: IO[bytes], error: Exception) -> str:
    raw.seek(0)
    if packing := packing_of(raw.read(8)):
        return f"is packed ({packing}), but Parquet files are packed inside. Unpack it."
    return f"is no whole Parquet file ({error}). Fetch it again, or name its `format`."


def _check_column(schema: Any, part: Part, source: TextSource) -> None:
    """Refuse a column that is not there, is there twice, or holds something else than text."""
    import pyarrow.types as kinds

    found = schema.get_all_field_indices(source.field)
    if not found:
        raise _no_field(part.url, source, schema.names)
    if len(found) > 1:
        raise DataError(
            f"{part.url} has {len(found)} columns '{source.field}', and only one would be read. "
            f"Rename them, and name one: `field` in the recipe."
        )
    kind = schema.field(found[0]).type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    texts = (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_null)
    if not any(is_text(kind) for is_text in texts):
        raise DataError(
            f"The column '{source.field}' of {part.url} (source '{source.name}') holds no text, "
            f"but {excerpt(str(kind))}. Name another `field` in the recipe."
        )


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
            f"{where} holds no text in '{source.field}' (source '{source.name}'), but "
            f"{excerpt(value)}. "
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
    """Contents as UTF-8; the end comes only if as many bytes were read as were listed."""
    counted = _Counted(raw)
    try:
        yield from utf8_chunks(counted, part.url)  # pyright: ignore[reportArgumentType]
    except DamagedError:
        _check_whole(part, counted.count)
        raise
    _check_whole(part, counted.count)


def _check_whole(part: Part, count: int) -> None:
    if part.size is not None and count < part.size:
        raise EndedEarlyError(f"{count} of {part.size} bytes came")
    _check_size(part, count)


def _split(chunks: Iterator[bytes], separator: bytes) -> Iterator[bytes]:
    """What lies between separators, in linear time however long a piece is."""
    rest, fresh, size = b"", list[bytes](), 0
    for chunk in chunks:
        fresh.append(chunk)
        size += len(chunk)
        # As much as is held must have come: a long piece is copied when it has doubled.
        if size >= len(rest):
            *whole, rest = b"".join([rest, *fresh]).split(separator)
            fresh, size = [], 0
            yield from whole
    *whole, rest = b"".join([rest, *fresh]).split(separator)
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
