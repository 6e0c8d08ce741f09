from __future__ import annotations

import pytest
from hypothesis import settings

from optbench.config import RunConfig

from .builders import TINY_CONFIG

# The speed of the machine is no property under test.
settings.register_profile("optbench", deadline=None)
settings.load_profile("optbench")


@pytest.fixture
def tiny_config() -> RunConfig:
    return TINY_CONFIG
