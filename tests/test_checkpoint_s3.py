"""Checkpoints in an object store, as moto plays one."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest

from optbench.checkpoint import discard, place_of
from optbench.execution import Execution

from .checkpointed_runs import Runs, assert_bit_equal, config_of, undisturbed

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("kept")
    yield "s3://kept/runs"
    server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # moto's and botocore's own
def test_a_run_is_resumed_from_an_object_store(bucket: str) -> None:
    runs = Runs(bucket, config_of("soap", steps=12), Execution(checkpoint_steps=2))
    resumed = runs.parts((5, 9))
    assert resumed.resumed_at == [4, 8]
    assert_bit_equal(resumed, undisturbed(runs))
    place = place_of(bucket, runs.config.run_id)
    assert place.steps() == [12, 10]
    path = f"{place.folder(12)}/rank-0-of-1.safetensors"
    data = place.system.cat_file(path)
    place.system.pipe_file(path, data[:-1])
    damaged = runs.part(seed=4)
    assert damaged.resumed_at[-1] == 10
    assert "rank-0-of-1.safetensors has" in damaged.keeper.record()["checkpoint_problems"][0]
    discard(bucket, runs.config.run_id)
    assert place.steps() == []
