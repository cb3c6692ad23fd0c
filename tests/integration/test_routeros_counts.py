"""What a call costs a RouterOS array: execs and channels over SSH, requests over REST, counted by the simulator.

The numbers are exact and of calls that nothing stands in the way of. First contact is counted apart: facts and pool
are looked at once, the base directory is made by the first volume.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.arrays.routeros.array import RouterosArray, open_array
from rds_csi.connectors.memory import MemoryConnector
from rds_csi.csi import v1 as csi
from rds_csi.locks import OperationLocks
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import GIB
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind, VolumeSpec
from rds_csi.process import ProcessRunner
from rds_csi.services.controller import ControllerService
from rds_csi.services.groups import GroupControllerService
from rds_csi.services.nodes import NamedNodes
from rds_csi.simulator.device_options import PoolOptions
from rds_csi.simulator.options import SimulatorOptions
from rds_csi.simulator.server import Simulator
from rds_csi.workers import Workers

TRANSPORTS = ("ssh", "https")
# A pool of each kind, and what its URL says of snapshots. Files lie in a directory, or each in a subvolume of its own.
PLAIN, SUBVOLUMES = ("xfs", "none"), ("btrfs", "btrfs-subvolume")
TOPOLOGY = {"topology.example/transport": "nvme-tcp"}
ATTACHMENT = Attachment(Node("node-1", "nqn.2014-08.org.nvmexpress:uuid:1"), "token-1", AccessMode.SINGLE_NODE_WRITER)
CAPABILITY = csi.VolumeCapability(
    mount=csi.VolumeCapabilityMountVolume(),
    access_mode=csi.VolumeCapabilityAccessMode(
        mode=csi.VolumeCapabilityAccessModeMode(csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER)
    ),
)


@dataclass
class Wire:
    """An array on a simulator, and how much each step has asked of it."""

    simulator: Simulator
    array: RouterosArray
    asked: dict[str, int] = field(default_factory=dict)

    async def step(self, name: str, work: Awaitable[object]) -> None:
        """Do the work, and note the execs or requests that it took. An exec is a channel, never more than that."""
        counters = self.simulator.counters
        counters.reset()
        await work
        assert counters.channels == counters.execs
        self.asked[name] = counters.execs + counters.requests

    async def create(self, volume_id: str, size: int = GIB, source: ContentSource | None = None) -> None:
        await self.array.create_volume(VolumeSpec(volume_id, volume_id, size, source=source))


def url_of(simulator: Simulator, transport: str, directory: Path, snapshots: str) -> str:
    """The array's URL, with the credentials in ``directory``."""
    files = simulator.write_credentials(directory)
    secrets: Mapping[str, object] = {"password-file": files.password, "tls-ca": files.tls_ca}
    port = simulator.https_port
    if transport == "ssh":
        secrets = {"key-file": files.client_key, "known-hosts": files.known_hosts}
        port = simulator.ssh_port
    query = urlencode({"pool": "raid10", "snapshots": snapshots, **secrets})
    return f"routeros+{transport}://{quote(simulator.users[0].name)}@127.0.0.1:{port}/?{query}"


@asynccontextmanager
async def wired(transport: str, layout: tuple[str, str], directory: Path) -> AsyncIterator[Wire]:
    """An array on a simulator of its own, for the block."""
    filesystem, snapshots = layout
    async with Simulator(SimulatorOptions(pools=(PoolOptions(filesystem=filesystem),))) as simulator:
        url = url_of(simulator, transport, directory, snapshots)
        array = open_array(url, ArrayOptions(ProcessRunner(), Workers(), HostPaths(), "nqn.2026-01.example:prod:"))
        try:
            yield Wire(simulator, array)
        finally:
            await array.close()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def plain(transport: str, tmp_path: Path) -> AsyncIterator[Wire]:
    async with wired(transport, PLAIN, tmp_path) as wire:
        await wire.create("first")
        yield wire


@pytest.fixture
async def btrfs(transport: str, tmp_path: Path) -> AsyncIterator[Wire]:
    async with wired(transport, SUBVOLUMES, tmp_path) as wire:
        await wire.create("first")
        yield wire


@pytest.mark.parametrize("layout", [PLAIN, SUBVOLUMES], ids=["plain", "btrfs"])
async def test_first_contact_is_one_look_at_the_device_and_one_at_the_pool(
    transport: str, layout: tuple[str, str], tmp_path: Path
) -> None:
    async with wired(transport, layout, tmp_path) as wire:
        await wire.step("contact", wire.array.check())
        # SSH: facts, pool. REST: resource, packages, user, group, pool.
        assert wire.asked == {"contact": 2 if transport == "ssh" else 5}
        assert wire.simulator.counters.connections == 1


@pytest.mark.parametrize("layout", [PLAIN, SUBVOLUMES], ids=["plain", "btrfs"])
async def test_the_first_volume_also_pays_for_the_base_directory(
    transport: str, layout: tuple[str, str], tmp_path: Path
) -> None:
    async with wired(transport, layout, tmp_path) as wire:
        await wire.array.check()
        await wire.step("first", wire.create("first"))
        await wire.step("second", wire.create("second"))
        assert wire.asked["first"] <= (7 if transport == "ssh" else 24)
        assert wire.asked["second"] == (1 if transport == "ssh" else 3)


# What each step of a volume costs over REST, whatever the layout; over SSH each is one exec.
VOLUME_STEPS = {
    "create": 3,
    "create, exists": 1,
    "get": 1,
    "attach": 2,
    "attach, is attached": 1,
    "modify": 2,
    "expand": 2,
    "detach": 2,
    "health": 2,
    "capacity": 1,
    "list": 1,
    "delete": 3,
}
# At most: of what is absent it is also asked whether the filesystem is there that it would be in.
DELETED_AGAIN = {"ssh": 1, "https": 4}


@pytest.mark.parametrize("layout", [PLAIN, SUBVOLUMES], ids=["plain", "btrfs"])
async def test_each_step_of_a_volume_is_one_exec_or_at_most_three_requests(
    transport: str, layout: tuple[str, str], tmp_path: Path
) -> None:
    async with wired(transport, layout, tmp_path) as wire:
        array = wire.array
        await wire.create("first")
        await wire.step("create", wire.create("v"))
        await wire.step("create, exists", wire.create("v"))
        await wire.step("get", array.get_volume("v"))
        await wire.step("attach", array.attach_volume("v", ATTACHMENT))
        await wire.step("attach, is attached", array.attach_volume("v", ATTACHMENT))
        await wire.step("modify", array.modify_volume("v", {"ctrlLossTmo": "60"}))
        await wire.step("expand", array.expand_volume("v", 2 * GIB))
        await wire.step("detach", array.detach_volume("v", "node-1"))
        await wire.step("health", array.health("v"))
        await wire.step("capacity", array.capacity(""))
        await wire.step("list", array.list_volumes())
        await wire.step("delete", array.delete_volume("v"))
        await wire.step("delete, is deleted", array.delete_volume("v"))
        assert wire.asked.pop("delete, is deleted") <= DELETED_AGAIN[transport]
        assert wire.asked == (dict.fromkeys(VOLUME_STEPS, 1) if transport == "ssh" else VOLUME_STEPS)


# Execs, and requests. What is made of a source begins with a look at that; what must grow is grown, and then released.
SNAPSHOT_STEPS = {
    "snapshot": (1, 3),
    "snapshot, exists": (1, 1),
    "get snapshot": (1, 1),
    "list snapshots": (1, 1),
    "restore": (2, 4),
    "clone": (2, 4),
    "restore larger": (3, 7),
    "delete snapshot": (1, 3),
}


async def test_a_snapshot_is_one_exec_or_three_requests_and_so_is_its_end(btrfs: Wire, transport: str) -> None:
    snapshot = ContentSource(SourceKind.SNAPSHOT, "s")
    await btrfs.step("snapshot", btrfs.array.create_snapshot("s", "s", "first"))
    await btrfs.step("snapshot, exists", btrfs.array.create_snapshot("s", "s", "first"))
    await btrfs.step("get snapshot", btrfs.array.get_snapshot("s"))
    await btrfs.step("list snapshots", btrfs.array.list_snapshots())
    await btrfs.step("restore", btrfs.create("r", GIB, snapshot))
    await btrfs.step("clone", btrfs.create("c", GIB, ContentSource(SourceKind.VOLUME, "first")))
    await btrfs.step("restore larger", btrfs.create("l", 2 * GIB, snapshot))
    await btrfs.step("delete snapshot", btrfs.array.delete_snapshot("s"))
    assert btrfs.asked == of(transport, SNAPSHOT_STEPS)


def of(transport: str, costs: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """The costs over that transport."""
    return {name: cost[TRANSPORTS.index(transport)] for name, cost in costs.items()}


@pytest.mark.parametrize("count", [10, 300])
async def test_listing_is_one_look_whatever_the_number_of_volumes(plain: Wire, count: int) -> None:
    await asyncio.gather(*(plain.create(f"v-{number}") for number in range(count)))
    await plain.step("list", plain.array.list_volumes())
    assert plain.asked == {"list": 1}
    assert len(await plain.array.list_volumes()) == count + 1


async def test_concurrent_looks_share_at_most_two(plain: Wire) -> None:
    ids = [f"v-{number}" for number in range(64)]
    await asyncio.gather(*(plain.create(volume_id) for volume_id in ids))
    await plain.step("the same", asyncio.gather(*(plain.array.get_volume("first") for _ in ids)))
    await plain.step("each another", asyncio.gather(*(plain.array.get_volume(volume_id) for volume_id in ids)))
    assert plain.asked["the same"] <= 2
    assert plain.asked["each another"] <= 2


async def test_concurrent_callers_share_one_connection_and_cost_no_more_each(plain: Wire, transport: str) -> None:
    pairs = 32

    async def pair(volume_id: str) -> None:
        await plain.create(volume_id)
        await plain.array.delete_volume(volume_id)

    await plain.step("pairs", asyncio.gather(*(pair(f"v-{number}") for number in range(pairs))))
    assert plain.asked == {"pairs": pairs * (2 if transport == "ssh" else 6)}
    assert plain.simulator.counters.connections == 0


class Services:
    """The CSI services in front of the array, as ``rds-csi controller`` composes them."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        locks = OperationLocks()
        self._controller = ControllerService(
            wire.array,
            MemoryConnector(),
            NamedNodes(needs_host_nqn=False),
            locks=locks,
            max_volumes_per_node=0,
            topology=TOPOLOGY,
        )
        self._groups = GroupControllerService(wire.array, locks=locks, topology=TOPOLOGY)

    async def volume_life(self) -> None:
        """Every call about one volume."""
        call, controller = self._wire.step, self._controller
        create = csi.CreateVolumeRequest(
            name="v", capacity_range=csi.CapacityRange(required_bytes=GIB), volume_capabilities=[CAPABILITY]
        )
        await call("CreateVolume", controller.create_volume(create))
        await call("CreateVolume, exists", controller.create_volume(create))
        publish = csi.ControllerPublishVolumeRequest(volume_id="v", node_id="node-1", volume_capability=CAPABILITY)
        await call("ControllerPublishVolume", controller.controller_publish_volume(publish))
        await call("ControllerPublishVolume, is published", controller.controller_publish_volume(publish))
        validate = csi.ValidateVolumeCapabilitiesRequest(volume_id="v", volume_capabilities=[CAPABILITY])
        await call("ValidateVolumeCapabilities", controller.validate_volume_capabilities(validate))
        grow = csi.CapacityRange(required_bytes=2 * GIB)
        expand = csi.ControllerExpandVolumeRequest(volume_id="v", capacity_range=grow, volume_capability=CAPABILITY)
        await call("ControllerExpandVolume", controller.controller_expand_volume(expand))
        modify = csi.ControllerModifyVolumeRequest(volume_id="v", mutable_parameters={"ctrlLossTmo": "60"})
        await call("ControllerModifyVolume", controller.controller_modify_volume(modify))
        await call("ControllerGetVolume", controller.controller_get_volume(csi.ControllerGetVolumeRequest("v")))
        health = csi.ControllerGetVolumeHealthRequest(volume_id="v")
        await call("ControllerGetVolumeHealth", controller.controller_get_volume_health(health))
        await call("ListVolumes", controller.list_volumes(csi.ListVolumesRequest()))
        await call("GetCapacity", controller.get_capacity(csi.GetCapacityRequest(volume_capabilities=[CAPABILITY])))
        unpublish = csi.ControllerUnpublishVolumeRequest(volume_id="v", node_id="node-1")
        await call("ControllerUnpublishVolume", controller.controller_unpublish_volume(unpublish))
        await call("DeleteVolume", controller.delete_volume(csi.DeleteVolumeRequest(volume_id="v")))
        await call("DeleteVolume, is deleted", controller.delete_volume(csi.DeleteVolumeRequest(volume_id="v")))

    async def snapshot_life(self) -> None:
        """Every call about a snapshot and a group of the volume that is there."""
        call, controller, groups = self._wire.step, self._controller, self._groups
        take = csi.CreateSnapshotRequest(name="s", source_volume_id="first")
        await call("CreateSnapshot", controller.create_snapshot(take))
        await call("ListSnapshots", controller.list_snapshots(csi.ListSnapshotsRequest()))
        await call("ListSnapshots, one", controller.list_snapshots(csi.ListSnapshotsRequest(snapshot_id="s")))
        source = csi.VolumeContentSource(snapshot=csi.VolumeContentSourceSnapshotSource("s"))
        restore = csi.CreateVolumeRequest(name="r", volume_capabilities=[CAPABILITY], volume_content_source=source)
        await call("CreateVolume, of a snapshot", controller.create_volume(restore))
        await call("DeleteSnapshot", controller.delete_snapshot(csi.DeleteSnapshotRequest(snapshot_id="s")))
        group = csi.CreateVolumeGroupSnapshotRequest(name="g", source_volume_ids=["first", "r"])
        await call("CreateVolumeGroupSnapshot", groups.create_volume_group_snapshot(group))
        await call(
            "DeleteVolumeGroupSnapshot",
            groups.delete_volume_group_snapshot(csi.DeleteVolumeGroupSnapshotRequest(group_snapshot_id="g")),
        )


# Execs, and requests. What changes a volume that is there looks at it first, and then changes it if it is still so.
VOLUME_CALLS = {
    "CreateVolume": (1, 3),
    "CreateVolume, exists": (1, 1),
    "ControllerPublishVolume": (2, 3),
    "ControllerPublishVolume, is published": (2, 2),
    "ValidateVolumeCapabilities": (1, 1),
    "ControllerExpandVolume": (2, 3),
    "ControllerModifyVolume": (2, 3),
    "ControllerGetVolume": (1, 1),
    "ControllerGetVolumeHealth": (1, 2),
    "ListVolumes": (1, 1),
    "GetCapacity": (1, 1),
    "ControllerUnpublishVolume": (1, 2),
    "DeleteVolume": (1, 3),
    "DeleteVolume, is deleted": (1, 3),
}
SNAPSHOT_CALLS = {
    "CreateSnapshot": (1, 3),
    "ListSnapshots": (1, 1),
    "ListSnapshots, one": (1, 1),
    "CreateVolume, of a snapshot": (4, 6),
    "DeleteSnapshot": (2, 4),
}
# At most, for two members.
GROUP_CALLS = {"CreateVolumeGroupSnapshot": (8, 14), "DeleteVolumeGroupSnapshot": (6, 10)}


async def test_a_csi_call_about_a_volume_is_at_most_two_execs_or_three_requests(plain: Wire, transport: str) -> None:
    await Services(plain).volume_life()
    assert plain.asked == of(transport, VOLUME_CALLS)


async def test_csi_calls_about_snapshots_look_at_the_source_and_at_what_is_there(btrfs: Wire, transport: str) -> None:
    await Services(btrfs).snapshot_life()
    groups = {name: btrfs.asked.pop(name) for name in GROUP_CALLS}
    assert btrfs.asked == of(transport, SNAPSHOT_CALLS)
    assert all(groups[name] <= most for name, most in of(transport, GROUP_CALLS).items()), groups
