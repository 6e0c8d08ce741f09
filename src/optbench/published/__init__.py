"""The published results of arXiv 2509.02046, in a file of the package: no torch, no network."""

from optbench.published.names import COMPLEMENTS, REPORTED_SIZES, our_name
from optbench.published.results import (
    PublishedCell,
    PublishedPrediction,
    PublishedResults,
    Trial,
    read_published,
)

__all__ = [
    "COMPLEMENTS",
    "REPORTED_SIZES",
    "PublishedCell",
    "PublishedPrediction",
    "PublishedResults",
    "Trial",
    "our_name",
    "read_published",
]
