"""A received value as an error shows it: never longer than a line, however long the value is."""

from __future__ import annotations

MOST_CHARACTERS = 80


def excerpt(value: object, most: int = MOST_CHARACTERS) -> str:
    """The ``repr`` of a value; of a long one its beginning and end, and how long the value is.

    Args:
        most: characters of the value that are shown.
    """
    shown = repr(value)
    if len(shown) <= most + 2:  # the quotes of a text
        return shown
    kept = f"{shown[: most - most // 4]}…{shown[-(most // 4) :]}"
    whole = value if isinstance(value, str | bytes) else shown
    return f"{kept} ({len(whole):,} {'bytes' if isinstance(value, bytes) else 'characters'})"


def shortened(name: str, most: int = MOST_CHARACTERS) -> str:
    """A name as it is, or the beginning of a long one."""
    return name if len(name) <= most else f"{name[:most]}…"
