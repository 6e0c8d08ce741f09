from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

from optbench.config import RunConfig
from tests.builders import TINY_CONFIG
from tests.smoke_study import SmokeStudy, smoke_study_in

# Tests go side by side, one on each core; threads of theirs would wait for each other and take four
# times the processor time. NumPy and torch read it when a process imports them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The speed of the machine is no property under test.
settings.register_profile("optbench", deadline=None)
settings.load_profile("optbench")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what is skipped for a reason that OPTBENCH_MAY_SKIP, where it is set, does not list."""
    report = yield
    allowed = os.environ.get("OPTBENCH_MAY_SKIP")
    if allowed is None or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(part in reason for part in filter(None, allowed.split(";"))):
        report.outcome = "failed"
        report.longrepr = f"{reason}. OPTBENCH_MAY_SKIP allows no such skip: {allowed!r}."
    return report


@pytest.fixture
def tiny_config() -> RunConfig:
    return TINY_CONFIG


@pytest.fixture(scope="session")
def smoke_study(tmp_path_factory: pytest.TempPathFactory) -> SmokeStudy:
    """Carried out once, by the first of the processes that test side by side to need it."""
    folder = tmp_path_factory.getbasetemp()
    return smoke_study_in(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)
