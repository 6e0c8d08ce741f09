from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

from optbench.config import RunConfig

from .builders import TINY_CONFIG

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
