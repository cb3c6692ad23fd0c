"""The controller and group services on a real array of image files."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from rds_csi.arrays.local import LocalArray, open_array
from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.connectors.memory import MemoryConnector
from rds_csi.csi import v1 as csi
from rds_csi.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
)
from rds_csi.locks import OperationLocks
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import HealthProblem, HealthStatus
from rds_csi.process import ProcessRunner
from rds_csi.services.controller import ControllerService
from rds_csi.services.groups import GroupControllerService
from rds_csi.services.listing import NodeHealth
from rds_csi.services.nodes import NamedNodes
from rds_csi.workers import Workers

HERE = {"topology.example/node": "n1"}


def capability(mode: str = "SINGLE_NODE_WRITER", *, block: bool = False, fs_type: str = "") -> csi.VolumeCapability:
    access_mode = csi.VolumeCapabilityAccessMode(mode=csi.VolumeCapabilityAccessModeMode.from_string(mode))
    if block:
        return csi.VolumeCapability(block=csi.VolumeCapabilityBlockVolume(), access_mode=access_mode)
    return csi.VolumeCapability(mount=csi.VolumeCapabilityMountVolume(fs_type=fs_type), access_mode=access_mode)


def creation(name: str = "pvc-1", size: int = 8 * MIB, /, **fields: object) -> csi.CreateVolumeRequest:
    request = csi.CreateVolumeRequest(
        name=name, capacity_range=csi.CapacityRange(required_bytes=size), volume_capabilities=[capability()]
    )
    for field, value in fields.items():
        setattr(request, field, value)
    return request


def publication(
    volume_id: str,
    node_id: str = "n1",
    mode: str = "SINGLE_NODE_WRITER",
    *,
    readonly: bool = False,
    block: bool = False,
) -> csi.ControllerPublishVolumeRequest:
    return csi.ControllerPublishVolumeRequest(
        volume_id=volume_id, node_id=node_id, volume_capability=capability(mode, block=block), readonly=readonly
    )


class World:
    """Both services, their array, and the locks that they share."""

    def __init__(self, array: LocalArray, limit: int = 0, node_health: NodeHealth | None = None) -> None:
        self.array = array
        self.locks = OperationLocks()
        self.service = ControllerService(
            array,
            MemoryConnector(),
            NamedNodes(needs_host_nqn=False),
            locks=self.locks,
            max_volumes_per_node=limit,
            topology=HERE,
            node_health=node_health,
        )
        self.groups = GroupControllerService(array, locks=self.locks, topology=HERE)

    async def volume(self, name: str = "pvc-1", size: int = 8 * MIB) -> str:
        return (await self.service.create_volume(creation(name, size))).volume.volume_id

    async def snapshot(self, name: str, volume_id: str) -> csi.Snapshot:
        request = csi.CreateSnapshotRequest(name=name, source_volume_id=volume_id)
        return (await self.service.create_snapshot(request)).snapshot


@pytest.fixture
async def array(tmp_path: Path) -> AsyncIterator[LocalArray]:
    options = ArrayOptions(ProcessRunner(), Workers(), HostPaths(), "nqn.2026-01.example:")
    array = open_array(f"local://{tmp_path}", options)
    await array.start()
    yield array
    await array.close()


@pytest.fixture
def world(array: LocalArray) -> World:
    return World(array)


async def test_every_advertised_capability_is_known_to_csi(world: World) -> None:
    answer = await world.service.controller_get_capabilities(csi.ControllerGetCapabilitiesRequest())
    names = {item.rpc.type.name for item in answer.capabilities}
    assert {"LIST_VOLUMES_PUBLISHED_NODES", "GET_SNAPSHOT", "CLONE_VOLUME", "MODIFY_VOLUME"} <= names
    assert len(names) == len(answer.capabilities) == 16


async def test_create_answers_what_a_node_needs_and_where_it_is(world: World) -> None:
    request = creation(parameters={"ctrlLossTmo": "600", "mkfsOptions": "-L x", "csi.storage.k8s.io/fstype": "xfs"})
    volume = (await world.service.create_volume(request)).volume
    # 8 MiB were asked for; mkfs.xfs needs more.
    assert volume.capacity_bytes == 300 * MIB
    assert volume.volume_context["ctrlLossTmo"] == "600"
    assert volume.volume_context["mkfsOptions"] == "-L x"
    assert volume.volume_context["fsType"] == "xfs"
    assert volume.accessible_topology[0].segments == HERE


async def test_create_refuses_what_the_filesystem_could_not_become(world: World) -> None:
    parameters = {"csi.storage.k8s.io/fstype": "xfs"}
    small = csi.CapacityRange(required_bytes=8 * MIB, limit_bytes=16 * MIB)
    with pytest.raises(OutOfRange, match="limit_bytes"):
        await world.service.create_volume(creation(parameters=parameters, capacity_range=small))
    with pytest.raises(InvalidArgument, match="-U"):
        await world.service.create_volume(creation(parameters={"mkfsOptions": "-U x"}))


async def test_create_repeated_answers_the_same_volume(world: World) -> None:
    first = await world.service.create_volume(creation())
    assert await world.service.create_volume(creation()) == first


@pytest.mark.parametrize(
    "change",
    [
        {"capacity_range": csi.CapacityRange(required_bytes=16 * MIB)},
        {"parameters": {"provisioning": "thick"}},
        {"volume_content_source": csi.VolumeContentSource(volume=csi.VolumeContentSourceVolumeSource(volume_id="x"))},
    ],
)
async def test_create_with_a_taken_name_and_other_wishes_is_refused(world: World, change: dict[str, object]) -> None:
    await world.volume()
    with pytest.raises(AlreadyExists):
        await world.service.create_volume(creation(**change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "name is missing"),
        ({"name": "n" * 129}, "longer than 128"),
        ({"name": "a\nb"}, "control characters"),
        ({"volume_capabilities": []}, "volume_capabilities"),
        ({"volume_capabilities": [csi.VolumeCapability()]}, "missing"),
        ({"volume_capabilities": [capability("UNKNOWN")]}, "access mode"),
        ({"volume_capabilities": [capability("MULTI_NODE_SINGLE_WRITER")]}, "MULTI_NODE_SINGLE_WRITER"),
        ({"volume_capabilities": [capability("MULTI_NODE_MULTI_WRITER")]}, "block volumes only"),
        ({"volume_capabilities": [capability(fs_type="ntfs")]}, "ext4, xfs, btrfs"),
        ({"parameters": {"ctrlLossTimeout": "1"}}, "did you mean 'ctrlLossTmo'"),
        ({"parameters": {"csi.storage.k8s.io/fstype": "zfs"}}, "ext4, xfs, btrfs"),
        ({"parameters": {"mkfsOptions": "/dev/sda"}}, "not an option of mkfs"),
        ({"mutable_parameters": {"pool": "x"}}, "unknown mutable parameter"),
        ({"parameters": {"ctrlLossTmo": "10"}, "mutable_parameters": {"reconnectDelay": "20"}}, "reconnectDelay"),
        ({"capacity_range": csi.CapacityRange(required_bytes=-1)}, "negative"),
        ({"capacity_range": csi.CapacityRange(required_bytes=2, limit_bytes=1)}, "contradicts"),
        (
            {"volume_content_source": csi.VolumeContentSource(snapshot=csi.VolumeContentSourceSnapshotSource())},
            "missing",
        ),
    ],
)
async def test_create_refuses_bad_input_in_words_and_makes_nothing(
    world: World, change: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await world.service.create_volume(creation(**change))
    assert not await world.array.list_volumes()


async def test_create_refuses_a_size_that_cannot_be(world: World) -> None:
    for bounds in ({"required_bytes": 1, "limit_bytes": 2}, {"required_bytes": (1 << 63) - 1}):
        with pytest.raises(OutOfRange):
            await world.service.create_volume(creation(capacity_range=csi.CapacityRange(**bounds)))


async def test_create_elsewhere_is_exhausted_and_here_is_not(world: World) -> None:
    there = csi.TopologyRequirement(requisite=[csi.Topology(segments={"topology.example/node": "n2"})])
    with pytest.raises(ResourceExhausted, match="n2"):
        await world.service.create_volume(creation(accessibility_requirements=there))
    both = csi.TopologyRequirement(requisite=[*there.requisite, csi.Topology(segments=HERE)])
    assert (await world.service.create_volume(creation(accessibility_requirements=both))).volume


async def test_a_clone_is_never_smaller_than_its_source(world: World) -> None:
    source = csi.VolumeContentSource(volume=csi.VolumeContentSourceVolumeSource(volume_id=await world.volume()))
    with pytest.raises(OutOfRange):
        await world.service.create_volume(creation("small", 4 * MIB, volume_content_source=source))
    limit = csi.CapacityRange(limit_bytes=4 * MIB)
    with pytest.raises(OutOfRange):
        await world.service.create_volume(creation("small", capacity_range=limit, volume_content_source=source))
    unsaid = creation("same", capacity_range=csi.CapacityRange(), volume_content_source=source)
    clone = (await world.service.create_volume(unsaid)).volume
    assert clone.capacity_bytes == 8 * MIB
    assert clone.content_source.volume.volume_id == "pvc-1"


async def test_a_source_that_is_not_there_is_not_found(world: World) -> None:
    for source in (
        csi.VolumeContentSource(snapshot=csi.VolumeContentSourceSnapshotSource(snapshot_id="none")),
        csi.VolumeContentSource(volume=csi.VolumeContentSourceVolumeSource(volume_id="../../etc")),
    ):
        with pytest.raises(NotFound):
            await world.service.create_volume(creation(volume_content_source=source))


async def test_delete_of_what_cannot_exist_succeeds(world: World) -> None:
    for volume_id in ("none", "Not An Id", "../../etc/passwd"):
        await world.service.delete_volume(csi.DeleteVolumeRequest(volume_id=volume_id))
    with pytest.raises(InvalidArgument):
        await world.service.delete_volume(csi.DeleteVolumeRequest())


async def test_a_published_volume_is_not_deleted(world: World) -> None:
    volume_id = await world.volume()
    await world.service.controller_publish_volume(publication(volume_id))
    with pytest.raises(FailedPrecondition):
        await world.service.delete_volume(csi.DeleteVolumeRequest(volume_id=volume_id))


async def test_publish_repeated_keeps_the_attachment_token(world: World) -> None:
    volume_id = await world.volume()
    first = (await world.service.controller_publish_volume(publication(volume_id))).publish_context
    assert (await world.service.controller_publish_volume(publication(volume_id))).publish_context == first
    unpublish = csi.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id="n1")
    await world.service.controller_unpublish_volume(unpublish)
    again = (await world.service.controller_publish_volume(publication(volume_id))).publish_context
    assert again["attachment"] != first["attachment"]
    assert again["size"] == str(8 * MIB)


async def test_publish_in_another_way_is_refused(world: World) -> None:
    volume_id = await world.volume()
    await world.service.controller_publish_volume(publication(volume_id))
    for other in (publication(volume_id, readonly=True), publication(volume_id, mode="SINGLE_NODE_SINGLE_WRITER")):
        with pytest.raises(AlreadyExists):
            await world.service.controller_publish_volume(other)


async def test_a_single_node_volume_stays_with_its_node_which_is_named(world: World) -> None:
    volume_id = await world.volume()
    await world.service.controller_publish_volume(publication(volume_id))
    with pytest.raises(FailedPrecondition, match="n1"):
        await world.service.controller_publish_volume(publication(volume_id, "n2"))


async def test_several_nodes_share_a_block_volume_and_an_unpublish_without_node_frees_them_all(world: World) -> None:
    volume_id = await world.volume()
    for node in ("n2", "n1"):
        request = publication(volume_id, node, "MULTI_NODE_MULTI_WRITER", block=True)
        await world.service.controller_publish_volume(request)
    listed = await world.service.list_volumes(csi.ListVolumesRequest())
    assert listed.entries[0].status.published_node_ids == ["n1", "n2"]
    await world.service.controller_unpublish_volume(csi.ControllerUnpublishVolumeRequest(volume_id=volume_id))
    got = await world.service.controller_get_volume(csi.ControllerGetVolumeRequest(volume_id=volume_id))
    assert got.status.published_node_ids == []


async def test_a_full_node_takes_no_more_volumes_even_when_they_come_at_once(array: LocalArray) -> None:
    world = World(array, limit=2)
    volumes = [await world.volume(f"pvc-{number}") for number in range(4)]
    outcomes = await asyncio.gather(
        *(world.service.controller_publish_volume(publication(volume_id)) for volume_id in volumes),
        return_exceptions=True,
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) <= 2
    assert all(isinstance(item, ResourceExhausted | csi.ControllerPublishVolumeResponse) for item in outcomes)
    await world.service.controller_publish_volume(publication(await world.volume("another"), "n2"))


async def test_publish_of_the_unknown_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.service.controller_publish_volume(publication("none"))
    with pytest.raises(NotFound):
        await world.service.controller_publish_volume(publication(await world.volume(), "#x"))


async def test_modified_parameters_take_effect_at_the_next_publish_even_back_to_the_default(world: World) -> None:
    created = (await world.service.create_volume(creation(parameters={"ctrlLossTmo": "600"}))).volume
    modify = csi.ControllerModifyVolumeRequest(volume_id="pvc-1", mutable_parameters={"ctrlLossTmo": "-1"})
    await world.service.controller_modify_volume(modify)
    request = publication("pvc-1")
    request.volume_context = created.volume_context
    context = (await world.service.controller_publish_volume(request)).publish_context
    assert {**created.volume_context, **context}["ctrlLossTmo"] == "-1"


async def test_modify_refuses_what_does_not_go_with_the_rest_and_changes_nothing(world: World) -> None:
    await world.service.create_volume(creation(parameters={"ctrlLossTmo": "10"}))
    for bad in ({"reconnectDelay": "20"}, {"nonsense": "1"}, {"queueSize": "1"}):
        with pytest.raises(InvalidArgument):
            await world.service.controller_modify_volume(
                csi.ControllerModifyVolumeRequest(volume_id="pvc-1", mutable_parameters=bad)
            )
    assert (await world.array.get_volume("pvc-1")).mutable_parameters == {"ctrlLossTmo": "10"}


async def test_expand_grows_rounds_up_and_never_shrinks(world: World) -> None:
    volume_id = await world.volume()

    async def expand(required: int, limit: int = 0) -> int:
        sizes = csi.CapacityRange(required_bytes=required, limit_bytes=limit)
        request = csi.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=sizes)
        answer = await world.service.controller_expand_volume(request)
        assert answer.node_expansion_required
        return answer.capacity_bytes

    assert await expand(8 * MIB + 1) == 9 * MIB
    assert await expand(4 * MIB) == 9 * MIB
    with pytest.raises(OutOfRange):
        await expand(4 * MIB, 5 * MIB)
    with pytest.raises(OutOfRange):
        await expand(9 * MIB + 1, 9 * MIB + 2)
    with pytest.raises(InvalidArgument):
        await expand(0)


async def test_a_second_call_for_the_same_volume_is_aborted_at_once(world: World) -> None:
    with world.locks.hold("DeleteVolume", "pvc-1"), pytest.raises(Aborted, match="DeleteVolume is running"):
        await world.volume()
    await world.volume()


async def test_validate_confirms_all_or_says_why_not(world: World) -> None:
    volume_id = await world.volume()
    request = csi.ValidateVolumeCapabilitiesRequest(volume_id=volume_id, volume_capabilities=[capability()])
    answer = await world.service.validate_volume_capabilities(request)
    assert answer.confirmed.volume_capabilities == [capability()]
    request.volume_capabilities = [capability(), capability("MULTI_NODE_MULTI_WRITER")]
    answer = await world.service.validate_volume_capabilities(request)
    assert "block volumes only" in answer.message
    assert not answer.confirmed.volume_capabilities


async def test_capacity_is_nothing_where_nothing_can_be_made(world: World) -> None:
    here = await world.service.get_capacity(csi.GetCapacityRequest())
    assert here.available_capacity > 0
    elsewhere = csi.Topology(segments={"topology.example/node": "n2"})
    for request in (
        csi.GetCapacityRequest(accessible_topology=elsewhere),
        csi.GetCapacityRequest(volume_capabilities=[capability("MULTI_NODE_SINGLE_WRITER")]),
    ):
        assert (await world.service.get_capacity(request)).available_capacity == 0
    with pytest.raises(InvalidArgument):
        await world.service.get_capacity(csi.GetCapacityRequest(parameters={"nonsense": "1"}))


async def test_health_of_a_well_volume_is_empty_and_of_an_unknown_one_not_found(world: World) -> None:
    volume_id = await world.volume()
    request = csi.ControllerGetVolumeHealthRequest(volume_id=volume_id)
    answer = await world.service.controller_get_volume_health(request)
    assert (answer.volume_health.volume_id, answer.volume_health.health_statuses) == (volume_id, [])
    assert (await world.service.controller_list_volume_health(csi.ControllerListVolumeHealthRequest())).entries == []
    with pytest.raises(NotFound):
        await world.service.controller_get_volume_health(csi.ControllerGetVolumeHealthRequest(volume_id="none"))


async def test_a_snapshot_name_belongs_to_one_volume(world: World) -> None:
    first, second = await world.volume("pvc-1"), await world.volume("pvc-2")
    snapshot = await world.snapshot("My Snapshot", first)
    assert snapshot.ready_to_use
    assert snapshot.size_bytes == 8 * MIB
    assert (await world.snapshot("My Snapshot", first)).snapshot_id == snapshot.snapshot_id
    with pytest.raises(AlreadyExists):
        await world.snapshot("My Snapshot", second)
    with pytest.raises(NotFound):
        await world.snapshot("other", "none")


async def test_snapshot_filters_work_alone_and_together(world: World) -> None:
    first, second = await world.volume("pvc-1"), await world.volume("pvc-2")
    await world.snapshot("s1", first)
    await world.snapshot("s2", second)

    async def listed(snapshot_id: str = "", source_volume_id: str = "") -> list[str]:
        request = csi.ListSnapshotsRequest(snapshot_id=snapshot_id, source_volume_id=source_volume_id)
        answer = await world.service.list_snapshots(request)
        return [entry.snapshot.snapshot_id for entry in answer.entries]

    assert await listed() == ["s1", "s2"]
    assert await listed(snapshot_id="s2") == ["s2"]
    assert await listed(source_volume_id=first) == ["s1"]
    assert await listed(snapshot_id="s2", source_volume_id=first) == []
    assert await listed(snapshot_id="../x") == []


async def test_a_group_is_made_once_got_and_deleted_as_a_whole(world: World) -> None:
    volumes = [await world.volume("pvc-1"), await world.volume("pvc-2")]
    create = csi.CreateVolumeGroupSnapshotRequest(name="group", source_volume_ids=volumes)
    group = (await world.groups.create_volume_group_snapshot(create)).group_snapshot
    assert [snapshot.source_volume_id for snapshot in group.snapshots] == volumes
    assert (await world.groups.create_volume_group_snapshot(create)).group_snapshot == group
    create.source_volume_ids = volumes[:1]
    with pytest.raises(AlreadyExists):
        await world.groups.create_volume_group_snapshot(create)
    member = group.snapshots[0].snapshot_id
    with pytest.raises(InvalidArgument, match="part of group snapshot"):
        await world.service.delete_snapshot(csi.DeleteSnapshotRequest(snapshot_id=member))
    mismatch = csi.DeleteVolumeGroupSnapshotRequest(group_snapshot_id="group", snapshot_ids=[member])
    with pytest.raises(InvalidArgument, match="missing"):
        await world.groups.delete_volume_group_snapshot(mismatch)
    everything = [*(snapshot.snapshot_id for snapshot in group.snapshots), "deleted-before"]
    delete = csi.DeleteVolumeGroupSnapshotRequest(group_snapshot_id="group", snapshot_ids=everything)
    for _ in range(2):
        await world.groups.delete_volume_group_snapshot(delete)
    with pytest.raises(NotFound):
        await world.groups.get_volume_group_snapshot(csi.GetVolumeGroupSnapshotRequest(group_snapshot_id="group"))


async def test_health_has_what_the_node_of_the_same_process_says(array: LocalArray) -> None:
    problem = HealthProblem(HealthStatus.INACCESSIBLE, "DeviceLost", "delete the pods")

    async def node_health(volume_id: str) -> Sequence[HealthProblem]:
        return [problem] if volume_id == "pvc-1" else []

    world = World(array, node_health=node_health)
    for name in ("pvc-1", "pvc-2"):
        await world.volume(name)
    reasons = {}
    for volume_id in ("pvc-1", "pvc-2"):
        answer = await world.service.controller_get_volume_health(
            csi.ControllerGetVolumeHealthRequest(volume_id=volume_id)
        )
        reasons[volume_id] = [entry.reason for entry in answer.volume_health.health_statuses]
    assert reasons == {"pvc-1": ["DeviceLost"], "pvc-2": []}
    listed = await world.service.controller_list_volume_health(csi.ControllerListVolumeHealthRequest())
    assert [entry.volume_id for entry in listed.entries] == ["pvc-1"]
    with pytest.raises(NotFound):
        await world.service.controller_get_volume_health(csi.ControllerGetVolumeHealthRequest(volume_id="pvc-3"))
