"""Nodes that show arrays the same host NQN are found, reported, and kept from each other's volumes."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from rds_csi.arrays.local import LocalArray, open_array
from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.connectors.memory import MemoryConnector
from rds_csi.csi import v1 as csi
from rds_csi.errors import FailedPrecondition, Unavailable
from rds_csi.locks import OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import AccessMode, Attachment, Node, Volume
from rds_csi.process import ProcessRunner
from rds_csi.services.controller import ControllerService
from rds_csi.services.hosts import HostNqns
from rds_csi.services.nodes import NamedNodes, encode_node_id
from rds_csi.watch import Watch
from rds_csi.workers import Workers

CLONED = "nqn.2014-08.org.nvmexpress:uuid:7f1a7cbe-9a6b-4e0f-a2b9-6a4f9a8b7c6d"
OWN = "nqn.2014-08.org.nvmexpress:uuid:11111111-9a6b-4e0f-a2b9-6a4f9a8b7c6d"
A, B, C = encode_node_id("node-a", CLONED), encode_node_id("node-b", CLONED), encode_node_id("node-c", OWN)


class World:
    """A controller on an array of image files, with three nodes of which two have one host NQN."""

    def __init__(self, array: LocalArray) -> None:
        self.array = array
        self.metrics = Metrics()
        self.away = False
        self.hosts = HostNqns(self.volumes, self.metrics)
        self.service = ControllerService(
            array,
            MemoryConnector(),
            NamedNodes(needs_host_nqn=True),
            locks=OperationLocks(),
            max_volumes_per_node=0,
            topology={},
            hosts=self.hosts,
        )

    async def volumes(self) -> Sequence[Volume]:
        if self.away:
            raise Unavailable("the array does not answer")
        return await self.array.list_volumes()

    @property
    def duplicates(self) -> float | None:
        return self.metrics.registry.get_sample_value("rds_csi_duplicate_host_nqns")

    async def publish(self, volume_id: str, node_id: str, mode: str = "SINGLE_NODE_WRITER") -> None:
        access = csi.VolumeCapabilityAccessMode(mode=csi.VolumeCapabilityAccessModeMode.from_string(mode))
        capability = csi.VolumeCapability(mount=csi.VolumeCapabilityMountVolume(), access_mode=access)
        request = csi.ControllerPublishVolumeRequest(volume_id=volume_id, node_id=node_id, volume_capability=capability)
        await self.service.controller_publish_volume(request)

    async def unpublish(self, volume_id: str, node_id: str) -> None:
        await self.service.controller_unpublish_volume(
            csi.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=node_id)
        )

    async def attach(self, volume_id: str, node_id: str) -> None:
        """An attachment from before anybody looked."""
        node = Node(node_id, node_id.partition("#")[2])
        await self.array.attach_volume(volume_id, Attachment(node, node_id, AccessMode.SINGLE_NODE_WRITER))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    array = open_array(
        f"local://{tmp_path}", ArrayOptions(ProcessRunner(), Workers(), HostPaths(), "nqn.2026-01.example:")
    )
    await array.start()
    world = World(array)
    access = csi.VolumeCapabilityAccessMode(mode=csi.VolumeCapabilityAccessModeMode.from_string("SINGLE_NODE_WRITER"))
    for name in ("v1", "v2"):
        await world.service.create_volume(
            csi.CreateVolumeRequest(
                name=name,
                capacity_range=csi.CapacityRange(required_bytes=8 * MIB),
                volume_capabilities=[csi.VolumeCapability(mount=csi.VolumeCapabilityMountVolume(), access_mode=access)],
            )
        )
    yield world
    await array.close()


async def test_nodes_with_one_host_nqn_are_reported_with_the_remedy(world: World) -> None:
    await world.attach("v1", A)
    (finding,) = await world.hosts.check()
    assert finding.ok
    assert world.duplicates == 0
    await world.attach("v2", B)
    (finding,) = await world.hosts.check()
    assert not finding.ok
    assert f"nodes node-a and node-b have the same host NQN {CLONED}" in finding.message
    assert "> /etc/nvme/hostnqn" in finding.remedy
    assert "uuidgen > /etc/nvme/hostid" in finding.remedy
    assert world.duplicates == 1
    await world.unpublish("v2", B)
    (finding,) = await world.hosts.check()
    assert finding.ok
    assert world.duplicates == 0


async def test_a_watch_tells_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.attach("v1", A)
    await world.attach("v2", B)
    assert not await Watch("hosts", world.hosts.check).look()
    assert "nodes node-a and node-b" in caplog.text


@pytest.mark.parametrize("looked", [True, False])
async def test_a_second_node_with_the_host_nqn_gets_no_volume(world: World, looked: bool) -> None:
    await world.attach("v1", A)
    if looked:
        await world.hosts.check()
    with pytest.raises(FailedPrecondition, match=r"node-b has the same host NQN as node-a.*uuidgen"):
        await world.publish("v2", B)
    await world.publish("v2", C)


async def test_the_same_volume_is_refused_to_the_other_node_whatever_its_access_mode(world: World) -> None:
    await world.publish("v1", A, "MULTI_NODE_READER_ONLY")
    with pytest.raises(FailedPrecondition, match=r"node-b .* node-a"):
        await world.publish("v1", B, "MULTI_NODE_READER_ONLY")
    await world.publish("v1", C, "MULTI_NODE_READER_ONLY")


async def test_an_attachment_since_the_last_look_counts(world: World) -> None:
    await world.hosts.check()
    await world.publish("v1", A)
    with pytest.raises(FailedPrecondition, match="node-a"):
        await world.publish("v2", B)


async def test_a_node_that_registers_under_a_new_name_works_once_the_old_one_has_nothing(world: World) -> None:
    await world.publish("v1", A)
    await world.hosts.check()
    with pytest.raises(FailedPrecondition):
        await world.publish("v1", B)
    await world.unpublish("v1", A)
    # Though the last look saw the old name.
    await world.publish("v1", B)
    await world.publish("v2", B)


async def test_a_repeated_publish_is_answered_as_before(world: World) -> None:
    await world.attach("v1", A)
    await world.attach("v2", B)
    await world.publish("v1", A)


async def test_an_array_that_is_away_leaves_the_last_outcome(world: World) -> None:
    await world.attach("v1", A)
    await world.attach("v2", B)
    before = await world.hosts.check()
    world.away = True
    assert await world.hosts.check() == before
