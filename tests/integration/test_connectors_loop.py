"""The loop connector with real loop devices."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.connectors.loop import LoopConnector
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.errors import FailedPrecondition
from rds_csi.filesystem.host import HostFilesystems
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.host import HostPaths
from rds_csi.model.targets import FileTarget
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers

CONFIG = ConnectionConfig()
SIZE = 64 << 20
TOOL_SECONDS = 60.0


@pytest.fixture
def connector(home: Path) -> LoopConnector:
    return LoopConnector(ConnectorOptions(ProcessRunner(), Workers(), HostPaths(), str(home / "state")))


def make_image(path: Path, size: int = SIZE) -> FileTarget:
    with path.open("wb") as stream:
        stream.truncate(size)
    return FileTarget(str(path))


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TOOL_SECONDS)
    assert done.returncode == 0, f"{argv}: {done.stderr}"


async def test_a_file_becomes_a_device_and_goes_again(connector: LoopConnector, home: Path) -> None:
    target = make_image(home / "image")
    connected = await connector.connect(target, CONFIG)
    assert connected.created
    assert connected.device.size == SIZE
    assert BlockNodes().number_of(connected.device.path) == connected.device.number
    assert await connector.target_of(connected.device.number) == target
    again = await connector.connect(target, CONFIG)
    assert (again.device, again.created) == (connected.device, False)
    assert await connector.health(target) == ""
    await connector.disconnect(target)
    assert await connector.find(target) is None
    await connector.disconnect(target)


async def test_a_device_is_found_through_a_symlink_to_its_directory(connector: LoopConnector, home: Path) -> None:
    target = make_image(home / "image")
    device = (await connector.connect(target, CONFIG)).device
    (home / "alias").symlink_to(home)
    assert await connector.find(FileTarget(f"{home}/alias/image")) == device
    await connector.disconnect(FileTarget(f"{home}/alias/image"))
    assert await connector.find(target) is None


async def test_a_file_made_anew_gets_a_device_of_its_own(connector: LoopConnector, home: Path) -> None:
    target = make_image(home / "image")
    old = (await connector.connect(target, CONFIG)).device
    (home / "image").unlink()
    assert "deleted" in await connector.health(target)
    make_image(home / "image")
    new = await connector.connect(target, CONFIG)
    assert new.created
    assert new.device.number != old.number
    # Both are of this path; both go.
    await connector.disconnect(target)
    assert await connector.find(target) is None


async def test_a_mounted_device_stays(connector: LoopConnector, home: Path) -> None:
    target = make_image(home / "image")
    device = (await connector.connect(target, CONFIG)).device
    mount_point = home / "mnt"
    mount_point.mkdir()
    await asyncio.to_thread(run, "mkfs.ext4", "-q", device.path)
    await asyncio.to_thread(run, "mount", device.path, str(mount_point))
    with pytest.raises(FailedPrecondition, match=f"mounted at {mount_point}"):
        await connector.disconnect(target)
    await asyncio.to_thread(run, "umount", str(mount_point))
    await connector.disconnect(target)


async def test_a_device_mounted_in_another_mount_namespace_stays(connector: LoopConnector, home: Path) -> None:
    target = make_image(home / "image")
    device = (await connector.connect(target, CONFIG)).device
    # A private mount of the test's own, because in a chroot "/" is no mount whose propagation could be changed.
    mount_point = home / "private"
    mount_point.mkdir()
    await asyncio.to_thread(run, "mount", "-t", "tmpfs", "tmpfs", str(mount_point))
    await asyncio.to_thread(run, "mount", "--make-private", str(mount_point))
    await asyncio.to_thread(run, "mkfs.ext4", "-q", device.path)
    script = f"mkdir {mount_point}/mnt && mount {device.path} {mount_point}/mnt && echo mounted && read _"
    argv = ("unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script)
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)
    assert other.stdout is not None
    assert await asyncio.wait_for(other.stdout.readline(), TOOL_SECONDS) == b"mounted\n"
    with pytest.raises(FailedPrecondition, match="another mount namespace"):
        await connector.disconnect(target)
    await asyncio.wait_for(other.communicate(b"\n"), TOOL_SECONDS)
    await connector.disconnect(target)
    await asyncio.to_thread(run, "umount", str(mount_point))


async def test_a_device_that_is_open_is_refused_and_goes_when_it_is_closed(
    connector: LoopConnector, home: Path
) -> None:
    target = make_image(home / "image")
    device = (await connector.connect(target, CONFIG)).device
    descriptor = os.open(device.path, os.O_RDONLY)
    with pytest.raises(FailedPrecondition, match="open"):
        await connector.disconnect(target)
    os.close(descriptor)
    await connector.disconnect(target)
    assert await connector.find(target) is None


async def test_a_device_published_read_only_is_still_the_one_device(connector: LoopConnector, home: Path) -> None:
    target, node = make_image(home / "image"), str(home / "node")
    filesystems = HostFilesystems(ProcessRunner(), Workers(), HostPaths())
    device = (await connector.connect(target, CONFIG)).device
    await filesystems.place_block_node(device, node, read_only=True)
    assert await connector.find(target) == device
    again = await connector.connect(target, CONFIG)
    assert (again.device, again.created) == (device, False)
    os.truncate(target.path, 2 * SIZE)
    assert (await connector.rescan(target, 2 * SIZE)).number == device.number
    await filesystems.remove_target(node)
    await connector.disconnect(target)
    assert await connector.find(target) is None


async def test_a_device_that_somebody_made_for_reading_is_left_alone(connector: LoopConnector, home: Path) -> None:
    target = make_image(home / "image")
    made = await asyncio.to_thread(
        subprocess.run,
        ("losetup", "--read-only", "--find", "--show", target.path),
        check=True,
        capture_output=True,
        text=True,
        timeout=TOOL_SECONDS,
    )
    theirs = made.stdout.strip()
    try:
        assert await connector.find(target) is None
        ours = await connector.connect(target, CONFIG)
        assert ours.device.path != theirs
        await connector.disconnect(target)
    finally:
        await asyncio.to_thread(run, "losetup", "--detach", theirs)


async def test_growth_is_seen(connector: LoopConnector, home: Path) -> None:
    target = make_image(home / "image")
    await connector.connect(target, CONFIG)
    os.truncate(target.path, 2 * SIZE)
    assert (await connector.rescan(target, 2 * SIZE)).size == 2 * SIZE
    os.truncate(target.path, 3 * SIZE)
    assert (await connector.rescan(target, 0)).size == 3 * SIZE
    await connector.disconnect(target)


async def test_many_files_at_once_each_get_a_device(connector: LoopConnector, home: Path) -> None:
    targets = [make_image(home / f"image-{number}", 1 << 20) for number in range(24)]
    connected = await asyncio.gather(*(connector.connect(target, CONFIG) for target in targets))
    assert len({item.device.number for item in connected}) == len(targets)
    assert all(item.created for item in connected)
    await asyncio.gather(*(connector.disconnect(target) for target in targets))
    assert [await connector.find(target) for target in targets] == [None] * len(targets)


async def test_a_cancelled_connect_leaves_nothing(connector: LoopConnector, home: Path) -> None:
    target = make_image(home / "image")
    for delay in (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003, 0.005):
        call = asyncio.create_task(connector.connect(target, CONFIG))
        await asyncio.sleep(delay)
        call.cancel()
        await asyncio.wait({call}, timeout=TOOL_SECONDS)
        if call.cancelled():
            assert await connector.find(target) is None
        else:
            await connector.disconnect(target)


async def test_direct_io_is_used_where_the_filesystem_takes_it(connector: LoopConnector, home: Path) -> None:
    mount_point = home / "ext4"
    mount_point.mkdir()
    outer = make_image(home / "outer")
    below = (await connector.connect(outer, CONFIG)).device
    await asyncio.to_thread(run, "mkfs.ext4", "-q", below.path)
    await asyncio.to_thread(run, "mount", below.path, str(mount_point))
    target = make_image(mount_point / "image", 1 << 20)
    device = (await connector.connect(target, CONFIG)).device
    flag = await asyncio.to_thread(Path("/sys/dev/block", str(device.number), "loop/dio").read_text)
    await connector.disconnect(target)
    await asyncio.to_thread(run, "umount", str(mount_point))
    await connector.disconnect(outer)
    assert flag == "1\n"


async def test_a_file_on_a_tmpfs_is_attached_and_takes_data(connector: LoopConnector, home: Path) -> None:
    mount_point = home / "tmpfs"
    mount_point.mkdir()
    await asyncio.to_thread(run, "mount", "-t", "tmpfs", "none", str(mount_point))
    target = make_image(mount_point / "image", 1 << 20)
    device = (await connector.connect(target, CONFIG)).device
    await asyncio.to_thread(run, "mkfs.ext4", "-q", device.path)
    await connector.disconnect(target)
    await asyncio.to_thread(run, "umount", str(mount_point))


async def test_a_file_on_an_overlay_over_a_tmpfs_takes_data(connector: LoopConnector, home: Path) -> None:
    mount_point = home / "tmpfs"
    mount_point.mkdir()
    await asyncio.to_thread(run, "mount", "-t", "tmpfs", "none", str(mount_point))
    layers = [mount_point / name for name in ("lower", "upper", "work", "merged")]
    for directory in layers:
        directory.mkdir()
    lower, upper, work, merged = map(str, layers)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    await asyncio.to_thread(run, "mount", "-t", "overlay", "-o", options, "none", merged)
    target = make_image(layers[-1] / "image", 1 << 20)
    device = (await connector.connect(target, CONFIG)).device
    await asyncio.to_thread(run, "mkfs.ext4", "-q", device.path)
    await connector.disconnect(target)
    await asyncio.to_thread(run, "umount", merged, str(mount_point))


async def test_the_machine_is_checked(connector: LoopConnector) -> None:
    assert all(finding.ok for finding in await connector.check())
