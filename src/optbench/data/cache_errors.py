"""Errors of the file system in the folder of prepared corpora, as sentences."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator
from pathlib import Path

from optbench.data.corpus import DataError
from optbench.data.retries import describe


@contextlib.contextmanager
def errors_of_cache(cache: Path) -> Generator[None]:
    """Turn errors of the file system into messages with a remedy.

    Raises:
        DataError: the disk is full, or the folder cannot be used.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"The disk of {cache} is full. Finished shards are kept: free some space and give "
                f"the same command again, or choose another folder: OPTBENCH_CACHE, or --cache of "
                f"optbench data."
            ) from error
        raise DataError(
            f"The cache {cache} cannot be used ({describe(error)}). Choose another folder: "
            f"OPTBENCH_CACHE, or --cache of optbench data."
        ) from error
