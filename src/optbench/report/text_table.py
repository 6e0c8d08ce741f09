"""Columns of text, the same on a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Row: TypeAlias = Sequence[str]
GAP = "  "


def text_table(titles: Row, rows: Sequence[Row], *, left: Sequence[str] = ()) -> tuple[str, ...]:
    """Lines of a table without rules; columns are aligned to the right.

    Args:
        titles: one for each column.
        rows: as many cells each.
        left: titles of columns that are aligned to the left; those without a title always are.
    """
    table = [titles, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(titles))]
    is_left = [not title or title in left for title in titles]
    return tuple(
        GAP.join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(row, widths, is_left, strict=True)
        ).rstrip()
        for row in table
    )
