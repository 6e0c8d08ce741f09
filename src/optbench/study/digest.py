"""Which study a study file is: a hash of its tables.

Where the runs are shown and how they are executed may change between two sessions, and so may
comments and layout; `[smoke]` is a part of the smoke version only. The order of the optimizers and
of an optimizer's axes decides what is tried first, so it counts; that of all other keys does not.

A digest begins with the version of this rule. Stores of earlier versions hold a hash of the file's
text; :func:`is_same_study` reads the text that lies in such a store.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

CHANGEABLE = ("execution", "sinks")
VERSION = "2:"
_ORDERED = ("optimizers", "space")
_HEADER = re.compile(r"^\s*\[")
_CHANGEABLE_HEADER = re.compile(rf"^\s*\[\s*({'|'.join(CHANGEABLE)})\s*[.\]]")


def effective_tables(tables: Mapping[str, Any], *, smoke: bool) -> dict[str, Any]:
    """The tables that hold: with ``smoke`` those of `[smoke]` laid over the others.

    Two tables are merged key by key; anything else, lists among it, replaces what stood there.
    """
    base = {key: value for key, value in tables.items() if key != "smoke"}
    return _merged(base, tables.get("smoke", {})) if smoke else base


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both_tables = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(old, value) if both_tables else value  # type: ignore[arg-type]
    return merged


def study_digest(text: str, *, smoke: bool) -> str:
    """The digest of a valid TOML file; a store belongs to one."""
    tables = effective_tables(tomllib.loads(text), smoke=smoke)
    named = {key: value for key, value in tables.items() if key not in CHANGEABLE}
    content = json.dumps([smoke, _canonical(named)], separators=(",", ":"), default=str)
    return VERSION + hashlib.sha256(content.encode()).hexdigest()[:16]


def _canonical(value: Any, name: str = "") -> Any:
    """Tables as lists of pairs, sorted unless their order counts; 16.0 as 16."""
    if isinstance(value, Mapping):
        keys = list(value) if name in _ORDERED else sorted(value)
        return [[key, _canonical(value[key], key)] for key in keys]
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_same_study(digest: str, kept_text: str | None, text: str, *, smoke: bool) -> bool:
    """Whether a store's digest is that of a study.

    Args:
        digest: of the store, by this rule or an earlier one.
        kept_text: the study file that the store keeps, if it does; trusted where it has
            the digest.
        text: the study file of now.
        smoke: whether its smoke version is meant.
    """
    wanted = study_digest(text, smoke=smoke)
    if digest.startswith(VERSION):
        return digest == wanted
    candidates = [text] if kept_text is None else [kept_text, text]
    return any(
        digest == _text_digest(one, smoke=smoke) and study_digest(one, smoke=smoke) == wanted
        for one in candidates
    )


# The first rule: a hash of the file's bytes without its changeable tables


def _text_digest(text: str, *, smoke: bool) -> str:
    return hashlib.sha256(f"{smoke}\n{_without_changeable(text)}".encode()).hexdigest()[:16]


def _without_changeable(text: str) -> str:
    """The text without the tables, the comment lines above them, and blank lines at the end."""
    kept: list[str] = []
    comments: list[str] = []  # above what comes next, to which they belong
    found = changeable = False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("#"):
            comments.append(line)
            continue
        if _HEADER.match(line):
            changeable = _CHANGEABLE_HEADER.match(line) is not None
            found = found or changeable
        if not changeable:
            kept += [*comments, line]
        comments.clear()
    if not found:
        return text
    return "".join(kept).rstrip("\n") + "\n" if changeable else "".join([*kept, *comments])
