"""The driver's side: a real node process, its four calls, and how many programs it starts."""

import asyncio
import re
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from benchmarks.nvme.target import Exported
from rds_csi.commands.actors import CALL_SECONDS, Actors
from rds_csi.csi.v1 import (
    ControllerStub,
    NodeStub,
    NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
    Volume,
)
from rds_csi.model.context import publish_entries
from tests.support.driver import Driver

HTTP = "127.0.0.1:9809"
REPEATS = 10
REPEAT_SECONDS = 0.5
_PROGRAMS = re.compile(r'^rds_csi_program_duration_seconds_count\{program="([^"]+)"\} ([0-9.]+)$', re.MULTILINE)


@contextmanager
def node_server(directory: Path, connector: str, name: str) -> Iterator[Driver]:
    """``rds-csi node`` with a state directory and paths of its own on the tmpfs."""
    home = directory / name
    for part in ("", "staging", "pods"):
        (home / part).mkdir()
    flags = ("--connector", connector, "--node-id", "bench", "--http-endpoint", HTTP, "--log-level", "error")
    with Driver(home, *flags, role="node") as driver:
        yield driver


@dataclass(frozen=True, slots=True)
class Node:
    """The calls of one volume's life."""

    actors: Actors

    def steps(self, volume: Exported) -> Sequence[Callable[[], Awaitable[object]]]:
        """Stage, publish, unpublish, unstage."""
        described = Volume(volume_id=volume.volume_id, volume_context=volume.target.to_context())
        context = publish_entries(volume.size, "", readonly=False)
        node, pod = self.actors.node, self.actors.pod(volume.volume_id)
        unpublish = NodeUnpublishVolumeRequest(volume_id=volume.volume_id, target_path=pod)
        unstage = NodeUnstageVolumeRequest(
            volume_id=volume.volume_id, staging_target_path=self.actors.staging(volume.volume_id)
        )
        return (
            lambda: self.actors.stage(described, context),
            lambda: self.actors.publish(described, context),
            lambda: node.node_unpublish_volume(unpublish, timeout=CALL_SECONDS),
            lambda: node.node_unstage_volume(unstage, timeout=CALL_SECONDS),
        )

    async def life(self, volume: Exported) -> list[float]:
        """Seconds of each step."""
        return [await timed(step) for step in self.steps(volume)]

    async def programs(self, volume: Exported) -> list[dict[str, int]]:
        """What each step starts: program → times."""
        started = []
        before = await asyncio.to_thread(_scrape)
        for step in self.steps(volume):
            await step()
            after = await asyncio.to_thread(_scrape)
            started.append({name: more for name in after if (more := after[name] - before.get(name, 0))})
            before = after
        return started

    async def burst(self, volumes: Sequence[Exported]) -> list[tuple[float, int]]:
        """Stage all volumes at once, then unstage them at once: seconds of both, and how many calls were repeated."""
        steps = [self.steps(volume) for volume in volumes]
        return [await _all([stage for stage, *_ in steps]), await _all([unstage for *_, unstage in steps])]


@contextmanager
def client(driver: Driver) -> Iterator[Node]:
    """A client of the server; within a running event loop."""
    channel = Channel(path=str(driver.socket))
    try:
        stubs = ControllerStub(channel), NodeStub(channel)
        yield Node(Actors(str(driver.socket.parent), "ext4", *stubs, "bench"))
    finally:
        channel.close()


async def timed(step: Callable[[], Awaitable[object]]) -> float:
    """Seconds of one awaited step."""
    begun = monotonic()
    await step()
    return monotonic() - begun


async def _all(calls: Sequence[Callable[[], Awaitable[object]]]) -> tuple[float, int]:
    repeats = 0

    async def until_done(call: Callable[[], Awaitable[object]]) -> None:
        """As the kubelet does, only sooner."""
        nonlocal repeats
        for _ in range(REPEATS):
            try:
                await call()
                return
            except GRPCError as error:
                if error.status not in (Status.UNAVAILABLE, Status.ABORTED, Status.DEADLINE_EXCEEDED):
                    raise
                print(f"repeated: {error.message}", file=sys.stderr)
            repeats += 1
            await asyncio.sleep(REPEAT_SECONDS)
        raise AssertionError("a call was repeated in vain")

    begun = monotonic()
    await asyncio.gather(*map(until_done, calls))
    return monotonic() - begun, repeats


def _scrape() -> dict[str, int]:
    with urllib.request.urlopen(f"http://{HTTP}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {name: int(float(count)) for name, count in _PROGRAMS.findall(text)}
