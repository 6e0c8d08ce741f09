"""Errors whose messages are for users."""

from __future__ import annotations

from collections.abc import Sequence


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
