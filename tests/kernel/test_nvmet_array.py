"""The nvmet array on a real kernel: exports, fencing, growth and recovery seen from an NVMe/TCP host."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rds_csi.arrays.nvmet import NvmetArray, open_array
from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.errors import FailedPrecondition
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import MIB
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind, Volume, VolumeSpec
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers

PREFIX = "nqn.2026-01.io.rds-csi.test:"
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:0f3f5d2e-7a43-4a36-9d31-6d5c1a2b3c4d"
OTHER_NQN = "nqn.2014-08.org.nvmexpress:uuid:1f3f5d2e-7a43-4a36-9d31-6d5c1a2b3c4d"
HOST_ID = "0f3f5d2e-7a43-4a36-9d31-6d5c1a2b3c4d"
PORT = 4499
CONFIGFS = Path("/sys/kernel/config/nvmet")


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def _open(directory: Path) -> NvmetArray:
    options = ArrayOptions(ProcessRunner(), Workers(), HostPaths(), PREFIX)
    return open_array(f"nvmet://127.0.0.1:{PORT}?backing={directory}", options)


@pytest.fixture
def directory(scratch: Path) -> Iterator[Path]:
    """The array's directory, on a tmpfs; sessions of a failed test end with it."""
    path = scratch / "array"
    path.mkdir()
    yield path
    _disconnect()


@pytest.fixture
async def array(directory: Path) -> AsyncIterator[NvmetArray]:
    opened = _open(directory)
    await opened.start()
    yield opened
    await opened.close()


def _spec(volume_id: str = "v1", size: int = 64 * MIB, source: ContentSource | None = None) -> VolumeSpec:
    return VolumeSpec(volume_id, volume_id, size, source=source)


def _attachment(node_id: str = "n1", host_nqn: str = HOST_NQN) -> Attachment:
    return Attachment(Node(node_id, host_nqn), "token", AccessMode.SINGLE_NODE_WRITER)


def _target(volume: Volume) -> NvmeTarget:
    assert isinstance(volume.target, NvmeTarget)
    return volume.target


def _connect(target: NvmeTarget, host_nqn: str = HOST_NQN) -> int:
    """The errno of the connection's failure, 0 for success. Straight to the kernel: nvme-cli loses the errno."""
    options = (
        f"nqn={target.nqn},transport=tcp,traddr={target.addresses[0]},trsvcid={target.port},"
        f"hostnqn={host_nqn},hostid={HOST_ID},nr_io_queues=1,reconnect_delay=1,ctrl_loss_tmo=4"
    )
    descriptor = os.open("/dev/nvme-fabrics", os.O_RDWR)
    try:
        os.write(descriptor, options.encode())
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(descriptor)
    return 0


def _controllers(nqn: str) -> list[Path]:
    found = []
    for path in Path("/sys/class/nvme").glob("nvme[0-9]*"):
        try:
            if (path / "subsysnqn").read_text().strip() == nqn:
                found.append(path)
        except OSError:
            continue
    return found


def _state(nqn: str) -> str:
    for path in _controllers(nqn):
        try:
            return (path / "state").read_text().strip()
        except OSError:
            continue
    return "absent"


def _device(uuid: str) -> Path | None:
    for path in Path("/sys/block").glob("nvme*"):
        try:
            if (path / "wwid").read_text().strip() == f"uuid.{uuid}" and Path("/dev", path.name).exists():
                return Path("/dev", path.name)
        except OSError:
            continue
    return None


async def _until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def _connected(volume: Volume) -> Path:
    target = _target(volume)
    assert _connect(target) == 0
    await _until(lambda: _device(target.namespace_uuid) is not None, "the device did not appear")
    device = _device(target.namespace_uuid)
    assert device is not None
    return device


def _disconnect() -> None:
    for path in Path("/sys/class/nvme").glob("nvme[0-9]*"):
        try:
            if (path / "subsysnqn").read_text().startswith(PREFIX):
                (path / "delete_controller").write_text("1")
        except OSError:
            continue


def _loops_over(directory: Path) -> list[str]:
    backings = Path("/sys/block").glob("loop*/loop/backing_file")
    return [path.parts[3] for path in backings if str(directory) in path.read_text()]


def _assert_clean(directory: Path) -> None:
    for kind in ("subsystems", "ports", "hosts"):
        assert list((CONFIGFS / kind).iterdir()) == []
    assert _loops_over(directory) == []
    assert sorted(path.name for path in directory.rglob("*") if path.is_file()) == ["lock"]


def _sector_bytes(device: Path) -> int:
    return int(Path("/sys/block", device.name, "queue/logical_block_size").read_text())


def _size(device: Path) -> int:
    return int(Path("/sys/block", device.name, "size").read_text()) * 512


def _write(device: Path, content: bytes) -> None:
    with device.open("r+b", buffering=0) as stream:
        stream.write(content)
        os.fsync(stream.fileno())


def _read(device: Path, length: int) -> bytes:
    _run("blockdev", "--flushbufs", str(device))
    with device.open("rb") as stream:
        return stream.read(length)


async def test_volume_lives_from_creation_to_deletion(array: NvmetArray, directory: Path) -> None:
    volume = await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment())
    device = await _connected(volume)
    assert _size(device) == 64 * MIB
    assert _sector_bytes(device) == 512
    _write(device, b"data" * 1024)
    with pytest.raises(FailedPrecondition):
        await array.delete_volume("v1")
    _disconnect()
    await _until(lambda: _state(_target(volume).nqn) == "absent", "the controller stayed")
    await array.detach_volume("v1", "n1")
    await array.delete_volume("v1")
    _assert_clean(directory)


async def test_only_the_attached_host_gets_in(array: NvmetArray, directory: Path) -> None:
    volume = await array.create_volume(_spec())
    assert _connect(_target(volume)) != 0
    await array.attach_volume("v1", _attachment())
    assert _connect(_target(volume), OTHER_NQN) != 0
    assert _connect(_target(volume)) == 0
    await array.detach_volume("v1", "")
    await array.delete_volume("v1")
    _assert_clean(directory)


async def test_detach_cuts_a_connected_host_and_spares_the_others(array: NvmetArray, directory: Path) -> None:
    volume = await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment("n1", HOST_NQN))
    await array.attach_volume("v1", _attachment("n2", OTHER_NQN))
    device = await _connected(volume)
    nqn = _target(volume).nqn
    await array.detach_volume("v1", "n2")
    # The host that stays allowed comes back by itself within its reconnect_delay.
    await _until(lambda: _state(nqn) == "live", "the allowed host did not come back")
    _write(device, b"still" * 100)
    await array.detach_volume("v1", "n1")
    await _until(lambda: _state(nqn) != "live", "the fenced host kept its connection")
    await _until(lambda: _state(nqn) == "absent", "the fenced host never gave up")
    assert _connect(_target(volume)) != 0
    await array.delete_volume("v1")
    _assert_clean(directory)


async def test_growth_is_seen_by_the_connected_host(array: NvmetArray, directory: Path) -> None:
    volume = await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment())
    device = await _connected(volume)
    assert (await array.expand_volume("v1", 96 * MIB)).size == 96 * MIB
    await _until(lambda: _size(device) == 96 * MIB, "the host did not see the growth")
    await array.detach_volume("v1", "")
    await array.delete_volume("v1")
    _assert_clean(directory)


async def test_snapshot_and_clone_of_a_connected_volume(array: NvmetArray, directory: Path) -> None:
    volume = await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment())
    device = await _connected(volume)
    _write(device, b"before" * 1000)
    await array.create_snapshot("s1", "s1", "v1")
    _write(device, b"after." * 1000)
    clone = await array.create_volume(_spec("v2", 80 * MIB, ContentSource(SourceKind.SNAPSHOT, "s1")))
    await array.attach_volume("v2", _attachment())
    copy = await _connected(clone)
    assert _size(copy) == 80 * MIB
    assert _read(copy, 6000) == b"before" * 1000
    assert _read(device, 6000) == b"after." * 1000
    for volume_id in ("v1", "v2"):
        await array.detach_volume(volume_id, "")
        await array.delete_volume(volume_id)
    await array.delete_snapshot("s1")
    _assert_clean(directory)


def _wipe(directory: Path) -> None:
    """What a reboot leaves of the exports: nothing."""
    for link in CONFIGFS.glob("ports/*/subsystems/*"):
        link.unlink()
    for link in CONFIGFS.glob("subsystems/*/allowed_hosts/*"):
        link.unlink()
    for pattern in ("subsystems/*/namespaces/*", "subsystems/*", "ports/*", "hosts/*"):
        for path in CONFIGFS.glob(pattern):
            path.rmdir()
    for name in _loops_over(directory):
        assert _run("losetup", "-d", f"/dev/{name}").returncode == 0


async def test_wiped_configfs_is_restored_at_start(array: NvmetArray, directory: Path) -> None:
    volume = await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment())
    device = await _connected(volume)
    _write(device, b"kept" * 100)
    _disconnect()
    await _until(lambda: _state(_target(volume).nqn) == "absent", "the controller stayed")
    await array.close()
    _wipe(directory)
    again = _open(directory)
    await again.start()
    assert list(await again.health("v1")) == []
    device = await _connected(await again.get_volume("v1"))
    assert _read(device, 400) == b"kept" * 100
    assert _connect(_target(volume), OTHER_NQN) != 0
    await again.detach_volume("v1", "")
    await again.delete_volume("v1")
    _assert_clean(directory)
    await again.close()


async def test_restart_does_not_disturb_a_connected_host(array: NvmetArray, directory: Path) -> None:
    volume = await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment())
    device = await _connected(volume)
    [controller] = _controllers(_target(volume).nqn)
    await array.close()
    again = _open(directory)
    await again.start()
    _write(device, b"x" * 4096)
    assert [path.name for path in _controllers(_target(volume).nqn)] == [controller.name]
    assert _state(_target(volume).nqn) == "live"
    await again.detach_volume("v1", "")
    await again.delete_volume("v1")
    _assert_clean(directory)
    await again.close()


async def test_foreign_subsystems_ports_and_hosts_are_left_alone(directory: Path) -> None:
    port, subsystem, host = (
        CONFIGFS / "ports/7",
        CONFIGFS / "subsystems/nqn.2020-01.com.example:x",
        CONFIGFS / "hosts/h",
    )
    for path in (port, subsystem, host):
        path.mkdir()
    try:
        for name, value in (("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", "127.0.0.1"), ("trsvcid", str(PORT))):
            (port / f"addr_{name}").write_text(value)
        array = _open(directory)
        await array.start()
        await array.create_volume(_spec())
        assert [path.name for path in (port / "subsystems").iterdir()] == [f"{PREFIX}v1"]
        await array.delete_volume("v1")
        await array.close()
        assert port.is_dir()
        assert subsystem.is_dir()
        assert host.is_dir()
    finally:
        for path in (port, subsystem, host):
            path.rmdir()
    _assert_clean(directory)


# For each line of its input a process that plays a life over and over, until it is killed; forked, as imports take
# seconds in there.
_LIFE = """
import asyncio, os, sys
from pathlib import Path
from rds_csi.arrays.nvmet import open_array
from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.model.host import HostPaths
from rds_csi.model.volumes import AccessMode, Attachment, Node, VolumeSpec
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers

async def main(url, prefix, host):
    array = open_array(url, ArrayOptions(ProcessRunner(), Workers(), HostPaths(), prefix))
    await array.start()
    print(os.getpid(), flush=True)
    attachment = Attachment(Node("n1", host), "t", AccessMode.SINGLE_NODE_WRITER)
    while True:
        await array.create_volume(VolumeSpec("v1", "v1", 8 << 20))
        await array.attach_volume("v1", attachment)
        await array.expand_volume("v1", 16 << 20)
        await array.create_snapshot("s1", "s1", "v1")
        await array.detach_volume("v1", "n1")
        await array.delete_volume("v1")
        await array.delete_snapshot("s1")

while sys.stdin.readline():
    if (child := os.fork()) == 0:
        asyncio.run(main(*sys.argv[1:]))
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@contextmanager
def _living(lives: "subprocess.Popen[bytes]") -> Iterator[None]:
    """One of the lives above; killed at the end of the block."""
    assert lives.stdin is not None
    assert lives.stdout is not None
    lives.stdin.write(b"\n")
    lives.stdin.flush()
    pid = int(lives.stdout.readline())
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        assert lives.stdout.readline() == b"ended\n"


@pytest.fixture
def lives(directory: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The process that starts lives in the array at ``directory``."""
    argv = (sys.executable, "-c", _LIFE, f"nvmet://127.0.0.1:{PORT}?backing={directory}", PREFIX, HOST_NQN)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        yield parent


async def test_killed_at_any_moment_the_repeat_completes(directory: Path, lives: "subprocess.Popen[bytes]") -> None:
    for number in range(8):
        with _living(lives):
            # Spread over a few rounds of the life, which takes about half a second here.
            await asyncio.sleep(0.137 * number)
        array = _open(directory)
        await array.start()
        await array.create_volume(_spec(size=8 * MIB))
        await array.attach_volume("v1", _attachment())
        assert list(await array.health("v1")) == []
        await array.detach_volume("v1", "")
        await array.delete_volume("v1")
        await array.delete_snapshot("s1")
        _assert_clean(directory)
        await array.close()
