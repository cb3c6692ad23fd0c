"""How a simulator is to be: where its servers listen, what they allow, and the device behind them."""

import ipaddress
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from rds_csi.simulator.device_options import DeviceOptions, GroupOptions, PoolOptions, UserOptions
from rds_csi.simulator.faults import Fault

# The group of users that the simulator makes itself: what a driver needs over either transport, and no more.
DRIVER_GROUP = GroupOptions("rds-csi", frozenset({"ssh", "read", "write", "test", "api", "rest-api"}))
DEFAULT_USER = "csi"
# /ip/service max-sessions.
DEFAULT_MAX_SESSIONS = 20
# The cap of the REST server for one request.
DEFAULT_REQUEST_SECONDS = 60.0
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """A simulator. Ports: 0 is any free one, None is no such server.

    A user without a password is given one, a user without keys is given the simulator's client key.
    """

    directory: Path | None = None
    """Where the files of the device lie, an empty directory; None: a temporary one, removed in the end."""
    host: str = "127.0.0.1"
    ssh_port: int | None = 0
    https_port: int | None = 0
    https_host: str = ""
    """Where the REST server listens; "" is ``host``."""
    control_port: int | None = None
    control_host: str = "127.0.0.1"
    version: str = "7.21"
    pools: tuple[PoolOptions, ...] = (PoolOptions(),)
    users: tuple[UserOptions, ...] = (UserOptions(DEFAULT_USER, DRIVER_GROUP.name),)
    groups: tuple[GroupOptions, ...] = (DRIVER_GROUP,)
    seed_tenants: bool = True
    device: DeviceOptions | None = None
    """The whole device with its directory, for what ``version``, ``pools`` and ``seed_tenants`` do not say, which it
    replaces; ``groups`` and ``users`` are added to its own, which win."""

    faults: tuple[Fault, ...] = ()
    latency: float = 0.0
    """Seconds of a round trip to the servers."""
    max_sessions: int = DEFAULT_MAX_SESSIONS
    """Connections at once, for each server; more are accepted and closed."""
    max_channels: int = 8
    """Channels at once on one SSH connection. How many a device really takes is not known."""
    channels_block: bool = True
    """Whether a channel beyond that waits for another one to close; else it is refused."""
    channel_delay: float = 0.0
    """Seconds until a channel is open."""
    exit_status: int = 0
    """Exit status of a script that failed: 0 as seen on 7.23, or what other releases are said to give."""
    request_seconds: float = DEFAULT_REQUEST_SECONDS
    """Seconds until the REST server gives up a request, which keeps running."""
    host_key: str = "ssh-ed25519"
    """The algorithm of the host key: ssh-ed25519 or ssh-rsa."""
    certificate_days: int = 30
    """How long the TLS certificate is good; below 0 it has expired."""
    certificate_hosts: tuple[str, ...] = ()
    """Addresses and names in the TLS certificate; empty: ``names``, where the server listens, and localhost."""
    names: tuple[str, ...] = ()
    """Addresses and names by which clients reach the servers, for certificate, known_hosts and URLs, which have the
    first one; empty: where the servers listen."""
    nvmet_address: str = ""
    """The IP address at which the kernel's NVMe target exports the disks; "" exports nothing."""
    nvmet_revalidates: bool = True
    """Whether a grown disk shows its new size to connected hosts at once, where this kernel can do that; else its
    namespace is taken away and brought back, which is what an older kernel needs."""

    @property
    def rest_host(self) -> str:
        """Where the REST server listens."""
        return self.https_host or self.host

    def names_of(self, host: str) -> tuple[str, ...]:
        """What clients may call a server that listens at the address ``host``; the first is for URLs."""
        address = ipaddress.ip_address(host) if host else None
        if address is not None and address.is_unspecified:
            # Nobody can connect to that; somebody on this machine can to this.
            host = _LOOPBACK[address.version]
        return tuple(dict.fromkeys((*self.names, host)))

    def device_options(self, directory: Path) -> DeviceOptions:
        """The device, with the groups and users of these options, its files in ``directory``."""
        device = self.device or DeviceOptions(
            directory=directory, version=self.version, pools=self.pools, seed_tenants=self.seed_tenants
        )
        # A device of one's own wins over what these options say by default.
        groups = (*device.groups, *self.groups) if self.device is None else (*self.groups, *device.groups)
        users = (*device.users, *self.users) if self.device is None else (*self.users, *device.users)
        winners = {user.name: user for user in users}
        return replace(
            device,
            # Another simulator on this machine has tenants, too, and the kernel has each NQN once.
            tenants_suffix=f"-{secrets.token_hex(4)}" if self.nvmet_address else device.tenants_suffix,
            groups=tuple({group.name: group for group in groups}.values()),
            # The first of these options stays the first.
            users=tuple(winners[name] for name in dict.fromkeys(user.name for user in (*self.users, *device.users))),
        )
