"""The published results analysed once, for all tests that read them."""

from __future__ import annotations

import functools

from optbench.paper.results import PaperResults, analyse_paper
from optbench.published import read_published


@functools.cache
def paper_results() -> PaperResults:
    """Under the default noise."""
    return analyse_paper(read_published())
