"""Writing and flushing to the disk, so that what has been written survives a power cut."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Generator
from pathlib import Path


def flush_to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder.

    Raises:
        OSError: it does not exist, or the disk refuses.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path, *, flush: bool = True) -> Generator[Path]:
    """A new file beside ``path`` that takes its place where the block ends without an error.

    A reader sees the file of before or the whole new one. With ``flush``, the new one is on the
    disk when the block has ended; without, a power cut may leave half of it.

    Raises:
        OSError: the disk refuses it; what was there before is still there.
    """
    # Several processes may write one file at a time, each its own draft; the last one stays.
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield draft
        if flush:
            flush_to_disk(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if flush:
        flush_to_disk(path.parent)


def write_durably(path: Path, contents: bytes) -> None:
    """Replace a file in one step, on the disk when this returns.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(path) as draft:
        draft.write_bytes(contents)
