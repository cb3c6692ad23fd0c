"""Health by the driver's own Probe: whatever keeps a caller from an answer is found, and nothing else."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rds_csi.csi import v1 as csi
from rds_csi.metrics import Metrics
from rds_csi.rpc.own_probe import OwnProbe, Phase
from rds_csi.rpc.server import CsiServer
from tests.support.rpc import Node, eventually, open_descriptors, served


class UnreadyIdentity(csi.IdentityBase):
    """A node without its tools."""

    async def probe(self, probe_request: csi.ProbeRequest) -> csi.ProbeResponse:
        return csi.ProbeResponse(ready=False)


def probe_of(path: Path, *, timeout: float = 10.0) -> OwnProbe:
    probe = OwnProbe(f"unix://{path}", timeout=timeout)
    probe.phase = Phase.SERVING
    return probe


async def test_a_server_that_answers_is_healthy_and_each_probe_leaves_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        probe = probe_of(tmp_path / "csi.sock")
        before = open_descriptors()
        for _ in range(20):
            assert await probe.healthy() == ""
        await eventually(lambda: open_descriptors() <= before, "no descriptor is left")
        await eventually(lambda: server.server.open_connections == 0, "no connection is left")


async def test_a_socket_file_that_was_removed_is_found(tmp_path: Path) -> None:
    async with served(tmp_path):
        probe = probe_of(tmp_path / "csi.sock")
        assert await probe.healthy() == ""
        (tmp_path / "csi.sock").unlink()
        assert await probe.healthy() == "the CSI socket does not answer: No such file or directory"


async def test_a_socket_on_which_nobody_listens_is_found(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "csi.sock"))
    assert await probe_of(tmp_path / "csi.sock").healthy() == "the CSI socket does not answer: Connection refused"


async def test_a_socket_that_nobody_accepts_from_is_found_in_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(tmp_path / "csi.sock"))
        stuck.listen()
        problem = await probe_of(tmp_path / "csi.sock", timeout=0.05).healthy()
    assert problem == "the CSI socket does not answer: nothing came within 0.05 s"


async def test_a_server_without_the_service_is_found(tmp_path: Path) -> None:
    server = CsiServer(f"unix://{tmp_path}/csi.sock", [Node()], Metrics())
    await server.start()
    assert "UNIMPLEMENTED" in await probe_of(tmp_path / "csi.sock").healthy()
    await server.drain(0)


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def talk_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("behaviour", [close_at_once, talk_garbage])
async def test_something_else_on_the_socket_is_found(
    tmp_path: Path, behaviour: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> None:
    async with await asyncio.start_unix_server(behaviour, tmp_path / "csi.sock"):
        assert "failed" in await probe_of(tmp_path / "csi.sock").healthy()


async def test_a_driver_that_answers_not_ready_is_healthy(tmp_path: Path) -> None:
    server = CsiServer(f"unix://{tmp_path}/csi.sock", [UnreadyIdentity()], Metrics())
    await server.start()
    assert await probe_of(tmp_path / "csi.sock").healthy() == ""
    await server.drain(0)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.STOPPING])
async def test_while_the_socket_is_not_served_the_driver_is_healthy_and_not_ready(tmp_path: Path, phase: Phase) -> None:
    probe = OwnProbe(f"unix://{tmp_path}/csi.sock")
    assert probe.phase is Phase.STARTING
    probe.phase = phase
    assert await probe.healthy() == ""
    assert phase.value in await probe.serving()
    assert phase.value != ""


async def test_a_probe_that_the_end_has_overtaken_is_no_problem(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(tmp_path / "csi.sock"))
        stuck.listen()
        probe = probe_of(tmp_path / "csi.sock", timeout=0.05)
        asked = asyncio.create_task(probe.healthy())
        await asyncio.sleep(0)
        probe.phase = Phase.STOPPING
        assert await asked == ""
