"""Clients of a simulator over real sockets, and a clock that a test moves by hand."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable

import asyncssh
import httpx

from rds_csi.simulator.server import Simulator

HOST = "127.0.0.1"


async def until(condition: Callable[[], object]) -> None:
    """Let others run until the condition holds; it does within a few turns of the loop."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what changes is deep inside, and tells nobody
            await asyncio.sleep(0)


async def until_listed(client: httpx.AsyncClient, slot: str) -> None:
    """Ask until the device lists a disk of that slot."""
    async with asyncio.timeout(20):
        while not (await client.get("/disk", params={"slot": slot})).json():
            pass


class ManualClock:
    """A clock whose time passes when the test says so; ``sleep`` is what is injected."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()

    def now(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.seconds + seconds, future))
        self._changed.set()
        await future

    async def somebody_sleeps(self, seconds: float) -> None:
        """Wait until somebody sleeps up to that many seconds from now."""
        async with asyncio.timeout(10):
            while not any(at == self.seconds + seconds and not future.done() for at, future in self._sleepers):
                self._changed.clear()
                await self._changed.wait()

    def advance(self, seconds: float) -> None:
        """Let time pass: whoever has slept long enough wakes."""
        self.seconds += seconds
        for at, future in self._sleepers:
            if at <= self.seconds and not future.done():
                future.set_result(None)
        self._sleepers = [(at, future) for at, future in self._sleepers if not future.done()]


@contextlib.asynccontextmanager
async def ssh(
    simulator: Simulator, user: str = "csi", **options: object
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A connection with the simulator's client key and its host key pinned."""
    given: dict[str, object] = {
        "client_keys": [asyncssh.import_private_key(simulator.client_key)],
        "known_hosts": ([asyncssh.import_public_key(simulator.host_public_key)], [], []),
        "config": None,
        "agent_path": None,
        "username": user,
        **options,
    }
    connection = await asyncssh.connect(HOST, simulator.ssh_port, **given)
    try:
        yield connection
    finally:
        connection.abort()
        await connection.wait_closed()


async def run(connection: asyncssh.SSHClientConnection, script: str) -> str:
    """What a script prints."""
    result = await connection.run(script, encoding="utf-8")
    assert isinstance(result.stdout, str)
    assert result.stderr == ""
    return result.stdout


def rest(simulator: Simulator, user: str = "csi", password: str | None = None) -> httpx.AsyncClient:
    """A client of the REST server that trusts the simulator's certificate authority."""
    context = ssl.create_default_context(cadata=simulator.tls_ca.decode())
    return httpx.AsyncClient(
        base_url=f"https://{HOST}:{simulator.https_port}/rest",
        auth=(user, simulator.password(user) if password is None else password),
        verify=context,
        trust_env=False,
        timeout=20,
    )
