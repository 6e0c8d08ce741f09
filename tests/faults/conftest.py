from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.faults.disturbed import DONE, PATIENCE_S, TinyStudy, outcome


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What the study comes to when nothing happens to it."""
    study = TinyStudy(tmp_path_factory.mktemp("undisturbed"))
    driver = study.start()
    output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == DONE, output
    assert len(study.stored()) == len(set(study.stored())) == 15
    return outcome(study)
