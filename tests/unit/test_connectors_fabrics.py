"""The fabrics connector's writes: the line of options, one write each, and the machine's check."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.connectors.fabrics import build_options
from rds_csi.errors import InvalidArgument, Unavailable
from rds_csi.model.connection import OPTIONS, ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.identity import HostIdentity
from tests.support.nvme_bench import NQN, TARGET, NvmeBench

IDENTITY = HostIdentity(
    "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555", "11111111-2222-3333-4444-555555555555"
)
ALWAYS = f"transport=tcp,traddr=192.0.2.1,trsvcid=4420,nqn={NQN},hostnqn={IDENTITY.hostnqn},hostid={IDENTITY.hostid}"
# drivers/nvme/host/fabrics.c, opt_tokens, of Linux 6.1.
KNOWN = {
    *("transport", "traddr", "trsvcid", "nqn", "hostnqn", "hostid", "queue_size", "nr_io_queues", "reconnect_delay"),
    *("ctrl_loss_tmo", "keep_alive_tmo", "nr_write_queues", "nr_poll_queues", "tos", "fast_io_fail_tmo"),
    *("host_iface", "hdr_digest", "data_digest"),
}


def options(config: ConnectionConfig) -> str:
    return build_options(TARGET, "192.0.2.1", config, IDENTITY)


def test_the_defaults_reconnect_for_ever() -> None:
    assert options(ConnectionConfig()) == f"{ALWAYS},ctrl_loss_tmo=-1,reconnect_delay=5"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ConnectionConfig(ctrl_loss_tmo=0, reconnect_delay=10), ""),
        (ConnectionConfig(ctrl_loss_tmo=600, reconnect_delay=10), ",ctrl_loss_tmo=600"),
        (ConnectionConfig(ctrl_loss_tmo=0, reconnect_delay=2), ",reconnect_delay=2"),
        (ConnectionConfig(ctrl_loss_tmo=0, reconnect_delay=10, keep_alive_tmo=7), ",keep_alive_tmo=7"),
        (ConnectionConfig(ctrl_loss_tmo=0, reconnect_delay=10, fast_io_fail_tmo=30), ",fast_io_fail_tmo=30"),
        (ConnectionConfig(ctrl_loss_tmo=0, reconnect_delay=10, fast_io_fail_tmo=0), ",fast_io_fail_tmo=0"),
        (
            ConnectionConfig(ctrl_loss_tmo=0, reconnect_delay=10, nr_io_queues=3, nr_poll_queues=1),
            ",nr_io_queues=3,nr_poll_queues=1",
        ),
        (
            ConnectionConfig(ctrl_loss_tmo=0, reconnect_delay=10, nr_write_queues=2, queue_size=64),
            ",nr_write_queues=2,queue_size=64",
        ),
        (ConnectionConfig(ctrl_loss_tmo=0, reconnect_delay=10, tos=0, host_iface="eth0"), ",tos=0,host_iface=eth0"),
        (
            ConnectionConfig(ctrl_loss_tmo=0, reconnect_delay=10, hdr_digest=1, data_digest=1),
            ",hdr_digest,data_digest",
        ),
    ],
)
def test_an_option_is_written_when_it_differs_from_the_kernels(config: ConnectionConfig, expected: str) -> None:
    assert options(config) == ALWAYS + expected


def whole(option_values: dict[str, int]) -> ConnectionConfig:
    loss = option_values["ctrl_loss_tmo"] or 600
    if 0 < loss < max(option_values["reconnect_delay"], option_values["fast_io_fail_tmo"]):
        option_values["ctrl_loss_tmo"] = -1
    return ConnectionConfig(host_iface="", **option_values)


configs = st.fixed_dictionaries({item.field: st.integers(item.minimum, item.maximum) for item in OPTIONS}).map(whole)


@given(configs)
def test_the_kernel_knows_every_option_and_the_line_fits_one_write(config: ConnectionConfig) -> None:
    target = NvmeTarget("nqn.2026-01.io.example:" + "x" * 199, ("2001:db8:1111:2222:3333:4444:5555:6666",))
    line = build_options(target, target.addresses[0], config, IDENTITY)
    assert {part.partition("=")[0] for part in line.split(",")} <= KNOWN
    assert line.isprintable()
    assert len(line) < os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("address", ["192.0.2.1,hostid=x", "192.0.2.1"])
def test_no_name_adds_an_option(address: str) -> None:
    target = NvmeTarget(NQN + ",tos=1", ("192.0.2.1",)) if "," not in address else TARGET
    with pytest.raises(InvalidArgument, match="comma"):
        build_options(target, address, ConnectionConfig(), IDENTITY)


def test_a_name_longer_than_linux_takes_is_refused_before_anything_is_written() -> None:
    target = NvmeTarget(NQN + "x" * (223 - len(NQN)), ("192.0.2.1",))
    with pytest.raises(InvalidArgument, match="at most 222"):
        build_options(target, "192.0.2.1", ConnectionConfig(), IDENTITY)


async def test_the_options_are_written_by_a_child_that_can_be_killed(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, link="fabrics")
    bench.runner.on("dd", f"of={bench.fabrics}", effect=bench.export())
    await bench.connector.connect(TARGET, ConnectionConfig())
    (argv,) = bench.runner.calls
    assert argv == ("dd", f"of={bench.fabrics}", "conv=nocreat,notrunc", "bs=4096", "iflag=fullblock", "status=none")
    (written,) = bench.runner.inputs
    assert written.startswith("transport=tcp,traddr=192.0.2.1,")
    assert written.endswith(",ctrl_loss_tmo=-1,reconnect_delay=5")


async def test_every_controller_of_a_session_is_deleted(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, link="fabrics")
    number = bench.tree.add_session(NQN)
    bench.tree.add_path(number, NQN, traddr="192.0.2.2")
    bench.let_disconnect()
    bench.runner.rules[0].effect = None
    await bench.connector.disconnect(TARGET)
    sys = bench.tree.host.sys
    assert [argv[1] for argv in bench.runner.calls] == [
        f"of={sys}/class/nvme/nvme{number}/delete_controller" for number in (0, 1)
    ]
    assert bench.runner.inputs == ["1", "1"]


async def test_what_the_kernel_says_to_a_deletion_is_in_the_error(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, link="fabrics")
    bench.tree.add_session(NQN)
    bench.runner.on("dd", returncode=1, stderr="dd: error writing 'x': Device or resource busy\n")
    with pytest.raises(Unavailable, match="Device or resource busy"):
        await bench.connector.disconnect(TARGET)


async def test_another_dd_and_a_missing_one_are_told(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, link="fabrics")
    bench.runner.on("dd", "--version", returncode=1, stderr="BusyBox v1.36\n", times=1)
    bench.runner.on("dd", "--version", error=Unavailable("dd is not installed"))
    for said in ("BusyBox", "not installed"):
        (tool,) = (finding for finding in await bench.connector.check() if finding.subject == "dd")
        assert not tool.ok
        assert said in tool.message
        assert "coreutils" in tool.remedy
