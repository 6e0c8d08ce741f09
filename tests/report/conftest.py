"""One simulated study for all tests of the report."""

from __future__ import annotations

import pytest

from optbench.analysis.summary import StudySummary, summarise

from ..analysis.synthetic import SimulatedStudy, finished_study


@pytest.fixture(scope="session")
def study() -> SimulatedStudy:
    return finished_study()


@pytest.fixture(scope="session")
def summary(study: SimulatedStudy) -> StudySummary:
    return summarise(study.store)
