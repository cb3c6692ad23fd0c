"""Uevents: the kernel's format, and sleeps that end early."""

import asyncio
import errno
import logging
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.nvme.uevents import Bell, Uevent, Uevents, open_kernel_uevents, parse
from rds_csi.retry import Clock, poll
from tests.support.uevents import UeventSource, message

DEVPATH = "/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1"
ADDED = Uevent("add", DEVPATH, "block", "nvme0n1")
# Longer than any test may take: a sleep that ends was ended.
LONG = 3600.0


@pytest.fixture
def source() -> Iterator[UeventSource]:
    made = UeventSource()
    yield made
    made.close()


def everything(_: Uevent) -> bool:
    return True


async def rings(bell: Bell) -> bool:
    """Whether the bell rings now."""
    try:
        async with asyncio.timeout(0.3):
            await bell.sleep(LONG)
    except TimeoutError:
        return False
    return True


def test_a_message_of_the_kernel_is_read() -> None:
    assert parse(message("add", DEVPATH, "block", "nvme0n1")) == ADDED
    changed = parse(b"change@/devices/x\0ACTION=change\0DEVPATH=/devices/x\0SUBSYSTEM=nvme\0NVME_EVENT=a=b\0SEQNUM=9\0")
    assert changed == Uevent("change", "/devices/x", "nvme", "")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"libudev\0\xfe\xed\xca\xfe" + bytes(32),
        b"add@/devices/x\0",
        b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/y\0SUBSYSTEM=block\0",
        b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0",
        message("add", DEVPATH, "block", "nvme0n1")[:-1],
    ],
    ids=["empty", "zero", "udev", "head-only", "other-path", "no-subsystem", "torn"],
)
def test_what_is_not_a_whole_message_of_the_kernel_is_nothing(data: bytes) -> None:
    assert parse(data) is None


@given(data=st.binary(max_size=200))
def test_any_bytes_are_parsed_without_an_error(data: bytes) -> None:
    parse(data)
    parse(b"add@/x\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=" + data + b"\0")


async def test_a_sleep_ends_at_a_wanted_uevent(source: UeventSource) -> None:
    with source.uevents.listening(lambda event: event == ADDED) as bell:
        waiting = asyncio.create_task(bell.sleep(LONG))
        await asyncio.sleep(0)
        source.send("add", DEVPATH + "/other", "block", "nvme0n1p1")
        source.send("add", DEVPATH, "block", "nvme0n1")
        async with asyncio.timeout(5):
            await waiting
        assert not await rings(bell)


async def test_a_uevent_between_two_sleeps_is_kept_once(source: UeventSource) -> None:
    with source.uevents.listening(everything) as bell:
        source.send("add", DEVPATH, "block")
        source.send("change", DEVPATH, "block")
        await asyncio.sleep(0.02)
        assert await rings(bell)
        assert not await rings(bell)


async def test_a_sleep_without_uevents_lasts_its_time(source: UeventSource) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with source.uevents.listening(everything, sleep) as bell:
        await bell.sleep(0.5)
    assert slept == [0.5]


async def test_a_poll_looks_at_once_when_the_bell_rings(source: UeventSource) -> None:
    there: list[str] = []

    async def look() -> str | None:
        return next(iter(there), None)

    async def for_ever(_: float) -> None:
        await asyncio.Event().wait()

    with source.uevents.listening(everything, for_ever) as bell:
        polling = asyncio.create_task(poll(look, timeout=LONG, clock=Clock(sleep=bell.sleep)))
        await asyncio.sleep(0)
        there.append("device")
        source.send("add", DEVPATH, "block")
        async with asyncio.timeout(5):
            assert await polling == "device"


async def test_messages_of_other_senders_do_not_count(source: UeventSource) -> None:
    with source.uevents.listening(everything) as bell:
        assert source.receiver is not None
        source.receiver.port = 4242
        source.send("add", DEVPATH, "block")
        assert not await rings(bell)


async def test_listeners_share_one_socket_and_each_hears_its_own(source: UeventSource) -> None:
    with (
        source.uevents.listening(lambda event: event.subsystem == "nvme") as nvme,
        source.uevents.listening(lambda event: event.subsystem == "block") as block,
    ):
        source.send("add", DEVPATH, "block")
        assert await rings(block)
        assert not await rings(nvme)
    assert source.opened == 1


async def test_the_socket_is_open_only_while_somebody_listens(source: UeventSource) -> None:
    for _ in range(2):
        with source.uevents.listening(everything):
            assert source.receiver is not None
            assert source.receiver.fileno() >= 0
        assert source.receiver.fileno() == -1
    assert source.opened == 2


async def test_an_overrun_rings_every_bell(source: UeventSource) -> None:
    with source.uevents.listening(lambda _: False) as first, source.uevents.listening(lambda _: False) as second:
        assert source.receiver is not None
        source.receiver.failures.append(OSError(errno.ENOBUFS, "No buffer space available"))
        source.send("add", DEVPATH, "block")
        await asyncio.sleep(0.02)
        assert await rings(first)
        assert await rings(second)
        assert source.receiver.fileno() >= 0


async def test_a_socket_that_fails_rings_and_is_given_up(
    source: UeventSource, caplog: pytest.LogCaptureFixture
) -> None:
    with source.uevents.listening(lambda _: False) as bell:
        assert source.receiver is not None
        source.receiver.failures.append(OSError(errno.EIO, "Input/output error"))
        source.send("add", DEVPATH, "block")
        assert await rings(bell)
        assert source.receiver.fileno() == -1
        await bell.sleep(0.001)
    assert "polled" in caplog.text


async def test_a_storm_leaves_room_for_others(source: UeventSource) -> None:
    with source.uevents.listening(everything) as bell:
        assert source.receiver is not None
        source.receiver.endless = message("change", DEVPATH, "block")
        source.send("change", DEVPATH, "block")
        assert await rings(bell)
        await asyncio.sleep(0.001)


async def test_without_a_socket_bells_sleep_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    def refuse() -> socket.socket:
        nonlocal asked
        asked += 1
        raise PermissionError(errno.EPERM, "Operation not permitted")

    uevents = Uevents(refuse)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with uevents.listening(everything) as bell:
                await bell.sleep(0.001)
    assert asked == 1
    assert len(caplog.records) == 1


async def test_a_cancelled_sleep_leaves_nothing_behind(source: UeventSource) -> None:
    before = asyncio.all_tasks()
    with source.uevents.listening(everything) as bell:
        sleeping = asyncio.create_task(bell.sleep(LONG))
        await asyncio.sleep(0)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
    assert asyncio.all_tasks() == before


async def test_closing_early_leaves_bells_that_sleep(source: UeventSource) -> None:
    with source.uevents.listening(everything) as bell:
        source.uevents.close()
        await bell.sleep(0.001)


async def test_the_kernels_own_socket_is_opened_or_polling_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    opened: list[socket.socket] = []

    def open_it() -> socket.socket:
        opened.append(open_kernel_uevents())
        return opened[0]

    with Uevents(open_it).listening(lambda _: False) as bell:
        await bell.sleep(0.001)
        assert opened or "polled" in caplog.text
    assert all(one.fileno() == -1 for one in opened)
