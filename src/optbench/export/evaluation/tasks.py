"""The published study's ten downstream tasks, by the names that the harness gives them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Title in the study → task of the harness; all are scored on no examples in the prompt.
PAPER_TASKS: Mapping[str, str] = MappingProxyType(
    {
        "LAMBADA": "lambada_openai",
        "OpenBookQA": "openbookqa",
        "WinoGrande": "winogrande",
        "PIQA": "piqa",
        "BoolQ": "boolq",
        "WSC273": "wsc273",
        "HellaSwag": "hellaswag",
        "ARC-c": "arc_challenge",
        "ARC-e": "arc_easy",
        "COPA": "copa",
    }
)
