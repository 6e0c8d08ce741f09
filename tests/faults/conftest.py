from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.faults.disturbed import DONE, PATIENCE_S, TWO_RANKS, TinyStudy, outcome


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What the study comes to when nothing happens to it."""
    return left_alone(TinyStudy(tmp_path_factory.mktemp("undisturbed")))


@pytest.fixture(scope="session")
def undisturbed_on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The same where two processes execute each run: sums in another order, other last bits."""
    return left_alone(TinyStudy(tmp_path_factory.mktemp("two_ranks"), options=TWO_RANKS))


def left_alone(study: TinyStudy) -> Mapping[str, Any]:
    driver = study.start()
    output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == DONE, output
    assert len(study.stored()) == len(set(study.stored())) == 15
    return outcome(study)
