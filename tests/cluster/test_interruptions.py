"""Parts that die in the middle: pods go on, and what was begun is finished."""

import os
import signal

import pytest

from tests.cluster.api import Object, name_of
from tests.cluster.conftest import NODE
from tests.cluster.release import Release
from tests.cluster.usage import container_pids
from tests.cluster.workspace import POD_SECONDS, Workspace

pytestmark = pytest.mark.timeout(300)

PODS = 4


def test_a_killed_node_plugin_finishes_what_it_had_begun(work: Workspace, release: Release) -> None:
    start_user(work)
    names = start_pods(work)
    # In the middle of the mounts, as far as it can be had: some are done, some are under way.
    work.wait_until(lambda: any(map(work.is_ready, names)), "the first pod runs", POD_SECONDS)
    kill(work, release, "node")
    work.await_ready(*names)
    assert work.run("user", "cat", "/data/file") == "kept"
    work.delete("Pod", *names)


def test_a_killed_controller_finishes_what_it_had_begun(work: Workspace, release: Release) -> None:
    names = [f"data-{index}" for index in range(PODS)]
    for name in names:
        work.claim(name)
    kill(work, release, "controller")
    for name in names:
        work.await_bound(name)
    volumes = {name_of(work.volume(name)) for name in names}
    assert len(volumes) == PODS


def test_pods_go_on_while_the_kubelet_restarts(work: Workspace, release: Release) -> None:
    start_user(work)
    node = next(node for node in release.cluster.nodes if node.name == NODE)
    node.stop_kubelet()
    node.start_kubelet()
    release.cluster.wait_for_node(node)
    release.await_registered()
    # A kubelet that has just started learns of its pods one after the other.
    work.wait_until(lambda: reads(work), "the pod reads its file", POD_SECONDS)
    assert [status["restartCount"] for status in work.get("Pod", "user")["status"]["containerStatuses"]] == [0]
    names = start_pods(work)
    work.await_ready(*names)


def start_user(work: Workspace) -> None:
    """The pod ``user`` with a file at /data/file."""
    work.claim("data")
    work.pod("user", {"/data": "data"})
    work.await_ready("user")
    work.run("user", "sh", "-c", "echo kept > /data/file && sync")


def reads(work: Workspace) -> bool:
    """Whether the pod ``user`` reads its file."""
    exec_cat = ("exec", f"--namespace={work.namespace}", "user", "--", "cat", "/data/file")
    return work.cluster.kubectl(*exec_cat, check=False).strip() == "kept"


def start_pods(work: Workspace) -> list[str]:
    """PODS pods with a claim each, just made."""
    names = [f"pod-{index}" for index in range(PODS)]
    for name in names:
        work.claim(f"{name}-data")
        work.pod(name, {"/data": f"{name}-data"})
    return names


def kill(work: Workspace, release: Release, component: str) -> None:
    """SIGKILL to the driver's process of a component; the kubelet starts it again."""
    pod = driver_pod(release, component)
    before = restarts(pod)
    (status,) = [item for item in pod["status"]["containerStatuses"] if item["name"] == "rds-csi"]
    for pid in container_pids(status["containerID"].rpartition("/")[2]):
        os.kill(pid, signal.SIGKILL)
    work.wait_until(
        lambda: restarts(driver_pod(release, component)) > before, f"the {component} was started again", POD_SECONDS
    )


def driver_pod(release: Release, component: str) -> Object:
    """The pod of a component on the node where the volumes are."""
    (pod,) = [pod for pod in release.pods(component) if pod["spec"].get("nodeName") == NODE]
    return pod


def restarts(pod: Object) -> int:
    """How often the driver's container was started again."""
    return sum(int(item["restartCount"]) for item in pod["status"]["containerStatuses"] if item["name"] == "rds-csi")
