"""The nvme-cli connector on a real kernel: connect, find, grow, refuse, give up, disconnect."""

import asyncio
import contextlib
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rds_csi.connectors.nodes import BlockNodes
from rds_csi.connectors.nvme_cli import NvmeCli
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.errors import FailedPrecondition, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.host import HostPaths
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.sysfs import NvmeSysfs
from rds_csi.process import ProcessRunner
from rds_csi.retry import RetryPolicy
from rds_csi.workers import Workers
from tests.kernel.conftest import MakeTarget
from tests.support.nvmet_target import MIB, NVMET, NvmetTarget
from tests.support.waiting import wait_until

HOST = HostPaths()
# Short times: an outage is noticed at once and ended within a second.
CONFIG = ConnectionConfig(reconnect_delay=1, keep_alive_tmo=5)
TOOL_SECONDS = 60.0


@pytest.fixture
def connector(scratch: Path) -> NvmeConnector:
    runner = ProcessRunner()
    options = ConnectorOptions(runner, Workers(), HOST, str(scratch / "state"))
    return NvmeConnector(options, NvmeCli(runner), retry=RetryPolicy(attempts=3, first_delay=0.5))


def target_of(target: NvmetTarget, *, addresses: tuple[str, ...] = ()) -> NvmeTarget:
    return NvmeTarget(target.nqn, addresses or (target.address,), target.port, target.uuid)


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TOOL_SECONDS)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"


@contextlib.contextmanager
def second_portal(exported: NvmetTarget, address: str) -> Iterator[None]:
    """Export the subsystem at another address too, on the same port."""
    directory = NVMET / "ports" / "2000"
    directory.mkdir()
    portal = {"trtype": "tcp", "adrfam": "ipv4", "traddr": address, "trsvcid": str(exported.port)}
    for name, value in portal.items():
        (directory / f"addr_{name}").write_text(value)
    link = directory / "subsystems" / exported.nqn
    link.symlink_to(exported.subsystem)
    try:
        yield
    finally:
        link.unlink()
        directory.rmdir()


def controllers_of(nqn: str) -> int:
    session = NvmeSysfs(HOST).session(nqn)
    return len(session.controllers) if session is not None else 0


async def test_a_target_becomes_a_device_and_goes_again(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    exported = nvmet_target()
    target = target_of(exported)

    connected = await connector.connect(target, CONFIG)

    assert connected.created
    assert connected.device.size == exported.size
    assert BlockNodes().number_of(connected.device.path) == connected.device.number
    assert await connector.find(target) == connected.device
    assert await connector.target_of(connected.device.number) == target
    assert await connector.health(target) == ""
    again = await connector.connect(target, CONFIG)
    assert (again.device, again.created) == (connected.device, False)
    await connector.disconnect(target)
    assert await connector.find(target) is None
    assert controllers_of(exported.nqn) == 0
    await connector.disconnect(target)


async def test_every_option_is_in_force_in_the_kernel(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    target = target_of(nvmet_target())
    config = ConnectionConfig(
        # A multiple of reconnect_delay: the kernel keeps it as a number of attempts, rounded up.
        ctrl_loss_tmo=78,
        reconnect_delay=3,
        keep_alive_tmo=9,
        fast_io_fail_tmo=44,
        nr_io_queues=1,
        queue_size=64,
        hdr_digest=1,
        data_digest=1,
        tos=8,
    )

    await connector.connect(target, config)

    session = NvmeSysfs(HOST).session(target.nqn)
    assert session is not None
    (controller,) = session.controllers
    assert controller.hostnqn == connector.host_nqn
    values = (
        controller.ctrl_loss_tmo,
        controller.reconnect_delay,
        controller.keep_alive_tmo,
        controller.fast_io_fail_tmo,
    )
    assert values == (78, 3, 9, 44)
    directory = Path("/sys/class/nvme", controller.name)
    assert (directory / "queue_count").read_text().strip() == "2"
    assert (directory / "sqsize").read_text().strip() == "63"
    await connector.disconnect(target)


async def test_the_defaults_reconnect_for_ever(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    target = target_of(nvmet_target())
    await connector.connect(target, ConnectionConfig())
    session = NvmeSysfs(HOST).session(target.nqn)
    assert session is not None
    assert (session.controllers[0].ctrl_loss_tmo, session.controllers[0].reconnect_delay) == (-1, 5)
    await connector.disconnect(target)


async def test_a_session_that_is_away_is_waited_for(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    exported = nvmet_target()
    target = target_of(exported)
    first = await connector.connect(target, CONFIG)
    exported.break_link()
    await asyncio.to_thread(wait_until, lambda: not _is_live(exported.nqn), "the session is away")
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

    assert controllers_of(exported.nqn) == 0
    exported.restore()


async def test_a_host_that_is_not_allowed_fails_at_once(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    exported = nvmet_target()
    exported.allow_only("nqn.2026-01.io.example:somebody-else")
    begun = time.monotonic()

    with pytest.raises(FailedPrecondition, match="not allowed"):
        await connector.connect(target_of(exported), CONFIG)

    assert time.monotonic() - begun < 5
    assert controllers_of(exported.nqn) == 0


async def test_another_namespace_is_refused_and_its_session_is_undone(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    stranger = NvmeTarget(exported.nqn, (exported.address,), exported.port, str(uuid.uuid4()))

    with pytest.raises(FailedPrecondition, match=exported.uuid):
        await connector.connect(stranger, CONFIG)

    assert controllers_of(exported.nqn) == 0


async def test_another_namespace_leaves_a_session_that_was_there(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    await connector.connect(target_of(exported), CONFIG)
    stranger = NvmeTarget(exported.nqn, (exported.address,), exported.port, str(uuid.uuid4()))

    with pytest.raises(FailedPrecondition):
        await connector.connect(stranger, CONFIG)

    assert controllers_of(exported.nqn) == 1
    await connector.disconnect(target_of(exported))


async def test_a_mounted_device_is_not_disconnected(
    connector: NvmeConnector, nvmet_target: MakeTarget, scratch: Path
) -> None:
    target = target_of(nvmet_target())
    device = (await connector.connect(target, CONFIG)).device
    await asyncio.to_thread(run, "mkfs.ext4", "-q", device.path)
    mount_point = scratch / "mnt"
    await asyncio.to_thread(run, "mount", device.path, str(mount_point), "-o", "X-mount.mkdir")

    with pytest.raises(FailedPrecondition, match=f"mounted at {mount_point}"):
        await connector.disconnect(target)

    assert await connector.find(target) == device
    await asyncio.to_thread(run, "umount", str(mount_point))
    mount_point.rmdir()
    await connector.disconnect(target)


async def test_a_session_that_is_away_is_disconnected(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    exported = nvmet_target()
    target = target_of(exported)
    await connector.connect(target, CONFIG)
    exported.break_link()
    await asyncio.to_thread(wait_until, lambda: not _is_live(exported.nqn), "the session is away")

    await connector.disconnect(target)

    assert controllers_of(exported.nqn) == 0
    exported.restore()


async def test_growth_is_seen_by_a_rescan(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    exported = nvmet_target(size=64 * MIB)
    target = target_of(exported)
    with pytest.raises(Unavailable):
        await connector.rescan(target, 96 * MIB)
    await connector.connect(target, CONFIG)
    exported.grow(96 * MIB)

    device = await connector.rescan(target, 96 * MIB)

    assert device.size == 96 * MIB
    assert await connector.rescan(target, 64 * MIB) == device
    await connector.disconnect(target)


async def test_one_portal_of_two_is_enough(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    # Nobody listens on the second address.
    target = target_of(nvmet_target(), addresses=("127.0.0.2", "127.0.0.1"))
    connected = await connector.connect(target, CONFIG)
    assert connected.created
    assert controllers_of(target.nqn) == 1
    await connector.disconnect(target)


async def test_two_portals_are_two_paths_of_one_device_where_multipath_joins_them(
    connector: NvmeConnector, nvmet_target: MakeTarget, multipath: bool
) -> None:
    exported = nvmet_target()
    target = target_of(exported, addresses=("127.0.0.1", "127.0.0.2"))
    with second_portal(exported, "127.0.0.2"):
        connected = await connector.connect(target, CONFIG)

        assert controllers_of(target.nqn) == (2 if multipath else 1)
        assert connected.device.size == exported.size
        found = await connector.target_of(connected.device.number)
        assert isinstance(found, NvmeTarget)
        assert set(found.addresses) == set(target.addresses if multipath else target.addresses[:1])
        assert (await connector.connect(target, CONFIG)).device == connected.device
        await connector.disconnect(target)
        assert controllers_of(target.nqn) == 0


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
        assert time.monotonic() - begun < 3
        if call.cancelled():
            assert controllers_of(exported.nqn) == 0
        else:
            await connector.disconnect(target)


async def test_two_connects_at_once_make_one_session(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    target = target_of(nvmet_target())

    first, second = await asyncio.gather(connector.connect(target, CONFIG), connector.connect(target, CONFIG))

    assert first.device == second.device
    assert [first.created, second.created].count(True) == 1
    assert controllers_of(target.nqn) == 1
    await connector.disconnect(target)


async def test_the_machine_is_checked(connector: NvmeConnector) -> None:
    findings = await connector.check()
    assert [finding.subject for finding in findings if not finding.ok] == []
    assert {"nvme-cli", "nvme-tcp", "host identity"} == {finding.subject for finding in findings}


def _is_live(nqn: str) -> bool:
    session = NvmeSysfs(HOST).session(nqn)
    return session is not None and session.is_live
