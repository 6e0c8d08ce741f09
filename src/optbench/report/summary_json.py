"""The summary of a study as plain data for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from optbench.analysis.jsonable import to_jsonable
from optbench.analysis.outcomes import OptimizerRow
from optbench.analysis.summary import StudySummary
from optbench.report.wording import (
    SHORT_VERDICTS,
    joint_reason,
    joint_remarks,
    missing_sentences,
    notice_text,
    verdict_text,
)

_WORDED_OR_LAST = ("verdict", "missing", "prediction")


def summary_as_dict(summary: StudySummary) -> dict[str, Any]:
    """Every field, notices in words; a number that is infinite or does not exist is None."""
    content, baseline = dataclasses.asdict(summary), summary.study.baseline
    del content["joint_notice"]
    content["missing"] = missing_sentences(summary)
    content["joint"]["reason"] = joint_reason(summary)
    content["joint"]["remarks"] = joint_remarks(summary)
    content["rows"] = _rows(content["rows"], summary.rows, baseline)
    for entry, cell in zip(content["cells"], summary.cells, strict=True):
        entry["rows"] = _rows(entry["rows"], cell.rows, baseline)
        entry["missing"] = [notice_text(notice) for notice in cell.missing]
    return to_jsonable(content)


def _rows(
    entries: Sequence[dict[str, Any]], rows: Sequence[OptimizerRow], baseline: str
) -> list[dict[str, Any]]:
    return [
        {
            **{name: value for name, value in entry.items() if name not in _WORDED_OR_LAST},
            "standing": SHORT_VERDICTS[row.verdict],
            "verdict": verdict_text(row, baseline),
            "missing": [notice_text(notice) for notice in row.missing],
            "prediction": entry["prediction"],
        }
        for entry, row in zip(entries, rows, strict=True)
    ]
