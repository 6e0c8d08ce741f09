"""Bytes of a file → UTF-8: unpacked by what the file begins with, transcoded by its mark.

Names lie: servers unpack what is called ``.gz``, and browsers save packed files without the ending.
What a file begins with decides; where its name says otherwise and the bytes do not say what it is,
it is refused.
"""

from __future__ import annotations

import bz2
import codecs
import importlib.util
import itertools
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol

from optbench.data.corpus import DataError
from optbench.files.text_files import marked_encoding, not_decoded

CHUNK_BYTES = 1 << 20
# Packed text is read in smaller pieces, since a piece may unpack to a thousand times its size.
_PACKED_BYTES = 1 << 16
_HEAD_BYTES = 512
# Frames of large archives need more than zstd's default window; this is the format's own limit.
_ZSTD_WINDOW = 2**31
_ZLIB_GZIP = 31  # of zlib's wbits: a gzip header and the largest window


class _Frame(Protocol):
    """One packed stream of a file, which may hold several one after another."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Packing:
    begins: re.Pattern[bytes]
    new_frame: Callable[[], _Frame]


def _zstd_frame() -> _Frame:
    if importlib.util.find_spec("zstandard") is None:
        raise DataError(
            "Files packed by zstd (.zst) are read by the package 'zstandard', which is not "
            "installed. Install it: pip install 'optbench[data]'"
        )
    import zstandard

    # Unlike the library's stream reader, this tells a frame without an end.
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


_PACKINGS: Mapping[str, _Packing] = {
    ".gz": _Packing(re.compile(rb"\x1f\x8b"), lambda: zlib.decompressobj(_ZLIB_GZIP)),
    ".bz2": _Packing(re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor),
    ".xz": _Packing(re.compile(rb"\xfd7zXZ\0"), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    ".zst": _Packing(re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _zstd_frame),
}
PACKED_ENDINGS = tuple(_PACKINGS)
# What would be read as text, since most of its bytes are.
_OTHER_FORMATS: Mapping[str, re.Pattern[bytes]] = {
    "a zip archive": re.compile(rb"PK\x03\x04"),
    "a tar archive": re.compile(rb"(?s:.{257})ustar(\0|  \0)"),
    "packed by lz4": re.compile(rb"\x04\x22\x4d\x18"),
    "an Arrow file": re.compile(rb"ARROW1\0\0"),
}
_PARQUET = re.compile(rb"PAR1[\x15\x19\x1c]")


class DamagedError(Exception):
    """A packed file without its end, or whose bytes cannot be unpacked."""


def utf8_chunks(raw: IO[bytes], url: str) -> Iterator[bytes]:
    """Contents of a file, unpacked, as UTF-8 without a byte order mark.

    Args:
        raw: the file from its beginning; it is read to its end.
        url: names it, in errors too.

    Raises:
        DamagedError: it is cut off or damaged.
        DataError: it is packed in another way, or its encoding is neither UTF-8 nor that of its
            byte order mark.
    """
    return _as_utf8(_unpacked(raw, url), url)


def _unpacked(raw: IO[bytes], url: str) -> Iterator[bytes]:
    head, _ = _begin(iter(lambda: raw.read(_HEAD_BYTES), b""))
    if ending := packing_of(head):
        packed = itertools.chain([head], iter(lambda: raw.read(_PACKED_BYTES), b""))
        return _unpacked_frames(packed, _PACKINGS[ending].new_frame)
    name = file_name(url).lower()
    if named := next((ending for ending in PACKED_ENDINGS if name.endswith(ending)), ""):
        raise DamagedError(
            f"its name ends in {named}, but its contents do not begin so; rename it if it is not "
            f"packed"
            if head
            else "it is empty"
        )
    return itertools.chain([head], iter(lambda: raw.read(CHUNK_BYTES), b""))


def _unpacked_frames(chunks: Iterator[bytes], new_frame: Callable[[], _Frame]) -> Iterator[bytes]:
    frame = new_frame()
    for chunk in chunks:
        while chunk:
            if frame.eof:
                # Tapes and xz fill files up with zeros.
                if not (chunk := chunk.lstrip(b"\0")):
                    break
                frame = new_frame()
            try:
                unpacked = frame.decompress(chunk)
            except MemoryError:
                raise
            except Exception as error:  # each library has its own
                raise DamagedError(str(error)) from error
            yield unpacked
            chunk = frame.unused_data
    if not frame.eof:
        raise DamagedError("the last frame has no end")


def _as_utf8(chunks: Iterator[bytes], url: str) -> Iterator[bytes]:
    head, chunks = _begin(chunks)
    _refuse_other_formats(head, url)
    encoding, mark = marked_encoding(head)
    if encoding == "utf-8":
        _refuse_unmarked_utf16(head[:_HEAD_BYTES], url)
        yield head[len(mark) :]
        yield from chunks
        return
    decoder: Any = codecs.getincrementaldecoder(encoding)()
    read = len(mark)
    for chunk in itertools.chain([head[read:]], chunks, [None]):  # None is the end
        started = read - len(decoder.getstate()[0])
        read += len(chunk or b"")
        try:
            yield decoder.decode(chunk or b"", chunk is None).encode()
        except UnicodeDecodeError as error:
            raise DataError(f"{url} {not_decoded(error, started)}") from None


def _refuse_other_formats(head: bytes, url: str) -> None:
    if _PARQUET.match(head):
        raise DataError(f'{url} is a Parquet file. Say so in the recipe: format = "parquet"')
    for kind, begins in _OTHER_FORMATS.items():
        if begins.match(head):
            raise DataError(
                f"{url} is {kind}, which is not read. Text, JSON lines and Parquet are, the former "
                f"two also packed as {', '.join(PACKED_ENDINGS)}: convert or unpack it."
            )


def _refuse_unmarked_utf16(head: bytes, url: str) -> None:
    halves = head[::2], head[1::2]
    zeros = sorted(half.count(0) / max(1, len(half)) for half in halves)
    if zeros[0] == 0 and zeros[1] > 0.5:
        raise DataError(
            f"Every other byte of {url} is zero, as in UTF-16 without a byte order mark. Convert "
            f"the file: iconv -f utf-16le -t utf-8 (or utf-16be)"
        )


def _begin(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Enough bytes to know a file by, and the chunks behind them; reads may be short."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD_BYTES:
            break
    return head, chunks


def packing_of(head: bytes) -> str:
    """The usual ending of a packed file that begins with ``head``; empty if it is not packed."""
    found = (ending for ending, packing in _PACKINGS.items() if packing.begins.match(head))
    return next(found, "")


def file_name(url: str) -> str:
    """The last part of a path or URL, without a URL's query or what it is packed into."""
    path = re.split(r"::|[?#]", url, maxsplit=1)[0] if "://" in url else url
    return path.rsplit("/", 1)[-1]
