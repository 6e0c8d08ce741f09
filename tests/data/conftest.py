"""A prepared synthetic corpus, shared by the tests that only read it."""

from __future__ import annotations

import pytest

from optbench.data.shards import Corpus
from tests.data.synthetic import prepared


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("cache"))
