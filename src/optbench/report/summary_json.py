"""The summary of a study as plain data for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from optbench.analysis.jsonable import to_jsonable
from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.summary import StudySummary
from optbench.report.wording import SHORT_VERDICTS, verdict_text


def summary_as_dict(summary: StudySummary) -> dict[str, Any]:
    """Every field, verdicts in words; a number that is infinite or does not exist is None."""
    content, baseline = dataclasses.asdict(summary), summary.study.baseline
    content["rows"] = _rows(content["rows"], summary.rows, baseline)
    for entry, cell in zip(content["cells"], summary.cells, strict=True):
        entry["rows"] = _rows(entry["rows"], cell.rows, baseline)
    return to_jsonable(content)


def _rows(
    entries: Sequence[dict[str, Any]], rows: Sequence[OptimizerRow], baseline: str
) -> list[dict[str, Any]]:
    return [
        {
            **{name: value for name, value in entry.items() if name not in _AFTER_VERDICT},
            "standing": SHORT_VERDICTS[row.verdict],
            "verdict": verdict_text(row, baseline),
            "missing": entry["missing"],
            "prediction": entry["prediction"],
        }
        for entry, row in zip(entries, rows, strict=True)
    ]


_AFTER_VERDICT = ("verdict", "missing", "prediction")
