"""RecordFile: the records of ``runs.jsonl`` by run id, each parsed when it is asked for.

Opening checks every line and keeps of each record where it is and what is counted: some hundred
bytes, where a parsed record takes ten thousand. A record that somebody holds is not parsed twice.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from optbench.files.json_lines import StoreError, complete_lines, parse_object, strict_json

R = TypeVar("R")


def _decode(line: str) -> Any:
    """A line's JSON for looking at: a third of the time of ``json.loads``."""
    try:
        return orjson.loads(line)
    except ValueError:  # damage, or what only Python writes: half of a surrogate pair in an error
        return strict_json(line)


@dataclass(slots=True)
class Totals:
    """Sums over the records of a store.

    Args:
        runs: how many, each counted once.
        tokens: of these.
        core_s: seconds of one device, those of failed attempts too.
    """

    runs: int = 0
    tokens: int = 0
    core_s: float = 0.0


class _Line(NamedTuple):
    """Where a record is, and what is counted of it."""

    number: int  # from 1
    offset: int
    length: int
    failed: bool
    tokens: int


class RecordFile(Mapping[str, R]):
    """A mapping over a file of records, in the order in which runs were first stored.

    Of several records of a run the first that did not fail holds.

    Args:
        path: of the file; it need not be there yet.
        parse: a record from the JSON of its line.
        check: refuses the JSON of a line that is no record, with a StoreError.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[Mapping[str, Any]], R],
        check: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.path = path
        self.totals = Totals()
        self._parse = parse
        self._check = check
        self._lines: dict[str, _Line] = {}
        self._parsed: weakref.WeakValueDictionary[str, R] = weakref.WeakValueDictionary()
        self._descriptor: int | None = None
        self._number = self._end = 0  # of the lines that are known, and where they end
        if path.exists():
            self.catch_up()

    def catch_up(self) -> None:
        """Take in the complete lines behind those that are known.

        Raises:
            StoreError: one of them is damaged or no record.
        """
        with os.fdopen(os.dup(self._opened()), "rb") as file:
            file.seek(self._end)
            for number, line in enumerate(complete_lines(file), start=self._number + 1):
                raw = parse_object(line, self.path, number, _decode)
                try:
                    self._check(raw)
                except StoreError as error:
                    raise StoreError(f"{self.path}, line {number}: {error}") from None
                self._add(raw, len(line))
                # Last, so that an interruption before it has the line looked at once more.
                self._number, self._end = number, self._end + len(line) + 1

    def _add(self, raw: Mapping[str, Any], length: int) -> None:
        """Count the next record of the file; a finished run is never displaced."""
        run_id = raw["run_id"]
        known = self._lines.get(run_id)
        if known is not None and not known.failed:
            return
        line = _Line(
            self._number + 1, self._end, length, raw["status"] == "failed", raw["num_tokens"]
        )
        self._lines[run_id] = line
        self._parsed.pop(run_id, None)
        self.totals.runs += known is None
        self.totals.tokens += line.tokens - (known.tokens if known else 0)
        devices = (raw.get("execution") or {}).get("devices", 1)
        self.totals.core_s += float(raw["wall_s"]) * devices

    def has_finished(self, run_id: str) -> bool:
        """Whether a run is there and did not fail."""
        line = self._lines.get(run_id)
        return line is not None and not line.failed

    def __getitem__(self, run_id: str) -> R:
        if (held := self._parsed.get(run_id)) is not None:
            return held
        line = self._lines[run_id]
        text = os.pread(self._opened(), line.length, line.offset)
        raw = parse_object(text, self.path, line.number)
        try:
            record = self._parse(raw)
        except StoreError as error:
            raise StoreError(f"{self.path}, line {line.number}: {error}") from None
        self._parsed[run_id] = record
        return record

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def _opened(self) -> int:
        """The file, open as long as this mapping lives, so that it stays the one that was read."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor
