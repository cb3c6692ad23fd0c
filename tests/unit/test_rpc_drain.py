"""The end of the server: running calls finish within the grace period, and nothing is left."""

import asyncio
from pathlib import Path

import pytest
from grpclib.const import Status

from rds_csi.csi import v1 as csi
from rds_csi.metrics import Metrics
from rds_csi.process import ProcessRunner
from rds_csi.rpc.limits import Limits
from rds_csi.rpc.server import CsiServer
from rds_csi.tasks import finish
from tests.support.rpc import PROBE, STAGE, Held, Node, RawClient, eventually, framed, open_descriptors, served

REQUEST = bytes(csi.NodeStageVolumeRequest(volume_id="pvc-1"))


async def test_a_running_call_ends_well_and_new_ones_are_refused(tmp_path: Path) -> None:
    held = Held()
    async with served(tmp_path, Node(held)) as server, RawClient.connected(server.path) as client:
        running = client.send(client.headers(STAGE), framed(REQUEST))
        await held.begun.wait()
        drain = asyncio.create_task(server.server.drain(10))
        await eventually(lambda: not Path(server.path).exists(), "the socket is gone")
        with pytest.raises(OSError, match="No such file"):
            await asyncio.open_unix_connection(server.path)
        refused = await client.call(PROBE, b"")
        assert refused.code == Status.UNAVAILABLE.value
        assert "shutting down" in refused.text
        assert not drain.done()
        held.go_on.set()
        assert (await client.answer(running)).code == 0
        await drain
        assert await client.reader.read() == b""
    assert held.ended


async def test_after_the_grace_period_calls_are_cut_off_and_told_so(tmp_path: Path) -> None:
    held = Held()
    async with served(tmp_path, Node(held)) as server, RawClient.connected(server.path) as client:
        running = client.send(client.headers(STAGE), framed(REQUEST))
        await held.begun.wait()
        await server.server.drain(0.005)
        answer = await client.answer(running)
        assert answer.code == Status.UNAVAILABLE.value
        assert server.server.running_calls == 0
    assert not held.ended


async def test_the_grace_period_counts_for_a_step_whose_client_has_gone(tmp_path: Path) -> None:
    held = Held()

    async def step(request: csi.NodeStageVolumeRequest) -> None:
        await finish(held(request))

    async with served(tmp_path, Node(step)) as server:
        async with RawClient.connected(server.path) as client:
            client.send(client.headers(STAGE), framed(REQUEST))
            await held.begun.wait()
        await eventually(lambda: server.server.open_connections == 0, "the client has gone")
        drain = asyncio.create_task(server.server.drain(10))
        await eventually(lambda: not Path(server.path).exists(), "the socket is gone")
        assert not drain.done()
        held.go_on.set()
        await drain
    assert held.ended


async def test_a_step_that_does_not_end_does_not_keep_the_server(tmp_path: Path) -> None:
    held = Held()

    async def step(request: csi.NodeStageVolumeRequest) -> None:
        await finish(held(request))

    limits = Limits(farewell_seconds=0.01)
    async with served(tmp_path, Node(step), limits) as server, RawClient.connected(server.path) as client:
        client.send(client.headers(STAGE), framed(REQUEST))
        await held.begun.wait()
        await server.server.drain(0.005)
        assert server.server.running_calls == 1
        held.go_on.set()
        await eventually(lambda: server.server.running_calls == 0, "the step ended")


async def test_children_of_a_cut_call_are_reaped(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    before = open_descriptors()

    async def stage(_: csi.NodeStageVolumeRequest) -> None:
        await ProcessRunner().run("sh", "-c", f"echo $$ > {begun}; exec sleep 60", timeout=60)

    async with served(tmp_path, Node(stage)) as server, RawClient.connected(server.path) as client:
        client.send(client.headers(STAGE), framed(REQUEST))
        await eventually(lambda: begun.exists() and begun.read_text().strip() != "", "the child runs")
        await server.server.drain(0)
    await eventually(lambda: not Path(f"/proc/{int(begun.read_text())}").exists(), "the child is reaped")
    await eventually(lambda: open_descriptors() <= before, "no descriptor is left")


async def test_clients_that_do_not_read_do_not_keep_the_server(tmp_path: Path) -> None:
    limits = Limits(farewell_seconds=0.01)
    async with served(tmp_path, limits=limits) as server:
        _, writer = await asyncio.open_unix_connection(server.path)
        await eventually(lambda: server.server.open_connections == 1, "connected")
        async with asyncio.timeout(5):
            await server.server.drain(10)
        assert server.server.open_connections == 0
        writer.close()


async def test_drain_twice_and_before_start_is_fine(tmp_path: Path) -> None:
    server = CsiServer(f"unix://{tmp_path}/csi.sock", [], Metrics())
    await server.drain(1)
    await server.start()
    await server.drain(1)
    await server.drain(1)


async def test_a_call_whose_request_has_not_come_is_not_begun_any_more(tmp_path: Path) -> None:
    held = Held()
    async with served(tmp_path, Node(held)) as server, RawClient.connected(server.path) as client:
        waiting = client.send(client.headers(STAGE), None, end=False)
        await eventually(lambda: server.server.running_calls == 1, "the call is accepted")
        await server.server.drain(10)
        assert (await client.answer(waiting)).code == Status.UNAVAILABLE.value
    assert not held.begun.is_set()
