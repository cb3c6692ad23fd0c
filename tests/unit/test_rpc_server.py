"""The edge as a well-behaved client sees it: answers, codes, deadlines, metrics, log lines."""

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from rds_csi import errors
from rds_csi.csi import v1 as csi
from rds_csi.deadline import remaining, within
from rds_csi.metrics import Metrics
from rds_csi.rpc.limits import Limits
from rds_csi.rpc.server import CsiServer
from rds_csi.tasks import finish
from tests.support.rpc import STAGE, Held, Node, RawClient, Served, eventually, served

REQUEST = csi.NodeStageVolumeRequest(volume_id="pvc-1", staging_target_path="/s", secrets={"key": "hunter22"})


async def stage(
    server: Served, request: csi.NodeStageVolumeRequest = REQUEST, timeout: float | None = None
) -> GRPCError | None:
    """Call NodeStageVolume; the error it ended with."""
    async with server.channel() as channel:
        try:
            await csi.NodeStub(channel).node_stage_volume(request, timeout=timeout)
        except GRPCError as error:
            return error
    return None


def failing(error: BaseException) -> Node:
    """A node whose stage raises ``error``."""

    async def fail(_: csi.NodeStageVolumeRequest) -> None:
        raise error

    return Node(fail)


async def test_a_call_reaches_the_service_and_its_answer_comes_back(tmp_path: Path) -> None:
    node = Node()
    async with served(tmp_path, node) as server:
        async with server.channel() as channel:
            assert (await csi.IdentityStub(channel).probe(csi.ProbeRequest())).ready is True
            assert (await csi.IdentityStub(channel).probe(csi.ProbeRequest())).ready is True
        assert await stage(server) is None
    assert node.requests == [REQUEST]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("x"), Status.INVALID_ARGUMENT),
        (errors.NotFound("x"), Status.NOT_FOUND),
        (errors.AlreadyExists("x"), Status.ALREADY_EXISTS),
        (errors.FailedPrecondition("x"), Status.FAILED_PRECONDITION),
        (errors.OutOfRange("x"), Status.OUT_OF_RANGE),
        (errors.ResourceExhausted("x"), Status.RESOURCE_EXHAUSTED),
        (errors.Aborted("x"), Status.ABORTED),
        (errors.Unavailable("x"), Status.UNAVAILABLE),
        (errors.DeadlineExceeded("x"), Status.DEADLINE_EXCEEDED),
        (errors.Unimplemented("x"), Status.UNIMPLEMENTED),
        (errors.Internal("x"), Status.INTERNAL),
        (GRPCError(Status.UNIMPLEMENTED), Status.UNIMPLEMENTED),
        (TimeoutError(), Status.DEADLINE_EXCEEDED),
        (OSError(errno.ENOSPC, "No space left on device", "/secret/path"), Status.RESOURCE_EXHAUSTED),
        (OSError(errno.EIO, "Input/output error"), Status.INTERNAL),
        (ExceptionGroup("group", [errors.Aborted("x")]), Status.ABORTED),
        (ValueError("x"), Status.INTERNAL),
    ],
)
async def test_exceptions_become_codes(tmp_path: Path, error: BaseException, code: Status) -> None:
    async with served(tmp_path, failing(error)) as server:
        told = await stage(server)
        assert told is not None
        assert told.status is code
        assert server.value("rds_csi_rpc_duration_seconds_count", method="NodeStageVolume", code=code.name) == 1
        assert server.value("rds_csi_rpc_in_flight", method="NodeStageVolume") == 0


async def test_message_and_remedy_reach_the_caller(tmp_path: Path) -> None:
    async with served(tmp_path, failing(errors.Unavailable("no portal", remedy="Look at its cable."))) as server:
        told = await stage(server)
    assert told is not None
    assert told.message == "no portal. Look at its cable."


async def test_an_unexpected_error_tells_its_class_and_keeps_its_text_for_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path, failing(KeyError("internal detail"))) as server:
        told = await stage(server)
    assert told is not None
    assert told.message is not None
    assert told.message.startswith("KeyError: see the driver's log for request ")
    record = next(record for record in caplog.records if record.message == "unexpected error")
    assert "internal detail" in record.fields["traceback"]  # type: ignore[attr-defined]  # set by rds_csi.logging


async def test_no_secret_reaches_a_status_or_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="rds_csi")
    multiline = "-----BEGIN KEY-----\nabcdef0123\n-----END KEY-----"
    request = csi.NodeStageVolumeRequest(volume_id="pvc-1", secrets={"password": "hunter22", "key": multiline})
    told = []
    for error in (
        errors.Unavailable("login with hunter22 failed"),
        errors.Internal(f"bad key {multiline!r}"),
        errors.Internal("line abcdef0123"),
        RuntimeError("hunter22"),
    ):
        async with served(tmp_path, failing(error)) as server:
            told.append(await stage(server, request))
    assert len(told) == 4
    everything = str(told) + str([(record.message, vars(record)) for record in caplog.records])
    assert "hunter22" not in everything
    assert "abcdef0123" not in everything
    assert "***stripped***" in everything


async def test_a_status_text_is_one_short_line(tmp_path: Path) -> None:
    async with served(tmp_path, failing(errors.Internal("a\r\nb\x00\x1b[31m é " + "x" * 100_000))) as server:
        told = await stage(server)
    assert told is not None
    assert told.message is not None
    assert told.message.startswith("a\\r\\nb\\x00\\x1b[31m é xxx")
    assert len(told.message.encode()) <= 1024


async def test_the_callers_deadline_is_handed_down_and_kept(tmp_path: Path) -> None:
    seen: list[float | None] = []
    held = Held()

    async def look(request: csi.NodeStageVolumeRequest) -> None:
        seen.append(remaining())
        assert within(1000.0) < 1.0
        await held(request)

    async with served(tmp_path, Node(look)) as server, RawClient.connected(server.path) as client:
        # This client waits for ever: the server alone keeps the deadline.
        answer = await client.call(STAGE, bytes(REQUEST), grpc_timeout="50m")
    assert answer.code == Status.DEADLINE_EXCEEDED.value
    assert seen[0] is not None
    assert 0 < seen[0] <= 0.05
    assert not held.ended


async def test_without_a_deadline_there_is_none(tmp_path: Path) -> None:
    seen: list[float | None] = []

    async def look(_: csi.NodeStageVolumeRequest) -> None:
        seen.extend([remaining(), within(7.0)])

    async with served(tmp_path, Node(look)) as server:
        assert await stage(server) is None
    assert seen == [None, 7.0]


async def test_calls_in_flight_are_counted(tmp_path: Path) -> None:
    held = Held()
    async with served(tmp_path, Node(held)) as server:
        call = asyncio.create_task(stage(server))
        await held.begun.wait()
        assert server.value("rds_csi_rpc_in_flight", method="NodeStageVolume") == 1
        assert server.server.running_calls == 1
        held.go_on.set()
        await call
        await eventually(lambda: server.server.running_calls == 0, "no call runs")
        assert server.value("rds_csi_rpc_in_flight", method="NodeStageVolume") == 0


async def test_the_access_log_tells_method_volume_code_and_duration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="rds_csi")
    async with served(tmp_path) as server:
        await stage(server)
        async with server.channel() as channel:
            await csi.IdentityStub(channel).probe(csi.ProbeRequest())
    lines = [record.fields for record in caplog.records if record.message == "call ended"]  # type: ignore[attr-defined]
    assert [(line["method"], line["volume_id"], line["code"]) for line in lines] == [("NodeStageVolume", "pvc-1", "OK")]
    assert lines[0]["seconds"] > 0


async def test_a_long_call_is_told_again_and_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rds_csi")
    held = Held()
    limits = Limits(slow_call_seconds=0.002, tick_seconds=0.001)

    def told() -> list[float]:
        return [
            record.fields["seconds"]  # type: ignore[attr-defined]  # set by rds_csi.logging
            for record in caplog.records
            if record.message == "call still running"
        ]

    async with served(tmp_path, Node(held), limits) as server:
        call = asyncio.create_task(stage(server))
        await eventually(lambda: len(told()) >= 3, "three lines")
        held.go_on.set()
        await call
    assert told() == sorted(told())


async def test_a_client_that_goes_cancels_its_call(tmp_path: Path) -> None:
    held = Held()
    async with served(tmp_path, Node(held)) as server:
        call = asyncio.create_task(stage(server))
        await held.begun.wait()
        call.cancel()
        await eventually(lambda: server.server.running_calls == 0, "no call runs")
        assert server.value("rds_csi_rpc_duration_seconds_count", method="NodeStageVolume", code="CANCELLED") == 1
    assert not held.ended


async def test_a_step_goes_on_after_its_client_and_is_still_counted(tmp_path: Path) -> None:
    held = Held()

    async def step(request: csi.NodeStageVolumeRequest) -> None:
        await finish(held(request))

    async with served(tmp_path, Node(step)) as server:
        call = asyncio.create_task(stage(server))
        await held.begun.wait()
        call.cancel()
        await eventually(lambda: server.server.open_connections == 0, "the client has gone")
        assert server.server.running_calls == 1
        held.go_on.set()
        await eventually(lambda: server.server.running_calls == 0, "no call runs")
    assert held.ended


async def test_streams_of_responses_are_sent_one_by_one(tmp_path: Path) -> None:
    class Metadata(csi.SnapshotMetadataBase):
        async def get_metadata_allocated(
            self, get_metadata_allocated_request: csi.GetMetadataAllocatedRequest
        ) -> AsyncIterator[csi.GetMetadataAllocatedResponse]:
            for size in (1, 2):
                yield csi.GetMetadataAllocatedResponse(volume_capacity_bytes=size)
            if get_metadata_allocated_request.snapshot_id:
                raise errors.NotFound("no such snapshot")

    metrics = Metrics()
    server = CsiServer(f"unix://{tmp_path}/csi.sock", [Metadata()], metrics)
    await server.start()
    async with Served(server, metrics).channel() as channel:
        stub = csi.SnapshotMetadataStub(channel)
        answers = stub.get_metadata_allocated(csi.GetMetadataAllocatedRequest())
        assert [answer.volume_capacity_bytes async for answer in answers] == [1, 2]
        with pytest.raises(GRPCError) as told:
            async for _ in stub.get_metadata_allocated(csi.GetMetadataAllocatedRequest(snapshot_id="s")):
                pass
        assert told.value.status is Status.NOT_FOUND
    await server.drain(0)
