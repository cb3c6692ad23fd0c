"""The NVMe connectors on a real kernel, through both links: connect, find, grow, refuse, disconnect."""

import asyncio
import time
import uuid
from pathlib import Path

import pytest

from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.errors import FailedPrecondition, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from tests.kernel.conftest import MakeTarget
from tests.support.nvme_host import CONFIG, controllers_of, run, target_of
from tests.support.nvmet_target import MIB


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
    assert len(controllers_of(exported.nqn)) == 0
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

    (controller,) = controllers_of(target.nqn)
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
    (controller,) = controllers_of(target.nqn)
    assert (controller.ctrl_loss_tmo, controller.reconnect_delay) == (-1, 5)
    await connector.disconnect(target)


async def test_a_host_that_is_not_allowed_fails_at_once(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    exported = nvmet_target()
    exported.allow_only("nqn.2026-01.io.example:somebody-else")
    begun = time.monotonic()

    with pytest.raises(FailedPrecondition, match="not allowed"):
        await connector.connect(target_of(exported), CONFIG)

    assert time.monotonic() - begun < 5
    assert len(controllers_of(exported.nqn)) == 0


async def test_another_namespace_is_refused_and_its_session_is_undone(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    stranger = NvmeTarget(exported.nqn, (exported.address,), exported.port, str(uuid.uuid4()))

    with pytest.raises(FailedPrecondition, match=exported.uuid):
        await connector.connect(stranger, CONFIG)

    assert len(controllers_of(exported.nqn)) == 0


async def test_another_namespace_leaves_a_session_that_was_there(
    connector: NvmeConnector, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    await connector.connect(target_of(exported), CONFIG)
    stranger = NvmeTarget(exported.nqn, (exported.address,), exported.port, str(uuid.uuid4()))

    with pytest.raises(FailedPrecondition):
        await connector.connect(stranger, CONFIG)

    assert len(controllers_of(exported.nqn)) == 1
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


async def test_the_interface_of_the_config_is_used(connector: NvmeConnector, nvmet_target: MakeTarget) -> None:
    target = target_of(nvmet_target())
    with pytest.raises(FailedPrecondition, match="network interface"):
        await connector.connect(target, ConnectionConfig(host_iface="nothere0"))
    await connector.connect(target, ConnectionConfig(host_iface="lo"))
    assert [controller.host_iface for controller in controllers_of(target.nqn)] == ["lo"]
    await connector.disconnect(target)


async def test_the_machine_is_checked(connector: NvmeConnector) -> None:
    findings = await connector.check()
    assert [finding.subject for finding in findings if not finding.ok] == []
    assert {"nvme-tcp", "host identity"} < {finding.subject for finding in findings}
