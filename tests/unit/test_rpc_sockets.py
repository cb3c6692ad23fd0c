"""The socket file: whose it is, who may open it, and that it goes."""

import asyncio
import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from rds_csi.errors import ConfigurationError
from rds_csi.metrics import Metrics
from rds_csi.rpc.server import CsiServer
from rds_csi.rpc.sockets import path_of
from tests.support.rpc import PROBE, Identity, RawClient


def server_at(path: Path) -> CsiServer:
    return CsiServer(f"unix://{path}", [Identity()], Metrics())


async def answers(path: Path) -> bool:
    async with RawClient.connected(str(path)) as client:
        return (await client.call(PROBE, b"")).code == 0


async def test_socket_and_directory_are_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "plugin" / "csi.sock"
    server = server_at(path)
    await server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    await server.drain(0)
    assert not path.exists()


async def test_a_stale_socket_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    server = server_at(path)
    await server.start()
    assert await answers(path)
    await server.drain(0)


async def test_a_socket_on_which_somebody_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    first = server_at(path)
    await first.start()
    with pytest.raises(ConfigurationError, match=r"another program answers .* Stop it"):
        await server_at(path).start()
    assert await answers(path)
    await first.drain(0)


async def test_a_server_too_busy_to_accept_is_not_taken_for_dead(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConfigurationError, match="another program answers"):
            await server_at(path).start()


async def test_of_two_that_start_at_once_one_serves(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    servers = [server_at(path) for _ in range(4)]
    results = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert all(result is None or isinstance(result, ConfigurationError) for result in results)
    assert await answers(path)
    for server in servers:
        await server.drain(0)


async def test_a_start_waits_for_another_in_the_same_directory(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    server = server_at(path)
    start = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    assert not path.exists()
    os.close(descriptor)
    await start
    assert await answers(path)
    await server.drain(0)


async def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="is no socket"):
        await server_at(path).start()
    assert path.read_text() == "precious"


async def test_a_link_to_a_socket_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    path.symlink_to(tmp_path / "elsewhere.sock")
    with pytest.raises(ConfigurationError, match="is no socket"):
        await server_at(path).start()


async def test_a_directory_that_cannot_be_made_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"no socket can be made .* Choose an --endpoint"):
        await server_at(tmp_path / "file" / "csi.sock").start()


async def test_the_file_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    server = server_at(path)
    await server.start()
    path.unlink()
    successor = server_at(path)
    await successor.start()
    await server.drain(0)
    assert await answers(path)
    await successor.drain(0)


@pytest.mark.parametrize("endpoint", ["", "csi.sock", "tcp://0.0.0.0:1", "unix:csi.sock", "unix:///" + "x" * 107])
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="Use unix:///absolute/path"):
        path_of(endpoint)


@pytest.mark.parametrize("endpoint", ["unix:///csi/csi.sock", "unix:/csi/csi.sock", "/csi/csi.sock"])
def test_the_usual_forms_of_an_endpoint(endpoint: str) -> None:
    assert path_of(endpoint) == "/csi/csi.sock"
