"""A Ray of the tests' own: small, short-lived, in a folder of its own, silent to the network."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OBJECT_STORE_BYTES = 80 * 2**20


def ray_environment(folder: str) -> dict[str, str]:
    """What a Ray that a test starts needs; its workers import the tests' jobs."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "RAY_AUTH_MODE": "disabled",  # it would write a token into the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": folder,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


@contextlib.contextmanager
def ray_folder() -> Generator[str]:
    """Where a Ray keeps its sockets: their paths must be short, pytest's are not."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def environment_for_ray() -> Generator[str]:
    """The variables, in this process and what it starts; yields the folder."""
    with ray_folder() as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in ray_environment(folder).items():
            patch.setenv(name, value)
        yield folder


@contextlib.contextmanager
def local_ray(**settings: Any) -> Generator[None]:
    """Ray on this machine, connected to this process."""
    import ray

    with environment_for_ray():
        ray.init(
            "local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **settings,
        )
        try:
            yield
        finally:
            ray.shutdown()
