from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import optbench
from optbench.store.installed import difference, git_state, other_commit, versions

HERE = {"optbench": "0.3.0", "commit": "abc", "torch": "2.13.0"}


def test_the_versions_are_those_that_a_run_would_use() -> None:
    assert versions() == {
        "optbench": optbench.__version__,
        "commit": git_state()["commit"],
        "torch": torch.__version__.partition("+")[0],
    }


def test_they_are_read_without_torch() -> None:
    code = (
        "import sys; from optbench.store.installed import versions; versions(); "
        "import optbench.executors.ray_executor; assert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("there", "text"),
    [
        (HERE, ""),
        ({**HERE, "commit": None}, ""),
        ({**HERE, "commit": "def"}, ""),
        (
            {**HERE, "torch": "2.12.1"},
            "it has torch 2.12.1 (the driver has 2.13.0). Install the same on every machine.",
        ),
        (
            {**HERE, "optbench": "0.2.0", "torch": "2.12.1"},
            "it has optbench 0.2.0 (the driver has 0.3.0), torch 2.12.1 (the driver has 2.13.0). "
            "Install the same on every machine.",
        ),
    ],
)
def test_a_difference_is_told_with_both_versions(there: dict[str, str | None], text: str) -> None:
    assert difference(HERE, there) == text


@pytest.mark.parametrize(
    ("here", "there", "commit"),
    [("abc", "abc", ""), ("abc", "def", "def"), ("abc", None, ""), (None, "def", "")],
)
def test_only_two_checkouts_are_compared(here: str | None, there: str | None, commit: str) -> None:
    assert other_commit({**HERE, "commit": here}, {**HERE, "commit": there}) == commit
