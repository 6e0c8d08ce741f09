"""What of a study file says which study it is: all of it but its sinks and its execution."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from optbench.config import ConfigError

# Where the runs are shown and how they are carried out may change between two sittings.
CHANGEABLE = ("execution", "sinks")
_HEADER = re.compile(r"^\s*\[")
_CHANGEABLE_HEADER = re.compile(rf"^\s*\[\s*({'|'.join(CHANGEABLE)})\s*[.\]]")


def identifying_text(text: str) -> str:
    """A study file without its changeable tables, byte for byte as before they were added.

    A table is taken out with the comment lines directly above it, and at the end of the file with
    the blank lines above it; so it may be added between two sittings, behind a blank line at the
    end or directly above another table, and taken away again.

    Raises:
        ConfigError: they are not written as tables of their own.
    """
    if not any(name in text for name in CHANGEABLE):
        return text
    raw = tomllib.loads(text)
    found = [name for name in CHANGEABLE if raw.pop(name, None) is not None]
    if not found:
        return text
    kept: list[str] = []
    comments: list[str] = []  # above what comes next, to which they belong
    changeable = False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("#"):
            comments.append(line)
            continue
        if _HEADER.match(line):
            changeable = _CHANGEABLE_HEADER.match(line) is not None
        if not changeable:
            kept += [*comments, line]
        comments.clear()
    rest = "".join(kept).rstrip("\n") + "\n" if changeable else "".join([*kept, *comments])
    if (left := _parsed(rest)) != raw:
        raise ConfigError([_TOLD[name] for name in found if left is None or name in left])
    return rest


_TOLD = {
    "execution": "The execution must be a table of its own, [execution], with a key on each line.",
    "sinks": "Sinks must be tables of their own, such as [sinks.tensorboard], each on its line.",
}


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
