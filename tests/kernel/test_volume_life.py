"""The whole life of a volume over real NVMe/TCP: the server's own socket, this kernel as target and as host."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from grpclib.client import Channel

from rds_csi.commands.actors import Actors
from rds_csi.csi.v1 import (
    ControllerStub,
    NodeStub,
    VolumeCapability,
    VolumeCapabilityAccessMode,
    VolumeCapabilityAccessModeMode,
    VolumeCapabilityBlockVolume,
)
from rds_csi.model.sizes import MIB
from tests.support.driver import Driver
from tests.support.machine_state import MachineState, assert_nothing_left

NODE = "n1"
# The smallest xfs is 300 MiB.
SIZE = 320 * MIB
GROWN = 448 * MIB
PAYLOAD = os.urandom(4 * MIB)
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()


@dataclass(slots=True)
class BlockActors(Actors):
    """The same calls for a raw block volume."""

    @property
    def capability(self) -> VolumeCapability:
        mode = VolumeCapabilityAccessModeMode(VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER)
        return VolumeCapability(block=VolumeCapabilityBlockVolume(), access_mode=VolumeCapabilityAccessMode(mode=mode))


@pytest.fixture(scope="module")
def driver(lane_machine: None) -> Iterator[Driver]:
    """``rds-csi all`` with the nvmet array and nvme-cli, for all tests here: a start takes seconds in there."""
    home = Path(tempfile.mkdtemp(prefix="d-", dir="/run"))
    backing = home / "array"
    backing.mkdir()
    array = f"nvmet://127.0.0.1:4420?backing={backing}"
    try:
        with Driver(home, "--array", array, "--connector", "nvme-cli", "--node-id", NODE) as running:
            yield running
    finally:
        shutil.rmtree(home)


@contextlib.asynccontextmanager
async def calling(driver: Driver, directory: Path, fs_type: str) -> AsyncIterator[Actors]:
    """The client's side; whatever happens, what it made is taken back."""
    kind = Actors if fs_type else BlockActors
    for name in ("staging", "pods"):
        (directory / name).mkdir()
    async with Channel(path=str(driver.socket)) as channel:
        actors = kind(str(directory), fs_type, ControllerStub(channel), NodeStub(channel), NODE)
        try:
            yield actors
        except BaseException:
            print(driver.text())
            raise
        finally:
            problems = await actors.undo(node=True)
    assert problems == []


@pytest.fixture
def everything_goes(driver: Driver, scratch: Path) -> Iterator[None]:
    """After a test, while the server still runs, there is exactly what was there before."""
    before = MachineState.now()
    yield
    assert_nothing_left(before)


def write(path: Path) -> None:
    """The payload, down to the array; a block device stays one."""
    with path.open("r+b" if path.exists() else "wb") as stream:
        stream.write(PAYLOAD)
        stream.flush()
        os.fsync(stream.fileno())


def digest(path: Path) -> str:
    """sha256 of the payload's bytes as they are now."""
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read(len(PAYLOAD))).hexdigest()


def kind_of(path: Path) -> str:
    """What a pod sees at its path."""
    if path.is_block_device():
        return "block device"
    if path.is_mount():
        return "mount"
    return "something" if path.exists() else "nothing"


def opened(path: Path) -> BinaryIO:
    """The file, as a pod has it open."""
    return path.open("rb")


def capacity(path: Path) -> int:
    """The filesystem's size in bytes (statvfs(3))."""
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize


@pytest.mark.usefixtures("everything_goes")
@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs", ""], ids=["ext4", "xfs", "btrfs", "block"])
async def test_what_was_written_is_there_at_the_next_attachment(driver: Driver, scratch: Path, fs_type: str) -> None:
    async with calling(driver, scratch, fs_type) as actors:
        volume = await actors.create(f"life-{fs_type or 'block'}", SIZE)
        publish_context = await actors.attach(volume)
        await actors.stage(volume, publish_context)
        pod = Path(await actors.publish(volume, publish_context))
        file = pod / "data" if fs_type else pod
        assert kind_of(pod) == ("mount" if fs_type else "block device")
        await asyncio.to_thread(write, file)
        await actors.detach(volume.volume_id, node=True)
        assert kind_of(pod) == "nothing"

        await actors.mount(volume)
        assert await asyncio.to_thread(digest, file) == DIGEST

        await actors.detach(volume.volume_id, node=True)
        await actors.delete()


@pytest.mark.usefixtures("everything_goes")
@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
async def test_a_filesystem_in_use_grows_with_its_volume(driver: Driver, scratch: Path, fs_type: str) -> None:
    async with calling(driver, scratch, fs_type) as actors:
        volume = await actors.create(f"growing-{fs_type}", SIZE)
        pod = Path(await actors.mount(volume))
        await asyncio.to_thread(write, pod / "data")
        before = capacity(pod)
        with opened(pod / "data"):
            assert await actors.expand(volume, GROWN) == GROWN
            await actors.expand_filesystem(volume, GROWN)

        # The filesystem keeps a little of what was added for itself.
        assert capacity(pod) - before > 0.9 * (GROWN - SIZE)
        assert await asyncio.to_thread(digest, pod / "data") == DIGEST
        await actors.detach(volume.volume_id, node=True)
        await actors.delete()


@pytest.mark.usefixtures("everything_goes")
async def test_a_block_device_in_use_grows_with_its_volume(driver: Driver, scratch: Path) -> None:
    async with calling(driver, scratch, "") as actors:
        volume = await actors.create("growing-block", SIZE)
        pod = Path(await actors.mount(volume))
        with opened(pod) as device:
            assert await actors.expand(volume, GROWN) == GROWN
            await actors.expand_filesystem(volume, GROWN)
            assert device.seek(0, os.SEEK_END) == GROWN
        await actors.detach(volume.volume_id, node=True)
        await actors.delete()
