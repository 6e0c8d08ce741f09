from __future__ import annotations

import json
import math

from optbench.analysis.jsonable import to_jsonable


def test_what_json_lacks_becomes_what_it_has() -> None:
    value = {1: (1, math.inf, -math.inf, math.nan), "a": {"b": frozenset({2.5})}, "c": "text"}
    assert to_jsonable(value) == {"1": [1, None, None, None], "a": {"b": [2.5]}, "c": "text"}
    json.dumps(to_jsonable(value), allow_nan=False)
