"""What a portal turns out to be: real sockets of this machine, each good or broken in its own way."""

import asyncio
import contextlib
import errno
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rds_csi.nvme.portal_probe import PortalAnswer, PortalState, probe_portal, state_of
from tests.support.rpc import open_descriptors

# Far above what the loopback device takes; what is awaited ends long before.
LONG = 20.0
# For what never ends by itself.
SHORT = 0.2
LOOPBACKS = ("127.0.0.1", "::1")

ICRESP = struct.pack("<BBBBIHBBI112x", 0x01, 0, 128, 0, 128, 0, 0, 0, 1 << 17)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(address: str, handler: Handler) -> AsyncIterator[int]:
    """A server whose connections ``handler`` treats and which are closed after it; the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await handler(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(treat(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(accept, address, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(*parts: bytes) -> Handler:
    """Read the ICReq, send the parts one after the other, wait for the peer to go."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(128)
        for part in parts:
            writer.write(part)
            await writer.drain()
        await reader.read()

    return handler


async def ask(address: str, handler: Handler, timeout: float = LONG) -> PortalAnswer:
    async with listening(address, handler) as port:
        return await probe_portal(address, port, timeout)


def free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_a_portal_that_answers_the_initialisation_speaks_nvme_tcp(address: str) -> None:
    requests = []
    closed = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readexactly(128))
        writer.write(ICRESP)
        # Nothing is asked beyond the initialisation, and the connection is closed.
        requests.append(await reader.read())
        closed.set()

    before = open_descriptors()
    async with listening(address, handler) as port:
        answer = await probe_portal(address, port, LONG)
        await asyncio.wait_for(closed.wait(), LONG)
    assert (answer.ok, answer.state, answer.message, answer.remedy) == (
        True,
        PortalState.SPEAKS,
        "speaks NVMe/TCP",
        "",
    )
    # Type, flags, header length, data offset, length (section 3.6.2.2), and all the rest zero.
    assert requests == [bytes([0, 0, 128, 0, 128, 0, 0, 0]) + bytes(120), b""]
    assert open_descriptors() <= before + 1


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_an_answer_in_pieces_is_put_together(address: str) -> None:
    assert (await ask(address, answering(ICRESP[:1], ICRESP[1:70], ICRESP[70:]))).ok


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_a_port_without_a_listener_refuses(address: str) -> None:
    answer = await probe_portal(address, free_port(address), LONG)
    assert (answer.state, answer.detail) == (PortalState.REFUSED, "Connection refused")


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_a_portal_that_drops_the_syn_does_not_answer(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as sockets:
        server = sockets.enter_context(socket.create_server((address, 0), family=family, backlog=0))
        destination = server.getsockname()
        # Nobody accepts: Linux drops the SYN when the queue is full (tcp_conn_request of net/ipv4/tcp_input.c).
        for _ in range(8):
            filler = sockets.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            filler.connect_ex(destination)
        answer = await probe_portal(address, destination[1], SHORT)
    assert (answer.state, answer.detail) == (PortalState.SILENT, "nothing within 0.2 s")
    assert "firewall" in answer.remedy


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_a_portal_that_accepts_and_stays_mute_is_told_from_one_that_drops(address: str) -> None:
    assert (await ask(address, answering(), SHORT)).state is PortalState.MUTE


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_half_an_answer_is_none(address: str) -> None:
    assert (await ask(address, answering(ICRESP[:127]), SHORT)).state is PortalState.MUTE


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_a_portal_that_closes_at_once_is_told(address: str) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(128)

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert (await ask(address, close)).state is PortalState.CLOSED
    assert (await ask(address, reset)).state is PortalState.CLOSED


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00",
        ICRESP[:4] + b"\x7f" + ICRESP[5:],
        ICRESP[:8] + b"\x01" + ICRESP[9:],
    ],
)
async def test_a_portal_that_answers_something_else_is_told_with_its_answer(garbage: bytes) -> None:
    answer = await ask("127.0.0.1", answering(garbage))
    assert answer.state is PortalState.OTHER
    assert repr(garbage[:1])[2:-1] in answer.detail


async def test_a_portal_that_terminates_tells_its_status() -> None:
    term = struct.pack("<BBBBIH14x", 0x03, 0, 24, 0, 24, 0x05)
    answer = await ask("127.0.0.1", answering(term))
    assert (answer.state, answer.detail) == (PortalState.CLOSED, "C2HTermReq with fatal error status 0x05")


@pytest.mark.parametrize("part", [ICRESP[:1], ICRESP[:127], b"\x03" + ICRESP[1:9]])
async def test_a_portal_that_closes_in_the_middle_of_its_answer_may_be_restarting(part: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(128)
        writer.write(part)

    answer = await ask("127.0.0.1", handler)
    assert (answer.state, answer.detail) == (PortalState.CLOSED, f"after {len(part)} bytes of an answer")


async def test_what_linux_does_not_look_at_is_not_held_against_a_portal() -> None:
    # Flags, header length and data offset: nvme_tcp_init_connection() of drivers/nvme/host/tcp.c.
    assert (await ask("127.0.0.1", answering(b"\x01\x01\x40\x01" + ICRESP[4:]))).ok


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (errno.ECONNREFUSED, PortalState.REFUSED),
        (errno.ECONNRESET, PortalState.CLOSED),
        (errno.ECONNABORTED, PortalState.CLOSED),
        (errno.ETIMEDOUT, PortalState.SILENT),
        (errno.ENODEV, PortalState.NO_INTERFACE),
        (errno.EMFILE, PortalState.NOT_ASKED),
        (errno.ENOBUFS, PortalState.NOT_ASKED),
        (errno.EHOSTUNREACH, PortalState.UNREACHABLE),
        (errno.ENETUNREACH, PortalState.UNREACHABLE),
        (errno.EHOSTDOWN, PortalState.UNREACHABLE),
        # ip route add prohibit, ip route add blackhole, a filter of this host.
        (errno.EACCES, PortalState.UNREACHABLE),
        (errno.EINVAL, PortalState.UNREACHABLE),
        (errno.EPERM, PortalState.UNREACHABLE),
    ],
)
def test_the_errno_of_a_connect_tells_the_state(number: int, state: PortalState) -> None:
    assert state_of(number) is state


async def test_a_policy_of_this_host_is_told_in_the_kernels_words() -> None:
    # A link-local address without its interface: tcp_v6_connect() of net/ipv6/tcp_ipv6.c gives EINVAL, as a blackhole
    # route does.
    answer = await probe_portal("fe80::1", 4420, LONG)
    assert (answer.state, answer.detail) == (PortalState.UNREACHABLE, "Invalid argument")


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_a_portal_is_asked_through_the_interface_that_is_given(address: str) -> None:
    async with listening(address, answering(ICRESP)) as port:
        assert (await probe_portal(address, port, LONG, host_iface="lo")).ok


async def test_an_interface_that_is_not_there_is_told_and_leaves_no_socket() -> None:
    before = open_descriptors()
    answer = await probe_portal("127.0.0.1", 4420, LONG, host_iface="nothere0")
    assert (answer.state, answer.detail) == (PortalState.NO_INTERFACE, "nothere0: No such device")
    assert "hostIface" in answer.remedy
    assert open_descriptors() == before


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_an_address_is_asked_without_a_thread(address: str) -> None:
    def never(name: str, port: int) -> str:
        raise AssertionError(name)

    before = set(threading.enumerate())
    async with listening(address, answering(ICRESP)) as port:
        assert (await probe_portal(address, port, LONG, resolve=never)).message == "speaks NVMe/TCP"
    # Threads of earlier tests may end meanwhile.
    assert not set(threading.enumerate()) - before


async def test_a_resolver_that_gives_no_address_is_told() -> None:
    answer = await probe_portal("array.example", 4420, LONG, resolve=lambda name, port: "array.example")
    assert (answer.state, answer.detail) == (PortalState.UNRESOLVED, "'array.example' is no IP address")


async def test_an_unreachable_network_is_told_with_a_command_to_look_with() -> None:
    # A multicast group: tcp_v4_connect() of net/ipv4/tcp_ipv4.c gives ENETUNREACH whatever the routes are.
    answer = await probe_portal("224.0.0.1", 4420, SHORT)
    assert answer.state is PortalState.UNREACHABLE
    assert "ip route get 224.0.0.1" in answer.remedy


async def test_a_name_is_resolved_and_its_address_told() -> None:
    async with listening("127.0.0.1", answering(ICRESP)) as port:
        answer = await probe_portal("array.example", port, LONG, resolve=lambda name, port: "127.0.0.1")
    assert (answer.ok, answer.message) == (True, "speaks NVMe/TCP (127.0.0.1)")


async def test_a_name_that_cannot_be_resolved_is_told() -> None:
    def unknown(name: str, port: int) -> str:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    answer = await probe_portal("array.example", 4420, LONG, resolve=unknown)
    assert (answer.state, answer.detail) == (PortalState.UNRESOLVED, "Name or service not known")
    assert "DNS" in answer.remedy


async def test_a_resolver_that_hangs_does_not_hold_the_probe() -> None:
    let_go = threading.Event()

    def hang(name: str, port: int) -> str:
        let_go.wait(LONG)
        return "127.0.0.1"

    answer = await probe_portal("array.example", 4420, SHORT, resolve=hang)
    let_go.set()
    assert answer.state is PortalState.UNRESOLVED


async def test_a_cancelled_probe_closes_its_connection() -> None:
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(128)
        probe.cancel()
        await reader.read()
        gone.set()

    async with listening("127.0.0.1", handler) as port:
        probe = asyncio.create_task(probe_portal("127.0.0.1", port, LONG))
        with pytest.raises(asyncio.CancelledError):
            await probe
        await asyncio.wait_for(gone.wait(), LONG)


def test_every_state_but_the_good_one_has_a_remedy() -> None:
    answers = [PortalAnswer("192.0.2.1", 4420, state) for state in PortalState]
    assert [answer.state for answer in answers if not answer.remedy] == [PortalState.SPEAKS]


@hypothesis_settings(max_examples=50, deadline=None)
@given(answer=st.binary(max_size=200))
def test_whatever_bytes_come_the_probe_ends_with_an_answer(answer: bytes) -> None:
    async def then_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(128)
        writer.write(answer)

    seen = asyncio.run(ask("127.0.0.1", then_close))
    assert seen.ok == (len(answer) >= 128 and answer[0] == 1 and answer[4:10] == ICRESP[4:10])
