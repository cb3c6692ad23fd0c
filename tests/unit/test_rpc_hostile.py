"""The edge as a client sees it that breaks the rules: the right code, nothing left behind, others not disturbed."""

import asyncio
import logging
import random
import socket
import struct
from pathlib import Path

import pytest
from grpclib.const import Status

from rds_csi.csi import v1 as csi
from rds_csi.rpc.limits import Limits
from tests.support.rpc import (
    PROBE,
    STAGE,
    Held,
    Node,
    RawClient,
    eventually,
    framed,
    open_descriptors,
    served,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The same in every run.
NOISE = random.Random(1).randbytes(4096)
STAGE_REQUEST = bytes(csi.NodeStageVolumeRequest(volume_id="pvc-1"))


@pytest.mark.parametrize(
    "authority",
    ["", "localhost", "%2Fcsi%2Fcsi.sock", "/csi/csi.sock", "unix:///csi/csi.sock", "passthrough:///x", "a b\u00e9"],
)
async def test_every_authority_is_accepted(tmp_path: Path, authority: str) -> None:
    async with served(tmp_path) as server, RawClient.connected(server.path) as client:
        answer = await client.call(PROBE, b"", authority=authority)
    assert answer.code == 0
    assert csi.ProbeResponse().parse(answer.data[5:]).ready is True


async def test_headers_without_authority_are_accepted(tmp_path: Path) -> None:
    async with served(tmp_path) as server, RawClient.connected(server.path) as client:
        headers = [field for field in client.headers() if field[0] != ":authority"]
        assert (await client.answer(client.send(headers, framed(b"")))).code == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (framed(b"\xff\xff\xff\xff"), Status.INVALID_ARGUMENT),
        (framed(b"\x0a\x05abc"), Status.INVALID_ARGUMENT),
        (framed(b"\x08\x01"), Status.INVALID_ARGUMENT),
        (framed(b"\x0a\x02\xff\xfe"), Status.INVALID_ARGUMENT),
        (framed(b"\x0b\x00"), Status.INVALID_ARGUMENT),
        (framed(b"\x00\x00"), Status.INVALID_ARGUMENT),
        (b"", Status.INVALID_ARGUMENT),
        (b"\x00\x00", Status.INVALID_ARGUMENT),
        (b"\x00\x00\x00\x00\x09abc", Status.INVALID_ARGUMENT),
        (struct.pack(">?I", True, 0), Status.UNIMPLEMENTED),
        (struct.pack(">?I", False, (4 << 20) + 1), Status.RESOURCE_EXHAUSTED),
        (struct.pack(">?I", False, (1 << 32) - 1) + b"x" * 10_000, Status.RESOURCE_EXHAUSTED),
    ],
)
async def test_garbage_for_a_request_gets_its_code(tmp_path: Path, body: bytes, code: Status) -> None:
    node = Node()
    async with served(tmp_path, node) as server, RawClient.connected(server.path) as client:
        answer = await client.answer(client.send(client.headers(STAGE), body))
        assert (answer.code, answer.headers[":status"]) == (code.value, "200")
        assert (await client.call(PROBE, b"")).code == 0
    assert node.requests == []


async def test_the_largest_request_is_served(tmp_path: Path) -> None:
    node = Node()
    request = csi.NodeStageVolumeRequest(volume_id="v", volume_context={"k": "x" * ((4 << 20) - 30)})
    assert (4 << 20) - 20 < len(bytes(request)) <= 4 << 20
    async with served(tmp_path, node) as server, RawClient.connected(server.path) as client:
        stream = await client.upload(client.headers(STAGE), framed(bytes(request)))
        assert (await client.answer(stream)).code == 0
    assert node.requests == [request]


async def test_unknown_fields_and_enum_values_are_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="rds_csi")
    node = Node()
    mode = csi.VolumeCapabilityAccessMode()
    mode.mode = csi.VolumeCapabilityAccessModeMode.try_value(77)
    request = csi.NodeStageVolumeRequest(volume_capability=csi.VolumeCapability(access_mode=mode))
    async with served(tmp_path, node) as server, RawClient.connected(server.path) as client:
        answer = await client.call(STAGE, bytes(request) + b"\xf8\x01\x05")
    assert answer.code == 0
    seen = node.requests[0].volume_capability.access_mode.mode
    assert (seen.name, int(seen)) == (None, 77)


@pytest.mark.parametrize("path", ["/csi.v1.Identity/Nope", "/nope.Nope/Probe", "/", "Probe"])
async def test_an_unknown_method_is_unimplemented(tmp_path: Path, path: str) -> None:
    async with served(tmp_path) as server, RawClient.connected(server.path) as client:
        answer = await client.call(path, b"")
    assert answer.code == Status.UNIMPLEMENTED.value
    assert path in answer.text


async def test_what_is_no_grpc_gets_an_http_status(tmp_path: Path) -> None:
    async with served(tmp_path) as server, RawClient.connected(server.path) as client:
        for headers in (
            client.headers(content_type="text/html"),
            [(":method", "GET"), (":path", "/"), (":scheme", "http")],
            [("nothing", "at all")],
        ):
            answer = await client.answer(client.send(headers, None))
            assert answer.headers[":status"] == "415"
        assert (await client.call(PROBE, b"")).code == 0


@pytest.mark.parametrize("timeout", ["", "5", "S", "-1S", "123456789S", "1d", "5S ", "\xb2S"])
async def test_a_wrong_timeout_is_refused(tmp_path: Path, timeout: str) -> None:
    async with served(tmp_path) as server, RawClient.connected(server.path) as client:
        answer = await client.call(PROBE, b"", grpc_timeout=timeout)
    assert answer.code == Status.INVALID_ARGUMENT.value


@pytest.mark.parametrize(("timeout", "code"), [("0n", 4), ("99999999H", 0), ("5S", 0)])
async def test_timeouts_at_the_edges(tmp_path: Path, timeout: str, code: int) -> None:
    async with served(tmp_path) as server, RawClient.connected(server.path) as client:
        assert (await client.call(PROBE, b"", grpc_timeout=timeout)).code == code


async def test_an_unknown_frame_is_ignored(tmp_path: Path) -> None:
    async with served(tmp_path) as server, RawClient.connected(server.path) as client:
        client.writer.write(b"\x00\x00\x04\xfa\x00\x00\x00\x00\x00what")
        assert (await client.call(PROBE, b"")).code == 0


async def test_a_request_that_never_ends_is_given_up(tmp_path: Path) -> None:
    limits = Limits(transfer_seconds=0.01, tick_seconds=0.005)
    async with served(tmp_path, limits=limits) as server, RawClient.connected(server.path) as client:
        stream = client.send(client.headers(STAGE), b"\x00\x00", end=False)
        assert (await client.answer(stream)).code == Status.DEADLINE_EXCEEDED.value
        assert server.server.running_calls == 0


async def test_a_client_that_does_not_read_loses_its_answer(tmp_path: Path) -> None:
    limits = Limits(transfer_seconds=0.01, tick_seconds=0.005)
    async with served(tmp_path, limits=limits) as server, RawClient.connected(server.path) as client:
        client.h2.update_settings({4: 0})
        client.send(client.headers(PROBE), framed(b""))
        await eventually(lambda: server.server.running_calls == 1, "the call began")
        await eventually(lambda: server.server.running_calls == 0, "the call ended")


async def test_a_stream_that_is_reset_at_once_leaves_nothing(tmp_path: Path) -> None:
    held = Held()
    async with served(tmp_path, Node(held)) as server, RawClient.connected(server.path) as client:
        for _ in range(300):
            stream = client.h2.get_next_available_stream_id()
            client.h2.send_headers(stream, client.headers(STAGE))
            client.h2.send_data(stream, framed(STAGE_REQUEST), end_stream=True)
            client.h2.reset_stream(stream)
        client.flush()
        assert (await client.call(PROBE, b"")).code == 0
        await eventually(lambda: server.server.running_calls == 0, "no call runs")
        assert server.value("rds_csi_rpc_in_flight", method="NodeStageVolume") == 0


async def test_a_reset_stream_cancels_only_its_own_call(tmp_path: Path) -> None:
    held = Held()
    async with served(tmp_path, Node(held)) as server, RawClient.connected(server.path) as client:
        stream = client.send(client.headers(STAGE), framed(STAGE_REQUEST))
        other = client.send(client.headers(STAGE), framed(STAGE_REQUEST))
        await held.begun.wait()
        client.h2.reset_stream(stream)
        client.flush()
        await eventually(lambda: server.server.running_calls == 1, "one call is left")
        held.go_on.set()
        assert (await client.answer(other)).code == 0


async def test_a_client_that_keeps_its_half_open_keeps_no_stream(tmp_path: Path) -> None:
    async with served(tmp_path) as server, RawClient.connected(server.path) as client:
        for _ in range(250):
            stream = client.send(client.headers(PROBE), framed(b""), end=False)
            answer = await client.answer(stream)
            assert answer.code == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + b"x" * 512,
        NOISE,
        PREFACE + NOISE,
        PREFACE + b"\x00\x00\x04\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff",
        PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 20_000,
    ],
)
async def test_garbage_ends_its_own_connection_in_silence(
    tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with served(tmp_path) as server, RawClient.connected(server.path) as good:
        assert (await good.call(PROBE, b"")).code == 0
        _, writer = await asyncio.open_unix_connection(server.path)
        writer.write(garbage)
        await asyncio.sleep(0)
        writer.close()
        await eventually(lambda: server.server.open_connections == 1, "only the good connection is left")
        assert (await good.call(PROBE, b"")).code == 0
    assert told == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_two_thousand_bad_connections_leave_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as server, RawClient.connected(server.path) as good:
        assert (await good.call(PROBE, b"")).code == 0
        before = open_descriptors()
        for number in range(2000):
            with socket.socket(socket.AF_UNIX) as bad:
                bad.setblocking(False)
                # A full backlog is a fine kind of bad connection too.
                if bad.connect_ex(server.path) == 0:
                    bad.send((b"", b"x", PREFACE[:10], PREFACE, NOISE[number : number + 200])[number % 5])
            if number % 50 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: server.server.open_connections == 1, "only the good connection is left")
        await eventually(lambda: open_descriptors() == before, "no descriptor is left")
        assert (await good.call(PROBE, b"")).code == 0


async def test_a_silent_connection_is_closed_and_a_greeted_one_stays(tmp_path: Path) -> None:
    limits = Limits(handshake_seconds=0.01, tick_seconds=0.005)
    async with served(tmp_path, limits=limits) as server, RawClient.connected(server.path) as good:
        assert (await good.call(PROBE, b"")).code == 0
        reader, writer = await asyncio.open_unix_connection(server.path)
        writer.write(PREFACE)
        async with asyncio.timeout(5):
            # The server's own settings, then the end.
            while await reader.read(1 << 16):
                pass
        writer.close()
        assert server.server.open_connections == 1
        assert (await good.call(PROBE, b"")).code == 0


async def test_too_many_connections_push_out_the_silent_ones(tmp_path: Path) -> None:
    limits = Limits(connections=5)
    async with served(tmp_path, limits=limits) as server, RawClient.connected(server.path) as good:
        assert (await good.call(PROBE, b"")).code == 0
        silent = [await asyncio.open_unix_connection(server.path) for _ in range(20)]
        await eventually(lambda: server.server.open_connections <= 5, "the limit holds")
        async with RawClient.connected(server.path) as another:
            assert (await another.call(PROBE, b"")).code == 0
        assert (await good.call(PROBE, b"")).code == 0
        for _, writer in silent:
            writer.close()


async def test_a_peer_that_does_not_answer_pings_is_cut(tmp_path: Path) -> None:
    limits = Limits(ping_seconds=0.005, ping_timeout_seconds=0.01)
    async with served(tmp_path, limits=limits) as server:
        _, writer = await asyncio.open_unix_connection(server.path)
        writer.write(PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        await eventually(lambda: server.server.open_connections == 1, "connected")
        await eventually(lambda: server.server.open_connections == 0, "cut")
        writer.close()
