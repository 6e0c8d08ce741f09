"""A run with kept weights, and a harness whose data sets stay in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from optbench.training.weights import TrainedModel
from tests.data.synthetic import prepared
from tests.training.trained_runs import kept


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return kept(store, prepared(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness is there, and keeps what it reads of data sets to the test's own folder."""
    pytest.importorskip("lm_eval", reason="the extra 'eval' is not installed")
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
