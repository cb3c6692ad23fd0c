"""Two nodes, and what keeps a volume where it is until it may move: the node plugin's own end, a node that does not
answer, a node whose driver is not ready yet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import Object, field, name_of
from tests.cluster.cluster import condition
from tests.cluster.conftest import NODES
from tests.cluster.images import BUSYBOX
from tests.cluster.node import Node
from tests.cluster.release import DRIVER_NAME, Release, local_values
from tests.cluster.test_nodes import MOVE_SECONDS, await_moved, await_running, node_of, running
from tests.cluster.workspace import EVENT_SECONDS, POD_SECONDS, Workspace
from tests.support.traces import loops_below

pytestmark = pytest.mark.timeout(600)

NODE = NODES[1]
STARTUP_TAINT = {"key": f"{DRIVER_NAME}/agent-not-ready", "effect": "NoSchedule"}
# How long a pod takes to end, whatever it is told: long enough to see who waits for it.
STUBBORN_SECONDS = 12


@pytest.fixture(scope="module")
def driver(release: Release, array: Path) -> Release:
    """The driver with an array that every node reaches."""
    release.install(local_values(array, f"local://{array}?shared=yes") | {"controller": {}})
    release.await_registered()
    return release


@pytest.fixture
def place(work: Workspace, driver: Release) -> Iterator[Workspace]:
    """A namespace; every node takes pods again afterwards."""
    yield work
    for node in driver.cluster.nodes:
        driver.cluster.api.merge("Node", node.name, {"spec": {"unschedulable": None, "taints": None}})


def test_the_node_plugin_stays_until_its_drained_node_has_no_volume(place: Workspace, driver: Release) -> None:
    api = place.api
    place.claim("data", storage_class="waiting")
    api.apply(stubborn_pod(place.namespace))
    place.await_ready("stubborn")
    volume = name_of(place.volume("data"))
    plugin = plugin_on(driver, NODE)
    driver.cluster.kubectl("cordon", NODE)
    api.delete("Pod", name_of(plugin), driver.namespace)
    api.delete("Pod", "stubborn", place.namespace)

    def is_detached() -> bool:
        # In this order: a plugin that was seen after the volume proves nothing.
        attached = is_attached(place, volume)
        assert not attached or is_running(driver, plugin), "the plugin went before the volume was detached"
        return not attached

    waited = place.wait_until(is_detached, "the volume is detached", MOVE_SECONDS)
    assert waited > STUBBORN_SECONDS / 2
    place.wait_until(lambda: not is_running(driver, plugin), "the plugin goes then", POD_SECONDS)
    place.wait_until(lambda: is_ready(plugin_on(driver, NODE)), "a new one comes", POD_SECONDS)


def test_a_node_that_does_not_answer_keeps_its_volume(place: Workspace, driver: Release, array: Path) -> None:
    place.claim("data", storage_class="waiting")
    place.deploy("app", {"/data": "data"})
    await_running(place, other_than="")
    (pod,) = running(place)
    place.run(name_of(pod), "sh", "-c", "echo kept > /data/file && sync")
    before = node_of(pod)
    node = node_named(driver, before)
    node.stop_kubelet()
    try:
        driver.cluster.kubectl("cordon", before)
        place.api.delete("Pod", name_of(pod), place.namespace, grace=0)
        place.wait_until(lambda: any_refused(place), "its volume is not given to the next", EVENT_SECONDS)
        assert running(place) == []
        # Kubernetes knows nothing of the container any more; it runs and has the volume.
        assert [point for point in node.host.mounts() if "kubernetes.io~csi" in point] != []
        assert is_attached(place, name_of(place.volume("data")), before)
    finally:
        node.start_kubelet()
        driver.cluster.wait_for_node(node)
    await_moved(place, before)
    assert [point for point in node.host.mounts() if "kubernetes.io~csi" in point] == []
    assert len(loops_below(array)) == 1


def test_a_node_takes_pods_when_its_driver_is_ready(place: Workspace, driver: Release) -> None:
    api = place.api
    api.merge("Node", NODE, {"spec": {"taints": [STARTUP_TAINT]}})
    place.claim("data", storage_class="waiting")
    place.pod("user", {"/data": "data"}, node=NODE)
    place.await_message("user", "untolerated taint")
    before = plugin_on(driver, NODE)
    api.delete("Pod", name_of(before), driver.namespace)
    place.wait_until(
        lambda: not field(api.get("Node", NODE) or {}, "spec.taints"), "the driver has removed the taint", POD_SECONDS
    )
    place.await_ready("user")


def stubborn_pod(namespace: str) -> Object:
    """A pod on NODE with the claim ``data`` that ends only when its grace period is over."""
    container = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "trap '' TERM; while true; do sleep 1; done"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "terminationGracePeriodSeconds": STUBBORN_SECONDS,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stubborn", "namespace": namespace},
        "spec": spec,
    }


def node_named(release: Release, name: str) -> Node:
    """A node of the cluster."""
    (found,) = [node for node in release.cluster.nodes if node.name == name]
    return found


def plugin_on(release: Release, node: str) -> Object:
    """The pod of the node plugin on a node, the newest when one is ending; empty when there is none."""
    pods = [pod for pod in release.pods("node") if node_of(pod) == node]
    return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default={})


def is_ready(pod: Object) -> bool:
    """Whether it runs and stays."""
    return condition(pod, "Ready") == "True" and not field(pod, "metadata.deletionTimestamp")


def is_running(release: Release, pod: Object) -> bool:
    """Whether the driver's container of that very pod runs."""
    found = release.cluster.api.get("Pod", name_of(pod), release.namespace)
    if found is None or found["metadata"]["uid"] != pod["metadata"]["uid"]:
        return False
    return any("running" in item["state"] for item in found["status"].get("containerStatuses", []))


def is_attached(work: Workspace, volume: str, node: str = "") -> bool:
    """Whether a VolumeAttachment names the volume, and the node."""
    return any(
        field(item, "spec.source.persistentVolumeName") == volume and node in ("", item["spec"]["nodeName"])
        for item in work.api.list("VolumeAttachment")
    )


def any_refused(work: Workspace) -> bool:
    """Whether the attach-detach controller has said of a pod that its volume is with another."""
    events = work.api.list("Event", work.namespace, fieldSelector="reason=FailedAttachVolume")
    return any("Multi-Attach" in str(event.get("message")) for event in events)
