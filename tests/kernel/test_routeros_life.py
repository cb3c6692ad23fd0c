"""The life of a volume on a simulated RouterOS, whose disks this kernel exports: over SSH, and with nvme-cli."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rds_csi.commands.actors import CALL_SECONDS, Actors
from rds_csi.csi.v1 import (
    CreateSnapshotRequest,
    Volume,
    VolumeContentSource,
    VolumeContentSourceSnapshotSource,
)
from tests.kernel.test_volume_life import DIGEST, GROWN, NODE, SIZE, calling, capacity, digest, opened, write
from tests.support.driver import Driver
from tests.support.machine_state import MachineState, assert_nothing_left
from tests.support.simulated import Simulated

ADDRESS = "127.0.0.1"
# A btrfs pool for snapshots of subvolumes, an xfs pool for copies of files.
DEVICE = ("--pool", "fast:btrfs:1T", "--pool", "plain:xfs:1T", "--routeros-version", "7.24", "--nvmet", ADDRESS)
POOLS = {"btrfs-subvolume": "fast", "file-copy": "plain"}
# Of a snapshot that is copied in the background.
READY_SECONDS = 120.0
POLL_SECONDS = 0.5


@pytest.fixture(scope="module")
def simulator(lane_machine: None) -> Iterator[Simulated]:
    """The device for all tests here, other tenants' exports included: a start takes seconds in there."""
    home = Path(tempfile.mkdtemp(prefix="s-", dir="/run"))
    try:
        with Simulated(home, *DEVICE) as running:
            yield running
    finally:
        shutil.rmtree(home)


@pytest.fixture
def means() -> str:
    """What snapshots are made with; a test may say otherwise."""
    return "btrfs-subvolume"


@pytest.fixture
def driver(simulator: Simulated, scratch: Path, means: str) -> Iterator[Driver]:
    """``rds-csi all`` over SSH, with nvme-cli. While it still runs there is, after a test, what was there before."""
    url = simulator.url("ssh", pool=POOLS[means], snapshots=means)
    with Driver(scratch, "--array", url, "--connector", "nvme-cli", "--node-id", NODE) as running:
        owned, machine = simulator.belongings(), MachineState.now()
        yield running
        assert simulator.belongings() == owned
        assert_nothing_left(machine)


async def ready_snapshot(actors: Actors, volume: Volume, name: str) -> str:
    """The id of a snapshot that can be restored: CreateSnapshot is repeated until then, as a CO does."""
    snapshot_id = await actors.snapshot(volume, name)
    request = CreateSnapshotRequest(source_volume_id=volume.volume_id, name=name)
    async with asyncio.timeout(READY_SECONDS):
        while True:
            if (await actors.controller.create_snapshot(request, timeout=CALL_SECONDS)).snapshot.ready_to_use:
                return snapshot_id
            await asyncio.sleep(POLL_SECONDS)


async def restored(actors: Actors, name: str, snapshot_id: str, size: int) -> Volume:
    """A new volume with the snapshot's content."""
    source = VolumeContentSource(snapshot=VolumeContentSourceSnapshotSource(snapshot_id=snapshot_id))
    return await actors.create(name, size, source)


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", ""], ids=["ext4", "xfs", "block"])
async def test_a_volume_made_over_ssh_lives_its_whole_life(driver: Driver, scratch: Path, fs_type: str) -> None:
    async with calling(driver, scratch, fs_type) as actors:
        volume = await actors.create(f"life-{fs_type or 'block'}", SIZE)
        pod = Path(await actors.mount(volume))
        file = pod / "data" if fs_type else pod
        await asyncio.to_thread(write, file)

        before = await asyncio.to_thread(room, pod, fs_type)
        with opened(file):
            assert await actors.expand(volume, GROWN) == GROWN
            await actors.expand_filesystem(volume, GROWN)
        # The filesystem keeps a little of what was added for itself.
        assert await asyncio.to_thread(room, pod, fs_type) - before > 0.9 * (GROWN - SIZE)

        snapshot_id = await ready_snapshot(actors, volume, f"before-{fs_type or 'block'}")
        await asyncio.to_thread(overwrite, file)
        copy = await restored(actors, f"restored-{fs_type or 'block'}", snapshot_id, GROWN)
        copied = Path(await actors.mount(copy))
        assert await asyncio.to_thread(digest, copied / "data" if fs_type else copied) == DIGEST
        assert await asyncio.to_thread(digest, file) != DIGEST

        await actors.detach(copy.volume_id, node=True)
        await actors.detach(volume.volume_id, node=True)
        await actors.delete()


@pytest.mark.parametrize("means", ["file-copy"])
async def test_a_snapshot_by_copying_holds_what_was_written(driver: Driver, scratch: Path) -> None:
    async with calling(driver, scratch, "ext4") as actors:
        volume = await actors.create("copied", SIZE)
        pod = Path(await actors.mount(volume))
        await asyncio.to_thread(write, pod / "data")
        # A file that somebody writes to is not copied.
        await actors.detach(volume.volume_id, node=True)
        snapshot_id = await ready_snapshot(actors, volume, "copy")

        await actors.mount(volume)
        await asyncio.to_thread(overwrite, pod / "data")
        copy = await restored(actors, "restored-copy", snapshot_id, SIZE)
        copied = Path(await actors.mount(copy))
        assert await asyncio.to_thread(digest, copied / "data") == DIGEST

        await actors.detach(copy.volume_id, node=True)
        await actors.detach(volume.volume_id, node=True)
        await actors.delete()


def room(pod: Path, fs_type: str) -> int:
    """Bytes that the pod has: the filesystem's size, or the block device's."""
    if fs_type:
        return capacity(pod)
    with pod.open("rb") as device:
        return device.seek(0, os.SEEK_END)


def overwrite(file: Path) -> None:
    """Other bytes in place of the payload, down to the array."""
    with file.open("r+b", buffering=0) as stream:
        stream.write(bytes(1 << 20))
        os.fsync(stream.fileno())
