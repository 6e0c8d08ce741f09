from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest

from optbench.executors.ray_cluster import ClusterError, ResourceRequest, WorkerInfo
from optbench.executors.ray_executor import RayExecutor
from tests.executors import executor_jobs as jobs


@pytest.mark.parametrize(
    ("share", "resources", "times"),
    [
        (ResourceRequest(1, 0), {"CPU": 4.0}, 4),
        (ResourceRequest(1, 1), {"CPU": 96.0, "GPU": 8.0}, 8),
        (ResourceRequest(24, 1), {"CPU": 96.0, "GPU": 8.0}, 4),
        (ResourceRequest(1, 1), {"CPU": 96.0}, 0),
        (ResourceRequest(0.5, 1 / 3), {"CPU": 2.0, "GPU": 1.0}, 3),
        (ResourceRequest(0, 2), {"GPU": 5.0}, 2),
        (ResourceRequest(2, 0), {}, 0),
    ],
)
def test_a_machine_holds_as_many_workers_as_it_has_shares(
    share: ResourceRequest, resources: dict[str, float], times: int
) -> None:
    assert share.fits(resources) == times


@pytest.mark.parametrize(("cpus", "gpus"), [(0, 0), (-1, 1), (1, -1)])
def test_a_share_of_nothing_is_refused(cpus: float, gpus: float) -> None:
    message = f"^A run needs CPUs or GPUs, but got {cpus} CPUs and {gpus} GPUs\\.$"
    with pytest.raises(ValueError, match=message):
        ResourceRequest(cpus, gpus)


def test_a_share_is_told_in_words() -> None:
    assert str(ResourceRequest(1, 0)) == "1 CPU"
    assert str(ResourceRequest(2, 0.5)) == "2 CPUs and 0.5 GPUs"
    assert str(ResourceRequest(0, 1)) == "1 GPU"


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r"^Ray is not installed\. Install it: pip install 'optbench\[ray\]'$"
    with pytest.raises(ClusterError, match=message):
        RayExecutor(1, initialize=jobs.nothing)


def test_a_ray_client_is_no_place_for_a_driver() -> None:
    message = r"^The driver has to run on a machine of the cluster, .* \(ray://host:10001\)"
    with pytest.raises(ClusterError, match=message):
        RayExecutor(1, initialize=jobs.nothing, address="ray://host:10001")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "[Errno 111] Connection refused"),
        ("node7", "an address is host:port, or auto"),
    ],
)
def test_an_address_at_which_nothing_answers_is_an_error(address: str, reason: str) -> None:
    message = (
        f"^The Ray cluster at '{address}' cannot be joined: {re.escape(reason)}.*`ray start --head`"
    )
    with pytest.raises(ClusterError, match=message):
        RayExecutor(1, initialize=jobs.nothing, address=address)


def test_an_address_of_the_environment_at_which_nothing_answers_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterError, match=r"at 'auto' cannot be joined: .* Connection refused"):
        RayExecutor(1, initialize=jobs.nothing, address="auto")


def home(log: str, host: str) -> WorkerInfo:
    return WorkerInfo(node_id="n", host=host, log=log, code={}, problem="")


def test_a_log_on_this_machine_is_quoted_and_another_one_is_named(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    log.write_text(":job_id:01\n:actor_name:Worker\n" + "".join(f"line {i}\n" for i in range(30)))
    quoted = home(str(log), socket.gethostname()).log_text()
    assert quoted.startswith(f" What it wrote is in {log}:\nline 10\nline 11\n")
    assert quoted.endswith("line 29")
    assert home(str(log), "node7").log_text() == f" What it wrote is in {log} on node7."
    assert home("", "node7").log_text() == ""
    log.write_text(":job_id:01\n")
    assert home(str(log), socket.gethostname()).log_text() == ""
