from __future__ import annotations

import dataclasses
import json
import math

from optbench.analysis.summary import StudySummary, summarise
from optbench.report.summary_json import summary_as_dict
from tests.statistics.synthetic import SimulatedStudy


def test_dictionary_is_json_without_infinities(summary: StudySummary) -> None:
    first, *others = summary.rows
    assert first.tokens is not None
    unbounded = dataclasses.replace(first.tokens, high=math.inf)
    rows = (dataclasses.replace(first, tokens=unbounded), *others)
    changed = dataclasses.replace(summary, rows=rows)
    back = json.loads(json.dumps(summary_as_dict(changed), allow_nan=False))
    row = back["rows"][0]
    assert (row["optimizer"], row["standing"]) == ("muon", "faster")
    assert row["verdict"].startswith("faster than adamw in tokens")
    assert (row["tokens"]["low"], row["tokens"]["high"]) == (first.tokens.low, None)
    assert row["confirmed"]["configuration"]["weight_decay"] == 0.1


def test_a_study_that_only_began_can_be_written() -> None:
    study = SimulatedStudy()
    study.begin()
    found = summary_as_dict(summarise(study.store))
    json.dumps(found, allow_nan=False)
    assert {row["standing"] for row in found["rows"]} == {"baseline", "no result"}


def test_the_dictionary_has_cells_joint_fit_and_claims(ladder: StudySummary) -> None:
    back = json.loads(json.dumps(summary_as_dict(ladder), allow_nan=False))
    labels = [(cell.cell.size, cell.cell.ratio) for cell in ladder.cells]
    assert [(c["cell"]["size"], c["cell"]["ratio"]) for c in back["cells"]] == labels
    assert back["cells"][0]["rows"][0]["verdict"] == back["rows"][0]["verdict"]
    assert back["joint"]["trends"][0]["value"] == ladder.joint.trends[0].value
    assert [claim["number"] for claim in back["claims"]] == list(range(1, 10))
    assert set(back["curves"]) == {"d32", "d48", "d64"}
