"""``python -m benchmarks.routeros [LATENCY]``: the driver against a simulated RouterOS, 50 ms a round trip away.

Simulator, driver and caller are three processes. With a LATENCY (seconds) other than 0.05 the aims mean nothing.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from grpclib.client import Channel, UnaryUnaryMethod

from benchmarks.report import Figure, show
from benchmarks.routeros_device import NQN_PREFIX
from benchmarks.server import resident_mib
from rds_csi.csi.v1 import (
    CapacityRange,
    ControllerStub,
    CreateVolumeRequest,
    DeleteVolumeRequest,
    ListVolumesRequest,
    VolumeCapability,
    VolumeCapabilityAccessMode,
    VolumeCapabilityAccessModeMode,
    VolumeCapabilityBlockVolume,
)
from rds_csi.model.sizes import GIB
from tests.support.driver import Driver

T = TypeVar("T")

LATENCY = 0.05
# Callers, and how many pairs of create and delete they do together.
CROWDS = ((1, 12), (8, 80), (64, 256))
# RouterOS works on one request of a user at a time, so one user makes no more pairs with more callers.
ONE_USER_CROWDS = ((1, 12), (8, 16))
MANY = 1000
MANY_CALLERS = 64
VOLUMES = 10_000
PAGE = 500
LISTINGS = 5
CALL_SECONDS = 300.0
# The driver that did this before, at the same 50 ms.
BEFORE = {1: "≤ 300 ms (Go driver: 864 ms)", 8: "≥ 20/s (Go driver: 2.1/s)"}

_CAPABILITY = VolumeCapability(
    block=VolumeCapabilityBlockVolume(),
    access_mode=VolumeCapabilityAccessMode(
        mode=VolumeCapabilityAccessModeMode(VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER)
    ),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A simulator that runs: its URLs by transport, and where it tells what it was asked."""

    urls: dict[str, str]
    counters: str
    latency: float

    def asked(self) -> int:
        """Execs and requests since the start."""
        with urllib.request.urlopen(self.counters, timeout=10) as reply:
            counted: dict[str, int] = json.load(reply)
        return counted["execs"] + counted["requests"]

    def label(self, transport: str) -> str:
        """How figures of the transport begin."""
        return f"{transport}, {self.latency * 1000:g} ms a round trip"


@contextmanager
def device(latency: float, volumes: int = 0) -> Iterator[Place]:
    """A simulator in a process of its own, with that many volumes."""
    with tempfile.TemporaryDirectory() as scratch:
        argv = [sys.executable, "-m", "benchmarks.routeros_device", scratch, str(latency), str(volumes)]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                urls = json.loads(process.stdout.readline())
                yield Place(urls, urls.pop("counters"), latency)
            finally:
                process.terminate()


@contextmanager
def driver_on(url: str) -> Iterator[Driver]:
    """A controller of that array, which has had its first contact."""
    with tempfile.TemporaryDirectory() as scratch:
        flags = ("--array", url, "--connector", "memory", "--nqn-prefix", NQN_PREFIX, "--log-level", "warning")
        with Driver(Path(scratch), *flags, role="controller") as driver:
            asyncio.run(calling(driver, lambda channel: create_and_delete(ControllerStub(channel), "first")))
            yield driver


async def calling(driver: Driver, work: Callable[[Channel], Awaitable[T]]) -> T:
    """Work that calls the driver."""
    async with Channel(path=str(driver.socket)) as channel:
        return await work(channel)


async def create(controller: ControllerStub, name: str) -> None:
    """CreateVolume."""
    sizes = CapacityRange(required_bytes=GIB)
    request = CreateVolumeRequest(name=name, capacity_range=sizes, volume_capabilities=[_CAPABILITY])
    await controller.create_volume(request, timeout=CALL_SECONDS)


async def delete(controller: ControllerStub, name: str) -> None:
    """DeleteVolume."""
    await controller.delete_volume(DeleteVolumeRequest(volume_id=name), timeout=CALL_SECONDS)


async def create_and_delete(controller: ControllerStub, name: str) -> None:
    """Both, one after the other."""
    await create(controller, name)
    await delete(controller, name)


@dataclass(frozen=True, slots=True)
class Crowd:
    """What steps by many callers took: all of them, and each, in seconds."""

    whole: float
    each: Sequence[float]

    def __str__(self) -> str:
        median, worst = statistics.median(self.each) * 1000, max(self.each) * 1000
        return f"{len(self.each) / self.whole:.1f}/s, median {median:.0f} ms, slowest {worst:.0f} ms"


def crowd(driver: Driver, callers: int, count: int, step: Callable[[ControllerStub, str], Awaitable[None]]) -> Crowd:
    """``count`` steps, each with a name of its own, by that many callers at once."""
    numbers = iter(range(count))
    seconds: list[float] = []

    async def all_callers(channel: Channel) -> None:
        controller = ControllerStub(channel)

        async def caller() -> None:
            for number in numbers:
                begun = time.monotonic()
                await step(controller, f"pvc-{number:036}")
                seconds.append(time.monotonic() - begun)

        await asyncio.gather(*(caller() for _ in range(callers)))

    begun = time.monotonic()
    asyncio.run(calling(driver, all_callers))
    return Crowd(time.monotonic() - begun, seconds)


def pairs(place: Place, transport: str, crowds: Sequence[tuple[int, int]]) -> Iterator[Figure]:
    """Creating and deleting, by more and more callers."""
    with driver_on(place.urls[transport]) as driver:
        for callers, count in crowds:
            before = place.asked()
            measured = crowd(driver, callers, count, create_and_delete)
            asked = (place.asked() - before) / count
            what = f"{place.label(transport)}: create and delete, {callers} callers"
            yield Figure(what, f"{measured}; {asked:.2f} execs or requests", BEFORE.get(callers, ""))


def many(place: Place, transport: str) -> Iterator[Figure]:
    """A thousand volumes made by many callers, and removed again."""
    with driver_on(place.urls[transport]) as driver:
        for name, step in (("created", create), ("deleted", delete)):
            measured = crowd(driver, MANY_CALLERS, MANY, step)
            yield Figure(f"{place.label(transport)}: {MANY} {name}, {MANY_CALLERS} callers", str(measured))


class CountedPage:
    """A page of ListVolumes, looked at no closer than its entries are counted: what a caller makes of them is not the
    driver's time. Field 1 is an entry, field 2 the token of the next page (csi.proto)."""

    def __init__(self, entries: int, next_token: str) -> None:
        self.entries = entries
        self.next_token = next_token

    @classmethod
    def FromString(cls, data: bytes) -> Self:  # noqa: N802 - how gRPC calls it
        """The page in protobuf's encoding."""
        entries, token, place = 0, "", 0
        while place < len(data):
            number = data[place] >> 3
            length, place = _varint(data, place + 1)
            if number == 1:
                entries += 1
            else:
                token = data[place : place + length].decode()
            place += length
        return cls(entries, token)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[place] & 0x7F) << shift
        shift, place = shift + 7, place + 1
        if data[place - 1] < 0x80:
            return value, place


async def list_all(channel: Channel) -> tuple[int, float, float]:
    """Every page once: how many volumes were seen, the seconds of all, and of the slowest page."""
    method = UnaryUnaryMethod(channel, "/csi.v1.Controller/ListVolumes", ListVolumesRequest, CountedPage)
    seen, token, slowest, begun = 0, "", 0.0, time.monotonic()
    while True:
        page_begun = time.monotonic()
        page = await method(ListVolumesRequest(max_entries=PAGE, starting_token=token), timeout=CALL_SECONDS)
        slowest = max(slowest, time.monotonic() - page_begun)
        seen += page.entries
        token = page.next_token
        if not token:
            return seen, time.monotonic() - begun, slowest


def full_array(place: Place, transport: str) -> Iterator[Figure]:
    """Ten thousand volumes: listed, what that leaves in memory, and a volume made and removed beside them."""
    at = f"{place.label(transport)}, {VOLUMES} volumes"
    with driver_on(place.urls[transport]) as driver:
        memory = [resident_mib(driver.pid)]
        listings = []
        for _ in range(LISTINGS):
            listings.append(asyncio.run(calling(driver, list_all)))
            memory.append(resident_mib(driver.pid))
        seen, seconds, slowest = zip(*listings, strict=True)
        assert set(seen) == {VOLUMES}
        told = f"median {statistics.median(seconds):.2f} s, slowest page {max(slowest):.2f} s"
        yield Figure(f"{at}: listed in pages of {PAGE}, {LISTINGS} times", told, "≤ 3 s")
        told = f"{memory[0]:.0f} MiB before, {memory[1]:.0f} after the first, {memory[-1]:.0f} after the last"
        yield Figure(f"{at}: memory of the driver", told, "flat")
        yield Figure(f"{at}: create and delete, 1 caller", str(crowd(driver, 1, CROWDS[0][1], create_and_delete)))


def routeros(latency: float = LATENCY) -> Iterator[Figure]:
    """All figures."""
    with device(latency) as place:
        yield from pairs(place, "ssh", CROWDS)
        yield from pairs(place, "ssh, 8 channels", CROWDS)
        yield from pairs(place, "https", ONE_USER_CROWDS)
        yield from pairs(place, "https, 8 users", CROWDS)
        for transport in ("ssh", "ssh, 8 channels", "https, 8 users"):
            yield from many(place, transport)
    with device(latency, VOLUMES) as place:
        yield from full_array(place, "ssh")
        yield from full_array(place, "https")


if __name__ == "__main__":
    show(routeros(*map(float, sys.argv[1:2])))
