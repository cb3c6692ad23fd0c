"""What a person must know is an Event on the object where that person looks: claim, PersistentVolume or Node.

Real API server, real rights. Only NVMe is made up, which this machine's kernel does not have.
"""

import asyncio
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grpclib.client import Channel
from grpclib.exceptions import GRPCError

from rds_csi.csi import v1 as csi
from rds_csi.model.notices import Reason
from tests.cluster.api import Object, field, name_of
from tests.cluster.conftest import NODE, NODES
from tests.cluster.driver import PodProcess
from tests.cluster.node import Node
from tests.cluster.nvme_host import NvmeHost
from tests.cluster.release import DRIVER_NAME, Release
from tests.cluster.workspace import EVENT_SECONDS, POD_SECONDS, Workspace
from tests.support.simulated import Simulated

pytestmark = pytest.mark.timeout(300)

MIB = 1024 * 1024
GIB = 1024 * MIB
CLAIM, VOLUME = "PersistentVolumeClaim", "PersistentVolume"
PREFIX = "nqn.2026-01.io.rds-csi:"
# A count is written a minute after the first Event at the earliest.
REPEAT_SECONDS = 120.0
CALL_SECONDS = 60.0
TOOL_SECONDS = 10.0


def test_a_volume_with_foreign_bytes_is_not_formatted(work: Workspace) -> None:
    image = static_volume(work)
    foreign = b"not a filesystem, and dear to somebody" * 100
    with image.open("r+b") as stream:
        stream.seek(MIB)
        stream.write(foreign)
    work.pod("user", {"/data": "data"}, node=NODE)
    for kind, name in ((CLAIM, "data"), (VOLUME, name_of(work.volume("data")))):
        event = await_event(work, Reason.FORMAT_REFUSED, kind, name, f"node {NODE}", "will not be formatted")
        assert event["type"] == "Warning"
    await_repeated(work, Reason.FORMAT_REFUSED, CLAIM, "data")
    assert foreign in image.read_bytes()
    work.delete("Pod", "user")


def test_a_volume_that_only_a_person_can_mend_says_so(work: Workspace, release: Release) -> None:
    work.claim("data")
    work.await_bound("data")
    with something_at(staging_path(work.volume("data")), release.cluster.nodes[0]):
        work.pod("user", {"/data": "data"}, node=NODE)
        for kind, name in ((CLAIM, "data"), (VOLUME, name_of(work.volume("data")))):
            await_event(work, Reason.VOLUME_REFUSED, kind, name, f"node {NODE}", "has lane mounted", "Unstage")
    work.await_ready("user")


def test_a_claim_for_which_the_array_has_no_room_says_so(work: Workspace, array: Path) -> None:
    name = "thick"
    work.api.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": name},
            "provisioner": DRIVER_NAME,
            "parameters": {"provisioning": "thick"},
        }
    )
    work.claim("huge", storage_class=name, size=str(shutil.disk_usage(array).free + 10 * GIB))
    event = await_event(work, Reason.ARRAY_FULL, CLAIM, "huge")
    assert event["type"] == "Warning"
    work.api.delete("StorageClass", name)


def test_nodes_that_show_arrays_one_identity_say_so(work: Workspace, release: Release, tmp_path: Path) -> None:
    host = NvmeHost(tmp_path)
    controller = PodProcess(release.cluster, tmp_path, "rds-csi-controller", release.namespace)
    with Simulated(tmp_path) as simulated:
        try:
            controller.start("controller", f"--array={simulated.url('ssh')}", *host.flags)
            asyncio.run(attach(controller.socket, "first", f"{NODES[0]}#{host.host_nqn}"))
            with pytest.raises(GRPCError, match="the same host NQN as node-a"):
                asyncio.run(attach(controller.socket, "second", f"{NODES[1]}#{host.host_nqn}"))
            for node, other in (NODES, NODES[::-1]):
                await_event(work, Reason.DUPLICATE_HOST_IDENTITY, "Node", node, other, host.host_nqn)
        finally:
            controller.stop()


@pytest.fixture
def host(tmp_path: Path) -> NvmeHost:
    """A made-up host with NVMe sessions."""
    return NvmeHost(tmp_path)


@pytest.fixture
def node(release: Release, host: NvmeHost, tmp_path: Path) -> Iterator[PodProcess]:
    """A driver for that host that is no DaemonSet's, with the rights of the chart's; not started."""
    made = PodProcess(release.cluster, tmp_path, "rds-csi-node", release.namespace)
    yield made
    made.stop()


def test_a_session_that_is_lost_and_comes_back_says_so(work: Workspace, host: NvmeHost, node: PodProcess) -> None:
    nqn = f"{PREFIX}lost"
    volume = nvme_volume(work, nqn)
    host.add_session(nqn)
    host.stage(volume, nqn)
    node.start("node", f"--node-id={NODE}", *host.flags)
    host.set_state(nqn, "connecting")
    for kind, name in ((CLAIM, "data"), (VOLUME, volume)):
        event = await_event(work, Reason.SESSION_LOST, kind, name, f"node {NODE}", nqn, "I/O waits")
        assert event["type"] == "Warning"
    host.set_state(nqn, "live")
    for kind, name in ((CLAIM, "data"), (VOLUME, volume)):
        event = await_event(work, Reason.SESSION_RECOVERED, kind, name, f"node {NODE}", nqn, "live again")
        assert event["type"] == "Normal"
    forget(work, volume)


def test_a_session_that_was_cut_as_its_volume_has_moved_says_so(
    work: Workspace, host: NvmeHost, node: PodProcess
) -> None:
    nqn = f"{PREFIX}moved"
    volume = nvme_volume(work, nqn)
    host.add_session(nqn)
    node.start("node", f"--node-id={NODE}", "--sweep-interval=2", "--grace=3600", *host.flags)
    # Nothing uses it, but it is too early to call it an orphan.
    assert host.has_session(nqn)
    attach_elsewhere(work, volume)

    def is_cut() -> bool:
        host.obey()
        return not host.has_session(nqn)

    work.wait_until(is_cut, "the session is cut", EVENT_SECONDS)
    await_event(work, Reason.ORPHAN_DISCONNECTED, "Node", NODE, nqn, "attached to another node")
    work.api.delete("VolumeAttachment", volume)
    work.wait_until(lambda: work.api.get("VolumeAttachment", volume) is None, "it is detached", POD_SECONDS)
    forget(work, volume)


def test_every_reason_has_its_case() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [reason.name for reason in Reason if f"Reason.{reason.name}" not in source] == []


# ---- volumes


def static_volume(work: Workspace) -> Path:
    """A claim ``data`` for a volume that is on the array and whose PersistentVolume was written by hand; its image."""
    work.claim("origin")
    work.await_bound("origin")
    made = work.volume("origin")
    work.api.merge(VOLUME, name_of(made), {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    work.delete(CLAIM, "origin")
    work.delete(VOLUME, name_of(made))
    kept = ("capacity", "accessModes", "csi", "nodeAffinity", "volumeMode")
    bind(work, f"by-hand-{work.namespace}"[:60], {key: made["spec"][key] for key in kept})
    return image_of(made)


def nvme_volume(work: Workspace, nqn: str) -> str:
    """A claim ``data`` for a volume that an NVMe target has; the PersistentVolume's name, and its id."""
    name = nqn.removeprefix(PREFIX)
    source = {
        "driver": DRIVER_NAME,
        "volumeHandle": name,
        "volumeAttributes": {"nqn": nqn, "nvmeAddress": "192.0.2.1", "nvmePort": "4420"},
    }
    bind(work, name, {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": source}, keep=True)
    return name


def bind(work: Workspace, name: str, spec: Object, *, keep: bool = False) -> None:
    """Write a PersistentVolume and a claim ``data`` for it; with ``keep`` it outlives the claim."""
    policy = {"storageClassName": "", "persistentVolumeReclaimPolicy": "Retain" if keep else "Delete"}
    metadata = {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": DRIVER_NAME}}
    work.api.apply({"apiVersion": "v1", "kind": VOLUME, "metadata": metadata, "spec": {**spec, **policy}})
    claim = {
        "storageClassName": "",
        "volumeName": name,
        "accessModes": spec["accessModes"],
        "resources": {"requests": spec["capacity"]},
    }
    metadata = {"name": "data", "namespace": work.namespace}
    work.api.apply({"apiVersion": "v1", "kind": CLAIM, "metadata": metadata, "spec": claim})
    work.await_bound("data")


def forget(work: Workspace, volume: str) -> None:
    """The claim ``data`` goes, and the PersistentVolume that is kept."""
    work.delete(CLAIM, "data")
    work.delete(VOLUME, volume)


def image_of(volume: Object) -> Path:
    """The image file of a PersistentVolume."""
    return Path(field(volume, "spec.csi.volumeAttributes")["imageFile"])


def staging_path(volume: Object) -> Path:
    """Where the kubelet has a volume staged (k8s.io/kubernetes/pkg/volume/csi, makeDeviceMountPath)."""
    name = hashlib.sha256(field(volume, "spec.csi.volumeHandle").encode()).hexdigest()
    return Path("/var/lib/kubelet/plugins/kubernetes.io/csi") / DRIVER_NAME / name / "globalmount"


@contextmanager
def something_at(path: Path, node: Node) -> Iterator[None]:
    """Somebody else has mounted something at a path of a node."""
    for words in (["mkdir", "--parents", str(path)], ["mount", "-t", "tmpfs", "lane", str(path)]):
        subprocess.run(node.host.inside(words), check=True, timeout=TOOL_SECONDS)
    try:
        yield
    finally:
        subprocess.run(node.host.inside(["umount", str(path)]), check=True, timeout=TOOL_SECONDS)


def attach_elsewhere(work: Workspace, volume: str) -> None:
    """The cluster has the volume attached to the other node."""
    spec = {"attacher": DRIVER_NAME, "nodeName": NODES[1], "source": {"persistentVolumeName": volume}}
    found = {"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": volume}, "spec": spec}
    work.api.apply(found)
    words = ("patch", "volumeattachment", volume, "--subresource=status", "--type=merge")
    work.cluster.kubectl(*words, '--patch={"status": {"attached": true}}')


async def attach(socket: Path, volume: str, node_id: str) -> None:
    """CreateVolume and ControllerPublishVolume, as the sidecars call."""
    channel = Channel(path=str(socket))
    try:
        stub = csi.ControllerStub(channel, timeout=CALL_SECONDS)
        mode = csi.VolumeCapabilityAccessModeMode(csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER)
        capability = csi.VolumeCapability(
            block=csi.VolumeCapabilityBlockVolume(), access_mode=csi.VolumeCapabilityAccessMode(mode=mode)
        )
        size = csi.CapacityRange(required_bytes=16 * MIB)
        await stub.create_volume(
            csi.CreateVolumeRequest(name=volume, capacity_range=size, volume_capabilities=[capability])
        )
        await stub.controller_publish_volume(
            csi.ControllerPublishVolumeRequest(volume_id=volume, node_id=node_id, volume_capability=capability)
        )
    finally:
        channel.close()


# ---- events


def await_event(work: Workspace, reason: Reason, kind: str, name: str, *words: str) -> Object:
    """The driver's event on the very object that is there now, with all the words in its message."""
    found: list[Object] = []

    def is_there() -> bool:
        found[:] = [event for event in events(work, reason, kind, name) if all(w in event["message"] for w in words)]
        return bool(found)

    work.wait_until(is_there, f"an event {reason} on the {kind} {name} says {words}", EVENT_SECONDS)
    return found[0]


def await_repeated(work: Workspace, reason: Reason, kind: str, name: str) -> None:
    """What happens again and again is one event that counts."""
    work.wait_until(
        lambda: any(event["count"] > 1 for event in events(work, reason, kind, name)),
        f"{reason} counts",
        REPEAT_SECONDS,
    )
    assert len(events(work, reason, kind, name)) == 1


def events(work: Workspace, reason: Reason, kind: str, name: str) -> list[Object]:
    """The driver's events of an object, as ``kubectl describe`` finds them: by its name and uid."""
    is_inside = kind == CLAIM
    about = work.api.get(kind, name, work.namespace)
    assert about is not None, f"there is no {kind} {name}"
    # The kubelet's way of naming nodes.
    uid = name if kind == "Node" else about["metadata"]["uid"]
    there = work.api.list(
        "Event", work.namespace if is_inside else "default", fieldSelector=f"involvedObject.uid={uid}"
    )
    return [
        event
        for event in there
        if event["reason"] == reason.value
        and (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == (kind, name)
        and event["source"]["component"] == DRIVER_NAME
    ]
