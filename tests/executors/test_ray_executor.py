"""What is peculiar to the Ray executor: machines that come, go and differ, on a cluster of several
Ray nodes on this machine; what all executors have in common is in ``test_conformance.py``.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from optbench.executors.ray_cluster import ClusterError
from optbench.executors.ray_executor import RayExecutor
from optbench.store.installed import versions
from tests.executors import executor_jobs as jobs
from tests.executors.ray_here import OBJECT_STORE_BYTES, environment_for_ray
from tests.waiting import TIMEOUT_S, has_started, until

# A node is counted as lost within seconds, instead of the quarter of a minute that Ray takes.
QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """A Ray cluster whose head executes nothing, and nodes that can be killed."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
        self._cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={
                **head,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_system_config": QUICK_HEALTH_CHECKS,
            },
        )
        self._by_id: dict[str, Any] = {}
        ray.init(self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def add(self, num_cpus: int = 1, num_gpus: int = 0) -> str:
        """A node; returns its id."""
        node = self._cluster.add_node(
            num_cpus=num_cpus, num_gpus=num_gpus, object_store_memory=OBJECT_STORE_BYTES
        )
        self._by_id[node.node_id] = node
        return node.node_id

    def kill(self, node_id: str) -> None:
        """kill -9 of the process that makes a machine a node of the cluster."""
        os.kill(self._by_id[node_id].all_processes["raylet"][0].process.pid, signal.SIGKILL)
        until(lambda: node_id not in self.alive(), "the cluster has noticed")
        self._cluster.remove_node(self._by_id.pop(node_id), allow_graceful=False)

    def alive(self) -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def clear(self) -> None:
        for node_id in list(self._by_id):
            self.kill(node_id)

    def close(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with environment_for_ray():
        nodes = Nodes()
        yield nodes
        nodes.close()


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """A cluster without a node."""
    yield cluster
    cluster.clear()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_jobs_of_a_lost_node_are_done_elsewhere_and_the_others_do_not_notice(
    nodes: Nodes, tmp_path: Path
) -> None:
    first = nodes.add()
    with RayExecutor(initialize=jobs.nothing, max_retries=0) as executor:
        assert executor.num_workers == 1
        moved: Future[Any] = executor.submit(jobs.begin_wait_and_end, tmp_path, "moved")
        until(lambda: has_started(tmp_path / "started moved"), "it has begun")
        second = nodes.add()  # joins later and is used by itself
        stayed = executor.submit(jobs.begin_wait_and_end, tmp_path, "stayed")
        until(lambda: has_started(tmp_path / "started stayed"), "the other has begun")
        assert executor.num_workers == 2
        nodes.kill(first)
        (tmp_path / "go").touch()
        # Without a retry, a crash of the worker alone would be the end of the job.
        assert moved.result(TIMEOUT_S) == ("moved", second)
        assert stayed.result(TIMEOUT_S) == ("stayed", second)
    assert (tmp_path / "started moved").read_text() == "xx"
    assert lines(tmp_path / "ended moved") == [second]
    assert (tmp_path / "started stayed").read_text() == "x"


def test_when_every_node_is_lost_the_jobs_wait_for_the_next(
    nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = nodes.add()
    with RayExecutor(initialize=jobs.nothing, max_retries=0) as executor:
        future: Future[Any] = executor.submit(jobs.begin_wait_and_end, tmp_path, "a")
        until(lambda: has_started(tmp_path / "started a"), "it has begun")
        nodes.kill(first)
        until(lambda: bool(caplog.messages), "the user is told")
        (tmp_path / "go").touch()
        second = nodes.add()
        assert future.result(TIMEOUT_S) == ("a", second)
    assert caplog.messages == ["The cluster has no machine with 1 CPU left. Waiting for one."]


def test_a_job_that_fells_its_machines_is_given_up(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optbench.executors.worker_failures.MAX_LOST_MACHINES", 0)
    first = nodes.add()
    with RayExecutor(initialize=jobs.nothing) as executor:
        future = executor.submit(jobs.begin_wait_and_end, tmp_path, "a")
        until(lambda: has_started(tmp_path / "started a"), "it has begun")
        nodes.kill(first)
        error = future.exception(TIMEOUT_S)
    assert isinstance(error, BrokenProcessPool)
    assert str(error).startswith(
        "No worker lasted through 1 attempts at this job: their machines were lost, or no worker "
        "could be started there (last: the actor's node was terminated unexpectedly"
    )


def test_every_worker_sees_its_own_gpus_and_what_no_machine_has_is_refused(nodes: Nodes) -> None:
    nodes.add(num_cpus=4, num_gpus=2)
    with RayExecutor(initialize=jobs.nothing) as executor:
        assert executor.num_workers == 2  # as many as GPUs
        seen = [executor.submit(jobs.visible_gpus).result(TIMEOUT_S) for _ in range(4)]
    assert set(seen) <= {"0", "1"}
    with RayExecutor(initialize=jobs.nothing, devices=2) as executor:
        assert executor.num_workers == 1
        assert executor.submit(jobs.visible_gpus).result(TIMEOUT_S) == "0,1"
    with RayExecutor(initialize=jobs.nothing, gpus_per_run=0.5) as executor:
        assert executor.num_workers == 4
    message = (
        r"^No machine has 1 CPU and 3 GPUs for a run\. The machines have: .*4 CPUs, 2 GPUs.* "
        r"--gpus-per-run, or give --workers to wait for machines\.$"
    )
    with pytest.raises(ClusterError, match=message):
        RayExecutor(initialize=jobs.nothing, gpus_per_run=3)


def test_a_machine_with_other_versions_is_left_out(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = nodes.add()
    here = {"optbench": "0.0.1", "commit": None, "torch": "2.13.0"}
    monkeypatch.setattr("optbench.executors.ray_executor.versions", lambda: here)
    with RayExecutor(initialize=jobs.nothing) as executor:
        futures = [executor.submit(jobs.square, x) for x in range(2)]
        for future in futures:
            with pytest.raises(ClusterError, match=r"No machine of the cluster can .*\n- \S+: it "):
                future.result(TIMEOUT_S)
        later = executor.submit(jobs.square, 3)
        assert isinstance(later.exception(TIMEOUT_S), ClusterError)
    (told,) = caplog.messages
    assert "is left out of the runs: it has optbench" in told
    assert told.endswith("(the driver has 0.0.1). Install the same on every machine.")
    assert nodes.alive() >= {first}


def test_another_commit_of_the_same_version_is_used_and_told(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes.add()
    here = versions()
    if here["commit"] is None:
        pytest.skip("an installed package has no commit")
    monkeypatch.setattr(
        "optbench.executors.ray_executor.versions", lambda: {**here, "commit": "abc"}
    )
    with RayExecutor(initialize=jobs.nothing) as executor:
        assert executor.submit(jobs.square, 3).result(TIMEOUT_S) == 9
    (told,) = caplog.messages
    assert f"works with commit {here['commit']}, the driver with abc" in told


def test_one_machine_with_other_versions_does_not_stop_the_others(nodes: Nodes) -> None:
    odd = nodes.add()
    executor = RayExecutor(2, initialize=jobs.nothing)
    executor._refused[odd] = "- odd: it has torch 2.0.0."
    good = nodes.add()
    with executor:
        futures = [executor.submit(jobs.begin_and_end, Path("/tmp"), "x", 0.0) for _ in range(3)]
        assert {future.result(TIMEOUT_S)[1] for future in futures} == {good}


def nodes_lost_at_random(nodes: Nodes, folder: Path, kills: int, seed: int) -> None:
    """Kill one of two nodes again and again while short jobs run; nothing is lost or done twice."""
    rng = random.Random(seed)
    there = [nodes.add(), nodes.add()]
    names = [f"job {number}" for number in range(4 * kills)]
    with RayExecutor(initialize=jobs.nothing, max_retries=0) as executor:
        futures = [executor.submit(jobs.begin_and_end, folder, name, 1.5) for name in names]
        for _ in range(kills):
            time.sleep(rng.uniform(0.0, 3.0))
            lost = there.pop(rng.randrange(2))
            nodes.kill(lost)
            there.append(nodes.add())
        results = [future.result(10 * TIMEOUT_S) for future in futures]
    assert [name for name, _ in results] == names
    for name, node_id in results:
        assert lines(folder / f"ended {name}") == [node_id]


def test_no_job_is_lost_or_done_twice_when_nodes_are_killed(nodes: Nodes, tmp_path: Path) -> None:
    nodes_lost_at_random(nodes, tmp_path, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.endurance
def test_no_job_is_lost_or_done_twice_when_fifty_nodes_are_killed(
    nodes: Nodes, tmp_path: Path
) -> None:
    nodes_lost_at_random(nodes, tmp_path, kills=50, seed=2)
