"""A CSI server with a service that does what a test says, and a client that may break every rule of HTTP/2."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from grpclib.client import Channel
from grpclib.metadata import decode_grpc_message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

from rds_csi.csi import v1 as csi
from rds_csi.metrics import Metrics
from rds_csi.rpc.limits import Limits
from rds_csi.rpc.server import CsiServer

PROBE = "/csi.v1.Identity/Probe"
STAGE = "/csi.v1.Node/NodeStageVolume"


async def eventually(condition: Callable[[], bool], what: str, *, seconds: float = 10.0) -> None:
    """Return when ``condition()`` holds; AssertionError naming ``what`` after the time."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  # conditions of the kernel have no event to wait for
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"after {seconds:g} s still not so: {what}") from None


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def answer_at_once(request: csi.NodeStageVolumeRequest) -> None:
    """A stage that has nothing to do."""


class Identity(csi.IdentityBase):
    """Always ready."""

    async def probe(self, probe_request: csi.ProbeRequest) -> csi.ProbeResponse:
        return csi.ProbeResponse(ready=True)


class Node(csi.NodeBase):
    """NodeStageVolume runs ``stage``; ``requests`` keeps what came."""

    def __init__(self, stage: Callable[[csi.NodeStageVolumeRequest], Awaitable[None]] = answer_at_once) -> None:
        self.stage = stage
        self.requests: list[csi.NodeStageVolumeRequest] = []

    async def node_stage_volume(
        self, node_stage_volume_request: csi.NodeStageVolumeRequest
    ) -> csi.NodeStageVolumeResponse:
        self.requests.append(node_stage_volume_request)
        await self.stage(node_stage_volume_request)
        return csi.NodeStageVolumeResponse()


class Held:
    """A stage that tells when it has begun, and waits until it is let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = False

    async def __call__(self, request: csi.NodeStageVolumeRequest) -> None:
        """The stage."""
        self.begun.set()
        await self.go_on.wait()
        self.ended = True


class Served:
    """A server that listens, its socket's path and its metrics."""

    def __init__(self, server: CsiServer, metrics: Metrics) -> None:
        self.server = server
        self.metrics = metrics
        self.path = server.path

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        """A well-behaved gRPC client."""
        channel = Channel(path=self.path)
        try:
            yield channel
        finally:
            channel.close()

    def value(self, name: str, **labels: str) -> float:
        """A sample of the metrics; 0 when there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def served(directory: Path, node: Node | None = None, limits: Limits | None = None) -> AsyncIterator[Served]:
    """A running server with Identity and ``node``; drained without grace at the end."""
    metrics = Metrics()
    server = CsiServer(f"unix://{directory}/csi.sock", [Identity(), node or Node()], metrics, limits=limits)
    await server.start()
    try:
        yield Served(server, metrics)
    finally:
        await server.drain(0)


class Answer:
    """What came back on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.data = b""
        self.ended = False
        self.reset = False

    @property
    def code(self) -> int | None:
        """The gRPC status code; None while there is none."""
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None

    @property
    def text(self) -> str:
        """The gRPC status message."""
        return decode_grpc_message(self.headers.get("grpc-message", ""))


class RawClient:
    """HTTP/2 frame by frame, with nothing checked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="latin-1",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.initiate_connection()
        self.answers: dict[int, Answer] = {}

    @classmethod
    @asynccontextmanager
    async def connected(cls, path: str) -> AsyncIterator["RawClient"]:
        """A client whose preface is sent."""
        reader, writer = await asyncio.open_unix_connection(path)
        client = cls(reader, writer)
        try:
            client.flush()
            yield client
        finally:
            writer.close()

    def flush(self) -> None:
        """Send what h2 has prepared."""
        self.writer.write(self.h2.data_to_send())

    def headers(self, path: str = PROBE, **extra: str) -> list[tuple[str, str]]:
        """A gRPC client's headers; ``extra`` replaces and adds, with ``_`` for ``-`` and ``authority`` for the
        pseudo-header."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        for name, value in extra.items():
            fields[":authority" if name == "authority" else name.replace("_", "-")] = value
        return list(fields.items())

    def send(self, headers: list[tuple[str, str]], body: bytes | None, *, end: bool = True) -> int:
        """Begin a stream, with ``body`` as it stands when there is one; its number."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=body is None and end)
        self.answers[stream] = Answer()
        if body is not None:
            self.h2.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    async def upload(self, headers: list[tuple[str, str]], body: bytes) -> int:
        """Like ``send`` for a body of any size, at the pace of the server's window; its number."""
        stream = self.send(headers, None, end=False)
        while body:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(body))
            if room == 0:
                await self._read()
                continue
            self.h2.send_data(stream, body[:room], end_stream=room == len(body))
            body = body[room:]
            self.flush()
        return stream

    async def answer(self, stream: int) -> Answer:
        """What the server says on ``stream``, once that has ended."""
        answer = self.answers[stream]
        async with asyncio.timeout(10):
            while not (answer.ended or answer.reset):
                await self._read()
        return answer

    async def call(self, path: str, message: bytes, **extra: str) -> Answer:
        """A whole call with ``message`` in a right gRPC frame."""
        return await self.answer(self.send(self.headers(path, **extra), framed(message)))

    async def _read(self) -> None:
        data = await self.reader.read(1 << 16)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        for event in self.h2.receive_data(data):
            self._note(event)
        self.flush()

    def _note(self, event: Event) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            assert event.stream_id is not None
            fields = [(str(name), str(value)) for name, value in event.headers or []]
            self.answers[event.stream_id].headers.update(fields)
        elif isinstance(event, DataReceived):
            assert event.stream_id is not None
            self.answers[event.stream_id].data += event.data or b""
        elif isinstance(event, StreamEnded):
            assert event.stream_id is not None
            self.answers[event.stream_id].ended = True
        elif isinstance(event, StreamReset):
            assert event.stream_id is not None
            self.answers[event.stream_id].reset = True


def framed(message: bytes) -> bytes:
    """``message`` with gRPC's prefix."""
    return struct.pack(">?I", False, len(message)) + message
