"""Writing and flushing to the disk, so that what has been written survives a power cut."""

from __future__ import annotations

import os
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


def write_durably(path: Path, contents: bytes) -> None:
    """Replace a file in one step, on the disk when this returns.

    Raises:
        OSError: the disk refuses it; what was there before is still there.
    """
    draft = path.with_name(path.name + ".draft")
    try:
        with draft.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    flush_to_disk(path.parent)
