"""The flags of ``rds-csi simulate``, each an environment variable too: RDS_CSI_SIMULATE_SSH for --ssh."""

import argparse
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from rds_csi.errors import ConfigurationError
from rds_csi.simulator.device_options import PoolOptions, UserOptions, check_pools
from rds_csi.simulator.faults import FaultKind, parse_fault
from rds_csi.simulator.options import DEFAULT_USER, DRIVER_GROUP, SimulatorOptions
from rds_csi.simulator.versions import SUPPORTED, parse_version

T = TypeVar("T")

ENV_PREFIX = "RDS_CSI_SIMULATE_"
DEFAULT_SSH = "127.0.0.1:2222"
DEFAULT_HTTPS = "127.0.0.1:8443"
_POOL = re.compile(r"([A-Za-z0-9._-]+):(xfs|btrfs|ext4):([0-9]{1,19})([KMGT]?)")
# RFC 1123, 2.1: letters, digits and hyphens between dots.
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_KINDS = ", ".join(kind.value for kind in FaultKind)
# Flag, what stands for its value, its help. Those that may be repeated take a list in the environment, by blanks.
_FLAGS = (
    ("ssh", "ADDRESS:PORT", f"where the SSH server listens (default: {DEFAULT_SSH}; port 0: any)"),
    ("https", "ADDRESS:PORT", f"where the REST server listens (default: {DEFAULT_HTTPS}; port 0: any)"),
    (
        "control",
        "ADDRESS:PORT",
        "where faults, reboots and changes by hand are asked for: loopback only (default: off)",
    ),
    (
        "name",
        "HOST",
        "an address or name by which clients reach the servers, for certificate, known_hosts and URLs (repeatable)",
    ),
    ("directory", "DIR", "where the files of the device are kept, an empty directory (default: temporary)"),
    ("routeros-version", "VERSION", f"the RouterOS release to look like: {', '.join(SUPPORTED)} (default: 7.21)"),
    ("pool", "NAME:FS:SIZE", "a pool with xfs, btrfs or ext4, its size in bytes or with K, M, G, T (repeatable)"),
    ("user", "NAME", f"the user to log in as (default: {DEFAULT_USER})"),
    (
        "fault",
        "KIND[:MATCH[:TIMES[:SECONDS]]]",
        f"a fault that strikes TIMES (0: all) requests with MATCH in them; kinds: {_KINDS} (repeatable)",
    ),
    ("latency", "SECONDS", "seconds of a round trip to the servers (default: 0)"),
    ("max-channels", "NUMBER", "channels at once on one SSH connection (default: 8)"),
    ("tenants", "yes|no", "whether disks and files of others are there from the start (default: yes)"),
    ("nvmet", "ADDRESS", "export the disks through this kernel's NVMe target at that IP address (needs root)"),
)
_REPEATED = frozenset({"name", "pool", "fault"})


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the simulator."""
    for name, metavar, text in _FLAGS:
        help_text = f"{text} [{_variable(name)}]"
        if name in _REPEATED:
            parser.add_argument(f"--{name}", metavar=metavar, help=help_text, action="append")
        else:
            parser.add_argument(f"--{name}", metavar=metavar, help=help_text)


def options_from(arguments: argparse.Namespace, environ: Mapping[str, str] | None = None) -> SimulatorOptions:
    """The options from flags, then the environment, then defaults; ConfigurationError names the flag at fault."""
    given = _Given(arguments, os.environ if environ is None else environ)
    ssh_host, ssh_port = given.parsed("ssh", _address, DEFAULT_SSH)
    https_host, https_port = given.parsed("https", _address, DEFAULT_HTTPS)
    control_host, control_port = (
        given.parsed("control", _loopback, "") if given.text("control") else ("127.0.0.1", None)
    )
    directory = given.text("directory")
    pools = tuple(given.each("pool", _pool)) or (PoolOptions(),)
    try:
        check_pools(pools)
    except ValueError as error:
        raise ConfigurationError(f"--pool: {error}") from None
    return SimulatorOptions(
        directory=Path(directory).absolute() if directory else None,
        host=ssh_host,
        ssh_port=ssh_port,
        https_host=https_host,
        https_port=https_port,
        control_host=control_host,
        control_port=control_port,
        names=tuple(given.each("name", _host_name)),
        version=given.parsed("routeros-version", _version, "7.21"),
        pools=pools,
        users=(UserOptions(given.text("user") or DEFAULT_USER, DRIVER_GROUP.name),),
        faults=tuple(given.each("fault", parse_fault)),
        latency=given.parsed("latency", _seconds, "0"),
        max_channels=given.parsed("max-channels", _positive, "8"),
        seed_tenants=given.parsed("tenants", _yes_or_no, "yes"),
        nvmet_address=given.parsed("nvmet", _ip_address, "") if given.text("nvmet") else "",
    )


class _Given:
    """What was given, as text; a flag wins over its environment variable."""

    def __init__(self, arguments: argparse.Namespace, environ: Mapping[str, str]) -> None:
        self._arguments: dict[str, object] = vars(arguments)
        self._environ = environ

    def text(self, name: str) -> str:
        value = self._arguments.get(name.replace("-", "_"))
        return value if isinstance(value, str) else self._environ.get(_variable(name), "")

    def parsed(self, name: str, parse: Callable[[str], T], default: str) -> T:
        return _parsed(name, parse, self.text(name) or default)

    def each(self, name: str, parse: Callable[[str], T]) -> list[T]:
        value = self._arguments.get(name)
        texts = value if isinstance(value, list) else self._environ.get(_variable(name), "").split()
        return [_parsed(name, parse, text) for text in texts]


def _parsed(name: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigurationError(f"--{name} {text!r}: {error}") from None


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper().replace("-", "_")


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 0xFFFF:
        raise ValueError("not ADDRESS:PORT")
    return str(ipaddress.ip_address(host.strip("[]"))), int(port)


def _loopback(text: str) -> tuple[str, int]:
    host, port = _address(text)
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(
            "whoever reaches the control endpoint may do everything: it listens at a loopback address only"
        )
    return host, port


def _host_name(text: str) -> str:
    try:
        return _ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        # Digits and dots alone are no name either.
        if not _HOST_NAME.fullmatch(text) or text.replace(".", "").isdigit():
            raise ValueError("neither an address nor the name of a host") from None
    return text


def _version(text: str) -> str:
    if not parse_version(text).at_least(7, 9):
        raise ValueError("nothing below 7.9 is known")
    return text


def _pool(text: str) -> PoolOptions:
    match = _POOL.fullmatch(text)
    if match is None:
        raise ValueError("not NAME:FS:SIZE, as in raid10:xfs:4T")
    return PoolOptions(slot=match[1], filesystem=match[2], size=int(match[3]) * _UNITS[match[4]])


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 60:
        raise ValueError("not a number of seconds below 60")
    return seconds


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError("not a number from 1 on")
    return int(text)


def _yes_or_no(text: str) -> bool:
    if text not in {"yes", "no"}:
        raise ValueError("neither yes nor no")
    return text == "yes"


def _ip_address(text: str) -> str:
    address = ipaddress.ip_address(text)
    if address.is_unspecified or address.is_multicast:
        raise ValueError("nobody can connect to that address")
    return str(address)
