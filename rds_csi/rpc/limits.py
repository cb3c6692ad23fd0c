"""What a peer on the socket may use up before it is turned away."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in bytes, seconds and pieces. The defaults are for production; tests make the seconds small."""

    # As grpc-go's default: what sidecars and kubelet could send to any other driver, they can send to this one.
    request_bytes: int = 4 << 20
    # Open connections: far above sidecars plus kubelet (one a call), far below the descriptors of a process.
    connections: int = 512
    # From connect to the end of the HTTP/2 preface and the first frame's header.
    handshake_seconds: float = 10.0
    # From a call's headers to the end of its request, and from the first byte of the reply to its last.
    transfer_seconds: float = 30.0
    # When a running call is logged first; then after twice the time, and so on.
    slow_call_seconds: float = 10.0
    # How often the four above are looked at while there is anything to look at.
    tick_seconds: float = 1.0
    # HTTP/2 pings find a peer that stopped answering; gRPC clients answer them by themselves.
    ping_seconds: float = 120.0
    ping_timeout_seconds: float = 20.0
    # At the end of the grace period: how long cancelled calls get to reap their children, and clients to read.
    farewell_seconds: float = 2.0
