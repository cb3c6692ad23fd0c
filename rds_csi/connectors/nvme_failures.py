"""Why a connect failed: nvme-cli's text, the kernel's errno and a look at the portal become one reason.

nvme-cli ends with 1 whatever happened, and 2.13 does not print the kernel's errno any more; the captures of
both versions are the tests of this module.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from rds_csi.errors import DriverError, FailedPrecondition, InvalidArgument
from rds_csi.retry import Transient

# The kernel itself gives a SYN about 3 s (TCP_SYNCNT 1, tcp.c in drivers/nvme/host).
PROBE_SECONDS = 3.0


class Reason(Enum):
    """What stood in the way of a connect."""

    ALREADY = "already connected"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed out"
    RESET = "reset"
    BUSY = "busy"
    REJECTED = "rejected"
    UNRESOLVED = "unresolved"
    INVALID = "invalid"
    NO_MODULE = "no module"
    FORBIDDEN = "forbidden"
    # The text does not tell; the portal has to be asked.
    UNTOLD = "untold"


# What a line of nvme-cli says; the first match decides.
_PHRASES: tuple[tuple[str, Reason], ...] = (
    ("already connected", Reason.ALREADY),
    ("operation already in progress", Reason.ALREADY),
    ("connection refused", Reason.REFUSED),
    ("connection reset", Reason.RESET),
    ("timed out", Reason.TIMED_OUT),
    ("timeout", Reason.TIMED_OUT),
    ("no route to host", Reason.UNREACHABLE),
    ("network is unreachable", Reason.UNREACHABLE),
    ("network unreachable", Reason.UNREACHABLE),
    ("host is unreachable", Reason.UNREACHABLE),
    ("host is down", Reason.UNREACHABLE),
    ("temporarily unavailable", Reason.BUSY),
    ("temporary failure", Reason.BUSY),
    ("try again", Reason.BUSY),
    ("interrupted system call", Reason.BUSY),
    ("input/output error", Reason.REJECTED),
    ("failed to resolve host", Reason.UNRESOLVED),
    ("no support for hostname", Reason.UNRESOLVED),
    ("failed to get transport address", Reason.UNRESOLVED),
    ("permission denied", Reason.FORBIDDEN),
    ("operation not permitted", Reason.FORBIDDEN),
    ("failed to scan topology", Reason.NO_MODULE),
    ("failed to open /dev/nvme-fabrics", Reason.NO_MODULE),
    ("unrecognized option", Reason.INVALID),
    ("required argument", Reason.INVALID),
    ("invalid argument", Reason.INVALID),
)

_BY_ERRNO: Mapping[int, Reason] = {
    errno.ECONNREFUSED: Reason.REFUSED,
    errno.ECONNRESET: Reason.RESET,
    errno.EHOSTUNREACH: Reason.UNREACHABLE,
    errno.ENETUNREACH: Reason.UNREACHABLE,
    errno.EHOSTDOWN: Reason.UNREACHABLE,
    errno.ETIMEDOUT: Reason.TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class _Meaning:
    error: Callable[..., DriverError]
    text: str
    remedy: str


_MEANINGS: Mapping[Reason, _Meaning] = {
    Reason.ALREADY: _Meaning(
        Transient, "a session that was there a moment ago has gone", "The call is repeated by itself."
    ),
    Reason.REFUSED: _Meaning(
        Transient, "the portal refused the connection", "Is the NVMe/TCP server running and listening on that port?"
    ),
    Reason.UNREACHABLE: _Meaning(
        Transient, "the portal cannot be reached", "Look at the network between this node and the array."
    ),
    Reason.TIMED_OUT: _Meaning(
        Transient, "the portal did not answer in time", "Is the array up, and does a firewall drop the port?"
    ),
    Reason.RESET: _Meaning(Transient, "the portal closed the connection", "Is the array restarting?"),
    Reason.BUSY: _Meaning(Transient, "the kernel was not able to connect just now", "Look at dmesg on this node."),
    Reason.REJECTED: _Meaning(
        FailedPrecondition,
        "the array does not let this host connect: the NQN is unknown there, or this host is not allowed",
        "Look whether the volume is exported at that portal to this host's NQN; dmesg on this node tells which it is.",
    ),
    Reason.UNRESOLVED: _Meaning(
        Transient, "the portal's name cannot be resolved", "Look at the node's DNS, or give the array's IP address."
    ),
    Reason.INVALID: _Meaning(
        InvalidArgument,
        "the kernel or nvme-cli does not take the connection parameters",
        "Compare the StorageClass parameters with what dmesg on this node complains about.",
    ),
    Reason.NO_MODULE: _Meaning(
        FailedPrecondition,
        "the kernel has no NVMe/TCP host",
        "Run modprobe nvme-tcp on the node, and load it at every start from /etc/modules-load.d.",
    ),
    Reason.FORBIDDEN: _Meaning(
        FailedPrecondition, "this process may not connect", "The driver has to run as root in a privileged container."
    ),
    Reason.UNTOLD: _Meaning(Transient, "the connect failed", "Look at dmesg on this node."),
}


def classify(text: str) -> tuple[Reason, str]:
    """The reason in what nvme-cli printed, and the line that tells it; UNTOLD and "" when none does.

    The first telling line counts: 2.3 prints the errno first and then a general line, and both print their whole
    usage, with words like "timeout" in it, after a complaint about an option.
    """
    for line in text.splitlines():
        lowered = line.lower()
        for phrase, reason in _PHRASES:
            if phrase in lowered:
                return reason, line.strip()
    return Reason.UNTOLD, ""


def failure(reason: Reason, portal: str, nqn: str, detail: str) -> DriverError:
    """The error to raise: ``Transient`` when another attempt may help. ``detail`` is the tool's own last line."""
    meaning = _MEANINGS[reason]
    return meaning.error(f"cannot connect {nqn} at {portal}: {meaning.text} ({detail})", remedy=meaning.remedy)


async def ask_portal(address: str, port: int) -> Reason:
    """What a plain TCP connection to the portal shows: REJECTED when it is made, because then the array was
    reached and it was the array that said no; else the network's reason."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await asyncio.get_running_loop().sock_connect(probe, (address, port))
        except TimeoutError:
            return Reason.TIMED_OUT
        except OSError as error:
            return _BY_ERRNO.get(error.errno or 0, Reason.UNTOLD)
    return Reason.REJECTED
