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
from typing import Any

import betterproto
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

from benchmarks.nvme.target import Exported
from rds_csi.commands.actors import CALL_SECONDS, Actors
from rds_csi.csi.v1 import (
    ControllerStub,
    NodePublishVolumeRequest,
    NodeStageVolumeRequest,
    NodeStub,
    NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
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


class _Encoded(CodecBase):
    """A codec of grpclib for messages that are bytes already: what the client's own encoding costs is not measured,
    because the real clients are sidecars and the kubelet."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002 - grpclib's signature
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:  # noqa: ARG002 - grpclib's signature
        return data


@dataclass(frozen=True, slots=True)
class Node:
    """The calls of one volume's life."""

    channel: Channel
    actors: Actors

    def steps(self, volume: Exported) -> Sequence[Callable[[], Awaitable[object]]]:
        """Stage, publish, unpublish, unstage."""
        staging, pod = self.actors.staging(volume.volume_id), self.actors.pod(volume.volume_id)
        ways: dict[str, Any] = {
            "volume_id": volume.volume_id,
            "staging_target_path": staging,
            "volume_capability": self.actors.capability,
            "volume_context": volume.target.to_context(),
            "publish_context": publish_entries(volume.size, "", readonly=False),
        }
        return (
            self._call("NodeStageVolume", NodeStageVolumeRequest(**ways)),
            self._call("NodePublishVolume", NodePublishVolumeRequest(**ways, target_path=pod)),
            self._call("NodeUnpublishVolume", NodeUnpublishVolumeRequest(volume_id=volume.volume_id, target_path=pod)),
            self._call(
                "NodeUnstageVolume",
                NodeUnstageVolumeRequest(volume_id=volume.volume_id, staging_target_path=staging),
            ),
        )

    def _call(self, name: str, request: betterproto.Message) -> Callable[[], Awaitable[object]]:
        method = UnaryUnaryMethod(self.channel, f"/csi.v1.Node/{name}", bytes, bytes)
        encoded = bytes(request)
        return lambda: method(encoded, timeout=CALL_SECONDS)

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
    channel = Channel(path=str(driver.socket), codec=_Encoded())
    try:
        stubs = ControllerStub(channel), NodeStub(channel)
        yield Node(channel, Actors(str(driver.socket.parent), "ext4", *stubs, "bench"))
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
