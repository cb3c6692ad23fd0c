"""SIGKILL at seeded random moments through a volume's life: the repeated call always converges."""

import asyncio
import hashlib
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from rds_csi.commands.actors import NODE, Actors
from rds_csi.csi.v1 import (
    ControllerStub,
    NodeStub,
    Volume,
    VolumeContentSource,
    VolumeContentSourceVolumeSource,
)
from rds_csi.model.sizes import MIB
from tests.support.driver import Driver
from tests.support.traces import assert_no_traces

KILLS_NEEDED = 100
SEED = 20261121
# xfs: the smallest filesystem it makes, and online growth needs no capability beyond root's.
FS_TYPE = "xfs"
SIZE = 304 * MIB
GROWN = 336 * MIB
PAYLOAD = Random(SEED).randbytes(3 * MIB)
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()
# A repeated call may be told to come again (ABORTED, UNAVAILABLE) for this long.
CONVERGE_SECONDS = 60.0
AGAIN = (Status.ABORTED, Status.UNAVAILABLE)


@dataclass
class Life:
    """What a CO would remember of a volume: the replies to its calls."""

    directory: Path
    volume: Volume = field(default_factory=Volume)
    clone: Volume = field(default_factory=Volume)
    publish_context: dict[str, str] = field(default_factory=dict)
    clone_context: dict[str, str] = field(default_factory=dict)
    fs_uuid: str = ""
    published: bool = False

    @property
    def image(self) -> Path:
        """The volume's bytes."""
        return self.directory / "array" / "volumes" / f"{self.volume.volume_id}.img"

    def data(self, volume: Volume) -> Path:
        """The file in the pod's mount."""
        return self.directory / "pods" / volume.volume_id / "data"

    def check(self) -> None:
        """What must never change: the file's bytes and the filesystem's UUID."""
        if self.published:
            assert digest(self.data(self.volume)) == DIGEST
        if self.fs_uuid:
            assert uuid_of(self.image) == self.fs_uuid


def digest(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def uuid_of(image: Path) -> str:
    """The UUID of the filesystem in an image (blkid(8), low-level probe)."""
    argv = ["/usr/sbin/blkid", "-p", "-s", "UUID", "-o", "value", str(image)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


async def create(actors: Actors, life: Life) -> None:
    life.volume = await actors.create("killed", SIZE)


async def attach(actors: Actors, life: Life) -> None:
    life.publish_context = await actors.attach(life.volume)


async def stage(actors: Actors, life: Life) -> None:
    await actors.stage(life.volume, life.publish_context)
    life.fs_uuid = life.fs_uuid or uuid_of(life.image)


async def publish(actors: Actors, life: Life) -> None:
    await actors.publish(life.volume, life.publish_context)
    if not life.published:
        write(life.data(life.volume))
    life.published = True


def write(path: Path) -> None:
    """Write the payload with fsync."""
    with path.open("wb") as stream:
        stream.write(PAYLOAD)
        stream.flush()
        subprocess.run(["sync", str(path)], check=True, timeout=30)


async def snapshot(actors: Actors, life: Life) -> None:
    await actors.snapshot(life.volume, "killed-snapshot")


async def expand(actors: Actors, life: Life) -> None:
    assert await actors.expand(life.volume, GROWN) == GROWN


async def expand_filesystem(actors: Actors, life: Life) -> None:
    await actors.expand_filesystem(life.volume, GROWN)


async def clone(actors: Actors, life: Life) -> None:
    source = VolumeContentSource(volume=VolumeContentSourceVolumeSource(volume_id=life.volume.volume_id))
    life.clone = await actors.create("killed-clone", GROWN, source)


async def mount_clone(actors: Actors, life: Life) -> None:
    await actors.mount(life.clone)
    assert digest(life.data(life.clone)) == DIGEST


async def detach(actors: Actors, life: Life) -> None:
    life.published = False
    await actors.detach(life.volume.volume_id, node=True)


async def detach_clone(actors: Actors, life: Life) -> None:
    await actors.detach(life.clone.volume_id, node=True)


async def stage_again(actors: Actors, life: Life) -> None:
    life.publish_context = await actors.attach(life.volume)
    await actors.stage(life.volume, life.publish_context)
    await actors.publish(life.volume, life.publish_context)
    life.published = True


async def delete(actors: Actors, life: Life) -> None:
    life.fs_uuid = ""
    # A copy: a killed call must not have emptied the lists of what the repeated one deletes.
    everything = Actors(actors.directory, actors.fs_type, actors.controller, actors.node)
    everything.volumes = [life.volume.volume_id, life.clone.volume_id]
    everything.snapshots = ["killed-snapshot"]
    await everything.delete()


Step = Callable[[Actors, Life], Awaitable[None]]
STEPS: tuple[Step, ...] = (
    create,
    attach,
    stage,
    publish,
    snapshot,
    expand,
    expand_filesystem,
    clone,
    mount_clone,
    detach,
    stage_again,
    detach_clone,
    detach,
    delete,
)


async def run_step(driver: Driver, life: Life, step: Step) -> None:
    """One call on a connection of its own."""
    async with Channel(path=str(driver.socket)) as channel:
        actors = Actors(str(life.directory), FS_TYPE, ControllerStub(channel), NodeStub(channel))
        await step(actors, life)


async def run_step_killed(driver: Driver, life: Life, step: Step, delay: float) -> None:
    """The same call, the server killed ``delay`` seconds after its start."""
    task = asyncio.create_task(run_step(driver, life, step))
    await asyncio.sleep(delay)
    driver.kill()
    await asyncio.gather(task, return_exceptions=True)


async def run_step_until_done(driver: Driver, life: Life, step: Step) -> None:
    """The repeated call, as a CO repeats it."""
    deadline = time.monotonic() + CONVERGE_SECONDS
    while True:
        try:
            return await run_step(driver, life, step)
        except (GRPCError, StreamTerminatedError) as error:
            if not isinstance(error, GRPCError) or error.status not in AGAIN or time.monotonic() > deadline:
                raise AssertionError(f"{step.__name__} did not converge: {error}\n{driver.text()}") from error
            await asyncio.sleep(0.1)


def test_every_killed_call_is_completed_by_its_repeat(tmp_path: Path) -> None:
    for name in ("array", "state", "staging", "pods"):
        (tmp_path / name).mkdir()
    driver = Driver(tmp_path, "--array", f"local://{tmp_path}/array", "--connector", "loop", "--node-id", NODE)
    random = Random(SEED)
    durations: list[float] = []
    kills = 0

    driver.start()
    try:
        life = Life(tmp_path)
        for step in STEPS:
            begun = time.monotonic()
            asyncio.run(run_step(driver, life, step))
            durations.append(time.monotonic() - begun)
            life.check()
        while kills < KILLS_NEEDED:
            life = Life(tmp_path)
            for step, duration in zip(STEPS, durations, strict=True):
                asyncio.run(run_step_killed(driver, life, step, random.uniform(0, duration * 1.1)))
                kills += 1
                driver.start()
                asyncio.run(run_step_until_done(driver, life, step))
                life.check()
            assert_no_traces(tmp_path)
    except BaseException:
        print(driver.text())
        raise
    finally:
        if not driver.running:
            driver.start()
        asyncio.run(tidy(driver, tmp_path))
        driver.terminate()
    assert kills >= KILLS_NEEDED
    assert_no_traces(tmp_path)


async def tidy(driver: Driver, directory: Path) -> None:
    """After a failure: take back what is there, so that the machine is as before."""
    async with Channel(path=str(driver.socket)) as channel:
        actors = Actors(str(directory), FS_TYPE, ControllerStub(channel), NodeStub(channel))
        actors.volumes = ["killed", "killed-clone"]
        actors.snapshots = ["killed-snapshot"]
        await actors.undo(node=True)


SLOW_MKFS = """#!/bin/sh
touch {marker}
sleep {seconds}
exec /usr/sbin/mkfs.{fs_type} "$@"
"""


@pytest.mark.parametrize(
    ("mkfs_seconds", "grace_seconds"), [(2, 20), (4, 1)], ids=["within the grace", "longer than the grace"]
)
def test_sigterm_in_the_middle_of_mkfs(tmp_path: Path, mkfs_seconds: int, grace_seconds: int) -> None:
    for name in ("array", "state", "staging", "pods", "bin"):
        (tmp_path / name).mkdir()
    marker = tmp_path / "mkfs-runs"
    tool = tmp_path / "bin" / f"mkfs.{FS_TYPE}"
    tool.write_text(SLOW_MKFS.format(marker=marker, seconds=mkfs_seconds, fs_type=FS_TYPE))
    tool.chmod(0o755)
    flags = ("--array", f"local://{tmp_path}/array", "--connector", "loop", "--node-id", NODE)
    driver = Driver(tmp_path, *flags, "--shutdown-grace", str(grace_seconds), path=str(tmp_path / "bin"))
    life = Life(tmp_path)

    async def stage_and_terminate() -> tuple[object, int, float]:
        await run_step(driver, life, create)
        await run_step(driver, life, attach)
        staging = asyncio.create_task(run_step(driver, life, stage))
        while not await asyncio.to_thread(marker.exists):
            assert not staging.done(), staging.exception()
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        status = await asyncio.to_thread(driver.terminate)
        took = time.monotonic() - begun
        return (await asyncio.gather(staging, return_exceptions=True))[0], status, took

    driver.start()
    try:
        outcome, status, took = asyncio.run(stage_and_terminate())
        assert status == 0
        if mkfs_seconds < grace_seconds:
            assert outcome is None, outcome
        # A second for the end itself: closing sockets, leaving the interpreter.
        assert took < grace_seconds + 1.5
        driver.start()
        asyncio.run(run_step_until_done(driver, life, stage))
        assert uuid_of(life.image)
    finally:
        if not driver.running:
            driver.start()
        asyncio.run(tidy(driver, tmp_path))
        assert driver.terminate() == 0
    assert_no_traces(tmp_path)
