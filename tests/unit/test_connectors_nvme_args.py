"""nvme-cli's arguments: the whole config, and nothing that the kernel would do by itself."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.connectors.nvme_args import build_connect_args, check_values
from rds_csi.errors import InvalidArgument
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.identity import HostIdentity

DATA = Path(__file__).parent / "data" / "nvme"
IDENTITY = HostIdentity(
    "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555", "11111111-2222-3333-4444-555555555555"
)
TARGET = NvmeTarget("nqn.2026-01.io.example:s0", ("192.0.2.1",), 4421)
PORTAL = ("-t", "tcp", "-a", "192.0.2.1", "-s", "4421", "-n", TARGET.nqn)
ALWAYS = ("connect", *PORTAL, "-q", IDENTITY.hostnqn, "-I", IDENTITY.hostid)


def arguments(**config: int) -> tuple[str, ...]:
    return build_connect_args(TARGET, "192.0.2.1", ConnectionConfig(host_iface="", **config), IDENTITY)


def test_the_defaults_reconnect_for_ever_every_five_seconds() -> None:
    assert arguments() == (*ALWAYS, "-l", "-1", "-c", "5")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("ctrl_loss_tmo", 600, ("-l", "600", "-c", "5")),
        ("reconnect_delay", 2, ("-l", "-1", "-c", "2")),
        ("keep_alive_tmo", 7, ("-l", "-1", "-c", "5", "-k", "7")),
        ("nr_io_queues", 3, ("-l", "-1", "-c", "5", "-i", "3")),
        ("nr_write_queues", 2, ("-l", "-1", "-c", "5", "-W", "2")),
        ("nr_poll_queues", 1, ("-l", "-1", "-c", "5", "-P", "1")),
        ("queue_size", 256, ("-l", "-1", "-c", "5", "-Q", "256")),
        ("queue_size", 128, ("-l", "-1", "-c", "5")),
        ("tos", 0, ("-l", "-1", "-c", "5", "-T", "0")),
        ("hdr_digest", 1, ("-l", "-1", "-c", "5", "-g")),
        ("data_digest", 1, ("-l", "-1", "-c", "5", "-G")),
        # nvme-cli 2.3 has no option for it: it goes through sysfs.
        ("fast_io_fail_tmo", 30, ("-l", "-1", "-c", "5")),
    ],
)
def test_an_option_is_passed_when_it_differs_from_the_kernels(
    field: str, value: int, expected: tuple[str, ...]
) -> None:
    assert arguments(**{field: value}) == (*ALWAYS, *expected)


def test_the_interface_is_passed() -> None:
    built = build_connect_args(TARGET, "192.0.2.1", ConnectionConfig(host_iface="eth0"), IDENTITY)
    assert built == (*ALWAYS, "-l", "-1", "-c", "5", "-f", "eth0")


def test_a_kernel_default_of_the_loss_timeout_is_left_out() -> None:
    assert arguments(ctrl_loss_tmo=0) == (*ALWAYS, "-c", "5")


def test_no_name_adds_an_option() -> None:
    target = NvmeTarget("nqn.2026-01.io.example:s0,hostnqn=other", ("192.0.2.1",))
    with pytest.raises(InvalidArgument, match="comma"):
        build_connect_args(target, "192.0.2.1", ConnectionConfig(), IDENTITY)


def named(length: int) -> str:
    return TARGET.nqn + "x" * (length - len(TARGET.nqn))


def test_the_longest_name_that_linux_takes_is_taken() -> None:
    check_values(named(222), named(222), "192.0.2.1")


def test_a_name_that_only_the_specification_allows_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        InvalidArgument, match=f"the NQN has 223 bytes, and Linux takes at most 222: {TARGET.nqn}"
    ) as told:
        build_connect_args(NvmeTarget(named(223), ("192.0.2.1",)), "192.0.2.1", ConnectionConfig(), IDENTITY)
    assert "on the array" in told.value.remedy
    with pytest.raises(InvalidArgument, match="this host's NQN has 223 bytes") as told:
        check_values(TARGET.nqn, named(223), "192.0.2.1")
    assert "/etc/nvme/hostnqn" in told.value.remedy


@pytest.mark.parametrize("setting", ["k6.1-cli2.3-mp", "k6.12-cli2.13-mp"])
def test_both_versions_know_every_option(setting: str) -> None:
    usage = (DATA / setting / "programs.json").read_text()
    known = set(re.findall(r", (-\w)\b", usage))
    config = ConnectionConfig(host_iface="eth0", keep_alive_tmo=1)
    assert {"-f", "-k"} <= known & set(build_connect_args(TARGET, "192.0.2.1", config, IDENTITY))
    queues = {"nr_io_queues": 1, "nr_write_queues": 1, "nr_poll_queues": 1, "queue_size": 64}
    used = arguments(keep_alive_tmo=1, tos=1, hdr_digest=1, data_digest=1, **queues)
    assert {argument for argument in used if re.fullmatch(r"-[a-zA-Z]", argument)} <= known


@given(st.builds(ConnectionConfig, keep_alive_tmo=st.integers(0, 3600), queue_size=st.integers(16, 1024)))
def test_every_argument_is_an_option_or_its_value(config: ConnectionConfig) -> None:
    built = build_connect_args(TARGET, "192.0.2.1", config, IDENTITY)
    assert built[: len(ALWAYS)] == ALWAYS
    assert all(argument and argument.isprintable() and " " not in argument for argument in built)
