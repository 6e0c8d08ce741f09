"""Text files that users write: UTF-8, or the encoding of a byte order mark at their beginning.

Editors mark their files, and those of Windows write UTF-16. A mark shows for certain what a file
is, so marked files are read; nothing is guessed about one without a mark that is no UTF-8.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from optbench.config import ConfigError
from optbench.errors import excerpt

# UTF-32 before UTF-16, whose little-endian mark is the beginning of its own.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_user_text(path: Path) -> str:
    r"""The text of a file without its byte order mark, its lines ended by ``\n``.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it is neither UTF-8 nor marked as
            UTF-16 or UTF-32.
    """
    return user_text(read_user_bytes(path), path)


def read_user_bytes(path: Path) -> bytes:
    """The bytes of a file that a user names.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror or error}."]) from None


def user_text(raw: bytes, path: Path) -> str:
    r"""The text of a file whose bytes are ``raw``, as of :func:`read_user_text`.

    Raises:
        ConfigError: it is neither UTF-8 nor marked as UTF-16 or UTF-32.
    """
    encoding, mark = marked_encoding(raw)
    try:
        text = raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, "ignore")
        line = before.count("\n") + 1
        raise ConfigError([f"{path}, line {line} {not_decoded(error, len(mark))}"]) from None
    if "\0" in text:
        raise ConfigError(
            [
                f"{path} holds zero bytes, as UTF-16 without a byte order mark does. Save it as "
                f"UTF-8."
            ]
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def marked_encoding(head: bytes) -> tuple[str, bytes]:
    """The encoding and the byte order mark of a text that begins with ``head``.

    Four bytes are enough. UTF-8 and no mark if there is none.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding, mark
    return "utf-8", b""


def not_decoded(error: UnicodeDecodeError, offset: int = 0) -> str:
    """What follows the name of a text that cannot be decoded: the first wrong byte, the remedy.

    Args:
        offset: bytes of the file before those that were decoded.
    """
    name = error.encoding.upper()
    near = error.object[max(0, error.start - 20) : error.start + 12]
    where = f"byte 0x{error.object[error.start]:02x} at position {error.start + offset:,}"
    if error.encoding == "utf-8":
        remedy = "Save it as UTF-8; a Latin-1 file is converted by iconv -f latin1 -t utf-8"
    else:
        remedy = f"Its byte order mark says {name}: save it as UTF-8, or restore it"
    return f"is not {name}: {where}, in {excerpt(near)} ({error.reason}). {remedy}."
