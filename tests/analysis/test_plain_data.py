from __future__ import annotations

import json
import math

from optbench.analysis.plain_data import plain_data


def test_what_json_lacks_becomes_what_it_has() -> None:
    value = {1: (1, math.inf, -math.inf, math.nan), "a": {"b": frozenset({2.5})}, "c": "text"}
    assert plain_data(value) == {"1": [1, None, None, None], "a": {"b": [2.5]}, "c": "text"}
    json.dumps(plain_data(value), allow_nan=False)
