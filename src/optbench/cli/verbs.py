"""What every verb needs: errors as messages, where to print, and the folder of the records."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from optbench.store.store import RunRecord

LOG_WIDTH = 160
MOST_LISTED = 4
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")


class CliError(click.ClickException):
    """Prints the message of one of our own exceptions, without a traceback."""

    exit_code = 2

    def format_message(self) -> str:
        """Several lines start on a line of their own."""
        return self.message if "\n" not in self.message else "\n" + self.message


class Finite(click.FloatRange):
    """A number in a range; neither NaN, which lies in every range of click's, nor infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of a text."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number

    def _describe_range(self) -> str:
        """Nothing where there are no bounds: click would say ``x<=None``."""
        return "" if self.min is None and self.max is None else super()._describe_range()


def reports_errors(verb: Callable[P, R]) -> Callable[P, R]:
    """Turn the exceptions that are meant for users into messages and exit codes."""

    @functools.wraps(verb)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        from optbench.config import UserError

        try:
            return verb(*args, **kwargs)
        except UserError as error:
            raise CliError(str(error)) from None

    return wrapped


def store_option(default: str | None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add ``--store``, required unless there is a default."""
    option = functools.partial(
        click.option,
        "--store",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder with the records.",
    )
    # a default of None would count as given, and nothing be required
    return option(required=True) if default is None else option(default=default, show_default=True)


def renamed_option(old: str, new: str, *, is_flag: bool = False) -> Callable[[F], F]:
    """Add a hidden option that answers the old name of another one by its new name."""

    def refuse(context: click.Context, _: click.Parameter, value: object) -> None:
        if value:
            raise click.UsageError(f"{old} is now {new}.", context)

    # Click keeps values by name, and the new option may have the name that the old one would have.
    name = f"renamed_{old.strip('-').replace('-', '_')}"
    return click.option(
        old, name, is_flag=is_flag, hidden=True, expose_value=False, callback=refuse
    )


def format_option(*forms: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add ``--format``, passed on as ``form``; the first form is the default."""
    return click.option("--format", "form", type=click.Choice(forms), default=forms[0])


def find_record(records: Mapping[str, RunRecord], start: str, store: Path) -> RunRecord:
    """The one run whose id starts like this.

    Raises:
        Failure: there is none, or more than one.
    """
    matches = [run_id for run_id in records if run_id.startswith(start)]
    if len(matches) != 1:
        some = ", ".join(matches[:MOST_LISTED])
        found = f"{len(matches)} runs" if matches else "No run"
        listed = f" ({some}{', …' if len(matches) > MOST_LISTED else ''})" if matches else ""
        raise CliError(
            f"{found} in {store} with an id starting with '{start}'{listed}. "
            f"'optbench show --store {store}' lists them all."
        )
    return records[matches[0]]


def available_workers(given: int | None) -> int:
    """As asked for, else the cores that this process may use; macOS knows only their number."""
    if given is not None:
        return given
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def console() -> Console:
    """Standard output."""
    from rich.console import Console

    # A log file has no width of its own; tables get enough for their columns.
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def error_console() -> Console:
    """Standard error: for progress beside output that is read by programs."""
    from rich.console import Console

    return Console(stderr=True)
