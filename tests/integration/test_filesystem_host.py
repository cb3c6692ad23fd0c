"""The real filesystems: loop devices, mkfs, mounts. Root is needed."""

import asyncio
import contextlib
import os
import stat
import struct
import subprocess
import uuid
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rds_csi.errors import Aborted, FailedPrecondition, Unavailable
from rds_csi.filesystem.host import HostFilesystems
from rds_csi.filesystem.mkfs import arguments
from rds_csi.filesystem.mountinfo import parse
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import MIB
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers
from tests.support.runner import ScriptedRunner
from tests.support.traces import loops_below
from tests.support.waiting import wait_until

SIZE = 400 * MIB
TOOL_SECONDS = 30.0
FS_TYPES = ("ext4", "xfs", "btrfs")


def run(*argv: str) -> str:
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=TOOL_SECONDS)
    return done.stdout.strip()


def attach(image: Path, *options: str) -> Device:
    path = run("losetup", "--find", "--show", *options, str(image))
    size = os.stat(image).st_size
    return Device(path, DeviceNumber.of(os.stat(path).st_rdev), size)


@pytest.fixture
def filesystems() -> HostFilesystems:
    return HostFilesystems(ProcessRunner(), Workers(), HostPaths())


@pytest.fixture
def new_device(home: Path) -> Iterator[Callable[..., Device]]:
    made: list[Device] = []

    def make(*options: str, size: int = SIZE) -> Device:
        image = home / f"image{len(made)}"
        with image.open("wb") as stream:
            stream.truncate(size)
        made.append(attach(image, *options))
        return made[-1]

    yield make
    for device in made:
        run("losetup", "--detach", device.path)
    # The kernel detaches when the last opener has closed it: a losetup elsewhere looks at every loop device.
    wait_until(lambda: not loops_below(home), "the loop devices are gone")


@pytest.fixture
def device(new_device: Callable[..., Device]) -> Device:
    return new_device()


def put(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def gpt_header(*, last: int) -> bytes:
    """UEFI Specification 2.10, table 5.5, as far as nobody checks more."""
    return struct.pack("<8sIIII4Q", b"EFI PART", 0x10000, 92, 0, 0, last, 1, 34, last - 33).ljust(512, b"\0")


def write(path: str | Path, offset: int, data: bytes) -> None:
    with open(path, "r+b", buffering=0) as stream:
        stream.seek(offset)
        stream.write(data)
        os.fsync(stream.fileno())


def grown(device: Device, image: Path, size: int) -> Device:
    os.truncate(image, size)
    run("losetup", "--set-capacity", device.path)
    return Device(device.path, device.number, size)


@pytest.mark.parametrize("fs_type", FS_TYPES)
async def test_a_volume_is_formatted_mounted_bound_and_undone(
    filesystems: HostFilesystems, device: Device, home: Path, fs_type: str
) -> None:
    stage, target, fs_uuid = str(home / "stage"), str(home / "target"), str(uuid.uuid4())
    assert (await filesystems.identify(device)).fs_type == ""
    assert (await filesystems.prove_blank(device)).blank
    await filesystems.format(device, fs_type, fs_uuid, ())
    found = await filesystems.identify(device)
    assert (found.fs_type, found.uuid) == (fs_type, fs_uuid)
    proof = await filesystems.prove_blank(device)
    assert (proof.fs_type, proof.uuid, proof.blank) == (fs_type, fs_uuid, False)

    await filesystems.mount(device, stage, fs_type, ["noatime"])
    await filesystems.bind(stage, target, read_only=True, flags=["noexec", "noatime"])
    mounts = await filesystems.mounts_of(device)
    assert sorted(mount.path for mount in mounts) == [stage, target]
    (bound,) = (mount for mount in mounts if mount.path == target)
    assert {"ro", "noexec", "noatime"} <= set(bound.options)
    put(f"{stage}/file", b"data")
    assert read(f"{target}/file") == b"data"
    with pytest.raises(OSError, match="Read-only"):
        put(f"{target}/file", b"more")
    usage = await filesystems.usage(target)
    assert SIZE // 2 < usage.total_bytes <= SIZE
    assert usage.read_only

    for path in (target, stage):
        await filesystems.unmount(path)
        await filesystems.remove_target(path)
    assert list(await filesystems.mounts_of(device)) == []
    assert os.listdir(home) == ["image0"]


@pytest.mark.parametrize("fs_type", FS_TYPES)
async def test_a_formatted_volume_is_staged_with_one_program(
    filesystems: HostFilesystems, device: Device, home: Path, fs_type: str
) -> None:
    await filesystems.format(device, fs_type, str(uuid.uuid4()), ())
    runner, stage = ScriptedRunner().on("mount"), str(home / "stage")
    counting = HostFilesystems(runner, Workers(), HostPaths())
    await counting.identify(device)
    await counting.mounts_of(device)
    await counting.mount(device, stage, fs_type, ())
    assert [call[0] for call in runner.calls] == ["mount"]


@pytest.mark.parametrize("fs_type", FS_TYPES)
async def test_no_program_is_started_to_undo_a_bind(
    filesystems: HostFilesystems, device: Device, home: Path, fs_type: str
) -> None:
    stage, pod = str(home / "stage"), str(home / "pod")
    await filesystems.format(device, fs_type, str(uuid.uuid4()), ())
    await filesystems.mount(device, stage, fs_type, ())
    await filesystems.bind(stage, pod, read_only=False, flags=())
    await HostFilesystems(ScriptedRunner(), Workers(), HostPaths()).unmount(pod)
    table = await filesystems.mount_table()
    assert table.at(pod) == ()
    assert len(table.at(stage)) == 1
    await filesystems.unmount(stage)


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
async def test_a_mounted_filesystem_grows_and_is_then_left_alone(
    filesystems: HostFilesystems, device: Device, home: Path, fs_type: str
) -> None:
    stage = str(home / "stage")
    await filesystems.format(device, fs_type, str(uuid.uuid4()), ())
    await filesystems.mount(device, stage, fs_type, ())
    before = (await filesystems.usage(stage)).total_bytes
    larger = grown(device, home / "image0", SIZE + 100 * MIB)
    await filesystems.grow(larger, stage, fs_type)
    assert (await filesystems.usage(stage)).total_bytes - before >= 90 * MIB
    # A runner without a rule fails the test when a program is started.
    await HostFilesystems(ScriptedRunner(), Workers(), HostPaths()).grow(larger, stage, fs_type)
    await filesystems.unmount(stage)


async def test_an_ext4_grows_or_names_the_missing_capability(
    filesystems: HostFilesystems, device: Device, home: Path
) -> None:
    stage = str(home / "stage")
    await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    await filesystems.mount(device, stage, "ext4", ())
    await HostFilesystems(ScriptedRunner(), Workers(), HostPaths()).grow(device, stage, "ext4")
    before = (await filesystems.usage(stage)).total_bytes
    larger = grown(device, home / "image0", SIZE + 200 * MIB)
    try:
        await filesystems.grow(larger, stage, "ext4")
        assert (await filesystems.usage(stage)).total_bytes - before >= 150 * MIB
        await HostFilesystems(ScriptedRunner(), Workers(), HostPaths()).grow(larger, stage, "ext4")
    except FailedPrecondition as error:
        # ext4 asks for CAP_SYS_RESOURCE, which root in a container may not have.
        assert "CAP_SYS_RESOURCE" in error.remedy  # noqa: PT017
    await filesystems.unmount(stage)


@pytest.mark.parametrize("fs_type", FS_TYPES)
@pytest.mark.parametrize("extra", [1, 2, 3, 5, 9, 77])
async def test_no_program_is_started_to_grow_a_fresh_filesystem_of_an_odd_size(
    filesystems: HostFilesystems, new_device: Callable[..., Device], home: Path, fs_type: str, extra: int
) -> None:
    """mkfs leaves out a tail that cannot hold another group: that is no reason to try at every stage."""
    device, stage = new_device(size=3 * 128 * MIB + extra * MIB), str(home / "stage")
    await filesystems.format(device, fs_type, str(uuid.uuid4()), ())
    await filesystems.mount(device, stage, fs_type, ())
    await HostFilesystems(ScriptedRunner(), Workers(), HostPaths()).grow(device, stage, fs_type)
    await filesystems.unmount(stage)


async def test_a_device_that_something_holds_is_not_formatted(filesystems: HostFilesystems, device: Device) -> None:
    descriptor = os.open(device.path, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(Aborted, match="held by another program"):
            await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    finally:
        os.close(descriptor)
    assert (await filesystems.prove_blank(device)).blank


async def test_a_device_that_a_program_writes_to_without_a_claim_is_not_formatted(
    filesystems: HostFilesystems, device: Device
) -> None:
    """As mkfs.btrfs does."""
    node = os.open(device.path, os.O_RDWR)
    writer = await asyncio.create_subprocess_exec("sleep", "60", stdout=node, stdin=DEVNULL)
    os.close(node)
    try:
        with pytest.raises(Aborted, match=rf"pid {writer.pid} \(sleep\)"):
            await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    finally:
        writer.kill()
        await writer.wait()
    await filesystems.format(device, "ext4", str(uuid.uuid4()), ())


async def test_a_mounted_device_is_not_formatted(filesystems: HostFilesystems, device: Device, home: Path) -> None:
    fs_uuid, stage = str(uuid.uuid4()), str(home / "stage")
    await filesystems.format(device, "xfs", fs_uuid, ())
    await filesystems.mount(device, stage, "xfs", ())
    with pytest.raises(Aborted):
        await filesystems.format(device, "xfs", fs_uuid, ())
    await filesystems.unmount(stage)


@pytest.mark.parametrize("fs_type", FS_TYPES)
async def test_a_format_is_repeated_with_its_own_uuid_only(
    filesystems: HostFilesystems, device: Device, fs_type: str
) -> None:
    fs_uuid = str(uuid.uuid4())
    await filesystems.format(device, fs_type, fs_uuid, ())
    await filesystems.format(device, fs_type, fs_uuid, ())
    with pytest.raises(FailedPrecondition, match=f"holds {fs_type} {fs_uuid}"):
        await filesystems.format(device, fs_type, str(uuid.uuid4()), ())


async def test_a_cancelled_format_runs_to_its_end(filesystems: HostFilesystems, device: Device) -> None:
    fs_uuid = str(uuid.uuid4())
    formatting = asyncio.create_task(filesystems.format(device, "ext4", fs_uuid, ()))
    await asyncio.sleep(0)
    formatting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await formatting
    assert (await filesystems.identify(device)).uuid == fs_uuid


@pytest.mark.parametrize(
    ("offset", "blank"),
    [
        (0, False),
        (SIZE - 1, False),
        (128 * MIB + 1080, False),  # a copy of ext4's superblock, its head wiped
        (SIZE // 2 + 64, False),
        # Between the samples: what no probe short of reading the whole device can see.
        (SIZE // 2 + 2 * MIB, True),
    ],
)
async def test_data_is_seen_at_head_tail_and_samples(
    filesystems: HostFilesystems, device: Device, offset: int, blank: bool
) -> None:
    write(device.path, offset, b"\x01")
    assert (await filesystems.prove_blank(device)).blank is blank


async def test_data_that_is_not_in_the_page_cache_is_seen(
    filesystems: HostFilesystems, device: Device, home: Path
) -> None:
    """A cache that is older than the device must not make it blank."""
    holder = os.open(device.path, os.O_RDONLY)
    try:
        os.pread(holder, MIB, 0)
        write(home / "image0", 4096, b"written behind the kernel's back")
        assert os.pread(holder, 7, 4096) != b"written"
        assert not (await filesystems.prove_blank(device)).blank
    finally:
        os.close(holder)


async def test_a_dos_partition_table_is_not_blank(filesystems: HostFilesystems, device: Device) -> None:
    partition = struct.pack("<8B2I", 0, 0, 0, 0, 0x83, 0, 0, 0, 2048, 4096)
    write(device.path, 446, partition.ljust(64, b"\0") + b"\x55\xaa")
    assert (await filesystems.prove_blank(device)).detail == "a partition table (dos)"


async def test_a_partition_table_at_the_tail_alone_is_not_blank(filesystems: HostFilesystems, device: Device) -> None:
    """The copy of a GPT in the last sector, its head wiped."""
    write(device.path, SIZE - 512, gpt_header(last=SIZE // 512 - 1))
    assert not (await filesystems.prove_blank(device)).blank


async def test_swap_is_not_blank(filesystems: HostFilesystems, device: Device) -> None:
    run("mkswap", device.path)
    assert (await filesystems.prove_blank(device)).detail.startswith("swap")


async def test_a_device_of_another_size_or_number_is_not_judged(filesystems: HostFilesystems, device: Device) -> None:
    with pytest.raises(Unavailable):
        await filesystems.prove_blank(Device(device.path, device.number, SIZE * 2))
    with pytest.raises(Unavailable):
        await filesystems.prove_blank(Device(device.path, DeviceNumber(259, 99), SIZE))


async def test_a_device_with_large_blocks_is_read(
    filesystems: HostFilesystems, new_device: Callable[..., Device]
) -> None:
    device = new_device("--sector-size", "4096")
    assert (await filesystems.prove_blank(device)).blank
    await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    assert (await filesystems.identify(device)).fs_type == "ext4"


async def test_a_damaged_ext4_is_never_formatted_and_says_what_to_do(
    filesystems: HostFilesystems, device: Device, home: Path
) -> None:
    await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    write(device.path, 1024 + 0x20, b"\xff" * 8)
    with pytest.raises(FailedPrecondition, match="e2fsck"):
        await filesystems.mount(device, str(home / "stage"), "ext4", ())
    assert (await filesystems.identify(device)).fs_type == "ext4"


async def test_a_write_protected_device_is_not_mounted_read_only_in_silence(
    filesystems: HostFilesystems, new_device: Callable[..., Device], home: Path
) -> None:
    device = new_device()
    await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    run("blockdev", "--setro", device.path)
    try:
        with pytest.raises(FailedPrecondition, match="publish it read-only"):
            await filesystems.mount(device, str(home / "stage"), "ext4", ())
        await filesystems.mount(device, str(home / "stage"), "ext4", ["ro", "noload"])
        await filesystems.unmount(str(home / "stage"))
    finally:
        run("blockdev", "--setrw", device.path)


async def test_an_xfs_clone_is_mounted_beside_its_origin(
    filesystems: HostFilesystems, new_device: Callable[..., Device], home: Path
) -> None:
    origin, clone = new_device(), new_device()
    await filesystems.format(origin, "xfs", str(uuid.uuid4()), ())
    run("cp", "--sparse=always", str(home / "image0"), str(home / "image1"))
    for device, name in ((origin, "origin"), (clone, "clone")):
        await filesystems.mount(device, str(home / name), "xfs", ())
    for name in ("origin", "clone"):
        await filesystems.unmount(str(home / name))


async def test_stacked_mounts_are_all_undone(filesystems: HostFilesystems, device: Device, home: Path) -> None:
    stage, target = str(home / "stage"), str(home / "target")
    await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    await filesystems.mount(device, stage, "ext4", ())
    os.mkdir(target)
    for _ in range(3):
        run("mount", "--bind", stage, target)
    assert len((await filesystems.mount_table()).at(target)) == 3
    with pytest.raises(FailedPrecondition, match="still mounted"):
        await filesystems.remove_target(target)
    await filesystems.unmount(target)
    assert (await filesystems.mount_table()).at(target) == ()
    await filesystems.unmount(stage)


async def test_a_busy_mount_stays_and_names_its_user(filesystems: HostFilesystems, device: Device, home: Path) -> None:
    stage = str(home / "stage")
    await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    await filesystems.mount(device, stage, "ext4", ())
    descriptor = os.open(stage, os.O_RDONLY)
    try:
        with pytest.raises(FailedPrecondition, match=f"pid {os.getpid()} "):
            await filesystems.unmount(stage)
        assert len((await filesystems.mount_table()).at(stage)) == 1
    finally:
        os.close(descriptor)
    await filesystems.unmount(stage)


async def test_a_bind_that_fails_leaves_nothing(filesystems: HostFilesystems, home: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be bound"):
        await filesystems.bind(str(home / "absent"), str(home / "target"), read_only=True, flags=())
    assert os.listdir(home) == []


def is_read_only(device: Device) -> bool:
    return run("blockdev", "--getro", device.path) == "1"


async def test_a_block_node_is_placed_once_and_removed(
    filesystems: HostFilesystems, device: Device, home: Path
) -> None:
    target = str(home / "publish" / "pod")
    for _ in range(2):
        await filesystems.place_block_node(device, target, read_only=False)
    assert await filesystems.block_node_at(target) == device.number
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o600
    assert (await filesystems.usage(target)).total_bytes == SIZE
    write(target, 0, b"x")
    await filesystems.remove_target(target)
    assert await filesystems.block_node_at(target) is None


async def test_a_read_only_block_node_cannot_be_written_and_leaves_the_device_writable(
    filesystems: HostFilesystems, device: Device, home: Path
) -> None:
    target = str(home / "publish" / "pod")
    await filesystems.place_block_node(device, target, read_only=True)
    await filesystems.place_block_node(device, target, read_only=True)
    assert is_read_only(device)
    with pytest.raises(PermissionError):
        write(target, 0, b"x")
    with pytest.raises(FailedPrecondition, match="read-only"):
        await filesystems.place_block_node(device, str(home / "publish" / "other"), read_only=False)
    await filesystems.place_block_node(device, str(home / "publish" / "other"), read_only=True)
    await filesystems.remove_target(target)
    assert is_read_only(device), "the other pod still has it"
    await filesystems.remove_target(str(home / "publish" / "other"))
    assert not is_read_only(device)


async def test_a_left_over_node_does_not_make_another_volumes_device_writable(
    filesystems: HostFilesystems, device: Device, home: Path
) -> None:
    """The number of a device that went came back as that of another volume."""
    left, published = str(home / "publish" / "one" / "pod"), str(home / "publish" / "two" / "pod")
    for path in (left, published):
        await filesystems.place_block_node(device, path, read_only=True)
    await filesystems.remove_target(left)
    assert is_read_only(device)
    await filesystems.remove_target(published)
    assert not is_read_only(device)


async def test_a_character_device_is_not_removed(filesystems: HostFilesystems, home: Path) -> None:
    node = home / "null"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with pytest.raises(FailedPrecondition, match="neither a directory"):
        await filesystems.remove_target(str(node))
    node.unlink()


async def test_a_read_only_node_beside_a_writable_one_is_refused(
    filesystems: HostFilesystems, device: Device, home: Path
) -> None:
    await filesystems.place_block_node(device, str(home / "publish" / "pod"), read_only=False)
    with pytest.raises(FailedPrecondition, match="writable"):
        await filesystems.place_block_node(device, str(home / "publish" / "other"), read_only=True)
    assert not is_read_only(device)


async def test_what_is_not_the_devices_node_is_left_alone(
    filesystems: HostFilesystems, new_device: Callable[..., Device], home: Path
) -> None:
    device, other = new_device(), new_device()
    (home / "file").write_text("data")
    await filesystems.place_block_node(other, str(home / "node"), read_only=False)
    for name in ("file", "node"):
        with pytest.raises(FailedPrecondition, match="is there already"):
            await filesystems.place_block_node(device, str(home / name), read_only=False)
    await filesystems.remove_target(str(home / "node"))


async def test_a_group_gets_the_volume_and_nothing_mounted_in_it(
    filesystems: HostFilesystems, new_device: Callable[..., Device], home: Path
) -> None:
    outer, inner, stage = new_device(), new_device(), home / "stage"
    for device, path in ((outer, stage), (inner, stage / "inner")):
        await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
        await filesystems.mount(device, str(path), "ext4", ())
    (stage / "file").touch()
    (stage / "inner" / "file").touch()
    (stage / "link").symlink_to("/etc")
    await filesystems.set_group(str(stage), 4321)
    assert os.stat(stage).st_gid == os.stat(stage / "file").st_gid == os.lstat(stage / "link").st_gid == 4321
    assert os.stat(stage).st_mode & stat.S_ISGID
    assert os.stat(stage / "inner" / "file").st_gid != 4321
    assert os.stat("/etc").st_gid != 4321
    await filesystems.unmount(str(stage / "inner"))
    await filesystems.unmount(str(stage))


async def test_a_read_only_volume_keeps_its_group(filesystems: HostFilesystems, device: Device, home: Path) -> None:
    stage = str(home / "stage")
    await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    await filesystems.mount(device, stage, "ext4", ["ro"])
    await filesystems.set_group(stage, 4321)
    assert os.stat(stage).st_gid != 4321
    await filesystems.unmount(stage)


async def test_the_tools_are_there(filesystems: HostFilesystems) -> None:
    assert [finding for finding in await filesystems.check() if not finding.ok or finding.remedy] == []


@pytest.mark.parametrize("fs_type", FS_TYPES)
async def test_a_mkfs_killed_at_any_moment_is_begun_again(
    filesystems: HostFilesystems, device: Device, fs_type: str
) -> None:
    fs_uuid = str(uuid.uuid4())
    for milliseconds in (1, 3, 5, 8, 12, 18, 25, 40):
        mkfs = await asyncio.create_subprocess_exec(*arguments(device.path, fs_type, fs_uuid, ()), stderr=DEVNULL)
        try:
            async with asyncio.timeout(milliseconds / 1000):
                await mkfs.wait()
        except TimeoutError:
            # It may have ended just now.
            with contextlib.suppress(ProcessLookupError):
                mkfs.kill()
            await mkfs.wait()
        await filesystems.format(device, fs_type, fs_uuid, ())
        content = await filesystems.identify(device)
        assert (content.fs_type, content.uuid) == (fs_type, fs_uuid)
        run("wipefs", "-q", "-a", device.path)


async def test_a_bind_reaches_other_mount_namespaces_with_its_attributes(
    filesystems: HostFilesystems, device: Device, home: Path
) -> None:
    """What the kubelet and the pods see through Bidirectional propagation."""
    kubelet, stage = str(home / "kubelet"), str(home / "kubelet" / "stage")
    os.mkdir(kubelet)
    run("mount", "-t", "tmpfs", "tmpfs", kubelet)
    run("mount", "--make-shared", kubelet)
    await filesystems.format(device, "ext4", str(uuid.uuid4()), ())
    await filesystems.mount(device, stage, "ext4", ())
    script = f"mount --make-slave {kubelet}; echo ready; read end"
    argv = ("unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script)
    other = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE)
    try:
        assert other.stdout is not None
        async with asyncio.timeout(TOOL_SECONDS):
            await other.stdout.readline()
        await filesystems.bind(stage, f"{kubelet}/pod", read_only=True, flags=["nosuid"])
        (seen,) = parse(read(f"/proc/{other.pid}/mountinfo")).at(f"{kubelet}/pod")
        assert {"ro", "nosuid"} <= set(seen.options)
        await filesystems.unmount(f"{kubelet}/pod")
        assert parse(read(f"/proc/{other.pid}/mountinfo")).at(f"{kubelet}/pod") == ()
    finally:
        await other.communicate(b"\n")
        for path in (stage, kubelet):
            await filesystems.unmount(path)


async def test_a_device_claimed_in_another_mount_namespace_is_not_formatted(
    filesystems: HostFilesystems, device: Device, home: Path
) -> None:
    fs_uuid = str(uuid.uuid4())
    await filesystems.format(device, "ext4", fs_uuid, ())
    # A private mount of the test's own, because in a chroot "/" is no mount whose propagation could be changed.
    private = home / "private"
    private.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(private))
    run("mount", "--make-private", str(private))
    script = f"mkdir {private}/mnt; mount {device.path} {private}/mnt; echo ready; read end"
    argv = ("unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script)
    other = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE)
    try:
        assert other.stdout is not None
        async with asyncio.timeout(TOOL_SECONDS):
            await other.stdout.readline()
        assert list(await filesystems.mounts_of(device)) == []
        with pytest.raises(Aborted):
            await filesystems.format(device, "ext4", fs_uuid, ())
    finally:
        await other.communicate(b"\n")
        await filesystems.unmount(str(private))
