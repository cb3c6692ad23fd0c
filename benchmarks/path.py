"""The node's path with loop devices, against the same steps as bare shell commands, interleaved."""

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from grpclib.client import Channel

from benchmarks.report import Figure
from benchmarks.server import array_in
from rds_csi.commands.actors import Actors
from rds_csi.csi.v1 import (
    ControllerStub,
    NodeStub,
    NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
)
from rds_csi.model.sizes import MIB
from tests.support.driver import Driver

ROUNDS = 25
SIZE = 256 * MIB
STEPS = ("stage", "publish", "unpublish", "unstage")

# Each step prints its microseconds; one shell runs all, so that no start of a shell is counted.
FLOOR = """
set -e
now() { echo "${EPOCHREALTIME/[.,]/}"; }
a=$(now)
device=$(losetup --find --show "$IMAGE"); mkdir "$STAGING"; mount -t ext4 "$device" "$STAGING"
b=$(now)
mkdir "$POD"; mount --bind "$STAGING" "$POD"
c=$(now)
umount "$POD"; rmdir "$POD"
d=$(now)
umount "$STAGING"; rmdir "$STAGING"; losetup --detach "$device"
e=$(now)
echo $((b-a)) $((c-b)) $((d-c)) $((e-d))
"""


def floor_round(directory: Path) -> list[float]:
    """One round of bare commands: seconds for each step."""
    environment = {
        **os.environ,
        "IMAGE": str(directory / "floor.img"),
        "STAGING": str(directory / "floor-staging"),
        "POD": str(directory / "floor-pod"),
    }
    completed = subprocess.run(
        ["bash", "-c", FLOOR], check=True, capture_output=True, text=True, timeout=60, env=environment
    )
    return [int(word) / 1e6 for word in completed.stdout.split()]


async def timed(step: Callable[[], Awaitable[object]]) -> float:
    """Seconds of one awaited step."""
    begun = time.monotonic()
    await step()
    return time.monotonic() - begun


async def measure(driver: Driver, directory: Path) -> tuple[list[list[float]], list[list[float]]]:
    """Rounds of the driver and of the floor, taking turns: seconds for each step of each round."""
    async with Channel(path=str(driver.socket)) as channel:
        node = NodeStub(channel)
        actors = Actors(str(directory), "ext4", ControllerStub(channel), node, "bench")
        volume = await actors.create("bench", SIZE)
        context = await actors.attach(volume)
        unpublish = NodeUnpublishVolumeRequest(volume_id=volume.volume_id, target_path=actors.pod(volume.volume_id))
        unstage = NodeUnstageVolumeRequest(
            volume_id=volume.volume_id, staging_target_path=actors.staging(volume.volume_id)
        )
        steps: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: actors.stage(volume, context),
            lambda: actors.publish(volume, context),
            lambda: node.node_unpublish_volume(unpublish),
            lambda: node.node_unstage_volume(unstage),
        )
        for step in steps:
            # The first round makes the filesystem; it is not counted.
            await step()
        ours, floor = [], []
        for _ in range(ROUNDS):
            ours.append([await timed(step) for step in steps])
            floor.append(await asyncio.to_thread(floor_round, directory))
        await actors.undo(node=True)
    return ours, floor


def node_path() -> Iterator[Figure]:
    """Each step, and all four: the driver's median over the floor's."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        for name in ("staging", "pods"):
            (directory / name).mkdir()
        with (directory / "floor.img").open("wb") as image:
            image.truncate(SIZE)
        subprocess.run(["/usr/sbin/mkfs.ext4", "-q", directory / "floor.img"], check=True, timeout=60)
        flags = ("--array", array_in(directory), "--connector", "loop", "--node-id", "bench")
        with Driver(directory, *flags, "--log-level", "warning") as driver:
            ours, floor = asyncio.run(measure(driver, directory))
    for number, name in enumerate((*STEPS, "all four")):
        pick = slice(number, number + 1) if number < len(STEPS) else slice(None)
        mine = statistics.median(sum(times[pick]) for times in ours) * 1000
        bare = statistics.median(sum(times[pick]) for times in floor) * 1000
        yield Figure(
            f"loop, formatted ext4: {name}",
            f"{mine:.1f} ms / bare {bare:.1f} ms = {mine / bare:.2f}×",
            "≤ 1.3×" if number == len(STEPS) else "",
        )
