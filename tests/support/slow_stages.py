"""NodeStages that fail only after the last attempt, or when a device does not come: all of them at the same time."""

import asyncio
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

from rds_csi.model.targets import NvmeTarget
from tests.support.csi_calls import (
    Failure,
    NodeCalls,
    NodeServer,
    StaticVolume,
    controllers_of,
    eventually,
    failure_of,
    is_live,
    volume_on,
)
from tests.support.nvmet_target import ADDRESS, NvmetTarget
from tests.support.portals import ClosingPortal, FilteredPortal, free_port

NQN_PREFIX = "nqn.2026-01.io.rds-csi:"
# The UUID of no namespace that is exported anywhere.
STRANGER = "11111111-1111-4111-8111-111111111111"
# TEST-NET-1 and TEST-NET-3 (RFC 5737): the first gets a route that says unreachable, the other none at all.
UNREACHABLE = "192.0.2.1"
UNROUTED = "203.0.113.1"
_TOOL_SECONDS = 60.0


def nowhere(volume_id: str, address: str, port: int) -> StaticVolume:
    """A volume of a portal that is no array."""
    return StaticVolume(volume_id, NvmeTarget(f"{NQN_PREFIX}{volume_id}", (address,), port, STRANGER))


@dataclass(frozen=True, slots=True)
class Slow:
    """How a stage failed that waited to the end of its patience; ``left`` are its controllers at that moment."""

    failure: Failure
    volume: StaticVolume
    left: list[str]


@contextmanager
def unreachable() -> Iterator[None]:
    """The kernel answers for UNREACHABLE as a router would that has lost the host (ip-route(8), "unreachable")."""
    route = ("unreachable", f"{UNREACHABLE}/32")
    subprocess.run(["busybox", "ip", "route", "add", *route], check=True, timeout=_TOOL_SECONDS)
    try:
        yield
    finally:
        subprocess.run(["busybox", "ip", "route", "del", *route], check=True, timeout=_TOOL_SECONDS)


async def slow_failures(
    servers: dict[str, NodeServer], export: Callable[[], NvmetTarget]
) -> dict[tuple[str, str], Slow]:
    """Every one by its name and connector; ``export`` makes a target."""
    async with AsyncExitStack() as stack:
        filtered = await stack.enter_async_context(FilteredPortal())
        closing = await stack.enter_async_context(ClosingPortal())
        portals = {
            "refused": (ADDRESS, free_port()),
            "filtered": (ADDRESS, filtered.port),
            "unreachable": (UNREACHABLE, 4420),
            "unrouted": (UNROUTED, 4420),
            "reset": (ADDRESS, closing.port),
        }
        waits: dict[tuple[str, str], Coroutine[None, None, Slow]] = {}
        for connector, server in servers.items():
            calls = await stack.enter_async_context(server.calls())
            for name, portal in portals.items():
                waits[name, connector] = _slow(calls, nowhere(f"{name}-{connector}", *portal))
            empty, vanishing, small = export(), export(), export()
            empty.disable_namespace()
            vanishing.disable_namespace()
            waits["no device", connector] = _slow(calls, volume_on(empty, f"empty-{connector}"))
            waits["vanishing", connector] = _slow(calls, volume_on(vanishing, f"vanishing-{connector}"), vanishing)
            waits["too small", connector] = _slow(calls, volume_on(small, f"small-{connector}", size=2 * small.size))
        return dict(zip(waits, await asyncio.gather(*waits.values()), strict=True))


async def _slow(calls: NodeCalls, volume: StaticVolume, vanishing: NvmetTarget | None = None) -> Slow:
    stage = asyncio.create_task(failure_of(calls.stage(volume)))
    if vanishing is not None:
        await eventually(lambda: is_live(volume.target.nqn), "the session is there")
        vanishing.break_link()
    failure = await stage
    return Slow(failure, volume, controllers_of(volume.target.nqn))
