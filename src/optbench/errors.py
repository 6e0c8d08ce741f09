"""Errors whose messages are for users, and how they show the values that were received."""

from __future__ import annotations

from collections.abc import Sequence

MOST_CHARACTERS = 80


class UserError(Exception):
    """An error whose message is for the user; the command line prints it without a trace."""


class ConfigError(UserError, ValueError):
    """One or more settings that cannot be run; the message lists every problem found."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        lines = problems if len(problems) == 1 else [f"- {problem}" for problem in problems]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Rebuild from the problems: the default, from the message, would list its letters."""
        return type(self), (self.problems,)


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
