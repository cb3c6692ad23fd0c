"""A thousand volumes: created, and listed in pages."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from grpclib.client import Channel

from benchmarks.report import Figure
from benchmarks.server import array_in, resident_mib
from rds_csi.commands.actors import Actors
from rds_csi.csi.v1 import ControllerStub, ListVolumesRequest, NodeStub
from rds_csi.model.sizes import MIB
from tests.support.driver import Driver

VOLUMES = 1000
PAGE = 100
CALLERS = 8


async def create_all(driver: Driver) -> float:
    """Create the volumes from several callers at once; returns the seconds."""
    async with Channel(path=str(driver.socket)) as channel:
        actors = Actors("/", "ext4", ControllerStub(channel), NodeStub(channel))
        numbers = iter(range(VOLUMES))

        async def caller() -> None:
            for number in numbers:
                await actors.create(f"bench-{number:04}", MIB)

        begun = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return time.monotonic() - begun


async def list_all(driver: Driver) -> tuple[int, float]:
    """Every page once; returns how many volumes were seen, and the seconds."""
    async with Channel(path=str(driver.socket)) as channel:
        controller = ControllerStub(channel)
        seen, token, begun = 0, "", time.monotonic()
        while True:
            page = await controller.list_volumes(ListVolumesRequest(max_entries=PAGE, starting_token=token))
            seen += len(page.entries)
            token = page.next_token
            if not token:
                return seen, time.monotonic() - begun


def listing() -> Iterator[Figure]:
    """Creating and listing a thousand volumes, and what they cost in memory."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        flags = ("--array", array_in(directory), "--connector", "memory", "--node-id", "bench")
        with Driver(directory, *flags, "--log-level", "warning") as driver:
            before = resident_mib(driver.pid)
            created = asyncio.run(create_all(driver))
            asyncio.run(list_all(driver))
            seen, seconds = asyncio.run(list_all(driver))
            after = resident_mib(driver.pid)
    yield Figure(f"create {VOLUMES} volumes, {CALLERS} callers", f"{VOLUMES / created:.0f}/s")
    yield Figure(f"list {seen} volumes in pages of {PAGE}", f"{seconds * 1000:.0f} ms")
    yield Figure(f"memory with {VOLUMES} volumes", f"{after:.1f} MiB ({after - before:+.1f})")
