"""The code that is installed here: versions and commit, read without importing torch."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optbench


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the source tree, or None for an installed package."""
    return git_state_of(Path(__file__).parent)


def git_state_of(directory: Path) -> dict[str, Any]:
    """Commit and dirty flag of the repository that a folder is in, or None."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                # A status that was cut off would leave its lock in the user's repository.
                ["git", "--no-optional-locks", *arguments],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(git("status", "--porcelain")) if commit else None}


def versions() -> dict[str, str | None]:
    """What the numbers of a run depend on and two machines of a study must have in common."""
    # Builds of one torch for several kinds of device are the same torch.
    torch = importlib.metadata.version("torch").partition("+")[0]
    return {"optbench": optbench.__version__, "commit": git_state()["commit"], "torch": torch}


def difference(here: Mapping[str, str | None], there: Mapping[str, str | None]) -> str:
    """In words, how another machine's versions differ; empty if only its commit does, or nothing.

    A commit is compared by :func:`other_commit`: a checkout may well move on while a study runs in
    it.
    """
    differing = [
        f"{name} {there.get(name)} (the driver has {version})"
        for name, version in here.items()
        if name != "commit" and version != there.get(name)
    ]
    if not differing:
        return ""
    return f"it has {', '.join(differing)}. Install the same on every machine."


def other_commit(here: Mapping[str, str | None], there: Mapping[str, str | None]) -> str:
    """The commit of another machine's checkout if it is not the one here, else empty.

    An installed package has no commit, so only two checkouts are compared.
    """
    theirs = there.get("commit")
    return theirs if theirs and here.get("commit") not in (None, theirs) else ""
