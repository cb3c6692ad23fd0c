"""Asks a portal, in user space and without a session, whether it speaks NVMe/TCP; tells what stands in the way.

Source: NVM Express TCP Transport Specification 1.0, sections 3.5 (PDUs) and 3.6.2 (ICReq, ICResp, H2CTermReq,
C2HTermReq); connect(2), tcp(7) and socket(7) for what this machine says. The target sees a connection that is closed
after its initialisation; no controller is made.
"""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial

from rds_csi.errors import DriverError
from rds_csi.workers import Workers

# Type, flags, HLEN, PDO, PLEN, PFV, HPDA (or CPDA), DGST, MAXR2T (or MAXH2CDATA), reserved: 128 bytes.
_IC = struct.Struct("<BBBBIHBBI112x")
_ICREQ = _IC.pack(0x00, 0, _IC.size, 0, _IC.size, 0, 0, 0, 0)
_ICRESP_TYPE = 0x01
_C2H_TERM_REQ_TYPE = 0x03
# The common header, and the fatal error status that follows it in a C2HTermReq.
_TERM = struct.Struct("<BBBBIH")

# From a host name and a port to an IP address; blocking.
Resolve = Callable[[str, int], str]
# What connect(2) takes: address and port, and for IPv6 flow and scope.
Sockaddr = tuple[object, ...]


class PortalState(Enum):
    """What a portal turned out to be."""

    SPEAKS = "speaks NVMe/TCP"
    REFUSED = "refused the connection"
    UNREACHABLE = "cannot be reached"
    SILENT = "does not answer"
    MUTE = "accepts connections, but does not answer an NVMe/TCP initialisation"
    CLOSED = "closes the connection instead of answering an NVMe/TCP initialisation"
    OTHER = "is something else than an NVMe/TCP portal"
    UNRESOLVED = "has a name that cannot be resolved"
    NO_INTERFACE = "is to be asked through an interface that this node does not have"
    NOT_ASKED = "could not be asked"


_REMEDIES = {
    PortalState.SPEAKS: "",
    PortalState.REFUSED: "Start the NVMe/TCP server there, or correct the port (the usual one is 4420).",
    PortalState.UNREACHABLE: "Look at this node's interface to the storage network, at its filters of what it sends, "
    "and at: ip route get ADDRESS",
    PortalState.SILENT: "Is the array up? If so, a firewall on the way drops the port, or the address is wrong.",
    PortalState.MUTE: "Restart the NVMe/TCP service of the array; if it is overloaded, wait. A firewall that "
    "answers in the array's place looks the same.",
    PortalState.CLOSED: "Look at the array's log: it is restarting, at its limit of connections, or wants TLS.",
    PortalState.OTHER: "Correct the port: another service listens there.",
    PortalState.UNRESOLVED: "Look at the node's DNS, or give the array's IP address.",
    PortalState.NO_INTERFACE: "Set up the interface, or change hostIface.",
    PortalState.NOT_ASKED: "Repeat it as root; if it stays so, close programs that use up this machine's descriptors "
    "or memory.",
}

# What connect(2) says, where that is not UNREACHABLE.
_BY_ERRNO: Mapping[int, PortalState] = {
    errno.ECONNREFUSED: PortalState.REFUSED,
    errno.ECONNRESET: PortalState.CLOSED,
    errno.ECONNABORTED: PortalState.CLOSED,
    errno.ETIMEDOUT: PortalState.SILENT,
    errno.ENODEV: PortalState.NO_INTERFACE,
    # This machine's own shortage, which says nothing about the portal.
    errno.EMFILE: PortalState.NOT_ASKED,
    errno.ENFILE: PortalState.NOT_ASKED,
    errno.ENOBUFS: PortalState.NOT_ASKED,
    errno.ENOMEM: PortalState.NOT_ASKED,
}


@dataclass(frozen=True, slots=True)
class PortalAnswer:
    """The outcome of one probe. ``detail`` is what was seen, "" when the state says it all."""

    address: str
    port: int
    state: PortalState
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether a host can begin to connect there."""
        return self.state is PortalState.SPEAKS

    @property
    def message(self) -> str:
        """What was seen, for people."""
        return f"{self.state.value} ({self.detail})" if self.detail else self.state.value

    @property
    def remedy(self) -> str:
        """What to do next; "" when all is well."""
        return _REMEDIES[self.state].replace("ADDRESS", self.address)


class _Failed(Exception):
    """The probe is at its end, with this state."""

    def __init__(self, state: PortalState, detail: str = "") -> None:
        super().__init__(detail)
        self.state = state
        self.detail = detail


def resolve(name: str, port: int) -> str:
    """The first address of ``name``, which is what a connect would use. OSError (socket.gaierror) when it has none."""
    return str(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][4][0])


async def probe_portal(
    address: str,
    port: int,
    timeout: float,
    *,
    host_iface: str = "",
    resolve: Resolve = resolve,
    workers: Workers | None = None,
) -> PortalAnswer:
    """Connect to ``address`` (an IP address or a host name), exchange ICReq and ICResp, and close; at most
    ``timeout`` seconds in all. ``host_iface``: the only interface to go through. Never raises: each failure is an
    answer. Only a name takes a thread."""
    # What the time is spent on, and so what a timeout means.
    step = PortalState.UNRESOLVED
    try:
        async with asyncio.timeout(timeout):
            numeric = _numeric(address, port)
            destination = numeric or await _resolved(address, port, resolve, workers or Workers(), timeout)
            step = PortalState.SILENT
            with _socket_for(destination, host_iface) as connection:
                await _connect(connection, destination)
                step = PortalState.MUTE
                await _initialise(connection)
    except TimeoutError:
        return PortalAnswer(address, port, step, f"nothing within {timeout:g} s")
    except _Failed as failed:
        return PortalAnswer(address, port, failed.state, failed.detail)
    return PortalAnswer(address, port, PortalState.SPEAKS, "" if numeric else str(destination[0]))


def state_of(number: int) -> PortalState:
    """What the errno of a connect(2) tells of the portal.

    UNREACHABLE unless known better: also EACCES (a prohibit route), EINVAL (a blackhole route) and EPERM (a filter
    of what this host sends). These are the network policy of this host and may be lifted; that this process lacks
    rights they do not say, because connect(2) over TCP needs none.
    """
    return _BY_ERRNO.get(number, PortalState.UNREACHABLE)


def _numeric(address: str, port: int) -> Sockaddr | None:
    """Where to connect to, with its scope where a link-local IPv6 address names one; None for a host name."""
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return found[0][4]


async def _resolved(name: str, port: int, resolve: Resolve, workers: Workers, timeout: float) -> Sockaddr:
    try:
        # A thread of its own: one that sticks in a resolver must not keep the process from ending.
        ip = await workers.run(partial(resolve, name, port), timeout=timeout, key=f"name {name}")
    except DriverError as error:
        raise _Failed(PortalState.UNRESOLVED, error.message) from None
    except (OSError, UnicodeError) as error:
        raise _Failed(PortalState.UNRESOLVED, _text(error)) from None
    destination = _numeric(ip, port)
    if destination is None:
        raise _Failed(PortalState.UNRESOLVED, f"{ip!r} is no IP address")
    return destination


def _socket_for(destination: Sockaddr, host_iface: str) -> socket.socket:
    """A socket that goes only through ``host_iface``, where one is given: as the kernel's own will."""
    family = socket.AF_INET6 if ":" in str(destination[0]) else socket.AF_INET
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
            made.setblocking(False)
            if host_iface:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, host_iface.encode() + b"\0")
        except OSError as error:
            # Nothing of it comes from the network; before Linux 5.7 only root might choose an interface.
            known = {errno.ENODEV: PortalState.NO_INTERFACE, errno.EAFNOSUPPORT: PortalState.UNREACHABLE}
            raise _Failed(known.get(error.errno or 0, PortalState.NOT_ASKED), _text(error, host_iface)) from None
        stack.pop_all()
    return made


async def _connect(connection: socket.socket, destination: Sockaddr) -> None:
    try:
        await asyncio.get_running_loop().sock_connect(connection, destination)
    except OSError as error:
        raise _Failed(state_of(error.errno or 0), _text(error)) from None


async def _initialise(connection: socket.socket) -> None:
    """Send ICReq and judge what comes; _Failed unless it is an ICResp."""
    loop = asyncio.get_running_loop()
    answer = b""
    try:
        await loop.sock_sendall(connection, _ICREQ)
        while not _is_complete(answer):
            more = await loop.sock_recv(connection, _IC.size - len(answer))
            if not more:
                break
            answer += more
    except OSError as error:
        if not answer:
            raise _Failed(PortalState.CLOSED, _text(error)) from None
    _judge(answer)


def _is_complete(answer: bytes) -> bool:
    """Whether enough has come to judge it; the first byte is enough of what is neither of the two."""
    if not answer:
        return False
    return len(answer) >= {_ICRESP_TYPE: _IC.size, _C2H_TERM_REQ_TYPE: _TERM.size}.get(answer[0], 1)


def _judge(answer: bytes) -> None:
    """_Failed unless ``answer`` is an ICResp that Linux takes: it looks at what is looked at here
    (nvme_tcp_init_connection of drivers/nvme/host/tcp.c), and nothing may be refused here that it would connect."""
    if not answer:
        raise _Failed(PortalState.CLOSED)
    if not _is_complete(answer):
        raise _Failed(PortalState.CLOSED, f"after {len(answer)} bytes of an answer")
    if answer[0] == _C2H_TERM_REQ_TYPE:
        # It speaks NVMe/TCP, but to nobody: what was asked for is the plainest that there is, so that the trouble is
        # the controller's own and may pass. Linux fails a connect for it with EINVAL, as if an option were wrong.
        status = _TERM.unpack_from(answer)[5]
        raise _Failed(PortalState.CLOSED, f"C2HTermReq with fatal error status {status:#04x}")
    if answer[0] == _ICRESP_TYPE:
        _, _, _, _, length, version, *_ = _IC.unpack(answer)
        if (length, version) == (_IC.size, 0):
            return
    raise _Failed(PortalState.OTHER, f"it answers {answer[:16]!r}")


def _text(error: Exception, what: str = "") -> str:
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return f"{what}: {text}" if what else text
