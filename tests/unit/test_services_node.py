"""The node service on filesystems, devices and records in memory."""

import asyncio
from dataclasses import replace

import pytest

from rds_csi.connectors.memory import MemoryConnector
from rds_csi.csi import v1 as csi
from rds_csi.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
)
from rds_csi.filesystem.memory import MemoryFilesystems, MemoryStageRecords
from rds_csi.filesystem.protocol import Content
from rds_csi.locks import OperationLocks
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.records import FormatState
from rds_csi.model.sizes import GIB
from rds_csi.model.targets import FileTarget
from rds_csi.services.node import NodeService

STAGING, POD, OTHER_POD = "/kubelet/staging", "/kubelet/pod", "/kubelet/other"
TARGET = FileTarget("/images/v1")
CHANGING = {"mount", "bind", "unmount", "format", "place_block_node", "remove_target", "grow", "set_group"}


def capability(
    mode: str = "SINGLE_NODE_WRITER",
    *,
    block: bool = False,
    fs_type: str = "",
    flags: tuple[str, ...] = (),
    group: str = "",
) -> csi.VolumeCapability:
    access_mode = csi.VolumeCapabilityAccessMode(mode=csi.VolumeCapabilityAccessModeMode.from_string(mode))
    if block:
        return csi.VolumeCapability(block=csi.VolumeCapabilityBlockVolume(), access_mode=access_mode)
    mount = csi.VolumeCapabilityMountVolume(fs_type=fs_type, mount_flags=list(flags), volume_mount_group=group)
    return csi.VolumeCapability(mount=mount, access_mode=access_mode)


class World:
    """A node with one volume, ``v1``, attached."""

    def __init__(self) -> None:
        self.connector = MemoryConnector()
        self.filesystems = MemoryFilesystems()
        self.records = MemoryStageRecords()
        self.locks = OperationLocks()
        # By target identity: what the keeper of sessions says.
        self.troubles: dict[str, str] = {}
        self.context = {**TARGET.to_context(), "size": str(GIB), "attachment": "token-1"}
        self.connector.sizes[TARGET] = GIB
        self.start()

    def start(self, boot_id: str = "boot-1") -> None:
        """The driver's process begins anew: only kernel, disk and records are left of the one before."""
        self.service = NodeService(
            "n1",
            self.connector,
            self.filesystems,
            self.records,
            locks=self.locks,
            max_volumes_per_node=5,
            boot_id=boot_id,
            new_uuid=lambda: "11111111-1111-4111-8111-111111111111",
            topology={"topology.example/node": "n1"},
            trouble=lambda target: self.troubles.get(target.identity, ""),
        )

    async def stage(self, wanted: csi.VolumeCapability | None = None, path: str = STAGING) -> None:
        await self.service.node_stage_volume(
            csi.NodeStageVolumeRequest(
                volume_id="v1",
                staging_target_path=path,
                volume_capability=wanted or capability(),
                publish_context=self.context,
            )
        )

    async def unstage(self, volume_id: str = "v1") -> None:
        await self.service.node_unstage_volume(
            csi.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=STAGING)
        )

    async def publish(
        self, wanted: csi.VolumeCapability | None = None, path: str = POD, *, readonly: bool = False
    ) -> None:
        await self.service.node_publish_volume(
            csi.NodePublishVolumeRequest(
                volume_id="v1",
                staging_target_path=STAGING,
                target_path=path,
                volume_capability=wanted or capability(),
                publish_context=self.context,
                readonly=readonly,
            )
        )

    async def unpublish(self, path: str = POD) -> None:
        await self.service.node_unpublish_volume(csi.NodeUnpublishVolumeRequest(volume_id="v1", target_path=path))

    async def health(self) -> dict[str, tuple[str, str]]:
        """Reason → status and message."""
        answer = await self.service.node_get_volume_health(csi.NodeGetVolumeHealthRequest(volume_id="v1"))
        return {entry.reason: (str(entry.status.name), entry.message) for entry in answer.volume_health.health_statuses}

    async def replace_device(self) -> None:
        """The kernel gives the device up while it is in use, and the volume comes back as another one."""
        await self.connector.disconnect(TARGET)
        if self.filesystems.contents:
            self.reconnect()
        await self.connector.connect(TARGET, self.connector.read_context(self.context)[1])

    async def mounted(self) -> list[str]:
        return sorted(mount.path for mount in (await self.filesystems.mount_table()).mounts)

    def changes(self) -> list[str]:
        return [name for name in self.filesystems.names() if name in CHANGING]

    def reconnect(self) -> None:
        """The volume's next device, which gets another name, has the content of the one before."""
        last = max(self.filesystems.contents)
        self.filesystems.contents[f"/dev/memory/{int(last.rpartition('/')[2]) + 1}"] = self.filesystems.contents[last]

    def forget(self) -> None:
        """What was done so far is not counted."""
        self.filesystems.operations.clear()


async def unreachable() -> None:
    raise AssertionError("a mount was looked at that may be dead: this can hang")


@pytest.fixture
def world() -> World:
    return World()


async def test_the_whole_life_of_a_volume_leaves_nothing(world: World) -> None:
    await world.stage()
    await world.publish()
    assert await world.mounted() == [POD, STAGING]
    await world.unpublish()
    await world.unstage()
    assert await world.mounted() == []
    assert not world.connector.connected
    assert not await world.records.all()


async def test_every_repeated_call_touches_nothing(world: World) -> None:
    await world.stage()
    world.forget()
    await world.stage()
    assert world.changes() == []
    await world.publish()
    world.forget()
    await world.publish()
    assert world.changes() == []
    for _ in range(2):
        await world.unpublish()
    for _ in range(2):
        await world.unstage()


async def test_a_restarted_driver_finds_what_is_staged_even_without_its_record(world: World) -> None:
    await world.stage()
    await world.publish()
    world.records = MemoryStageRecords()
    world.start()
    world.forget()
    await world.stage()
    await world.publish()
    # Without the record nobody knows whether growth had ended: that is looked at again.
    assert world.changes() == ["grow"]
    record = await world.records.load("v1")
    assert record is not None
    assert record.format_state is FormatState.FORMATTED


async def test_unstage_works_without_a_record(world: World) -> None:
    await world.stage()
    await world.records.remove("v1")
    await world.unstage()
    assert await world.mounted() == []
    assert not world.connector.connected


async def test_a_volume_is_formatted_once_and_keeps_its_filesystem(world: World) -> None:
    await world.stage()
    await world.unstage()
    world.reconnect()
    await world.stage()
    assert world.filesystems.names().count("format") == 1


async def test_a_failed_stage_leaves_nothing_that_it_made(world: World) -> None:
    world.filesystems.contents["/dev/memory/1"] = Content("xfs", "u", False, "")
    with pytest.raises(FailedPrecondition, match="never formatted"):
        await world.stage()
    assert not world.connector.connected
    assert not await world.records.all()
    assert world.changes() == []


async def test_a_failed_stage_keeps_a_session_that_was_there_before(world: World) -> None:
    await world.connector.connect(TARGET, world.connector.read_context(world.context)[1])
    world.filesystems.fail("mount", Unavailable("no"))
    with pytest.raises(Unavailable):
        await world.stage()
    assert TARGET in world.connector.connected


async def test_a_stage_that_cannot_connect_leaves_no_record(world: World) -> None:
    world.connector.failures["connect"] = Unavailable("target is away")
    with pytest.raises(Unavailable):
        await world.stage()
    assert not await world.records.all()


async def test_a_failure_after_the_mount_takes_the_mount_back(world: World) -> None:
    world.filesystems.fail("grow", Unavailable("no"))
    with pytest.raises(Unavailable):
        await world.stage()
    assert await world.mounted() == []
    assert not world.connector.connected
    world.reconnect()
    await world.stage()
    assert world.filesystems.names().count("format") == 1


async def test_an_interrupted_mkfs_is_completed_with_the_same_uuid(world: World) -> None:
    world.filesystems.fail("format", Unavailable("killed"))
    with pytest.raises(Unavailable):
        await world.stage()
    record = await world.records.load("v1")
    assert record is not None
    assert record.format_state is FormatState.FORMATTING
    world.filesystems.contents["/dev/memory/2"] = Content("", "", False, "half a filesystem")
    await world.stage()
    assert world.filesystems.contents["/dev/memory/2"].uuid == record.fs_uuid


async def test_an_interrupted_mkfs_under_an_earlier_attachment_proves_nothing(world: World) -> None:
    world.filesystems.fail("format", Unavailable("killed"))
    with pytest.raises(Unavailable):
        await world.stage()
    world.context["attachment"] = "token-2"
    world.filesystems.contents["/dev/memory/2"] = Content("", "", False, "data")
    with pytest.raises(FailedPrecondition, match="wipefs"):
        await world.stage()


async def test_a_device_smaller_than_the_volume_is_another_volume(world: World) -> None:
    world.connector.sizes[TARGET] = GIB // 2
    with pytest.raises(Exception, match="bytes"):
        await world.stage()
    assert not world.connector.connected


async def test_a_client_that_goes_away_during_mkfs_finds_the_volume_staged(world: World) -> None:
    formatting, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        formatting.set()
        await go_on.wait()

    world.filesystems.before["format"] = wait
    call = asyncio.ensure_future(world.stage())
    await formatting.wait()
    call.cancel()
    with pytest.raises(Aborted):
        await world.unstage()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await world.mounted() == [STAGING]
    world.forget()
    await world.stage()
    assert world.changes() == []


@pytest.mark.parametrize("key", ["v1", TARGET.identity])
async def test_what_works_on_the_volume_or_its_session_turns_stage_and_unstage_away(world: World, key: str) -> None:
    # The sweep holds the session's name, other calls the volume's id: one is enough.
    with world.locks.hold("sweep", key), pytest.raises(Aborted, match="sweep"):
        await world.stage()
    assert not world.connector.connected
    await world.stage()
    world.forget()
    with world.locks.hold("sweep", key), pytest.raises(Aborted, match="sweep"):
        await world.unstage()
    assert world.changes() == []
    assert world.connector.connected
    await world.unstage()


async def test_a_client_that_goes_away_before_anything_changed_leaves_nothing(world: World) -> None:
    looking = asyncio.Event()

    async def wait() -> None:
        looking.set()
        await asyncio.Event().wait()

    world.filesystems.before["identify"] = wait
    call = asyncio.ensure_future(world.stage())
    await looking.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not world.connector.connected
    assert not await world.records.all()


@pytest.mark.parametrize(
    "wanted",
    [
        capability(fs_type="xfs"),
        capability("SINGLE_NODE_READER_ONLY"),
        capability(flags=("noexec",)),
        capability(block=True),
    ],
)
async def test_stage_in_another_way_is_refused_and_touches_nothing(world: World, wanted: csi.VolumeCapability) -> None:
    await world.stage()
    world.forget()
    with pytest.raises(AlreadyExists):
        await world.stage(wanted)
    assert world.changes() == []


async def test_a_volume_has_one_staging_path(world: World) -> None:
    await world.stage()
    with pytest.raises(FailedPrecondition, match=STAGING):
        await world.stage(path="/kubelet/staging2")


async def test_a_volume_that_was_attached_again_meanwhile_is_not_taken_as_it_is(world: World) -> None:
    await world.stage()
    world.context["attachment"] = "token-2"
    with pytest.raises(FailedPrecondition, match="earlier attachment"):
        await world.stage()


async def test_the_session_of_an_earlier_attachment_is_left_before_the_volume_is_mounted_again(world: World) -> None:
    """What this kernel holds of the filesystem is older than what another node wrote meanwhile (lessons 15)."""
    await world.stage()
    await world.filesystems.unmount(STAGING)
    world.context["attachment"] = "token-2"
    world.reconnect()
    await world.stage()
    assert [device.path for device in world.connector.connected.values()] == ["/dev/memory/2"]


async def test_the_session_of_an_earlier_attachment_is_not_used_while_a_pod_holds_it(world: World) -> None:
    await world.stage()
    await world.publish()
    await world.filesystems.unmount(STAGING)
    world.context["attachment"] = "token-2"
    with pytest.raises(FailedPrecondition, match="earlier attachment"):
        await world.stage()
    assert await world.mounted() == [POD]


async def test_a_device_that_is_another_one_by_now_is_not_formatted(world: World) -> None:
    async def lose_the_device() -> None:
        await world.connector.disconnect(TARGET)
        await world.connector.connect(TARGET, world.connector.read_context(world.context)[1])

    world.filesystems.before["prove_blank"] = lose_the_device
    with pytest.raises(Unavailable, match="not the device of volume v1 any more"):
        await world.stage()
    assert "format" not in world.filesystems.names()


async def test_a_device_that_becomes_another_one_as_it_is_mounted_is_let_go(world: World) -> None:
    async def lose_the_device() -> None:
        await world.connector.disconnect(TARGET)
        await world.connector.connect(TARGET, world.connector.read_context(world.context)[1])

    world.filesystems.before["mount"] = lose_the_device
    with pytest.raises(Unavailable, match="not the device of volume v1 any more"):
        await world.stage()
    assert await world.mounted() == []


async def test_a_repeated_call_ends_what_a_slow_one_began(world: World) -> None:
    wanted = capability(group="1234")
    await world.stage(wanted)
    record = await world.records.load("v1")
    assert record is not None
    assert record.settled
    # As a process leaves it that was killed between mount and growth.
    await world.records.store(replace(record, settled=False))
    world.forget()
    await world.stage(wanted)
    assert world.changes() == ["grow", "set_group"]
    await world.publish(wanted)
    world.forget()
    await world.publish(wanted)
    assert world.changes() == ["set_group"]


async def test_a_volume_is_not_forgotten_while_pods_have_its_dead_mounts(world: World) -> None:
    await world.stage()
    await world.publish()
    await world.connector.disconnect(TARGET)
    with pytest.raises(FailedPrecondition, match=POD):
        await world.unstage()
    await world.unpublish()
    await world.unstage()
    assert await world.mounted() == []


async def test_unpublish_leaves_the_mount_of_another_volume(world: World) -> None:
    await world.stage()
    await world.publish()
    with pytest.raises(FailedPrecondition, match="not this volume"):
        await world.service.node_unpublish_volume(csi.NodeUnpublishVolumeRequest(volume_id="v2", target_path=POD))
    assert await world.mounted() == [POD, STAGING]


async def test_a_staging_path_with_a_foreign_mount_is_neither_used_nor_cleared(world: World) -> None:
    device = (await MemoryConnector().connect(FileTarget("/x"), world.connector.read_context(world.context)[1])).device
    foreign = replace(device, path="/dev/sda1", number=replace(device.number, major=8, minor=1))
    world.filesystems.contents[foreign.path] = Content("ext4", "u", False, "")
    await world.filesystems.mount(foreign, STAGING, "ext4", ())
    with pytest.raises(FailedPrecondition, match="/dev/sda1"):
        await world.stage()
    with pytest.raises(FailedPrecondition, match="not this volume"):
        await world.unstage()
    with pytest.raises(FailedPrecondition, match="not this volume"):
        await world.unpublish(STAGING)
    assert await world.mounted() == [STAGING]


async def test_unstage_waits_until_no_pod_has_the_volume(world: World) -> None:
    await world.stage()
    await world.publish()
    with pytest.raises(FailedPrecondition, match=POD):
        await world.unstage()
    assert world.connector.connected


async def test_unstage_waits_for_the_pods_also_when_the_record_was_lost(world: World) -> None:
    await world.stage()
    await world.publish()
    await world.records.remove("v1")
    with pytest.raises(FailedPrecondition, match=POD):
        await world.unstage()
    assert await world.mounted() == [POD, STAGING]
    await world.unpublish()
    await world.unstage()
    assert not world.connector.connected


async def test_unstage_of_a_volume_that_is_not_at_the_path_leaves_the_one_that_is(world: World) -> None:
    await world.stage()
    await world.unstage("another")
    assert await world.mounted() == [STAGING]


async def test_the_dead_mounts_of_a_device_that_is_gone_can_be_taken_away(world: World) -> None:
    await world.stage()
    await world.publish()
    await world.connector.disconnect(TARGET)
    await world.unpublish()
    await world.unstage()
    assert await world.mounted() == []


async def test_publish_in_another_way_is_refused(world: World) -> None:
    await world.stage()
    await world.publish()
    with pytest.raises(AlreadyExists):
        await world.publish(readonly=True)


async def test_publish_needs_a_staged_volume(world: World) -> None:
    with pytest.raises(FailedPrecondition):
        await world.publish()
    await world.stage(capability(block=True))
    with pytest.raises(FailedPrecondition):
        await world.publish()


async def test_the_staging_path_is_no_target_path(world: World) -> None:
    await world.stage()
    with pytest.raises(InvalidArgument):
        await world.publish(path=STAGING)
    with pytest.raises(InvalidArgument):
        await world.unpublish(STAGING)
    assert await world.mounted() == [STAGING]


async def test_read_only_reaches_the_pod_however_it_was_asked_for(world: World) -> None:
    await world.stage()
    await world.publish(readonly=True)
    (mount,) = (await world.filesystems.mount_table()).at(POD)
    assert mount.read_only
    await world.publish(path=OTHER_POD)
    (mount,) = (await world.filesystems.mount_table()).at(OTHER_POD)
    assert not mount.read_only


async def test_an_attachment_made_read_only_is_never_written_to(world: World) -> None:
    await world.stage()
    await world.unstage()
    world.reconnect()
    world.context["readonly"] = "true"
    world.forget()
    await world.stage()
    await world.publish()
    assert all(mount.read_only for mount in (await world.filesystems.mount_table()).mounts)
    assert "grow" not in world.filesystems.names()


async def test_many_readers_do_not_replay_the_journal(world: World) -> None:
    world.filesystems.contents["/dev/memory/1"] = Content("xfs", "u", False, "")
    await world.stage(capability("MULTI_NODE_READER_ONLY", fs_type="xfs"))
    (mount,) = (await world.filesystems.mount_table()).at(STAGING)
    assert {"ro", "norecovery"} <= set(mount.super_options)


@pytest.mark.parametrize("block", [False, True])
async def test_a_single_writer_has_one_target_path(world: World, block: bool) -> None:
    wanted = capability("SINGLE_NODE_SINGLE_WRITER", block=block)
    await world.stage(wanted)
    await world.publish(wanted)
    await world.publish(wanted)
    with pytest.raises(FailedPrecondition, match="one target path"):
        await world.publish(wanted, OTHER_POD)
    await world.unpublish()
    await world.publish(wanted, OTHER_POD)


async def test_a_block_volume_has_nothing_at_the_staging_path_and_a_node_at_the_pods(world: World) -> None:
    wanted = capability(block=True)
    await world.stage(wanted)
    assert world.changes() == []
    await world.publish(wanted)
    assert await world.filesystems.block_node_at(POD) == world.connector.connected[TARGET].number
    with pytest.raises(FailedPrecondition, match=POD):
        await world.unstage()
    world.forget()
    await world.stage(wanted)
    assert world.changes() == []
    await world.unpublish()
    await world.unstage()
    assert not world.connector.connected
    assert not await world.records.all()


async def test_a_block_node_of_the_host_is_not_removed(world: World) -> None:
    device = (await MemoryConnector().connect(TARGET, world.connector.read_context(world.context)[1])).device
    await world.filesystems.place_block_node(device, "/dev/sda", read_only=False)
    with pytest.raises(FailedPrecondition, match="not of volume v1"):
        await world.unpublish("/dev/sda")


async def test_the_mount_group_gets_the_filesystem(world: World) -> None:
    await world.stage(capability(group="1234"))
    assert world.filesystems.groups == {"/dev/memory/1": 1234}


async def test_expand_grows_filesystem_and_record_while_the_pod_runs(world: World) -> None:
    await world.stage()
    await world.publish()
    world.connector.sizes[TARGET] = 2 * GIB

    async def expand(**fields: object) -> int:
        request = csi.NodeExpandVolumeRequest(volume_id="v1", volume_path=POD)
        for field, value in fields.items():
            setattr(request, field, value)
        return (await world.service.node_expand_volume(request)).capacity_bytes

    assert await expand(capacity_range=csi.CapacityRange(required_bytes=2 * GIB)) == 2 * GIB
    assert world.filesystems.sizes["/dev/memory/1"] == 2 * GIB
    with pytest.raises(OutOfRange):
        await expand(capacity_range=csi.CapacityRange(limit_bytes=GIB))
    with pytest.raises(InvalidArgument, match="does not fit"):
        await expand(volume_capability=capability(block=True))
    with pytest.raises(NotFound):
        await expand(volume_path="some/path")
    record = await world.records.load("v1")
    assert record is not None
    assert record.size == 2 * GIB


async def test_stats_are_of_the_volume_at_the_path_and_of_nothing_else(world: World) -> None:
    async def stats(path: str, volume_id: str = "v1") -> dict[str | None, int]:
        request = csi.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=path)
        answer = await world.service.node_get_volume_stats(request)
        return {usage.unit.name: usage.total for usage in answer.usage}

    await world.stage()
    await world.publish()
    assert (await stats(POD))["BYTES"] == GIB
    assert "INODES" in await stats(STAGING)
    for path in ("/elsewhere", "some/path"):
        with pytest.raises(NotFound):
            await stats(path)
    with pytest.raises(NotFound):
        await stats("/elsewhere", "v2")
    with pytest.raises(InvalidArgument):
        await stats("")
    await world.connector.disconnect(TARGET)
    with pytest.raises(Unavailable):
        await stats(POD)


async def test_stats_of_a_block_volume_are_its_size(world: World) -> None:
    await world.stage(capability(block=True))
    await world.publish(capability(block=True))
    request = csi.NodeGetVolumeStatsRequest(volume_id="v1", volume_path=POD)
    (usage,) = (await world.service.node_get_volume_stats(request)).usage
    assert usage.total == GIB


async def test_health_names_what_is_wrong(world: World) -> None:
    async def reasons() -> list[str]:
        answer = await world.service.node_get_volume_health(csi.NodeGetVolumeHealthRequest(volume_id="v1"))
        return [entry.reason for entry in answer.volume_health.health_statuses]

    with pytest.raises(NotFound):
        await reasons()
    await world.stage()
    assert await reasons() == []
    world.connector.problems[TARGET] = "a path is reconnecting"
    assert await reasons() == ["SessionUnhealthy"]
    await world.filesystems.unmount(STAGING)
    assert await reasons() == ["SessionUnhealthy", "NotMounted"]
    await world.connector.disconnect(TARGET)
    assert await reasons() == ["DeviceGone"]


async def test_health_tells_what_is_done_about_a_session_and_since_when(world: World) -> None:
    await world.stage()
    world.connector.problems[TARGET] = "not every path is up"
    world.troubles[TARGET.identity] = "away since 2026-11-21 10:00:00 UTC"
    assert await world.health() == {"SessionUnhealthy": ("DEGRADED", "away since 2026-11-21 10:00:00 UTC")}
    world.connector.problems.clear()
    world.troubles[TARGET.identity] = "not connected through 192.0.2.2:4420"
    assert await world.health() == {"SessionUnhealthy": ("DEGRADED", "not connected through 192.0.2.2:4420")}
    world.troubles.clear()
    assert await world.health() == {}


async def test_health_of_a_dead_mount_says_what_a_person_must_do_until_it_is_done(world: World) -> None:
    await world.stage()
    await world.publish()
    await world.connector.disconnect(TARGET)
    world.troubles[TARGET.identity] = "given up by the kernel since 10:00"
    health = await world.health()
    assert health["DeviceGone"] == (
        "INACCESSIBLE",
        "the volume has no device on this node: given up by the kernel since 10:00",
    )
    assert "has no device now" in health["DeviceLost"][1]
    world.troubles.clear()
    await world.replace_device()
    world.filesystems.before["usage"] = unreachable
    (status, message) = (await world.health())["DeviceLost"]
    assert status == "INACCESSIBLE"
    assert "volume v1 is /dev/memory/2 (0:2) now" in message
    assert f"{STAGING} is still of /dev/memory/1 (0:1)" in message
    assert "Delete the pods that use it on this node" in message
    await world.unpublish()
    await world.unstage()
    await world.stage()
    await world.publish()
    assert await world.health() == {}


async def test_nothing_is_staged_or_published_over_a_dead_mount_and_the_error_says_why(world: World) -> None:
    await world.stage()
    await world.publish()

    async def assert_refused() -> None:
        for call in (world.stage(), world.publish(path=OTHER_POD)):
            with pytest.raises(FailedPrecondition, match="Delete the pods that use it on this node"):
                await call

    await world.connector.disconnect(TARGET)
    await assert_refused()
    await world.replace_device()
    await assert_refused()
    with pytest.raises(FailedPrecondition, match="Delete the pods"):
        await world.service.node_get_volume_stats(csi.NodeGetVolumeStatsRequest(volume_id="v1", volume_path=POD))


async def test_a_volume_that_came_back_is_not_forgotten_while_pods_have_its_dead_mounts(world: World) -> None:
    await world.stage()
    await world.publish()
    await world.replace_device()
    with pytest.raises(FailedPrecondition, match=POD):
        await world.unstage()
    await world.unpublish()
    await world.unstage()
    assert await world.mounted() == []
    assert not world.connector.connected


async def test_a_block_node_of_a_device_that_was_given_up_is_told_and_keeps_the_record(world: World) -> None:
    await world.stage(capability(block=True))
    await world.publish(capability(block=True))
    await world.replace_device()
    (status, message) = (await world.health())["DeviceLost"]
    assert status == "INACCESSIBLE"
    assert f"{POD} is still of the device 0:1" in message
    with pytest.raises(FailedPrecondition, match=POD):
        await world.unstage()
    await world.unpublish()
    assert await world.health() == {}
    await world.publish(capability(block=True))
    assert await world.health() == {}


async def test_a_foreign_mount_at_the_staging_path_is_named(world: World) -> None:
    await world.stage()
    await world.filesystems.unmount(STAGING)
    world.filesystems.contents["/dev/sda1"] = Content("ext4", "u", False, "")
    await world.filesystems.mount(Device("/dev/sda1", DeviceNumber(8, 1), GIB), STAGING, "ext4", ())
    assert await world.health() == {
        "NotMounted": ("INACCESSIBLE", f"/dev/sda1, which is not this volume, is mounted at {STAGING}")
    }


async def test_the_controller_of_the_same_process_is_told_of_staged_volumes_only(world: World) -> None:
    assert await world.service.health_problems("v1") == []
    await world.stage()
    assert await world.service.health_problems("v1") == []
    await world.connector.disconnect(TARGET)
    assert [problem.reason for problem in await world.service.health_problems("v1")] == ["DeviceGone", "DeviceLost"]


@pytest.mark.parametrize("path", ["", "relative", "/a/../b", "/", "/a\nb", "/" + "a" * 5000])
async def test_bad_paths_are_refused_before_anything_is_done(world: World, path: str) -> None:
    with pytest.raises(InvalidArgument):
        await world.stage(path=path)
    with pytest.raises(InvalidArgument):
        await world.publish(path=path)
    with pytest.raises(InvalidArgument):
        await world.unpublish(path)
    assert not world.connector.connected


@pytest.mark.parametrize("flags", [("bind",), ("remount",), ("-o",), ("noexec,bind",), ("x" * 5000,), ("ro", "rw")])
async def test_bad_mount_flags_are_refused_before_anything_is_done(world: World, flags: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument):
        await world.stage(capability(flags=flags))
    assert not await world.records.all()


async def test_an_access_that_volumes_do_not_have_is_refused(world: World) -> None:
    with pytest.raises(FailedPrecondition, match="block volumes only"):
        await world.stage(capability("MULTI_NODE_MULTI_WRITER"))


async def test_the_node_tells_its_id_limit_and_topology(world: World) -> None:
    info = await world.service.node_get_info(csi.NodeGetInfoRequest())
    assert (info.node_id, info.max_volumes_per_node) == ("n1", 5)
    assert info.accessible_topology.segments == {"topology.example/node": "n1"}
    assert (await world.service.node_get_storage_health(csi.NodeGetStorageHealthRequest())).backend_health == []
