"""The filesystems in memory behave like the real ones."""

import pytest

from rds_csi.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from rds_csi.filesystem.memory import MemoryFilesystems
from rds_csi.filesystem.protocol import Content
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.sizes import GIB

DEVICE = Device("/dev/memory/1", DeviceNumber(0, 1), GIB)
UUID = "0f3a9a5e-7c1b-4d6e-8f00-112233445566"
STAGE, TARGET = "/staging", "/pods/1/target"


async def staged() -> MemoryFilesystems:
    filesystems = MemoryFilesystems()
    await filesystems.format(DEVICE, "ext4", UUID, ())
    await filesystems.mount(DEVICE, STAGE, "ext4", ["noatime"])
    return filesystems


async def test_a_volume_lives_its_life() -> None:
    filesystems = await staged()
    await filesystems.bind(STAGE, TARGET, read_only=True, flags=["noexec"])
    mounts = await filesystems.mounts_of(DEVICE)
    assert [(mount.path, mount.options) for mount in mounts] == [
        (STAGE, ("rw", "noatime")),
        (TARGET, ("ro", "noexec")),
    ]
    assert (await filesystems.usage(TARGET)).total_bytes == GIB
    assert (await filesystems.usage(TARGET)).read_only
    await filesystems.unmount(TARGET)
    await filesystems.remove_target(TARGET)
    await filesystems.unmount(STAGE)
    await filesystems.remove_target(STAGE)
    assert (await filesystems.mount_table()).mounts == ()
    assert (await filesystems.identify(DEVICE)).uuid == UUID


async def test_an_untouched_device_is_blank_only_to_the_proof() -> None:
    filesystems = MemoryFilesystems()
    assert not (await filesystems.identify(DEVICE)).blank
    assert (await filesystems.prove_blank(DEVICE)).blank


async def test_a_foreign_filesystem_is_never_formatted() -> None:
    filesystems = MemoryFilesystems()
    filesystems.contents[DEVICE.path] = Content("xfs", "other", False, "")
    with pytest.raises(FailedPrecondition, match="holds xfs other"):
        await filesystems.format(DEVICE, "ext4", UUID, ())


async def test_a_held_or_mounted_device_is_not_formatted() -> None:
    filesystems = await staged()
    with pytest.raises(Aborted):
        await filesystems.format(DEVICE, "ext4", UUID, ())
    await filesystems.unmount(STAGE)
    filesystems.held.add(DEVICE.path)
    with pytest.raises(Aborted):
        await filesystems.format(DEVICE, "ext4", UUID, ())


async def test_a_mount_needs_the_right_filesystem_and_a_free_place() -> None:
    filesystems = await staged()
    with pytest.raises(FailedPrecondition, match="mounted at /staging already"):
        await filesystems.mount(DEVICE, STAGE, "ext4", ())
    with pytest.raises(FailedPrecondition, match="holds no xfs"):
        await filesystems.mount(DEVICE, "/elsewhere", "xfs", ())
    with pytest.raises(InvalidArgument):
        await filesystems.mount(DEVICE, "/elsewhere", "ext4", ["loop"])


async def test_a_busy_mount_stays() -> None:
    filesystems = await staged()
    filesystems.busy.add(STAGE)
    with pytest.raises(FailedPrecondition, match="busy"):
        await filesystems.unmount(STAGE)
    with pytest.raises(FailedPrecondition, match="still mounted"):
        await filesystems.remove_target(STAGE)
    filesystems.busy.clear()
    await filesystems.unmount(STAGE)
    await filesystems.unmount(STAGE)


async def test_a_bind_of_nothing_is_not_found() -> None:
    with pytest.raises(NotFound):
        await MemoryFilesystems().bind(STAGE, TARGET, read_only=False, flags=())


async def test_a_bind_of_a_read_only_stage_is_read_only() -> None:
    filesystems = MemoryFilesystems()
    await filesystems.format(DEVICE, "ext4", UUID, ())
    await filesystems.mount(DEVICE, STAGE, "ext4", ["ro"])
    await filesystems.bind(STAGE, TARGET, read_only=False, flags=())
    assert (await filesystems.mount_table()).at(TARGET)[0].read_only


async def test_block_nodes_are_idempotent_and_of_one_access() -> None:
    filesystems = MemoryFilesystems()
    await filesystems.place_block_node(DEVICE, TARGET, read_only=False)
    await filesystems.place_block_node(DEVICE, TARGET, read_only=False)
    assert await filesystems.block_node_at(TARGET) == DEVICE.number
    assert (await filesystems.usage(TARGET)).total_bytes == GIB
    with pytest.raises(FailedPrecondition):
        await filesystems.place_block_node(DEVICE, "/pods/2/target", read_only=True)
    with pytest.raises(FailedPrecondition):
        await filesystems.place_block_node(Device("/dev/memory/2", DeviceNumber(0, 2), 1), TARGET, read_only=False)
    await filesystems.remove_target(TARGET)
    assert await filesystems.block_node_at(TARGET) is None
    with pytest.raises(NotFound):
        await filesystems.usage(TARGET)


async def test_growth_is_seen_in_usage() -> None:
    filesystems = await staged()
    await filesystems.grow(Device(DEVICE.path, DEVICE.number, 2 * GIB), STAGE, "ext4")
    assert (await filesystems.usage(STAGE)).total_bytes == 2 * GIB
    with pytest.raises(FailedPrecondition):
        await filesystems.grow(DEVICE, TARGET, "ext4")


async def test_failures_are_injected_once_and_operations_remembered() -> None:
    filesystems = MemoryFilesystems()
    filesystems.fail("identify", Unavailable("the device is away"))
    with pytest.raises(Unavailable):
        await filesystems.identify(DEVICE)
    await filesystems.identify(DEVICE)
    await filesystems.set_group(STAGE, 5)
    assert filesystems.names() == ("identify", "set_group")
    assert all(finding.ok for finding in await filesystems.check())


async def test_a_hook_runs_before_its_operation() -> None:
    filesystems = MemoryFilesystems()
    seen: list[tuple[str, ...]] = []

    async def look() -> None:
        seen.append(filesystems.names())

    filesystems.before["prove_blank"] = look
    await filesystems.prove_blank(DEVICE)
    assert seen == [()]


async def test_the_group_is_kept_by_the_filesystem() -> None:
    filesystems = await staged()
    await filesystems.set_group(STAGE, 1000)
    assert filesystems.groups == {DEVICE.path: 1000}
