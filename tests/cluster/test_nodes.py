"""Two nodes: a pod moves from one to the other, its volume follows with its data and is never attached to both."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import Object, field, name_of
from tests.cluster.cluster import condition
from tests.cluster.release import Release, local_values
from tests.cluster.workspace import Workspace

pytestmark = pytest.mark.timeout(600)

# Detaching takes some seconds; a node is given up by the controller manager after 40 to 50.
MOVE_SECONDS = 120.0
OUT_OF_SERVICE = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}


@pytest.fixture(scope="module")
def shared(release: Release, array: Path) -> Release:
    """The driver with an array that every node reaches."""
    release.install(local_values(array, f"local://{array}?shared=yes") | {"controller": {}})
    release.await_registered()
    return release


@pytest.fixture
def app(work: Workspace, shared: Release) -> Iterator[Workspace]:
    """A Deployment ``app`` with a file in its volume; every node is as before afterwards."""
    work.claim("data", storage_class="waiting")
    work.deploy("app", {"/data": "data"})
    await_running(work, other_than="")
    work.run(name_of(running(work)[0]), "sh", "-c", "echo kept > /data/file && sync")
    yield work
    for node in shared.cluster.nodes:
        shared.cluster.api.merge("Node", node.name, {"spec": {"unschedulable": None, "taints": None}})


def test_a_drained_pod_takes_its_volume_along(app: Workspace, shared: Release) -> None:
    before = node_of(running(app)[0])
    drain = ("drain", before, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=100s")
    shared.cluster.kubectl(*drain, timeout=110)
    await_moved(app, before)


def test_a_pod_deleted_by_force_leaves_its_volume_to_the_next(app: Workspace, shared: Release) -> None:
    (pod,) = running(app)
    before = node_of(pod)
    shared.cluster.kubectl("cordon", before)
    app.api.delete("Pod", name_of(pod), app.namespace, grace=0)
    await_moved(app, before)


def test_a_dead_node_that_is_out_of_service_gives_its_volumes_up(app: Workspace, shared: Release) -> None:
    before = node_of(running(app)[0])
    (dead,) = [node for node in shared.cluster.nodes if node.name == before]
    dead.power_off()
    api = app.api
    app.wait_until(
        lambda: condition(api.get("Node", before) or {}, "Ready") == "Unknown", "the node is missed", MOVE_SECONDS
    )
    api.merge("Node", before, {"spec": {"taints": [OUT_OF_SERVICE]}})
    await_moved(app, before)
    dead.start_runtime()
    app.wait_until(dead.runtime_answers, "the node is back", MOVE_SECONDS)
    dead.start_kubelet()
    shared.cluster.wait_for_node(dead)


def await_moved(work: Workspace, before: str) -> None:
    """The Deployment's pod runs on another node and has its file."""
    await_running(work, other_than=before)
    assert work.run(name_of(running(work)[0]), "cat", "/data/file") == "kept"


def await_running(work: Workspace, other_than: str) -> None:
    """A pod of the Deployment runs on another node; no volume is attached to two meanwhile."""

    def holds() -> bool:
        assert attached_twice(work) == {}
        return [node_of(pod) for pod in running(work)] not in ([], [other_than])

    work.wait_until(holds, "the pod runs where it may", MOVE_SECONDS)


def attached_twice(work: Workspace) -> dict[str, set[str]]:
    """Volumes that are attached to more than one node, with the nodes."""
    nodes = defaultdict(set)
    for attachment in work.api.list("VolumeAttachment"):
        if field(attachment, "status.attached"):
            nodes[str(field(attachment, "spec.source.persistentVolumeName"))].add(str(attachment["spec"]["nodeName"]))
    return {volume: found for volume, found in nodes.items() if len(found) > 1}


def running(work: Workspace) -> list[Object]:
    """The Deployment's pods that are ready and stay."""
    pods = work.api.list("Pod", work.namespace, labelSelector="app=app")
    return [pod for pod in pods if condition(pod, "Ready") == "True" and not field(pod, "metadata.deletionTimestamp")]


def node_of(pod: Object) -> str:
    """Where the pod runs."""
    return str(pod["spec"]["nodeName"])
