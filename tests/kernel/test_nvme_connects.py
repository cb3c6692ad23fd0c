"""Connects on a real kernel, through both links: outages, several portals, mute ones, cancellation, other values."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rds_csi.connectors.fabrics import Fabrics
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.deadline import set_deadline
from rds_csi.errors import Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.identity import HostIdentity
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers
from tests.kernel.conftest import MakeTarget
from tests.support.nvme_host import (
    CONFIG,
    HOST,
    controllers_of,
    is_live,
    run,
    second_portal,
    target_of,
)
from tests.support.waiting import wait_until


async def test_a_session_that_is_away_is_waited_for(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    exported = nvmet_target()
    target = target_of(exported)
    first = await connector.connect(target, CONFIG)
    exported.break_link()
    await asyncio.to_thread(wait_until, lambda: not is_live(exported.nqn), "the session is away")
    assert exported.nqn in await connector.health(target)

    asyncio.get_running_loop().call_later(1.0, exported.restore)
    again = await connector.connect(target, CONFIG)

    # A kernel that honours "do not retry" has given the session up: then this call made a new one.
    assert again.device.size == first.device.size
    await connector.disconnect(target)


async def test_a_target_that_is_away_at_first_is_connected_by_a_later_attempt(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    exported.break_link()
    asyncio.get_running_loop().call_later(0.7, exported.restore)

    connected = await connector.connect(target_of(exported), CONFIG)

    assert connected.created
    await connector.disconnect(target_of(exported))


async def test_a_target_that_stays_away_is_unavailable_with_portal_and_attempts(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    exported.break_link()

    with pytest.raises(Unavailable, match=f"{exported.port}.*refused.*after 3 attempts"):
        await connector.connect(target_of(exported), CONFIG)

    assert len(controllers_of(exported.nqn)) == 0
    exported.restore()


async def test_a_session_that_is_away_is_disconnected(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    exported = nvmet_target()
    target = target_of(exported)
    await connector.connect(target, CONFIG)
    exported.break_link()
    await asyncio.to_thread(wait_until, lambda: not is_live(exported.nqn), "the session is away")

    await connector.disconnect(target)

    assert len(controllers_of(exported.nqn)) == 0
    exported.restore()


async def test_one_portal_of_two_is_enough(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    # Nobody listens on the second address.
    target = target_of(nvmet_target(), addresses=("127.0.0.2", "127.0.0.1"))
    connected = await connector.connect(target, CONFIG)
    assert connected.created
    assert len(controllers_of(target.nqn)) == 1
    await connector.disconnect(target)


async def test_two_portals_are_two_paths_of_one_device_where_multipath_joins_them(
    connector: NvmeConnector, nvmet_target: MakeTarget, multipath: bool
) -> None:
    exported = nvmet_target()
    target = target_of(exported, addresses=("127.0.0.1", "127.0.0.2"))
    with second_portal(exported, "127.0.0.2"):
        connected = await connector.connect(target, CONFIG)

        assert len(controllers_of(target.nqn)) == (2 if multipath else 1)
        assert connected.device.size == exported.size
        found = await connector.target_of(connected.device.number)
        assert isinstance(found, NvmeTarget)
        assert set(found.addresses) == set(target.addresses if multipath else target.addresses[:1])
        assert (await connector.connect(target, CONFIG)).device == connected.device
        await connector.disconnect(target)
        assert len(controllers_of(target.nqn)) == 0


async def test_a_cancelled_connect_leaves_nothing_within_a_second(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    target = target_of(exported)
    for delay in (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        call = asyncio.create_task(connector.connect(target, CONFIG))
        await asyncio.sleep(delay)
        call.cancel()
        begun = time.monotonic()
        done, _ = await asyncio.wait({call}, timeout=10)
        assert done
        assert time.monotonic() - begun < 1
        if call.cancelled():
            assert len(controllers_of(exported.nqn)) == 0
        else:
            await connector.disconnect(target)


@contextlib.contextmanager
def mute_portal() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


async def test_a_mute_portal_is_left_at_the_callers_deadline(connector: NvmeConnector) -> None:
    with mute_portal() as port:
        set_deadline(time.monotonic() + 8)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}.*did not answer in time.*after 2 attempts"):
            await connector.connect(NvmeTarget("nqn.2026-01.io.example:mute", ("127.0.0.1",), port), CONFIG)
        assert time.monotonic() - begun < 8
        set_deadline(None)


async def test_a_cancelled_connect_to_a_mute_portal_ends_within_a_second(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    other = target_of(nvmet_target())
    with mute_portal() as port:
        mute = NvmeTarget("nqn.2026-01.io.example:mute", ("127.0.0.1",), port)
        call = asyncio.create_task(connector.connect(mute, CONFIG))
        await asyncio.sleep(1.0)
        # It keeps nobody waiting, although the kernel makes one connect after the other.
        begun = time.monotonic()
        await connector.connect(other, CONFIG)
        assert time.monotonic() - begun < 3
        assert not call.done()
        call.cancel()
        begun = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.monotonic() - begun < 1
        assert len(controllers_of(mute.nqn)) == 0
        await connector.disconnect(other)


async def test_a_connect_that_waits_in_the_kernel_is_killed_within_a_second(scratch: Path) -> None:
    link = Fabrics(ProcessRunner(), Workers(), HOST)
    identity = HostIdentity(
        "nqn.2014-08.org.nvmexpress:uuid:" + "1" * 8 + "-2222-3333-4444-555555555555",
        "11111111-2222-3333-4444-555555555555",
    )
    with mute_portal() as port:
        mute = NvmeTarget("nqn.2026-01.io.example:mute", ("127.0.0.1",), port)
        call = asyncio.create_task(link.connect(mute, "127.0.0.1", CONFIG, identity))
        await asyncio.sleep(1.0)
        assert not call.done()
        call.cancel()
        begun = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.monotonic() - begun < 1
    assert len(controllers_of(mute.nqn)) == 0


async def test_values_in_force_follow_the_config_of_a_later_stage(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    target = target_of(nvmet_target())
    await connector.connect(target, ConnectionConfig(ctrl_loss_tmo=600, reconnect_delay=10))

    again = await connector.connect(target, ConnectionConfig(ctrl_loss_tmo=78, reconnect_delay=5, fast_io_fail_tmo=33))

    assert not again.created
    (controller,) = controllers_of(target.nqn)
    assert (controller.ctrl_loss_tmo, controller.reconnect_delay, controller.fast_io_fail_tmo) == (80, 5, 33)
    await connector.connect(target, ConnectionConfig())
    (controller,) = controllers_of(target.nqn)
    assert (controller.ctrl_loss_tmo, controller.reconnect_delay, controller.fast_io_fail_tmo) == (-1, 5, -1)
    await connector.disconnect(target)


async def test_a_session_of_another_host_identity_is_made_anew_when_nobody_uses_it(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    target = target_of(exported)
    strange = "nqn.2014-08.org.nvmexpress:uuid:99999999-8888-4777-8666-555555555555"
    await asyncio.to_thread(
        run,
        "nvme",
        "connect",
        "-t",
        "tcp",
        "-a",
        target.addresses[0],
        "-s",
        str(target.port),
        "-n",
        target.nqn,
        "-q",
        strange,
        "-I",
        "99999999-8888-4777-8666-555555555555",
    )

    assert (await connector.connect(target, CONFIG)).created

    assert [controller.hostnqn for controller in controllers_of(target.nqn)] == [connector.host_nqn]
    await connector.disconnect(target)


async def test_an_attempt_connects_only_the_portal_that_is_missing(
    connector: NvmeConnector, nvmet_target: MakeTarget, multipath: bool
) -> None:
    exported = nvmet_target()
    await connector.connect(target_of(exported), CONFIG)
    target = target_of(exported, addresses=("127.0.0.1", "127.0.0.2"))
    with second_portal(exported, "127.0.0.2"):
        await connector.attempt(target, CONFIG)
        assert len(controllers_of(target.nqn)) == (2 if multipath else 1)
        await connector.attempt(target, CONFIG)
        assert len(controllers_of(target.nqn)) == (2 if multipath else 1)
        await connector.disconnect(target)
    assert len(controllers_of(target.nqn)) == 0


async def test_a_session_whose_array_has_moved_is_connected_where_it_is_now(
    connector: NvmeConnector, nvmet_target: MakeTarget, kernel_release: tuple[int, int]
) -> None:
    exported = nvmet_target()
    target = target_of(exported)
    # For a while without the old portal's refusals counting: a kernel that honours "do not retry" gives up.
    await connector.connect(target, ConnectionConfig(reconnect_delay=60))
    exported.break_link()
    await asyncio.to_thread(wait_until, lambda: not is_live(exported.nqn), "the session is away")
    with second_portal(exported, "127.0.0.2"):
        moved = target_of(exported, addresses=("127.0.0.2",))
        connected = await connector.connect(moved, CONFIG)
        assert connected.device.size == exported.size
        assert len(controllers_of(exported.nqn)) == 1
        await connector.disconnect(moved)
    exported.restore()


async def test_dropping_names_its_controllers(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    target = target_of(nvmet_target())
    await connector.connect(target, CONFIG)
    session = await connector.resolver.session(target.nqn)
    assert session is not None
    await connector.drop(session)
    assert len(controllers_of(target.nqn)) == 0


async def test_two_connects_at_once_make_one_session(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    target = target_of(nvmet_target())

    first, second = await asyncio.gather(connector.connect(target, CONFIG), connector.connect(target, CONFIG))

    assert first.device == second.device
    assert [first.created, second.created].count(True) == 1
    assert len(controllers_of(target.nqn)) == 1
    await connector.disconnect(target)
