"""What the demos share: steps with their times, a server in this process, its failures in words, and the way back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
from grpclib.exceptions import GRPCError

from rds_csi.app import Role, Server
from rds_csi.commands.actors import Actors
from rds_csi.settings import Settings
from rds_csi.tasks import finish


class DemoFailed(Exception):
    """A check of the demo did not hold."""


@contextlib.contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """One step: printed with its time, and with what it tells."""
    details: list[str] = []
    begun = time.monotonic()
    try:
        yield details.append
    except BaseException:
        print(f"     FAILED  {title}", flush=True)
        raise
    print(f"  {(time.monotonic() - begun) * 1000:6.0f} ms  {title:<34} {'; '.join(details)}", flush=True)


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[None]:
    """A server of both roles for the block; drained at its end, and its failure to start told as it is."""
    stop, ready = anyio.Event(), asyncio.Event()
    server = asyncio.create_task(Server(settings, Role.ALL).run(stop, ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait((server, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not server.done():
            yield
    finally:
        waiting.cancel()
        stop.set()
        await server


def in_words(error: Exception) -> str:
    """What went wrong, without the code of the call."""
    return f"{error.message}" if isinstance(error, GRPCError) else f"{error}"


async def take_back(actors: Actors, problems: list[str], *, node: bool) -> None:
    """Undo what is still there, which Ctrl-C does not cut off; what could not be undone is added to ``problems``."""

    async def undo() -> None:
        problems.extend(await actors.undo(node=node))

    await finish(undo())
