"""One call's bytes on its HTTP/2 stream: headers, the request, responses, status.

gRPC over HTTP/2: github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

import re
import struct
from collections.abc import Mapping

from grpclib.const import Status
from grpclib.metadata import encode_grpc_message
from grpclib.protocol import Stream

from rds_csi.errors import InvalidArgument, ResourceExhausted, Unimplemented
from rds_csi.rpc.status import Outcome, clean_text

CONTENT_TYPE = "application/grpc"

_RESPONSE_HEADERS = [(":status", "200"), ("content-type", "application/grpc+proto")]
_OK_TRAILERS = [("grpc-status", "0")]
_UNSUPPORTED_MEDIA_TYPE = [(":status", "415")]

# One byte "compressed", four bytes of length.
_PREFIX = struct.Struct(">?I")

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """The caller's ``grpc-timeout`` in seconds, None without one; InvalidArgument when it cannot be read."""
    text = headers.get("grpc-timeout")
    if text is None:
        return None
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise InvalidArgument("the grpc-timeout header cannot be read")
    return int(match[1]) * _UNITS[match[2]]


async def receive_request(stream: Stream, limit: int) -> bytes:
    """The bytes of the one request. ResourceExhausted before a longer one than ``limit`` bytes is read."""
    try:
        prefix = await stream.recv_data(_PREFIX.size)
        if not prefix:
            raise InvalidArgument("the call was closed without a request")
        compressed, size = _PREFIX.unpack(prefix)
        if compressed:
            raise Unimplemented("compressed requests are not understood")
        if size > limit:
            raise ResourceExhausted(f"the request has {size} bytes; at most {limit} are accepted")
        data = await stream.recv_data(size)
    except AssertionError:
        # grpclib's way to say that the stream ended in the middle.
        data, size = b"", -1
    if len(data) != size:
        raise InvalidArgument("the request is cut off")
    return data


class Reply:
    """The answering half of a stream: responses, then one status."""

    __slots__ = ("_begun", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._begun = False

    async def send(self, payload: bytes) -> None:
        """Send one response; waits while the client's window is full."""
        if not self._begun:
            self._begun = True
            await self._stream.send_headers(_RESPONSE_HEADERS)
        await self._stream.send_data(_PREFIX.pack(False, len(payload)) + payload)

    async def end(self, outcome: Outcome) -> None:
        """Send the status; nothing can be sent after it."""
        if outcome.code is Status.OK:
            trailers = _OK_TRAILERS
        else:
            trailers = [
                ("grpc-status", str(outcome.code.value)),
                ("grpc-message", encode_grpc_message(clean_text(outcome.text))),
            ]
        await self._end(trailers if self._begun else [*_RESPONSE_HEADERS, *trailers])

    async def refuse_media_type(self) -> None:
        """Tell a peer that does not speak gRPC (HTTP status 415)."""
        await self._end(_UNSUPPORTED_MEDIA_TYPE)

    async def _end(self, headers: list[tuple[str, str]]) -> None:
        await self._stream.send_headers(headers, end_stream=True)
        self.abandon()

    def abandon(self) -> None:
        """Reset the stream, unless both sides have ended it: a client that keeps its half open keeps nothing."""
        if self._stream.closable:
            self._stream.reset_nowait()
