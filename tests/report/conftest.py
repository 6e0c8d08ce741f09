"""Two simulated studies for all tests of the report: of one cell, and of six."""

from __future__ import annotations

import pytest

from optbench.analysis.summary import StudySummary, summarise
from optbench.store.store import RunStore
from tests.report.simulated_ladder import simulated_ladder
from tests.statistics.synthetic import SimulatedStudy, finished_study


@pytest.fixture(scope="session")
def study() -> SimulatedStudy:
    return finished_study()


@pytest.fixture(scope="session")
def summary(study: SimulatedStudy) -> StudySummary:
    return summarise(study.store)


@pytest.fixture(scope="session")
def ladder_store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return simulated_ladder(tmp_path_factory.mktemp("ladder"))


@pytest.fixture(scope="session")
def ladder(ladder_store: RunStore) -> StudySummary:
    return summarise(ladder_store)
