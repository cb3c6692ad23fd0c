"""The array of image files on real filesystems: reflink on xfs, a full ext4, and loop devices over images."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tests.unit.test_arrays_kill_points as kill_points
from rds_csi.arrays.images import kernel
from rds_csi.arrays.local import LocalArray, open_array
from rds_csi.arrays.loops import LoopImageDevices
from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.errors import ResourceExhausted, Unavailable
from rds_csi.loopdev.devices import LoopDevices
from rds_csi.model.host import HostPaths
from rds_csi.model.parameters import Provisioning
from rds_csi.model.sizes import GIB, MIB
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind, VolumeSpec
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers

TOOL_SECONDS = 60.0


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=TOOL_SECONDS)


@contextmanager
def _filesystem(place: Path, size: int, *mkfs: str) -> Iterator[Path]:
    """A filesystem of its own, mounted."""
    image, point = place / "filesystem.img", place / "mounted"
    with image.open("wb") as stream:
        stream.truncate(size)
    _run(*mkfs, str(image))
    point.mkdir()
    _run("mount", "-o", "loop", str(image), str(point))
    try:
        yield point
    finally:
        _run("umount", str(point))


@pytest.fixture
def xfs(home: Path) -> Iterator[Path]:
    with _filesystem(home, GIB, "mkfs.xfs", "-q") as point:
        yield point


@pytest.fixture
def small(home: Path) -> Iterator[Path]:
    """16 MiB, none of them kept for root."""
    with _filesystem(home, 16 * MIB, "mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal") as point:
        yield point


async def _started(directory: Path) -> LocalArray:
    options = ArrayOptions(ProcessRunner(), Workers(), HostPaths(), "nqn.2026-01.io.x:")
    array = open_array(f"local://{directory}/array", options)
    await array.start()
    return array


@pytest.fixture
async def on_xfs(xfs: Path) -> AsyncIterator[LocalArray]:
    array = await _started(xfs)
    yield array
    await array.close()


@pytest.fixture
async def on_small(small: Path) -> AsyncIterator[LocalArray]:
    array = await _started(small)
    yield array
    await array.close()


def _spec(
    volume_id: str,
    size: int,
    *,
    provisioning: Provisioning = Provisioning.THIN,
    source: ContentSource | None = None,
) -> VolumeSpec:
    return VolumeSpec(volume_id, volume_id, size, provisioning, source=source)


def _image(point: Path, name: str, kind: str = "volumes") -> Path:
    return point / "array" / kind / f"{name}.img"


def _shared(path: Path) -> int:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return kernel.shared_bytes(stream.fileno())


def _files(point: Path) -> list[str]:
    return sorted(str(path.relative_to(point / "array")) for path in (point / "array").rglob("*") if path.is_file())


async def test_snapshots_and_clones_share_blocks_on_xfs(on_xfs: LocalArray, xfs: Path) -> None:
    await on_xfs.create_volume(_spec("v1", 64 * MIB))
    _image(xfs, "v1").write_bytes(b"a" * 64 * MIB)
    await on_xfs.create_snapshot("s1", "s1", "v1")
    await on_xfs.create_volume(_spec("v2", 80 * MIB, source=ContentSource(SourceKind.SNAPSHOT, "s1")))
    assert _shared(_image(xfs, "s1", "snapshots")) == 64 * MIB
    assert _shared(_image(xfs, "v2")) == 64 * MIB
    assert _image(xfs, "v2").stat().st_size == 80 * MIB
    await on_xfs.delete_volume("v1")
    await on_xfs.delete_snapshot("s1")
    assert _image(xfs, "v2").read_bytes() == b"a" * 64 * MIB + bytes(16 * MIB)


async def test_thick_clone_shares_nothing_on_xfs(on_xfs: LocalArray, xfs: Path) -> None:
    await on_xfs.create_volume(_spec("v1", 16 * MIB))
    _image(xfs, "v1").write_bytes(b"a" * 16 * MIB)
    source = ContentSource(SourceKind.VOLUME, "v1")
    await on_xfs.create_volume(_spec("v2", 16 * MIB, source=source, provisioning=Provisioning.THICK))
    assert _shared(_image(xfs, "v2")) == 0
    assert _image(xfs, "v2").read_bytes() == b"a" * 16 * MIB


async def test_snapshot_of_a_thick_volume_keeps_the_promise_to_it(on_xfs: LocalArray, xfs: Path) -> None:
    """Shared blocks must be written anew on the first overwrite, so their room is not given to others."""
    await on_xfs.create_volume(_spec("v1", 200 * MIB, provisioning=Provisioning.THICK))
    with _image(xfs, "v1").open("r+b") as stream:
        for _ in range(200):
            stream.write(b"a" * MIB)
    before = (await on_xfs.capacity("")).available
    await on_xfs.create_snapshot("s1", "s1", "v1")
    after = (await on_xfs.capacity("")).available
    assert before - after >= 200 * MIB
    with pytest.raises(ResourceExhausted, match="promised"):
        await on_xfs.create_volume(_spec("v2", after // MIB * MIB + 20 * MIB, provisioning=Provisioning.THICK))
    with _image(xfs, "v1").open("r+b") as stream:
        for _ in range(200):
            stream.write(b"b" * MIB)
        os.fsync(stream.fileno())


@contextmanager
def _writer(path: Path) -> Iterator[None]:
    """Writes one number after the other, each to the file's first and then to its last block."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        with path.open("r+b", buffering=0) as stream:
            last = os.fstat(stream.fileno()).st_size - 4096
            while not stop.is_set():
                number += 1
                os.pwrite(stream.fileno(), number.to_bytes(8, "little"), 0)
                os.pwrite(stream.fileno(), number.to_bytes(8, "little"), last)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def test_snapshot_on_xfs_is_one_moment_under_a_constant_writer(on_xfs: LocalArray, xfs: Path) -> None:
    await on_xfs.create_volume(_spec("v1", 64 * MIB))
    _image(xfs, "v1").write_bytes(b"a" * 64 * MIB)
    with _writer(_image(xfs, "v1")):
        for number in range(10):
            await asyncio.sleep(0.01)
            await on_xfs.create_snapshot(f"s{number}", "s", "v1")
    for number in range(10):
        content = _image(xfs, f"s{number}", "snapshots").read_bytes()
        first = int.from_bytes(content[:8], "little")
        last = int.from_bytes(content[-4096:][:8], "little")
        assert first - last in (0, 1)


def test_write_through_a_loop_device_moves_the_mtime_of_the_image(home: Path) -> None:
    """That is how a copy without reflink sees that it was overtaken."""
    image = home / "image"
    image.write_bytes(bytes(MIB))
    loops = LoopImageDevices(LoopDevices(HostPaths()))
    device = loops.path(loops.attach(str(image)))
    try:
        _write_direct(device, b"1")
        before = image.stat().st_mtime_ns
        time.sleep(0.05)
        _write_direct(device, b"2")
        assert image.stat().st_mtime_ns > before
    finally:
        loops.detach(str(image))


def _write_direct(device: str, byte: bytes) -> None:
    _run("sh", "-c", f"head -c 4096 /dev/zero | tr '\\0' {byte.decode()} | dd of={device} bs=4096 oflag=direct")


@contextmanager
def _written(device: str, content: bytes) -> Iterator[None]:
    """Written, but neither flushed nor closed: the last close of a block device would flush it."""
    with open(device, "r+b", buffering=0) as stream:
        stream.write(content)
        yield


async def test_snapshot_has_what_was_written_to_the_loop_device(on_small: LocalArray, small: Path) -> None:
    """A block volume's user writes to /dev/loopN; those pages are not the image's until they are flushed."""
    await on_small.create_volume(_spec("v1", 2 * MIB))
    loops = LoopImageDevices(LoopDevices(HostPaths()))
    image = str(_image(small, "v1"))
    device = loops.path(loops.attach(image))
    try:
        with _written(device, b"fresh" * 1000):
            await on_small.create_snapshot("s1", "s1", "v1")
    finally:
        loops.detach(image)
    assert _image(small, "s1", "snapshots").read_bytes()[:5000] == b"fresh" * 1000


def _size(name: str) -> int:
    return int(Path("/sys/block", name, "size").read_text()) * 512


async def test_loop_device_is_found_grown_and_removed(on_small: LocalArray, small: Path) -> None:
    await on_small.create_volume(_spec("v1", 2 * MIB))
    loops = LoopImageDevices(LoopDevices(HostPaths()))
    image = str(_image(small, "v1"))
    assert LoopDevices(HostPaths()).bound(image).all == ()
    name = loops.attach(image)
    try:
        assert loops.attach(image) == name
        assert loops.attach(image, guess="loop4095") == name
        await on_small.expand_volume("v1", 3 * MIB)
        assert loops.attach(image, guess=name) == name
        assert _size(name) == 3 * MIB
    finally:
        loops.detach(image)
    assert LoopDevices(HostPaths()).bound(image).all == ()
    loops.detach(image)


def _fill(path: Path) -> None:
    with path.open("r+b", buffering=0) as stream:
        while True:
            stream.write(b"b" * 4096)


async def test_full_filesystem_refuses_and_leaves_nothing(on_small: LocalArray, small: Path) -> None:
    attachment = Attachment(Node("n1"), "t", AccessMode.SINGLE_NODE_WRITER)
    await on_small.create_volume(_spec("v1", 64 * MIB))
    await on_small.attach_volume("v1", attachment)
    await on_small.create_volume(_spec("v2", 4 * MIB))
    _image(small, "v2").write_bytes(b"a" * 4 * MIB)
    with pytest.raises(OSError, match="No space"):
        _fill(_image(small, "v1"))
    before = _files(small)
    with pytest.raises(ResourceExhausted):
        await on_small.create_snapshot("s1", "s1", "v2")
    with pytest.raises(ResourceExhausted):
        await on_small.create_group("g1", "g1", ["v1", "v2"])
    with pytest.raises(ResourceExhausted):
        await on_small.create_volume(_spec("v3", MIB, provisioning=Provisioning.THICK))
    with pytest.raises(ResourceExhausted):
        await on_small.create_volume(_spec("v3", 4 * MIB, source=ContentSource(SourceKind.VOLUME, "v2")))
    assert _files(small) == before
    assert [problem.reason for problem in await on_small.health("v1")] == ["FilesystemFull"]
    assert (await on_small.capacity("")).available < MIB
    # What frees space must work when there is none.
    await on_small.detach_volume("v1", "n1")
    await on_small.attach_volume("v1", attachment)
    await on_small.detach_volume("v1", "n1")
    await on_small.delete_volume("v1")
    assert (await on_small.create_snapshot("s1", "s1", "v2")).ready
    await on_small.delete_volume("v2")
    await on_small.delete_snapshot("s1")
    assert _files(small) == ["lock"]


async def test_unmounted_directory_is_inaccessible_not_lost(xfs: Path) -> None:
    array = await _started(xfs)
    await array.create_volume(_spec("v1", MIB))
    _run("mount", "-t", "tmpfs", "none", str(xfs / "array"))
    try:
        assert [problem.reason for problem in await array.health("v1")] == ["DirectoryReplaced"]
    finally:
        _run("umount", str(xfs / "array"))
    assert list(await array.health("v1")) == []
    await array.close()


async def test_read_only_filesystem_is_unavailable(xfs: Path) -> None:
    array = await _started(xfs)
    await array.create_volume(_spec("v1", MIB))
    await array.close()
    array = await _started(xfs)
    _run("xfs_io", "-x", "-c", "shutdown", str(xfs))
    with pytest.raises(Unavailable):
        await array.create_volume(_spec("v2", MIB))
    assert [problem.reason for problem in await array.health("v1")] != ["ImageMissing"]
    await array.close()


@pytest.mark.parametrize("name", ["clone", "snapshot", "group", "expand"])
def test_killed_at_any_point_on_xfs_the_repeat_completes(xfs: Path, name: str) -> None:
    program = [sys.executable, kill_points.__file__, name, str(xfs)]
    outcome = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
