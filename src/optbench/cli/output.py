"""Standard output and standard error that no verb fails on, whatever they are connected to.

A run of hours must not end because its log cannot show a multiplication sign, because the pager
that read it was closed or because the disk under the log is full. So characters that the encoding
lacks are written in others, what cannot be written is dropped, and a sentence at the end reports
it.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO, cast

# What the texts of the verbs contain, in characters that every encoding has.
_PLAIN = str.maketrans(
    {
        "×": "x",
        "·": "*",
        "–": "-",
        "—": "-",
        "−": "-",
        "…": "...",
        "σ": "sigma",
        "τ": "tau",
        "α": "alpha",
        "β": "beta",
        "ε": "eps",
        "±": "+-",
        "≤": "<=",
        "≥": ">=",
        "≈": "~",
        "→": "->",
        "’": "'",
        "“": '"',
        "”": '"',
        "•": "*",
    }
)
_HANDLER = "optbench.plain"


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in ASCII, or as an escape that names the character."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "backslashreplace").decode(), error.end


class _Descriptor(io.RawIOBase):
    """A file descriptor; what it refuses is dropped, and the first reason is kept."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """All of it: text streams do not ask for the rest."""
        rest = memoryview(data)
        while rest and self.error is None:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                self.error = error
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


@contextmanager
def forgiving_output() -> Generator[None]:
    """Let standard output and standard error lose text where they must, and report it at the end.

    Raises:
        SystemExit: with 1 instead of 0 where standard output could not be written; a reader that
            has read enough is no error.
    """
    codecs.register_error(_HANDLER, _in_plain_characters)
    closed = _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, out = _forgiving(sys.stdout, 1)
    sys.stderr, _ = _forgiving(sys.stderr, 2)
    code: object = 0
    try:
        yield
    except SystemExit as ended:
        code = ended.code
    finally:
        _flush(sys.stdout)
        error = None if out is None else out.error
        if 1 in closed or (error is not None and error.errno != errno.EPIPE):
            reason = "it is closed" if error is None else error.strerror
            sys.stderr.write(
                f"Standard output could not be written ({reason}), so text was lost there; "
                f"everything that was computed is kept.\n"
            )
            code = code or int(error is not None)
        _flush(sys.stderr)
        sys.stdout, sys.stderr = before
    raise SystemExit(code)


def _open_closed_descriptors() -> set[int]:
    """Those of the first three that are closed; they are opened to nothing.

    The next file that is opened would get the number otherwise, and what is printed with it.
    """
    closed: set[int] = set()
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this
            closed.add(descriptor)
    return closed


def _forgiving(stream: TextIO | None, descriptor: int) -> tuple[TextIO, _Descriptor | None]:
    """A stream that writes to the same descriptor; one that has none gets only its errors."""
    raw = _Descriptor(descriptor)
    if stream is None:  # it was closed when the interpreter started
        return io.TextIOWrapper(cast("BinaryIO", raw), "utf-8", _HANDLER), raw
    if not isinstance(stream, io.TextIOWrapper):
        return stream, None
    if not isinstance(stream.buffer, (io.BufferedWriter, io.FileIO)):  # of a test, in memory
        stream.reconfigure(errors=_HANDLER)
        return stream, None
    _flush(stream)
    forgiving = io.TextIOWrapper(
        cast("BinaryIO", raw),
        stream.encoding,
        _HANDLER,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    return forgiving, raw


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):  # ValueError: it was closed meanwhile
        return
