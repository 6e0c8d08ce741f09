"""Files of JSON lines: appended whole or not at all, read in pieces, checked line by line.

A last line without its line break is torn, the mark of a crash; every other line must be a JSON
object, because no crash damages it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optbench.config import UserError

_BLOCK = 1 << 16


def strict_json(text: str) -> Any:
    """A JSON value whose objects have each key once.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("too many values within values") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice}' comes twice")
    return found


class StoreError(UserError):
    """A store that cannot be used; the message names the file, the line and the remedy."""


def complete_lines(file: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file without their line breaks; a torn last line is left out."""
    for line in file:
        if line.endswith(b"\n"):
            yield line[:-1]


def parse_object(
    line: bytes, path: Path, number: int, decode: Callable[[str], Any] = strict_json
) -> dict[str, Any]:
    """The JSON object of a line.

    Args:
        path: of the file, for the message.
        number: of the line in it, from 1.
        decode: another way to read JSON.

    Raises:
        StoreError: it is none.
    """
    try:
        entry = decode(line.decode())
        if not isinstance(entry, dict):
            raise ValueError("not an object")
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise StoreError(
            f"{path}, line {number} is not a JSON object ({reason}). A crash damages only the last "
            f"line, so this file was edited or the disk is failing: restore the line from a copy, "
            f"or delete it to train that run again."
        ) from None
    return entry


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Every entry of a file, none if there is no file.

    Raises:
        StoreError: a line is damaged.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        lines = enumerate(complete_lines(file), start=1)
        return [parse_object(line, path, number) for number, line in lines]


def set_torn_line_aside(path: Path) -> None:
    """Move what follows the last line break to ``<file>.torn``."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = _end_of_lines(file.fileno())
        file.seek(end)
        if not (rest := file.read()):
            return
        with path.with_name(path.name + ".torn").open("ab") as torn:
            torn.write(rest + b"\n")
            torn.flush()
            os.fsync(torn.fileno())
        file.truncate(end)
        os.fsync(file.fileno())


def _end_of_lines(descriptor: int) -> int:
    """The place behind the last line break, looked for from the end."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        if (found := os.pread(descriptor, end - start, start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


def append_entry(path: Path, entry: Mapping[str, Any]) -> None:
    """Append an entry to a file beside the records; a line torn by a crash is set aside first.

    Raises:
        StoreError: the disk refuses it.
    """
    set_torn_line_aside(path)
    append_line(path, json.dumps(entry, separators=(",", ":"), allow_nan=False).encode())


def append_line(path: Path, line: bytes) -> int:
    """All of the line or nothing: what a full disk cuts short is taken back.

    Returns:
        Where the line begins.

    Raises:
        StoreError: the disk refuses it.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise not_written(path, error) from error
    try:
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line + b"\n") != len(line) + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, size)
            raise not_written(path, error) from error
    finally:
        os.close(descriptor)
    return size


def not_written(path: Path, error: OSError) -> StoreError:
    """The error when the disk refuses a file of a store."""
    return StoreError(
        f"{path} could not be written ({error.strerror}). What it held before is kept; free some "
        f"space and start again."
    )
