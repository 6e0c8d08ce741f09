"""What of a study file says which study it is: all of it but the sinks."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from optbench.config import ConfigError

_HEADER = re.compile(r"^\s*\[")
_SINKS_HEADER = re.compile(r"^\s*\[\s*sinks\s*[.\]]")


def identifying_text(text: str) -> str:
    """A study file without its ``[sinks.…]`` tables, byte for byte as before they were added.

    A table is taken out with the comment lines directly above it, and at the end of the file with
    the blank lines above it; so sinks may be added between two sittings, and taken away again.

    Raises:
        ConfigError: the sinks are not written as tables of their own.
    """
    if "sinks" not in text:
        return text
    raw = tomllib.loads(text)
    if raw.pop("sinks", None) is None:
        return text
    kept: list[str] = []
    comments: list[str] = []  # above what comes next, to which they belong
    in_sinks = False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("#"):
            comments.append(line)
            continue
        if _HEADER.match(line):
            in_sinks = _SINKS_HEADER.match(line) is not None
        if not in_sinks:
            kept += [*comments, line]
        comments.clear()
    rest = "".join(kept).rstrip("\n") + "\n" if in_sinks else "".join([*kept, *comments])
    if _parsed(rest) != raw:
        raise ConfigError(
            ["Sinks must be tables of their own, such as [sinks.tensorboard], each on its line."]
        )
    return rest


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
