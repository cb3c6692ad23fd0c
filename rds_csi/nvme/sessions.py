"""What the kernel shows of NVMe subsystems, as frozen values: sessions, their controllers and namespaces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from rds_csi.model.devices import DeviceNumber

# drivers/nvme/host/sysfs.c, nvme_sysfs_show_state(); "deleting (no IO)" is what it is called from 5.10 on.
LIVE = "live"
# States out of which a controller becomes live by itself.
_COMING = frozenset({"new", "resetting", "connecting"})

# How a value reads that the kernel shows as "off" (ctrl_loss_tmo, fast_io_fail_tmo): for ever, never.
OFF = -1


@dataclass(frozen=True, slots=True)
class Controller:
    """One controller: a path to its subsystem.

    ``traddr`` and ``trsvcid`` are of the portal; ``src_addr`` is left out, because the kernel shows it only
    while the path is up. Times are in seconds, −1 for "off", None when the kernel does not show them.
    """

    name: str
    state: str
    transport: str
    traddr: str = ""
    trsvcid: str = ""
    host_traddr: str = ""
    host_iface: str = ""
    hostnqn: str = ""
    hostid: str = ""
    ctrl_loss_tmo: int | None = None
    reconnect_delay: int | None = None
    fast_io_fail_tmo: int | None = None
    keep_alive_tmo: int | None = None
    # io, discovery or admin; "" where the kernel does not show it (before 5.18).
    cntrltype: str = ""

    @property
    def is_live(self) -> bool:
        """Whether the path is up."""
        return self.state == LIVE

    @property
    def is_coming(self) -> bool:
        """Whether the kernel is working on the path, so that it may be live soon."""
        return self.state in _COMING

    @property
    def portal(self) -> str:
        """Address and port for people."""
        return f"{self.traddr}:{self.trsvcid}" if self.traddr else self.transport


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace with the block device that stands for it; hidden paths are left out.

    ``device`` is the block device's name in sysfs. ``controller`` is "" for the head of native multipath and
    the controller's name for a disk of one path. ``uuid`` and ``nguid`` are "" when the target gives none.
    ``size`` in bytes.
    """

    device: str
    nsid: int
    number: DeviceNumber
    size: int
    uuid: str = ""
    nguid: str = ""
    controller: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """One subsystem that this host knows. Without controllers it is a left-over: something still holds its
    namespace's device open after the last controller went (mounted after ctrl_loss_tmo, for example).

    ``incomplete`` names the block devices that were listed and could not be read whole: they are coming or going.
    """

    nqn: str
    subsystem: str
    controllers: tuple[Controller, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    incomplete: tuple[str, ...] = ()

    @property
    def is_live(self) -> bool:
        """Whether at least one path is up."""
        return any(controller.is_live for controller in self.controllers)

    @property
    def is_coming(self) -> bool:
        """Whether no path is up, and at least one may be soon."""
        return not self.is_live and any(controller.is_coming for controller in self.controllers)

    @property
    def states(self) -> str:
        """Every controller with its portal and state, for people."""
        return ", ".join(f"{c.name} ({c.portal}) {c.state}" for c in self.controllers) or "no controller"

    @property
    def is_orphaned(self) -> bool:
        """Whether it is connected, but without a namespace's device on a path that is live or coming."""
        paths = {controller.name for controller in self.controllers if controller.is_live or controller.is_coming}
        usable = paths and any(not ns.controller or ns.controller in paths for ns in self.namespaces)
        return bool(self.controllers) and not usable

    def namespace(self, uuid: str, nsid: int = 0) -> Namespace | None:
        """The namespace with that UUID; where ``uuid`` is "", the one with that NSID, or NSID 1 where that is 0.

        Without native multipath each path has a disk of its own: then that of the first live controller.
        """
        wanted = [ns for ns in self.namespaces if (ns.uuid == uuid.lower() if uuid else ns.nsid == (nsid or 1))]
        live = {controller.name for controller in self.controllers if controller.is_live}
        return next((ns for ns in wanted if not ns.controller or ns.controller in live), None) or next(
            iter(wanted), None
        )


@dataclass(frozen=True, slots=True)
class SessionIndex:
    """Every session at one moment, by NQN. One NQN may have several: a left-over beside its successor."""

    by_nqn: Mapping[str, Sequence[Session]] = field(default_factory=lambda: MappingProxyType({}))

    def session(self, nqn: str) -> Session | None:
        """The session of ``nqn``: the one with controllers, where a left-over stays beside it."""
        sessions = self.by_nqn.get(nqn, ())
        return next((session for session in sessions if session.controllers), None) or next(iter(sessions), None)

    def __len__(self) -> int:
        return sum(len(sessions) for sessions in self.by_nqn.values())
