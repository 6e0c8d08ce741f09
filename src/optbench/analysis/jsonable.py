"""Results as plain data, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def to_jsonable(value: Any) -> Any:
    """Names as strings, sequences as lists; a number that is infinite or does not exist is None."""
    if isinstance(value, Mapping):
        return {str(name): to_jsonable(item) for name, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [to_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
